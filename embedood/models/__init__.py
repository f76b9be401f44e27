"""Networks and their last layers: images in [0, 1], B×C×H×W, to an embedding, logits and more."""

from embedood.models.heads import (
    HEADS,
    CosineHead,
    Head,
    LinearHead,
    PrototypeHead,
    least_scale,
    squared_distances,
)
from embedood.models.networks import (
    ARCHITECTURES,
    BasicBlock,
    Classifier,
    CompactClassifier,
    DenoisingClassifier,
    EmbeddingClassifier,
    Forward,
    ResidualClassifier,
    TurningClassifier,
    build,
    count_parameters,
    memory_format,
)

__all__ = [
    "ARCHITECTURES",
    "HEADS",
    "BasicBlock",
    "Classifier",
    "CompactClassifier",
    "CosineHead",
    "DenoisingClassifier",
    "EmbeddingClassifier",
    "Forward",
    "Head",
    "LinearHead",
    "PrototypeHead",
    "ResidualClassifier",
    "TurningClassifier",
    "build",
    "count_parameters",
    "least_scale",
    "memory_format",
    "squared_distances",
]
