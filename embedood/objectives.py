"""What a training step makes small: a batch through the network to named terms and their sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from embedood import compact_losses, losses, models, noise, pair_losses, samplers
from embedood.config import Experiment
from embedood.samplers import Step


class Objective(Protocol):
    """A model, images B×C×H×W in [0, 1] and labels B to the terms of a step and what they came from.

    `weights`, B numbers, are multiplied by each image's loss.
    """

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
        weights: torch.Tensor | None = None,
    ) -> Step: ...


def classification(experiment: Experiment) -> Objective:
    """Return the report's objective: classify and denoise, part of each batch noised.

    loss = classification + `std_weight` · L_std + `denoising_weight` · L_den
    (+ `outlier_weight` · KL(U‖p) on pseudo-OOD made from the batch)
    (+ `blending_weight` · the classification loss of half of the batch again, each image blended with
    another one, for both classes in their shares)
    (+ `turning_weight` · L_turn, half of the batch being shown turned as well)
    (+ `pull_weight` · L_pull, for a head of prototypes). A network without a decoder is trained
    without L_den.
    """

    def objective(
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
        weights: torch.Tensor | None = None,
    ) -> Step:
        clean, shown, turns, blends = _shown(experiment, images, generator)
        answer = _forward(model, shown)
        logits, embedding = answer.logits[: len(clean)], answer.embedding[: len(clean)]
        terms = {
            "classification": losses.overconfidence(logits, labels, **_sure(experiment, weights)),
            "std": losses.std_of_wrong(logits, labels, weights),
        }
        if answer.reconstruction is not None:
            shown_again = answer.reconstruction[: len(clean)]
            terms["mse"] = losses.denoising(shown_again, clean, weights)
        if experiment.losses.outlier_weight:
            terms["outlier"] = losses.uniformity(answer.logits[-len(clean) :])
        if blends:
            of_blends = answer.logits[len(turns) : len(turns) + len(blends.images)]
            terms["blending"] = _blending(experiment, of_blends, labels, blends, weights)
        if experiment.losses.turning_weight:
            terms["turning"] = _turning(experiment, model, answer, labels, turns)
        if experiment.losses.pull_weight:
            prototypes = model.get_parameter("head.prototypes")
            terms["pull"] = losses.pull(embedding, labels, prototypes, weights)
        weight_of = _weights(experiment)
        loss = sum((weight_of[n] * term for n, term in terms.items()), start=torch.zeros(()))
        summary = {"loss": loss, "accuracy": _accuracy(logits, labels)}
        return Step(summary | terms, embedding, logits)

    return objective


def _weights(experiment: Experiment) -> dict[str, float]:
    """What each term of `classification` is multiplied by."""
    weights = experiment.losses
    return {
        "classification": 1.0,
        "std": weights.std_weight,
        "mse": weights.denoising_weight,
        "outlier": weights.outlier_weight,
        "blending": weights.blending_weight,
        "turning": weights.turning_weight,
        "pull": weights.pull_weight,
    }


def _sure(experiment: Experiment, weights: torch.Tensor | None) -> dict[str, Any]:
    """The settings of `losses.overconfidence`."""
    chosen = experiment.losses
    k, smoothing = chosen.overconfidence_weight, chosen.label_smoothing
    return {"k": k, "label_smoothing": smoothing, "weights": weights}


def _blending(
    experiment: Experiment,
    logits: torch.Tensor,
    labels: torch.Tensor,
    blends: noise.Blends,
    weights: torch.Tensor | None,
) -> torch.Tensor:
    """The classification loss of blends: for the own class and the partner's, in their shares.

    Source: Pinto et al., 2022, "RegMixup": beside the loss of the images, not instead of it.
    """
    total: torch.Tensor = torch.zeros((), device=logits.device)
    own = torch.arange(len(logits), device=logits.device)
    for rows, share in ((own, blends.share), (blends.partner, 1 - blends.share)):
        weighed = share if weights is None else share * weights[rows]
        total = total + losses.overconfidence(logits, labels[rows], **_sure(experiment, weighed))
    return total


def _turning(
    experiment: Experiment,
    model: nn.Module,
    answer: models.Forward,
    labels: torch.Tensor,
    turns: torch.Tensor,
) -> torch.Tensor:
    """The loss of the second head on the batch and on its first half, which is shown turned."""
    second_head = model.get_submodule("turned")
    of_turned = torch.cat([labels, labels[: len(turns) - len(labels)]])
    logits = second_head(answer.embedding[: len(turns)])
    return losses.turning(logits, of_turned, turns, experiment.losses.label_smoothing)


class Shown(NamedTuple):
    """The clean batch, what the network sees, how its first images are turned, and its blends.

    It sees the batch, some of it noised, then half of it turned, half of it blended, pseudo-OOD.
    """

    clean: torch.Tensor
    images: torch.Tensor
    turns: torch.Tensor
    blends: noise.Blends | None


def _shown(experiment: Experiment, images: torch.Tensor, generator: torch.Generator) -> Shown:
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
    blends = None
    if weights.blending_weight:
        blends = noise.blend(clean[: -(-len(clean) // 2)], generator)
        shown = torch.cat([shown, blends.images])
    if weights.outlier_weight:
        shown = torch.cat([shown, noise.spoil(clean, weights.outlier_recipe, generator)])
    return Shown(clean, shown, turns, blends)


def contrastive(experiment: Experiment) -> Objective:
    """Return supervised contrastive learning: each image is shown twice, augmented each time.

    loss = L_out at the head's temperature. The head itself is set from class means after training,
    so there is no accuracy to report meanwhile.
    """
    temperature = experiment.network.temperature

    def objective(
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
        weights: torch.Tensor | None = None,
    ) -> Step:
        views = [augmented(experiment, images, generator) for _ in range(2)]
        z = _forward(model, torch.cat(views)).embedding
        terms = {"loss": losses.supervised_contrastive(z, labels.repeat(2), temperature)}
        return Step(terms, z[: len(labels)], None)

    return objective


def pairs(experiment: Experiment) -> Objective:
    """Return deep metric learning: a loss of `PAIR_LOSSES` between the images of a batch.

    `pair_margin` is its margin. The head is set from class means after training.
    """
    loss_of = PAIR_LOSSES[experiment.losses.objective]
    margin = experiment.losses.pair_margin

    def objective(
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
        weights: torch.Tensor | None = None,
    ) -> Step:
        z = _forward(model, augmented(experiment, images, generator)).embedding
        return Step({"loss": loss_of(z, labels, margin)}, z, None)

    return objective


def episodic(experiment: Experiment) -> Objective:
    """Return prototypical episodes: classify the queries by the means of the support.

    The batch is an episode of a class sampler, class by class. The head is set from class means after
    training.
    """
    ways, shots = experiment.schedule.ways, experiment.schedule.shots
    temperature = experiment.network.temperature

    def objective(
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
        weights: torch.Tensor | None = None,
    ) -> Step:
        z = _forward(model, augmented(experiment, images, generator)).embedding
        logits = losses.episode_logits(z, ways, shots, temperature)
        place = torch.arange(ways, device=z.device).repeat_interleave(len(logits) // ways)
        terms = {"loss": F.cross_entropy(logits, place), "accuracy": _accuracy(logits, place)}
        rows = torch.arange(len(labels), device=z.device).view(ways, -1)
        return Step(terms, z, logits, labels[rows[:, 0]], rows[:, shots:].flatten())

    return objective


def episodic_softmax(experiment: Experiment) -> Objective:
    """Return episodes in which the head compares the classes of the batch only.

    Cross-entropy, as in `classification`, of the softmax over the columns of the head that belong to
    classes in the batch; with a cosine head this is the normalised softmax of an episode. The head is
    trained along.
    """

    def objective(
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
        weights: torch.Tensor | None = None,
    ) -> Step:
        answer = _forward(model, augmented(experiment, images, generator))
        classes, place = labels.unique(return_inverse=True)
        logits = answer.logits[:, classes]
        loss = losses.overconfidence(logits, place, **_sure(experiment, weights))
        terms = {"loss": loss, "accuracy": _accuracy(logits, place)}
        return Step(terms, answer.embedding, logits, classes)

    return objective


def information(experiment: Experiment) -> Objective:
    """Return the information loss of `compact_losses`, for a head of Gaussians.

    loss = posterior + `distance_weight` · D_y + `separation_weight` · separation
    (+ `margin_weight` · violation of the `margin`)
    """
    names = ("distance_weight", "separation_weight", "margin_weight", "margin")
    chosen = {name: getattr(experiment.losses, name) for name in names}

    def objective(
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
        weights: torch.Tensor | None = None,
    ) -> Step:
        answer, head = _forward(model, augmented(experiment, images, generator)), model.head
        assert isinstance(head, models.GaussianHead), "objectives.of refuses others"
        classes = (head.means, head.log_scales, head.log_priors)
        distances = head.log_priors - answer.logits
        terms = compact_losses.information(distances, labels, *classes, **chosen)
        terms["accuracy"] = _accuracy(answer.logits, labels)
        return Step(terms, answer.embedding, answer.logits)

    return objective


class Lesson(NamedTuple):
    """What a student learns of each of N training images."""

    labels: torch.Tensor  # N, the true class, 0…C−1
    targets: torch.Tensor  # N×(C·S), probabilities, class after class
    embeddings: torch.Tensor  # N×D, the teacher's


def distillation(experiment: Experiment, lesson: Lesson) -> Objective:
    r"""Return the objective of a student; the labels of its batches are rows of the lesson.

    loss = (1 − `hard_share`) · cross-entropy to the targets + `hard_share` · cross-entropy to the label
    (+ `embedding_weight` · mean squared error of the teacher's embedding, guessed by a linear map of
    the student's). Class probabilities are sums over subclasses.
    """
    how = experiment.distillation
    num_classes = lesson.targets.shape[1] // how.subclasses

    def objective(
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
        weights: torch.Tensor | None = None,
    ) -> Step:
        answer = _forward(model, augmented(experiment, images, generator))
        of_classes = losses.class_logits(answer.logits, num_classes)
        true, wanted = lesson.labels[labels], lesson.targets[labels]
        soft = losses.distillation(answer.logits, wanted, how.student_temperature, weights)
        terms = {"soft": soft, "hard": losses.overconfidence(of_classes, true, 0, weights=weights)}
        loss = (1 - how.hard_share) * soft + how.hard_share * terms["hard"]
        if how.embedding_weight:
            guess = model.get_submodule("teacher_guess")(answer.embedding)
            terms["embedding"] = losses.denoising(guess, lesson.embeddings[labels], weights)
            loss = loss + how.embedding_weight * terms["embedding"]
        summary = {"loss": loss, "accuracy": _accuracy(of_classes, true)}
        return Step(summary | terms, answer.embedding, of_classes)

    return objective


PAIR_LOSSES = {
    "triplet": pair_losses.triplet,
    "pair_contrastive": pair_losses.pair_contrastive,
}
OBJECTIVES: dict[str, Callable[[Experiment], Objective]] = {
    "classification": classification,
    "contrastive": contrastive,
    "episodes": episodic,
    "episodes_softmax": episodic_softmax,
    "information": information,
    "triplet": pairs,
    "pair_contrastive": pairs,
}
LEAVE_THE_HEAD = ("contrastive", "episodes", *PAIR_LOSSES)
NEED_WAYS = ("episodes", "episodes_softmax")


def of(experiment: Experiment, lesson: Lesson | None = None) -> Objective:
    """Return the objective that an experiment asks for; that of a student needs its lesson.

    Raises `ValueError` for an unknown name, one that leaves the head untrained (`LEAVE_THE_HEAD`) with
    a linear head, which cannot be set from class means, episodes without classes to draw, or a sampler
    whose weights would not reach all of the loss.
    """
    name, head = experiment.losses.objective, experiment.network.head
    if name == "distillation":
        return distillation(experiment, _checked(experiment, lesson))
    if name not in OBJECTIVES:
        known = ", ".join([*OBJECTIVES, "distillation"])
        raise ValueError(f"unknown objective {name!r}; the objectives are {known}")
    if name in LEAVE_THE_HEAD and head == "linear":
        raise ValueError(f"{name} needs a head that class means can set: cosine or prototypes")
    if name == "information" and head != "gaussians":
        raise ValueError(f"information needs a Gaussian for each class, got the head {head!r}")
    if name in NEED_WAYS and not experiment.schedule.ways:
        raise ValueError(f"{name} needs classes to draw for each batch: set ways")
    terms = experiment.losses
    whole = name == "classification" and not (terms.outlier_weight or terms.turning_weight)
    if experiment.sampling.sampler in samplers.WEIGHTED and not whole:
        raise ValueError(
            f"{experiment.sampling.sampler} weights images, which only classification without "
            "outliers and turned images can do"
        )
    return OBJECTIVES[name](experiment)


def _checked(experiment: Experiment, lesson: Lesson | None) -> Lesson:
    """The lesson, unless there is none, or samplers would read classes where there are subclasses."""
    if lesson is None:
        raise ValueError("distillation needs a lesson: distillation.lesson of a teacher's outputs")
    if experiment.sampling.sampler != "uniform" or experiment.schedule.ways:
        raise ValueError(f"distillation draws uniformly, not by {experiment.sampling.sampler}")
    return lesson


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
