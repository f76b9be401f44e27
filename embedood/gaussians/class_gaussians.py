"""Means and covariances of classes, learned at once or as training goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from embedood.gaussians.densities import ELEMENTS
from embedood.gaussians.monte_carlo import Estimate

COVARIANCES = ("spherical", "diagonal", "tied", "full")


class ClassGaussians(nn.Module):
    r"""One Gaussian a class, $\mathcal N(\mu_c,\Sigma_c)$, from embeddings N×D and labels N.

    An `update` with b > 0 samples of class c, of mean m and scatter S, turns the class's weight into
    $w'=\beta w+b$, its mean into $\mu'=\mu+\frac b{w'}(m-\mu)$ and its scatter into
    $\beta T+S+\frac{\beta w\,b}{w'}(m-\mu)(m-\mu)^\top$; β is `decay`. A class that is not in the
    batch stays as it is. Dividing by w' corrects for the start, so a class has its own mean from its
    first sample on. With β = 1 the result is that of `fit` on all samples.

    `covariance` is "spherical" (one variance, Σ is C×1), "diagonal" (C×D), "full" (C×D×D) or "tied"
    (one Σ for all classes, 1×D×D, which forgets at each update). It is shrunk as if `pseudo_count`
    more samples had been seen with the mean variance within classes, $\bar s$:
    $\Sigma_c=\frac{T_c+n_0\bar sI}{w_c+n_0}$. With 0, a class of one sample is singular.

    A class without samples has 0 in `counts_` and NaN in `means_` and `covariances_`. The state is
    in float64 by default, on whatever device the module is moved to, and in `state_dict`.
    An update costs O(B·D), "tied" and "full" O(B·D²), and runs the same twice on CPU and CUDA.

    Source: Chan, Golub & LeVeque, 1979, combine scatters, without decay. The shrinkage is the mean
    of an inverse Wishart posterior; Friedman, 1989, shrinks to a multiple of I by a share that is the
    same for classes with few samples and with many.
    """

    counts_: torch.Tensor
    running_mean: torch.Tensor
    running_weight: torch.Tensor
    running_scatter: torch.Tensor
    scatter_weight: torch.Tensor

    def __init__(
        self,
        num_classes: int,
        dimensions: int,
        covariance: str = "diagonal",
        pseudo_count: float = 10.0,
        decay: float = 0.99,
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        if covariance not in COVARIANCES:
            raise ValueError(f"covariance must be one of {COVARIANCES}, got {covariance!r}")
        if num_classes < 1 or dimensions < 1 or pseudo_count < 0 or not 0 < decay <= 1:
            raise ValueError(
                "at least one class and dimension, pseudo_count ≥ 0 and 0 < decay ≤ 1 are needed, "
                f"got {num_classes}, {dimensions}, {pseudo_count} and {decay}"
            )
        self.covariance, self.pseudo_count, self.decay = covariance, pseudo_count, decay
        groups = 1 if covariance == "tied" else num_classes
        scatter = {"spherical": (1,), "diagonal": (dimensions,)}.get(covariance, (dimensions,) * 2)
        zeros = {
            "running_mean": (num_classes, dimensions),
            "running_weight": (num_classes,),
            "running_scatter": (groups, *scatter),
            "scatter_weight": (groups,),
        }
        self.register_buffer("counts_", torch.zeros(num_classes, dtype=torch.int64))
        for name, shape in zeros.items():
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))

    def fit(self, embeddings: torch.Tensor, labels: torch.Tensor) -> ClassGaussians:
        """Forget all and learn from embeddings N×D with labels N; raise as `update` does."""
        embeddings, labels = self._checked(embeddings, labels)
        for buffer in self.buffers():
            buffer.zero_()
        return self.update(embeddings, labels)

    @torch.no_grad()
    def update(self, embeddings: torch.Tensor, labels: torch.Tensor) -> ClassGaussians:
        """Learn from one more batch, B×D, labels B; gradients are not tracked.

        Raises `ValueError`, leaving all as it was, for an empty batch, other shapes, labels outside
        0…C−1 and embeddings that are not finite.
        """
        z, labels = self._checked(embeddings, labels)
        present, places, counts = labels.unique(return_inverse=True, return_counts=True)
        new = counts.to(z)
        old = self.decay * self.running_weight[present]
        batch_means = _sum_by_class(z, places, z.new_zeros(len(present), z.shape[1])) / new[:, None]
        shift = batch_means - self.running_mean[present]
        between = shift * (old * new / (old + new)).sqrt()[:, None]
        # A class's shift counts like one more row, whose square is the scatter between the means.
        rows = torch.cat([z - batch_means[places], between])
        self._add_scatter(rows, torch.cat([places, torch.arange(len(present)).to(places)]), present)
        self._add_weight(new, present)
        self.running_mean[present] += shift * (new / (old + new))[:, None]
        self.running_weight[present] = old + new
        self.counts_[present] += counts
        return self

    def _add_scatter(self, rows: torch.Tensor, places: torch.Tensor, present: torch.Tensor) -> None:
        """Decay the scatter of the classes that are present and add that of rows around 0."""
        if self.covariance == "tied":
            self.running_scatter.mul_(self.decay).add_(rows.mT @ rows)
            return
        kept = self.decay * self.running_scatter[present]
        if self.covariance == "full":
            _add_squares(rows, places, kept)
        else:
            squares = rows.square()
            if self.covariance == "spherical":
                squares = squares.mean(1, keepdim=True)
            kept = _sum_by_class(squares, places, kept)
        self.running_scatter[present] = kept

    def _add_weight(self, new: torch.Tensor, present: torch.Tensor) -> None:
        if self.covariance == "tied":
            self.scatter_weight.mul_(self.decay).add_(new.sum())
        else:
            self.scatter_weight[present] = self.decay * self.scatter_weight[present] + new

    def _checked(
        self, embeddings: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        classes, dimensions = self.running_mean.shape
        sizes = f"embeddings {tuple(embeddings.shape)} and labels {tuple(labels.shape)}"
        n = len(labels) if labels.ndim == 1 else 0
        if n == 0 or embeddings.shape != (n, dimensions) or labels.is_floating_point():
            raise ValueError(
                f"embeddings N×D and N whole labels with N ≥ 1, D = {dimensions} are needed, got "
                f"{sizes}, {labels.dtype}"
            )
        if not embeddings.isfinite().all():
            raise ValueError(f"embeddings hold NaN or infinite values: {sizes}")
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"labels must be 0…{classes - 1}, got {labels.min()} to {labels.max()}: {sizes}"
            )
        return embeddings.detach().to(self.running_mean), labels.to(self.counts_)

    @property
    def means_(self) -> torch.Tensor:
        """The means, C×D; NaN for a class without samples."""
        return self.running_mean.where(self._seen()[:, None], torch.nan)

    @property
    def covariances_(self) -> torch.Tensor:
        """The covariances, C×1, C×D, C×D×D or 1×D×D; NaN for a class without samples."""
        seen = self._seen()
        scatter, weight = self.running_scatter, self.scatter_weight
        variances = scatter if scatter.ndim == 2 else scatter.diagonal(dim1=1, dim2=2)
        prior = self.pseudo_count * variances.mean(1).sum() / weight.sum()
        if scatter.ndim == 3:
            prior = prior * torch.eye(scatter.shape[1]).to(scatter)
        total = (weight + self.pseudo_count).reshape(-1, *[1] * (scatter.ndim - 1))
        known = seen if len(scatter) == len(seen) else seen.any()[None]
        return ((scatter + prior) / total).where(known.reshape_as(total), torch.nan)

    @property
    def priors_(self) -> torch.Tensor:
        """The share of each class among all samples so far, C numbers with sum 1.

        Where a sampler draws the classes, that is how often it drew them, not how frequent they are.
        """
        self._seen()
        return self.counts_.to(self.running_mean) / self.counts_.sum()

    def _seen(self) -> torch.Tensor:
        seen = self.counts_ > 0
        if not seen.any():
            raise ValueError(f"none of {len(seen)} classes has samples; call fit or update first")
        return seen

    def matrix(
        self, divergence: Callable[..., torch.Tensor | Estimate], **options: Any
    ) -> torch.Tensor:
        """Return a divergence of this package between all classes, C×C, with its options.

        Rows and columns of classes without samples are NaN; of a Monte Carlo divergence it is the
        value. Raises what the divergence raises; rows in its messages are those of seen classes.
        """
        seen = self._seen().nonzero()[:, 0]
        covariances = self.covariances_
        if self.covariance != "tied":
            covariances = covariances[seen]
        found = divergence(self.means_[seen], covariances, **options)
        found = found.value if isinstance(found, Estimate) else found
        matrix = found.new_full((len(self.counts_), len(self.counts_)), torch.nan)
        matrix[seen[:, None], seen] = found
        return matrix


def _sum_by_class(rows: torch.Tensor, places: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
    """Add each row onto its place, in an order that does not change from run to run."""
    if rows.is_cuda:  # there index_add_ adds in any order, and on the CPU index_put_ does
        return onto.index_put_((places,), rows, accumulate=True)
    return onto.index_add_(0, places, rows)


def _add_squares(rows: torch.Tensor, places: torch.Tensor, onto: torch.Tensor) -> None:
    r"""Add $zz^\top$ of each row z onto its place, K×D×D, as one product a class."""
    places, order = places.sort(stable=True)
    step = max(1, ELEMENTS // onto[0].numel())
    for part, of in zip(order.split(step), places.split(step), strict=True):
        own, at, counts = of.unique_consecutive(return_inverse=True, return_counts=True)
        rank = torch.arange(len(of)).to(at) - (counts.cumsum(0) - counts)[at]
        padded = rows.new_zeros(len(own), int(counts.max()), rows.shape[1])
        padded[at, rank] = rows[part]
        onto[own] += padded.mT @ padded
