"""Gaussians that have been checked and factored, and their log-densities."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.linalg import cholesky_ex, solve_triangular

ELEMENTS = 2**24  # numbers in the largest temporary array: 128 MiB in float64


class Gaussians(NamedTuple):
    """C Gaussians in D dimensions whose covariances are known to be regular."""

    means: torch.Tensor  # C×D
    covariances: torch.Tensor  # C×D, the diagonals, or C×D×D, or 1×D×D
    factors: torch.Tensor  # square roots of the diagonals, or Cholesky factors

    @property
    def is_diagonal(self) -> bool:
        return self.covariances.ndim == 2

    def log_dets(self) -> torch.Tensor:
        """Return the logarithms of the determinants, C numbers, or one where Σ is tied."""
        pivots = self.factors if self.is_diagonal else self.factors.diagonal(dim1=1, dim2=2)
        return 2 * pivots.log().sum(1)


def checked(means: torch.Tensor, covariances: torch.Tensor, least: int = 2) -> Gaussians:
    """Return the Gaussians; raise `ValueError`, naming the sizes, where they are none."""
    sizes = f"means {tuple(means.shape)} and covariances {tuple(covariances.shape)}"
    classes, dimensions = means.shape if means.ndim == 2 else (0, 0)
    square = (dimensions, dimensions)
    shapes = [(classes, 1), (classes, dimensions), (classes, *square), (1, *square)]
    if means.ndim != 2 or dimensions == 0 or covariances.shape not in shapes:
        raise ValueError(f"means must be C×D, covariances C×1, C×D, C×D×D or 1×D×D; got {sizes}")
    if classes < least:
        raise ValueError(f"at least {least} classes are needed, got C = {classes}: {sizes}")
    covariances = covariances.to(means)
    _refuse_not_finite(means, covariances, sizes)
    if covariances.ndim == 2:
        covariances = covariances.expand_as(means)
    return Gaussians(means, covariances, _factors(covariances))


def _refuse_not_finite(means: torch.Tensor, covariances: torch.Tensor, sizes: str) -> None:
    finite = means.isfinite().all(1) & covariances.flatten(1).isfinite().all(1)
    if not finite.all():
        raise ValueError(
            f"NaN or infinite values in rows {_named(~finite)} of {sizes}; a class without samples "
            "has no Gaussian: leave it out, or use ClassGaussians.matrix"
        )


def _factors(covariances: torch.Tensor) -> torch.Tensor:
    """Return square roots C×D of variances, or Cholesky factors; refuse singular covariances."""
    dimensions, epsilon = covariances.shape[-1], torch.finfo(covariances.dtype).eps
    if covariances.ndim == 2:
        # A constant column is left with a variance of (rounding)², not of 0.
        pivots, least = covariances, dimensions * epsilon**2
        factors = pivots.clamp(min=0).sqrt()
    else:
        factors, _ = cholesky_ex(covariances)
        pivots, least = factors.diagonal(dim1=1, dim2=2).square(), dimensions * epsilon
        pivots = pivots.where(factors.diagonal(dim1=1, dim2=2) > 0, 0)
    regular = pivots.amin(1) > least * pivots.amax(1)
    if not regular.all():
        raise ValueError(
            f"the covariances in rows {_named(~regular)} of {len(covariances)} are singular in "
            f"D = {dimensions} dimensions; shrink them (pseudo_count of ClassGaussians), add a "
            "floor to their diagonals, or give these classes more samples"
        )
    return factors


def _named(bad: torch.Tensor, most: int = 8) -> str:
    rows = bad.nonzero()[:, 0].tolist()
    return str(rows[:most])[:-1] + (", …]" if len(rows) > most else "]")


def standardised(means: torch.Tensor, covariances: torch.Tensor) -> Gaussians:
    """Return checked Gaussians, moved so that the means average 0; tied ones become Σ = I.

    No divergence between them changes by an affine map of the space; rounding errors shrink.
    """
    gaussians = checked(means, covariances)
    means = means - means.mean(0)
    if gaussians.is_diagonal or len(gaussians.covariances) == len(means):
        return gaussians._replace(means=means)
    white = solve_triangular(gaussians.factors[0], means.mT, upper=False).mT
    return Gaussians(white, torch.ones_like(white), torch.ones_like(white))


def checked_priors(priors: torch.Tensor | None, means: torch.Tensor) -> torch.Tensor:
    """Return C class probabilities, even ones without `priors`, or raise `ValueError`."""
    classes = len(means)
    if priors is None:
        return means.new_ones(classes) / classes
    priors = torch.as_tensor(priors).to(means)
    if priors.shape != (classes,):
        raise ValueError(f"priors must be C = {classes} numbers, got shape {tuple(priors.shape)}")
    if not (priors >= 0).all() or not math.isclose(priors.sum().item(), 1, abs_tol=1e-5):
        raise ValueError(f"{classes} priors must be ≥ 0 with sum 1, got sum {priors.sum():.6g}")
    return priors


def log_prob(
    embeddings: torch.Tensor, means: torch.Tensor, covariances: torch.Tensor
) -> torch.Tensor:
    r"""$\log\mathcal N(z_n;\mu_c,\Sigma_c)$ of embeddings N×D for each class, N×C, in nats.

    Any real number. Raises `ValueError` as the divergences do (one class is enough), and for
    embeddings that are empty, not N×D or not finite.
    """
    gaussians = checked(means, covariances, least=1)
    if embeddings.ndim != 2 or not len(embeddings) or embeddings.shape[1] != means.shape[1]:
        sizes = tuple(embeddings.shape)
        raise ValueError(f"embeddings must be N×D with N ≥ 1, D = {means.shape[1]}, got {sizes}")
    if not embeddings.isfinite().all():
        raise ValueError(f"embeddings {tuple(embeddings.shape)} hold NaN or infinite values")
    centre = means.mean(0)
    gaussians = gaussians._replace(means=means - centre)
    return log_density(gaussians, embeddings.to(means) - centre)


def log_density(gaussians: Gaussians, z: torch.Tensor) -> torch.Tensor:
    """Return the log-densities N×C of z, N×D, without checks."""
    rows = max(1, ELEMENTS // gaussians.means.numel())
    squared = torch.cat([_mahalanobis(gaussians, part) for part in z.split(rows)])
    return -(squared + gaussians.log_dets() + z.shape[1] * math.log(2 * math.pi)) / 2


def _mahalanobis(gaussians: Gaussians, z: torch.Tensor) -> torch.Tensor:
    """Return squared Mahalanobis distances N×C."""
    means, factors = gaussians.means, gaussians.factors
    if gaussians.is_diagonal:
        precisions = 1 / gaussians.covariances
        weighted = means * precisions
        own = (means * weighted).sum(1)
        return (z.square() @ precisions.mT - 2 * z @ weighted.mT + own).clamp(min=0)
    white = solve_triangular(factors, z.mT.expand(len(factors), -1, -1), upper=False)
    return (white - solve_triangular(factors, means[:, :, None], upper=False)).square().sum(1).mT
