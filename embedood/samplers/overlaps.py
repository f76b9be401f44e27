"""How much classes overlap: matrices for the samplers of classes, fixed or following the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from embedood import gaussians
from embedood.gaussians import ClassGaussians, Estimate
from embedood.samplers import draws
from embedood.samplers.base import Step, answers, check_generator, check_state, check_whole

DIVERGENCES: dict[str, Callable[..., torch.Tensor | Estimate]] = {
    "kl": gaussians.kl,
    "jeffreys": gaussians.jeffreys,
    "geometric_jsd": gaussians.geometric_jsd,
    "jsd": gaussians.jsd,
    "bhattacharyya": gaussians.bhattacharyya,
}
MONTE_CARLO_SAMPLES = 64  # of each class, for "jsd"
INVERSE, EXPONENTIAL, RELATIVE = "inverse", "exponential", "relative"


class Overlaps:
    r"""Overlaps of C classes by their divergences D, C×C: $o_{ij}=1/D_{ij}$ or $e^{-D_{ij}}$.

    `log_pairs` are logarithms of $\frac12(o_{ij}+o_{ji})$, symmetric, −∞ on the diagonal. For a class,
    `log_classes` is $-\log\sum_{j\ne c}D_{cj}$ where `overlap` is "inverse", and
    $\log\sum_{j\ne c}e^{-D_{cj}}$ where it is "exponential". "relative" is exponential in D over the
    median of the D of all pairs, so that a temperature means the same all through a training.
    NaN marks classes not seen yet: what is not known is set to the mean of what is; without
    anything known, all are equal. A divergence of 0 is taken for the smallest number, one of ∞ is an
    overlap of 0.

    Raises `ValueError` for a matrix that is not square or has negative entries, or an unknown overlap.
    """

    divergences: torch.Tensor
    log_pairs: torch.Tensor
    log_classes: torch.Tensor

    def __init__(self, divergences: torch.Tensor, overlap: str = INVERSE):
        if overlap not in (INVERSE, EXPONENTIAL, RELATIVE):
            kinds = f"{INVERSE!r}, {EXPONENTIAL!r} or {RELATIVE!r}"
            raise ValueError(f"overlap must be {kinds}, got {overlap!r}")
        self.overlap = overlap
        self.use(divergences)

    def use(self, divergences: torch.Tensor) -> None:
        """Take another matrix of divergences."""
        shape = tuple(divergences.shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"divergences must be C×C, got {shape}")
        if (divergences < 0).any():
            raise ValueError(f"divergences {shape} hold negative ones, down to {divergences.min()}")
        self.divergences = divergences = divergences.double()
        itself = torch.eye(len(divergences), dtype=torch.bool, device=divergences.device)
        if self.overlap == RELATIVE:
            divergences = divergences / _median(divergences[~itself])
        log_o = self._logarithms(divergences).masked_fill(itself, torch.nan)
        log_o = draws.filled(torch.logaddexp(log_o, log_o.mT) - math.log(2))
        self.log_pairs = log_o.masked_fill(itself, -math.inf)
        self.log_classes = draws.filled(self._of_classes(divergences, itself))

    def _logarithms(self, divergences: torch.Tensor) -> torch.Tensor:
        if self.overlap != INVERSE:
            return -divergences
        return -divergences.clamp_min(torch.finfo(divergences.dtype).tiny).log()

    def _of_classes(self, divergences: torch.Tensor, itself: torch.Tensor) -> torch.Tensor:
        """Sum over the other classes that were seen; NaN for a class that was not."""
        unknown = (divergences.isnan() | itself).all(1)
        if self.overlap != INVERSE:
            others = (-divergences).masked_fill(divergences.isnan() | itself, -math.inf)
            return others.logsumexp(1).masked_fill(unknown, torch.nan)
        sums = divergences.masked_fill(itself, 0).nansum(1)
        return self._logarithms(sums).masked_fill(unknown, torch.nan)

    def observe(self, step: Step, labels: torch.Tensor, generator: torch.Generator) -> None:
        """Learn from a training step on a batch with labels B; a fixed matrix learns nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides the next matrices."""
        return {"divergences": self.divergences}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; raise as `Sampler.load_state_dict` does, leaving all as it was."""
        check_state(state, self.state_dict())
        self.use(state["divergences"].to(self.divergences.device))


def _median(known: torch.Tensor) -> torch.Tensor:
    """The median of what is known; 1, which changes nothing, where that is 0, ∞ or nothing."""
    median = known.nanmedian()
    return median if median > 0 and median.isfinite() else torch.ones_like(median)


