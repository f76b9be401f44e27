"""How unusual is each image? One class per score; higher = more unusual; one value per row.

`Scorer().fit(train).score(outputs)`; some also learn from validation: `.calibrate(validation,
outliers)`. Scores that need nothing learned may be used at once. `TABLE` lists them all, `make(name)`
makes one.
"""

from embedood.scorers._base import NotFittedError, Scorer
from embedood.scorers.activations import ASH, DICE, SCALE, ReAct
from embedood.scorers.distances import FDBD, SHE, CosinePrototype, ViM
from embedood.scorers.fusion import Fusion, p_values
from embedood.scorers.gaussians import ClassGaussians, Mahalanobis
from embedood.scorers.logits import (
    GEN,
    ODIN,
    Energy,
    Entropy,
    KLMatching,
    MaxLogit,
    MaxSoftmax,
    TemperatureSoftmax,
)
from embedood.scorers.neighbours import NearestNeighbour, NNGuide
from embedood.scorers.reconstruction import ClassReconstructionError, ReconstructionError
from embedood.scorers.table import TABLE, Entry, make

__all__ = [
    "ASH",
    "DICE",
    "FDBD",
    "GEN",
    "ODIN",
    "SCALE",
    "SHE",
    "TABLE",
    "ClassGaussians",
    "ClassReconstructionError",
    "CosinePrototype",
    "Energy",
    "Entropy",
    "Entry",
    "Fusion",
    "KLMatching",
    "Mahalanobis",
    "MaxLogit",
    "MaxSoftmax",
    "NNGuide",
    "NearestNeighbour",
    "NotFittedError",
    "ReAct",
    "ReconstructionError",
    "Scorer",
    "TemperatureSoftmax",
    "ViM",
    "make",
    "p_values",
]
