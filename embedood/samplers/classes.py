"""Samplers that draw classes first and then images of each: uniform, or by weights of the classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from embedood.gaussians import ClassGaussians
from embedood.samplers import draws
from embedood.samplers.base import Sampler, Step, answers, check_whole
from embedood.samplers.overlaps import Overlaps


class ClassSampler(Sampler):
    """Base: each batch has `ways` classes, `per_class` images of each, none of them twice.

    A share `context_share` of the classes, rounded, is drawn uniformly from those that `draw` has left;
    they come last. Where `grouped`, the rows stand class by class, as episodes need it; else in random
    order. An epoch has `batches` batches, 0 for as many as would visit N images.

    Raises `ValueError` for more ways than classes, fewer than two, more images than the smallest class
    has, fewer than 0 batches, or a share that leaves no class to be drawn, and `TypeError` for counts
    that are not whole.
    """

    def __init__(
        self,
        labels: torch.Tensor,
        generator: torch.Generator,
        ways: int,
        per_class: int,
        batches: int = 0,
        context_share: float = 0.0,
        grouped: bool = False,
    ):
        super().__init__(labels, generator)
        check_whole(ways=ways, per_class=per_class, batches=batches)
        counts = labels.bincount()
        self.has_images = counts > 0
        self.classes = self.has_images.nonzero()[:, 0]
        self.rows = labels.argsort(stable=True).split(counts.tolist())
        least = int(counts[self.classes].min())
        if not 2 <= ways <= len(self.classes) or not 1 + grouped <= per_class <= least:
            raise ValueError(
                f"an episode of {ways} classes with {per_class} images each cannot be drawn from "
                f"{len(self.classes)} classes of {least} images or more"
            )
        if batches < 0:
            raise ValueError(f"batches must be ≥ 0, 0 for as many as visit N images, got {batches}")
        if not 0 <= context_share < 1:
            raise ValueError(f"context_share must be from 0 to below 1, got {context_share}")
        self.context = round(context_share * ways)
        if self.context == ways:
            raise ValueError(f"context_share {context_share} of {ways} classes leaves none to draw")
        self.ways, self.per_class, self.grouped = ways, per_class, grouped
        self.batches = batches or -(-len(labels) // (ways * per_class))

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(len(self)):
            drawn = self.draw_classes().tolist()
            batch = torch.cat([self._some(self.rows[c], self.per_class) for c in drawn])
            yield batch if self.grouped else self._some(batch, len(batch))

    def draw_classes(self) -> torch.Tensor:
        """Return the labels of the next batch's classes, those of the context last."""
        drawn = self.draw(self.ways - self.context)
        if not self.context:
            return drawn
        left = self.has_images.index_fill(0, drawn, False)
        return torch.cat([drawn, draws.uniform(left, self.context, self.generator)])

    def draw(self, count: int) -> torch.Tensor:
        """Return the labels of `count` different classes, in the order in which they are drawn."""
        raise NotImplementedError

    def _some(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        order = torch.randperm(len(rows), generator=self.generator, device=rows.device)
        return rows[order[:count]]


class UniformClassSampler(ClassSampler):
    """Every class is as likely as any other.

    Source: episodes as in Snell et al., 2017, "Prototypical networks for few-shot learning".
    """

    def draw(self, count: int) -> torch.Tensor:
        return self._some(self.classes, count)


class WeightedClassSampler(ClassSampler):
    r"""Base: classes drawn without replacement, $q_c=(1-f)\frac{w_c^{1/T}}{\sum w^{1/T}}+\frac fC$.

    After each draw the probabilities of the classes that are left are scaled to sum 1. T is
    `temperature`: ∞ is uniform, towards 0 the class of the largest weight wins; f is `floor`. Classes
    of weight 0 are drawn, uniformly, where no others are left.

    Raises `ValueError` for T ≤ 0 or a floor outside [0, 1], and as `ClassSampler` does.
    """

    def __init__(
        self,
        labels: torch.Tensor,
        generator: torch.Generator,
        ways: int,
        per_class: int,
        temperature: float = 1.0,
        floor: float = 0.0,
        **layout: Any,
    ):
        super().__init__(labels, generator, ways, per_class, **layout)
        if not temperature > 0 or not 0 <= floor <= 1:
            raise ValueError(
                f"temperature > 0 and 0 ≤ floor ≤ 1 are needed, got {temperature} and {floor}"
            )
        self.temperature, self.floor = temperature, floor

    def log_weights(self) -> torch.Tensor:
        """Return the logarithms of the classes' weights, C numbers."""
        raise NotImplementedError

    def log_probabilities(self) -> torch.Tensor:
        """Return the logarithms of q, C numbers; −∞ for labels without images."""
        return self._log_q(self.log_weights(), self.has_images)

    def _log_q(self, log_weights: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        return draws.log_probabilities(log_weights, allowed, self.temperature, self.floor)

    def draw(self, count: int) -> torch.Tensor:
        return draws.some(self.log_probabilities(), count, self.generator)


class ClassOverlapSampler(WeightedClassSampler):
    r"""Classes that overlap most with all others: $q_c\propto1/\sum_{j\ne c}D_{cj}$.

    With exponential overlaps $q_c\propto\sum_{j\ne c}e^{-D_{cj}}$. The sum of divergences is ruled by
    the far classes, that of exponentials by the near ones. `overlaps` holds D; it is handed every step.

    Raises `ValueError` for overlaps of another number of classes, `TypeError` for a matrix that is not
    wrapped in `Overlaps`, and as its base does.

    Source: ours.
    """

    def __init__(
        self,
        labels: torch.Tensor,
        generator: torch.Generator,
        ways: int,
        per_class: int,
        overlaps: Overlaps,
        **settings: Any,
    ):
        super().__init__(labels, generator, ways, per_class, **settings)
        if not isinstance(overlaps, Overlaps):
            kind = type(overlaps).__name__
            raise TypeError(
                f"overlaps must be Overlaps, got {kind}: wrap it, Overlaps(divergences)"
            )
        if len(overlaps.log_classes) != len(self.has_images):
            raise ValueError(
                f"overlaps are of {len(overlaps.log_classes)} classes, labels of "
                f"{len(self.has_images)}"
            )
        self.overlaps = overlaps

    def log_weights(self) -> torch.Tensor:
        return self.overlaps.log_classes

    def observe(self, batch: torch.Tensor, step: Step) -> None:
        self.overlaps.observe(step, self.labels[batch], self.generator)

    def state_dict(self) -> dict[str, Any]:
        return self.overlaps.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.overlaps.load_state_dict(state)


class LeastOverlapSampler(ClassOverlapSampler):
    """Anti-curriculum, a control: the weights of `ClassOverlapSampler` turned over, $1/w_c$."""

    def log_weights(self) -> torch.Tensor:
        return -self.overlaps.log_classes


class TournamentSampler(ClassOverlapSampler):
    """For each place, `candidates` classes are drawn uniformly; the most overlapping one wins.

    Only the order of the weights of `ClassOverlapSampler` counts, so `temperature` does nothing; with
    probability `floor` the first candidate wins. Where fewer classes are left, all are candidates. Of
    K classes that of rank r, 1 being the most overlapping, wins the first place with probability
    C(K−r, m−1) / C(K, m) for m candidates.

    Source: tournament selection as in Goldberg & Deb, 1991; on classes: ours.
    """

    def __init__(self, *arguments: Any, candidates: int = 4, **settings: Any):
        super().__init__(*arguments, **settings)
        check_whole(candidates=candidates)
        if candidates < 1:
            raise ValueError(f"a tournament needs at least 1 candidate, got {candidates}")
        self.candidates = candidates

    def draw(self, count: int) -> torch.Tensor:
        weights, winners = self.log_weights(), []
        noise, fought = draws.noise_of(self.has_images, count, self.floor, self.generator)
        for place, fight in enumerate(fought > 0):
            entered = min(self.candidates, len(self.classes) - place)
            entrants = noise[place].topk(entered).indices  # of even weights, in random order
            best = entrants[weights[entrants].argmax()]
            winners.append(torch.where(fight, best, entrants[0]))
            noise.index_fill_(1, winners[-1], -math.inf)
        return torch.stack(winners)


class RelationshipOverlapSampler(ClassOverlapSampler):
    r"""Classes that overlap with each other: $q_{ij}\propto o_{ij}$, then $q_k\propto\prod_io_{ik}$.

    An entry (i, j) of the matrix of overlaps, $o=1/D$ or $e^{-D}$, is drawn and both classes are taken.
    Whenever a class has joined, weights are computed anew: pairs within the chosen are exhausted, and
    a further class k is drawn by the product of its overlaps with all chosen. `temperature` and
    `floor` act on the entries and on each further draw.

    The product of many overlaps is steep: without a floor, a temperature or context classes a batch
    is one cluster. Costs O(C) a draw, and O(C²) when the matrix has changed.

    Source: ours; the draws of Liu et al., 2020, whose matrix is `ConfusionPotential`.
    """

    _drawn_from: torch.Tensor | None = None
    _log_q_of_pairs: torch.Tensor
    _log_q_of_first: torch.Tensor
    _tempered: torch.Tensor

    def log_pair_probabilities(self) -> torch.Tensor:
        """Return the logarithms of q of the ordered pairs, C×C, symmetric, −∞ on the diagonal."""
        log_pairs = self.overlaps.log_pairs
        if self._drawn_from is not log_pairs:
            allowed = self.has_images & self.has_images[:, None]
            allowed = allowed.fill_diagonal_(False)
            self._log_q_of_pairs = self._log_q(log_pairs, allowed)
            self._log_q_of_first = self._log_q_of_pairs.logsumexp(1)
            self._tempered = draws.tempered(
                log_pairs.masked_fill(~allowed, -math.inf), self.temperature
            )
            self._drawn_from = log_pairs
        return self._log_q_of_pairs

    def draw(self, count: int) -> torch.Tensor:
        of_pairs = self.log_pair_probabilities()
        first = draws.some(self._log_q_of_first, 1, self.generator)
        second = draws.some(of_pairs[first[0]], 1, self.generator)
        chosen = [first, second]
        product = self._tempered[first[0]] + self._tempered[second[0]]
        left = self.has_images.index_fill(0, torch.cat(chosen), False)
        noise, by_weight = draws.noise_of(left, max(count - 2, 0), self.floor, self.generator)
        for own, weighted in zip(noise, by_weight, strict=True):
            chosen.append(torch.addcmul(own, product, weighted).argmax(0, keepdim=True))
            product = product + self._tempered[chosen[-1][0]]
            noise.index_fill_(1, chosen[-1], -math.inf)
        return torch.cat(chosen)[:count]


class ClassLossSampler(WeightedClassSampler):
    r"""Classes of high loss, a baseline: $q_c\propto\bar\ell_c$, the class's mean cross-entropy.

    A moving average, one a class, of the images' losses in the softmax that was trained on; β is
    `decay`. A class not seen yet counts as an average one.
    """

    def __init__(self, *arguments: Any, decay: float = 0.9, **settings: Any):
        super().__init__(*arguments, **settings)
        # The mean of a one-dimensional "embedding" is what is needed here.
        self.losses = ClassGaussians(len(self.has_images), 1, decay=decay).to(self.labels.device)

    def log_weights(self) -> torch.Tensor:
        if not (self.losses.counts_ > 0).any():
            return torch.zeros(self.has_images.shape, device=self.labels.device)
        return draws.filled(self.losses.means_[:, 0].log())

    def observe(self, batch: torch.Tensor, step: Step) -> None:
        asked = answers(step, self.labels[batch])
        self.losses.update(asked.losses[:, None], asked.labels)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.losses.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.losses.load_state_dict(state)
