"""What a training step makes small: a batch through the network to named terms and their sum."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from embedood import losses, models, noise
from embedood.config import Experiment

Objective = Callable[
    [nn.Module, torch.Tensor, torch.Tensor, torch.Generator], dict[str, torch.Tensor]
]


def classification(experiment: Experiment) -> Objective:
    """Return the report's objective: classify and denoise, part of each batch noised.

    loss = classification + `std_weight` · L_std + `denoising_weight` · L_den
    (+ `outlier_weight` · KL(U‖p) on pseudo-OOD made from the batch)
    (+ `turning_weight` · L_turn, half of the batch being shown turned as well)
    (+ `pull_weight` · L_pull, for a head of prototypes). A network without a decoder is trained
    without L_den.
    """
    weights = experiment.losses
    weight_of = {
        "classification": 1.0,
        "std": weights.std_weight,
        "mse": weights.denoising_weight,
        "outlier": weights.outlier_weight,
        "turning": weights.turning_weight,
        "pull": weights.pull_weight,
    }

    def objective(
        model: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        clean, shown, turns = _shown(experiment, images, generator)
        answer = _forward(model, shown)
        logits, known = answer.logits[: len(clean)], len(turns)
        terms = {
            "classification": losses.overconfidence(
                logits, labels, weights.overconfidence_weight, weights.label_smoothing
            ),
            "std": losses.std_of_wrong(logits, labels),
        }
        if answer.reconstruction is not None:
            terms["mse"] = losses.denoising(answer.reconstruction[: len(clean)], clean)
        if weights.outlier_weight:
            terms["outlier"] = losses.uniformity(answer.logits[known:])
        if weights.turning_weight:
            second_head = model.get_submodule("turned")
            of_turned = torch.cat([labels, labels[: known - len(labels)]])
            terms["turning"] = losses.turning(
                second_head(answer.embedding[:known]), of_turned, turns, weights.label_smoothing
            )
        if weights.pull_weight:
            prototypes = model.get_parameter("head.prototypes")
            terms["pull"] = losses.pull(answer.embedding[: len(clean)], labels, prototypes)
        loss = sum((weight_of[n] * term for n, term in terms.items()), start=torch.zeros(()))
        return {"loss": loss, "accuracy": _accuracy(logits, labels)} | terms

    return objective


def _shown(
    experiment: Experiment, images: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the clean batch, what the network sees, and how the known ones in it are turned.

    The network sees the batch, some of it noised, then half of it turned, then pseudo-OOD.
    """
    noised, weights = experiment.noise, experiment.losses
    clean = augmented(experiment, images, generator)
    count = round(noised.noised_share * len(clean))
    square = (noised.square_min, noised.square_max)
    spoiled = noise.denoising_noise(clean[:count], generator, noised.sigma, square)
    shown = torch.cat([spoiled, clean[count:]])
    turns = torch.zeros(len(clean), dtype=torch.long, device=clean.device)
    if weights.turning_weight:
        turned, how = noise.turn(clean[: len(clean) // 2], generator)
        shown, turns = torch.cat([shown, turned]), torch.cat([turns, how])
    if weights.outlier_weight:
        shown = torch.cat([shown, noise.spoil(clean, weights.outlier_recipe, generator)])
    return clean, shown, turns


def contrastive(experiment: Experiment) -> Objective:
    """Return supervised contrastive learning: each image is shown twice, augmented each time.

    loss = L_out at the head's temperature. The head itself is set from class means after training,
    so there is no accuracy to report meanwhile.
    """
    temperature = experiment.network.temperature

    def objective(
        model: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        views = [augmented(experiment, images, generator) for _ in range(2)]
        z = _forward(model, torch.cat(views)).embedding
        return {"loss": losses.supervised_contrastive(z, labels.repeat(2), temperature)}

    return objective


def episodic(experiment: Experiment) -> Objective:
    """Return prototypical episodes: classify the queries by the means of the support.

    The batch is an episode of `samplers.episodes`. The head is set from class means after training.
    """
    ways, shots = experiment.schedule.ways, experiment.schedule.shots
    temperature = experiment.network.temperature

    def objective(
        model: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        z = _forward(model, augmented(experiment, images, generator)).embedding
        logits = losses.episode_logits(z, ways, shots, temperature)
        place = torch.arange(ways, device=z.device).repeat_interleave(len(logits) // ways)
        return {"loss": F.cross_entropy(logits, place), "accuracy": _accuracy(logits, place)}

    return objective


OBJECTIVES: dict[str, Callable[[Experiment], Objective]] = {
    "classification": classification,
    "contrastive": contrastive,
    "episodes": episodic,
}
LEAVE_THE_HEAD = ("contrastive", "episodes")


def of(experiment: Experiment) -> Objective:
    """Return the objective that an experiment asks for.

    Raises `ValueError` for an unknown name, or one that leaves the head untrained (`LEAVE_THE_HEAD`)
    with a linear head, which cannot be set from class means.
    """
    name, head = experiment.losses.objective, experiment.network.head
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}; the objectives are {', '.join(OBJECTIVES)}")
    if name in LEAVE_THE_HEAD and head == "linear":
        raise ValueError(f"{name} needs a head that class means can set: cosine or prototypes")
    return OBJECTIVES[name](experiment)


def augmented(
    experiment: Experiment, images: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Return the batch turned, scaled, sheared, shifted and mirrored as the experiment says."""
    how = experiment.noise
    images = noise.random_affine(images, generator, how.affine)
    images = noise.random_shift(images, generator, how.shift)
    return noise.random_flip(images, generator, how.flip)


def _forward(model: nn.Module, images: torch.Tensor) -> models.Forward:
    return model(images.contiguous(memory_format=models.memory_format(model)))


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(1) == labels).float().mean()