def random_overlaps(
    num_classes: int, generator: torch.Generator, overlap: str = INVERSE
) -> Overlaps:
    r"""Return overlaps that mean nothing, the control of all others: $D_{ij}=D_{ji}=e^g$, g normal.

    Drawn once, with the spread of D over pairs that is usual between classes of one data set.
    """
    shape = (num_classes, num_classes)
    g = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
    upper = g.triu(1)
    return Overlaps((upper + upper.mT).exp(), overlap)


class GaussianOverlaps(Overlaps):
    """Overlaps of the Gaussians of classes in the embedding, as the training goes on.

    `ClassGaussians` with `decay` learns from each step's embeddings, O(B·D); the matrix is computed
    anew every `refresh_every` steps from the first such step on, and before that all classes are
    equal. `divergence` is a name of `DIVERGENCES`, all in closed form but "jsd". Statistics of a class
    that is hardly drawn stay as old as its last batch.

    Raises `ValueError` for an unknown divergence or settings out of range, and, at a refresh, for
    embeddings without any spread within classes.
    """

    def __init__(
        self,
        num_classes: int,
        divergence: str = "bhattacharyya",
        overlap: str = INVERSE,
        refresh_every: int = 20,
        decay: float = 0.9,
        covariance: str = "diagonal",
        device: torch.device | str = "cpu",
    ):
        if divergence not in DIVERGENCES:
            raise ValueError(
                f"unknown divergence {divergence!r}; the divergences are {', '.join(DIVERGENCES)}"
            )
        check_whole(refresh_every=refresh_every)
        if refresh_every < 1:
            raise ValueError(f"refresh_every must be at least 1 step, got {refresh_every}")
        shape = (num_classes, num_classes)
        super().__init__(torch.full(shape, torch.nan, device=device), overlap)
        self.divergence, self.refresh_every = divergence, refresh_every
        self._make = partial(ClassGaussians, num_classes, covariance=covariance, decay=decay)
        self._make(1)  # so that settings out of range are refused before the training starts
        self.statistics: ClassGaussians | None = None
        self.steps = 0

    def observe(self, step: Step, labels: torch.Tensor, generator: torch.Generator) -> None:
        """Learn from the embeddings of a step; compute the matrix anew when its time has come."""
        if step.embedding.ndim != 2:
            raise ValueError(f"embeddings must be B×D, got {tuple(step.embedding.shape)}")
        # Kept only once it has learned: what is refused must not fix the number of dimensions.
        statistics = self.statistics or self._make(step.embedding.shape[1]).to(labels.device)
        self.statistics = statistics.update(step.embedding, labels)
        self.steps += 1
        if self.steps % self.refresh_every == 0 and (self.statistics.counts_ > 0).sum() > 1:
            self.refresh(generator)

    def refresh(self, generator: torch.Generator) -> None:
        """Compute the matrix from the statistics, of which there must be some of two classes."""
        if self.statistics is None:
            raise ValueError("no step was observed yet")
        if not self.statistics.running_scatter.any():
            raise ValueError(
                f"covariances are singular: no class had two different embeddings (steps: {self.steps}); "
                "draw more images of each (per_class), refresh later (refresh_every) or, if there are "
                "many already, look for a network that has collapsed"
            )
        monte_carlo = {"samples": MONTE_CARLO_SAMPLES, "generator": generator}
        options = monte_carlo if self.divergence == "jsd" else {}
        self.use(self.statistics.matrix(DIVERGENCES[self.divergence], **options))

    def state_dict(self) -> dict[str, Any]:
        """Return the matrix, the statistics and the number of steps so far."""
        learned = None if self.statistics is None else self.statistics.state_dict()
        return super().state_dict() | {"steps": self.steps, "statistics": learned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; raise as `Sampler.load_state_dict` does, leaving all as it was."""
        check_state(state, self.state_dict(), unless="statistics")
        statistics = self._restored(state["statistics"])
        self.use(state["divergences"].to(self.divergences.device))
        self.steps, self.statistics = state["steps"], statistics

    def _restored(self, learned: dict[str, Any] | None) -> ClassGaussians | None:
        if learned is None:
            return None
        mean = learned.get("running_mean") if isinstance(learned, Mapping) else None
        dimensions = mean.shape[1] if torch.is_tensor(mean) and mean.ndim == 2 else 1
        statistics = self._make(dimensions).to(self.divergences.device)
        check_state(learned, statistics.state_dict())
        statistics.load_state_dict(learned)
        return statistics


class ShuffledOverlaps(GaussianOverlaps):
    r"""Overlaps of other classes, a control: $o_{ij}\leftarrow o_{s(i)s(j)}$, s a random circle.

    Drawn once; no class keeps its own place. Draws are as concentrated as those by the embedding's own
    matrix, and fall on pairs that it does not speak of. `settings` are those of `GaussianOverlaps`.

    Raises `ValueError` for fewer than three classes, whose pairs stay the same, and as its base does.
    """

    def __init__(self, num_classes: int, generator: torch.Generator, **settings: Any):
        check_generator(generator)
        if num_classes < 3:
            raise ValueError(f"only three classes or more can be shuffled, got {num_classes}")
        super().__init__(num_classes, device=generator.device, **settings)
        circle = torch.randperm(num_classes, generator=generator, device=generator.device)
        self.taken_from = torch.empty_like(circle).scatter_(0, circle, circle.roll(1))

    def refresh(self, generator: torch.Generator) -> None:
        """Compute the matrix and move its rows and columns."""
        super().refresh(generator)
        self.use(self.divergences[self.taken_from][:, self.taken_from])

    def state_dict(self) -> dict[str, Any]:
        """Return also the classes whose overlaps each class has."""
        return super().state_dict() | {"taken_from": self.taken_from}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; raise as `Sampler.load_state_dict` does, leaving all as it was."""
        check_state(state, self.state_dict(), unless="statistics")
        taken_from = state["taken_from"].to(self.taken_from.device)
        every = torch.arange(len(taken_from), device=taken_from.device)
        if not torch.equal(taken_from.sort().values, every) or (taken_from == every).any():
            raise ValueError(
                "'taken_from' of the state must give each class the place of another one, got "
                f"{taken_from.tolist()}"
            )
        super().load_state_dict(state)
        self.taken_from = taken_from


class ConfusionPotential(Overlaps):
    r"""Class-pair potential: $C_{ij}\leftarrow C_{ij}^\tau e^{\alpha\bar u_{ij}}$, all 1 at first.

    After each step, for the pairs of classes that it compared: $\bar u_{ij}$ is the mean probability of
    class j on images of class i, and of i on images of j, averaged. `strength` is α ≥ 0, `memory` is
    0 ≤ τ ≤ 1; with τ < 1 a potential stays below $e^{\alpha/(1-\tau)}$. One update costs O(C²).

    Source: Liu et al., 2020, "Adaptive task sampling for meta-learning"; there each episode compares
    its own classes only, as `objectives.episodic` does. Where an objective compares all classes, the
    potential is updated for pairs of classes in the batch.
    """

    def __init__(
        self,
        num_classes: int,
        strength: float = 1.0,
        memory: float = 0.5,
        device: torch.device | str = "cpu",
    ):
        if not 0 <= strength < math.inf or not 0 <= memory <= 1:
            raise ValueError(f"strength ≥ 0 and 0 ≤ memory ≤ 1: got {strength} and {memory}")
        self.strength, self.memory = strength, memory
        self.log_potential = torch.zeros(
            (num_classes, num_classes), dtype=torch.float64, device=device
        )
        self._renew()

    def _renew(self) -> None:
        itself = torch.eye(len(self.log_potential), dtype=torch.bool).to(self.log_potential.device)
        self.log_pairs = self.log_potential.masked_fill(itself, -math.inf)
        self.log_classes = self.log_pairs.logsumexp(1)

    def observe(self, step: Step, labels: torch.Tensor, generator: torch.Generator) -> None:
        """Update the potential of the pairs of classes in the batch."""
        asked = answers(step, labels)
        own, place, counts = asked.labels.unique(return_inverse=True, return_counts=True)
        # A product of matrices: unlike index_add_ on CUDA, it adds in the same order each time.
        sums = F.one_hot(place, len(own)).to(asked.log_p).mT @ asked.log_p.exp()
        confusion = (sums / counts[:, None])[:, asked.column[own]]
        pairs = own[:, None], own
        u = (confusion + confusion.mT) / 2
        self.log_potential[pairs] = self.memory * self.log_potential[pairs] + self.strength * u
        self._renew()

    def state_dict(self) -> dict[str, Any]:
        """Return the logarithms of the potential."""
        return {"log_potential": self.log_potential}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; raise as `Sampler.load_state_dict` does, leaving all as it was."""
        check_state(state, self.state_dict())
        self.log_potential.copy_(state["log_potential"])
        self._renew()
