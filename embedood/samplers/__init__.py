"""Which images make a batch: samplers over labels on the device, drawn from one generator.

Those of images take no notice of classes but by loss; those of classes draw some classes and images of
each, uniformly or by how much the classes overlap in the embedding that is being trained. All are
batch samplers of `torch.utils.data`; `of` makes the one that an experiment asks for.
"""

from embedood.samplers.base import Answers, Sampler, Step, answers
from embedood.samplers.choice import CLASS_SAMPLERS, GROUPED, IMAGE_SAMPLERS, WEIGHTED, of
from embedood.samplers.classes import (
    ClassLossSampler,
    ClassOverlapSampler,
    ClassSampler,
    LeastOverlapSampler,
    RelationshipOverlapSampler,
    TournamentSampler,
    UniformClassSampler,
    WeightedClassSampler,
)
from embedood.samplers.images import GradientNormSampler, LossRankSampler, UniformImageSampler
from embedood.samplers.overlaps import (
    DIVERGENCES,
    ConfusionPotential,
    GaussianOverlaps,
    Overlaps,
    ShuffledOverlaps,
    random_overlaps,
)

__all__ = [
    "CLASS_SAMPLERS",
    "DIVERGENCES",
    "GROUPED",
    "IMAGE_SAMPLERS",
    "WEIGHTED",
    "Answers",
    "ClassLossSampler",
    "ClassOverlapSampler",
    "ClassSampler",
    "ConfusionPotential",
    "GaussianOverlaps",
    "GradientNormSampler",
    "LeastOverlapSampler",
    "LossRankSampler",
    "Overlaps",
    "RelationshipOverlapSampler",
    "Sampler",
    "ShuffledOverlaps",
    "Step",
    "TournamentSampler",
    "UniformClassSampler",
    "UniformImageSampler",
    "WeightedClassSampler",
    "answers",
    "of",
    "random_overlaps",
]
