"""The sampler that an experiment asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from embedood.config import Experiment, Sampling
from embedood.samplers import classes, images
from embedood.samplers.base import Sampler
from embedood.samplers.overlaps import (
    ConfusionPotential,
    GaussianOverlaps,
    Overlaps,
    ShuffledOverlaps,
    random_overlaps,
)

IMAGE_SAMPLERS: dict[str, type[images.UniformImageSampler]] = {
    "uniform": images.UniformImageSampler,
    "loss_rank": images.LossRankSampler,
    "gradient_norm": images.GradientNormSampler,
}
CLASS_SAMPLERS: dict[str, Callable[..., classes.ClassSampler]] = {
    "uniform": classes.UniformClassSampler,
    "class_overlap": classes.ClassOverlapSampler,
    "relationship_overlap": classes.RelationshipOverlapSampler,
    "tournament": classes.TournamentSampler,
    "least_overlap": classes.LeastOverlapSampler,
    "class_pair": classes.RelationshipOverlapSampler,  # with the potential of confusions
    "class_loss": classes.ClassLossSampler,
}
WEIGHTED = ("gradient_norm",)  # samplers whose weights must reach the loss
GROUPED = ("episodes",)  # objectives that want the rows of a batch class by class


def of(experiment: Experiment, labels: torch.Tensor, generator: torch.Generator) -> Sampler:
    """Return the sampler that an experiment asks for, over labels N of its training images.

    With `ways`, it is one of `CLASS_SAMPLERS`, else one of `IMAGE_SAMPLERS`; "uniform" is both. Raises
    `ValueError` for other names, and what the sampler raises.
    """
    ways, sampling = experiment.schedule.ways, experiment.sampling
    names = CLASS_SAMPLERS if ways else IMAGE_SAMPLERS
    if sampling.sampler not in names:
        kind = f"with {ways} classes a batch" if ways else "without ways, classes a batch,"
        raise ValueError(
            f"no sampler {sampling.sampler!r} {kind}; the samplers are {', '.join(names)}"
        )
    if not ways:
        settings = _of_images(sampling)
        make = IMAGE_SAMPLERS[sampling.sampler]
        return make(labels, generator, experiment.schedule.batch_size, **settings)
    return _class_sampler(experiment, labels, generator)


def _of_images(sampling: Sampling) -> dict[str, Any]:
    """The settings of a sampler of images."""
    return {
        "uniform": {},
        "loss_rank": {
            "pressure": sampling.selection_pressure,
            "refresh_every": sampling.refresh_every,
        },
        "gradient_norm": {"presample": sampling.presample, "threshold": sampling.least_gain},
    }[sampling.sampler]


def _class_sampler(
    experiment: Experiment, labels: torch.Tensor, generator: torch.Generator
) -> Sampler:
    schedule, sampling = experiment.schedule, experiment.sampling
    name, batch_size = sampling.sampler, schedule.batch_size
    settings: dict[str, Any] = {"context_share": sampling.context_share}
    if schedule.steps or not sampling.per_class:  # as many as asked for, or as if images were drawn
        settings["batches"] = schedule.steps or -(-len(labels) // batch_size)
    if name != "uniform":
        settings |= {"temperature": sampling.sampling_temperature, "floor": sampling.uniform_floor}
    if name == "tournament":
        settings["candidates"] = sampling.candidates
    if name == "class_loss":
        settings["decay"] = sampling.statistics_decay
    elif name != "uniform":
        settings["overlaps"] = _overlaps(sampling, int(labels.max()) + 1, generator)
    return CLASS_SAMPLERS[name](
        labels,
        generator,
        schedule.ways,
        sampling.per_class or batch_size // schedule.ways,
        grouped=experiment.losses.objective in GROUPED,
        **settings,
    )


def _overlaps(sampling: Sampling, num_classes: int, generator: torch.Generator) -> Overlaps:
    device = generator.device
    if sampling.sampler == "class_pair":
        return ConfusionPotential(
            num_classes, sampling.pair_strength, sampling.pair_memory, device=device
        )
    if sampling.divergence == "random":
        return random_overlaps(num_classes, generator, sampling.overlap)
    settings: dict[str, Any] = {
        "overlap": sampling.overlap,
        "refresh_every": sampling.refresh_every,
        "decay": sampling.statistics_decay,
        "covariance": sampling.covariance,
    }
    if sampling.divergence == "shuffled":
        return ShuffledOverlaps(num_classes, generator, **settings)
    return GaussianOverlaps(num_classes, sampling.divergence, device=device, **settings)
