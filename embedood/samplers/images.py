"""Samplers that draw images, whatever their class: uniform, by rank of loss, by gradient norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from embedood.samplers.base import Sampler, Step, answers, check_whole


class UniformImageSampler(Sampler):
    """Every image once an epoch, in random order; the last batch may be smaller."""

    def __init__(self, labels: torch.Tensor, generator: torch.Generator, batch_size: int):
        super().__init__(labels, generator)
        check_whole(batch_size=batch_size)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[torch.Tensor]:
        order = torch.randperm(
            len(self.labels), generator=self.generator, device=self.labels.device
        )
        yield from order.split(self.batch_size)


class LossRankSampler(UniformImageSampler):
    r"""Online batch selection: images by the rank of their last known loss, the largest first.

    $P(\mathrm{rank}=i)\propto s^{-i/N}$, $i=0\ldots N-1$: the first is s times as likely as the last,
    s being `pressure`. Images are sorted every `refresh_every` steps; drawn with replacement. Until
    every image has been seen, each is visited once an epoch.

    Raises `ValueError` for a pressure that is not above 1 or an interval below 1.

    Source: Loshchilov & Hutter, 2016, "Online batch selection for faster training of neural networks".
    There s may fall over the epochs, and losses are recomputed now and then; here they are those that
    training computes anyway, of augmented images, so a loss may be old.
    """

    def __init__(
        self,
        labels: torch.Tensor,
        generator: torch.Generator,
        batch_size: int,
        pressure: float = 100.0,
        refresh_every: int = 20,
    ):
        super().__init__(labels, generator, batch_size)
        if not pressure > 1 or refresh_every < 1:
            raise ValueError(
                f"pressure > 1 and refresh_every ≥ 1 are needed, got {pressure}, {refresh_every}"
            )
        self.pressure, self.refresh_every = pressure, refresh_every
        self.losses = torch.full(labels.shape, torch.nan, dtype=torch.float64, device=labels.device)

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self.losses.isnan().any():
            yield from super().__iter__()
            return
        for step in range(len(self)):
            if step % self.refresh_every == 0:
                order = self.losses.argsort(descending=True, stable=True)
            yield order[self._ranks()]

    def _ranks(self) -> torch.Tensor:
        r"""Return ranks by their inverse distribution, $i=\lfloor-N\log_s(1-u(1-1/s))\rfloor$."""
        u = torch.rand(self.batch_size, generator=self.generator, device=self.labels.device)
        share = -torch.log1p(-u.double() * (1 - 1 / self.pressure)) / math.log(self.pressure)
        return (share * len(self.labels)).long().clamp_max(len(self.labels) - 1)

    def observe(self, batch: torch.Tensor, step: Step) -> None:
        """Keep the loss of each image; of one that was drawn twice, the larger."""
        asked = answers(step, self.labels[batch])
        self.losses.scatter_reduce_(0, batch[asked.rows], asked.losses, "amax", include_self=False)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.losses.copy_(state["losses"])


class GradientNormSampler(UniformImageSampler):
    r"""Importance sampling by gradient norm: as uniform on average, with less variance.

    Of B = `presample` · b images drawn uniformly, a forward pass gives $G_i=\|p_i-e_{y_i}\|$, which
    bounds the norm of the gradient up to a factor; b are drawn with replacement by $g_i=G_i/\sum G$,
    and each loss is weighted by $w_i=1/(Bg_i)$. On only while the moving average (0.9) of
    $\tau=\sqrt{B\sum_ig_i^2}$, the factor by which b would have to grow for as little variance, is
    above `threshold`: (B+3b)/(3b), where it pays, unless given; else batches are uniform, and G comes
    from what training computes. `looked` counts images forwarded for the draw alone.

    Raises `ValueError` for fewer than 1 · b candidates or a threshold below 0, and `RuntimeError` without
    `look`.

    Source: Katharopoulos & Fleuret, 2018, "Not all samples are created equal". Here candidates are seen
    without augmentation and in eval mode.
    """

    def __init__(
        self,
        labels: torch.Tensor,
        generator: torch.Generator,
        batch_size: int,
        presample: int = 3,
        threshold: float = 0.0,
    ):
        super().__init__(labels, generator, batch_size)
        check_whole(presample=presample)
        if presample < 1:
            raise ValueError(f"presample must be at least 1, got {presample}")
        if not threshold >= 0:
            raise ValueError(f"threshold must be ≥ 0, 0 for where it pays, got {threshold}")
        self.presample, self.threshold = presample, threshold or (presample + 3) / 3
        self.tau, self.looked = 0.0, 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        for batch in super().__iter__():
            self.weights = None
            yield self._important(len(batch)) if self.tau > self.threshold else batch

    def _important(self, count: int) -> torch.Tensor:
        if self.look is None:
            raise RuntimeError("importance sampling needs `look`, which gives the logits of images")
        drawn = (self.presample * count,)
        candidates = torch.randint(
            len(self.labels), drawn, generator=self.generator, device=self.labels.device
        )
        step = Step({}, torch.empty(0), self.look(candidates))
        g = self._shares(step, candidates)
        self.looked += len(candidates)
        chosen = torch.multinomial(g, count, replacement=True, generator=self.generator)
        self.weights = 1 / (len(g) * g[chosen]).float()
        return candidates[chosen]

    def _shares(self, step: Step, rows: torch.Tensor) -> torch.Tensor:
        """Return g of images, and let τ follow it; even shares where no image has a gradient."""
        norms = answers(step, self.labels[rows]).gradient_norms
        norms = norms.clamp_min(torch.finfo(norms.dtype).eps)
        g = norms / norms.sum()
        self.tau = 0.9 * self.tau + 0.1 * (len(g) * g.square().sum()).sqrt().item()
        return g

    def observe(self, batch: torch.Tensor, step: Step) -> None:
        """While batches are uniform, let τ follow them."""
        if self.weights is None:
            self._shares(step, batch)

    def state_dict(self) -> dict[str, Any]:
        return {"tau": self.tau, "looked": self.looked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.tau, self.looked = state["tau"], state["looked"]
