"""The one table of all scorers: what can be made by name, and what the catalogue page shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from embedood.scorers._base import Scorer
from embedood.scorers.activations import ASH, DICE, SCALE, ReAct
from embedood.scorers.distances import FDBD, SHE, CosinePrototype, ViM
from embedood.scorers.fusion import Fusion
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


class Entry(NamedTuple):
    """One line of the table; `source`: citation keys with commas, or `REPORT`, or empty for ours."""

    name: str
    title: str
    factory: Callable[[], Scorer]
    source: str
    family: str

    @property
    def needs(self) -> tuple[str, ...]:
        """What its scores ask for: some of train, validation, outliers, gradient, decoder."""
        return self.factory().needs


def _fused(how: str) -> Fusion:
    return Fusion((Energy(), Mahalanobis(), NearestNeighbour()), how)


REPORT = "report"
"""The source without a citation key: the unpublished project report of chapter 02."""

_LEE, _REN = "lee2018mahalanobis", "ren2021,ledoit2004"
_MIX = f"{_LEE},mclachlan2000"
_NOISED = partial(ReconstructionError, True)

_FAMILIES: dict[str, list[tuple[str, str, Callable[[], Scorer], str]]] = {
    "logits": [
        ("max_softmax", "largest softmax value", MaxSoftmax, "hendrycks2017"),
        ("temperature_softmax", "temperature-scaled softmax", TemperatureSoftmax, "guo2017"),
        ("max_logit", "largest logit", MaxLogit, "hendrycks2022,vaze2022"),
        ("energy", "energy", Energy, "liu2020"),
        ("entropy", "entropy", Entropy, "chan2021"),
        ("gen", "GEN, generalised entropy", GEN, "liu2023"),
        ("kl_matching", "KL-matching", KLMatching, "hendrycks2022"),
    ],
    "embeddings": [
        ("mahalanobis", "Mahalanobis distance", Mahalanobis, f"{_LEE},ledoit2004"),
        ("relative_mahalanobis", "relative Mahalanobis", partial(Mahalanobis, True), _REN),
        ("gaussians_diagonal", "diagonal Gaussians", partial(ClassGaussians, "diagonal"), _MIX),
        ("gaussians_tied", "Gaussians, one covariance", partial(ClassGaussians, "tied"), _MIX),
        ("gaussians_full", "Gaussians, full covariances", partial(ClassGaussians, "full"), _MIX),
        ("nearest_neighbour", "k-th nearest neighbour", NearestNeighbour, "sun2022"),
        ("cosine_prototype", "cosine to class means", CosinePrototype, "techapanurak2020"),
        ("vim", "ViM, residual and energy", ViM, "wang2022"),
        ("she", "SHE, stored class pattern", SHE, "zhang2023"),
        ("nnguide", "NNGuide, energy times neighbours", NNGuide, "park2023"),
        ("fdbd", "fDBD, distance to boundaries", FDBD, "liu2024"),
    ],
    "activations": [
        ("react", "ReAct, clipped activations", ReAct, "sun2021"),
        ("ash_s", "ASH-S, pruned and scaled", partial(ASH, "s"), "djurisic2023"),
        ("ash_b", "ASH-B, pruned and levelled", partial(ASH, "b"), "djurisic2023"),
        ("scale", "SCALE, scaled activations", SCALE, "xu2024"),
        ("dice", "DICE, sparse weights", DICE, "sun2022dice"),
    ],
    "input gradient": [
        ("odin", "ODIN, perturbed image", ODIN, "liang2018"),
    ],
    "reconstruction": [
        ("reconstruction", "reconstruction, clean image", ReconstructionError, REPORT),
        ("reconstruction_noised", "reconstruction, noised", _NOISED, REPORT),
        ("reconstruction_by_class", "reconstruction, for its class", ClassReconstructionError, ""),
    ],
    "fusion": [
        ("fusion_rank", "fusion of three p-values", partial(_fused, "rank"), "fisher1925,vovk2005"),
        ("fusion_logistic", "fusion by logistic regression", partial(_fused, "logistic"), _LEE),
    ],
}

TABLE = {row[0]: Entry(*row, family) for family, rows in _FAMILIES.items() for row in rows}


def make(name: str) -> Scorer:
    """Return a new scorer of `TABLE` with its defaults; `ValueError` for an unknown name."""
    if name not in TABLE:
        raise ValueError(f"unknown scorer {name!r}; the scorers are {', '.join(TABLE)}")
    return TABLE[name].factory()
