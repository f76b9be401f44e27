r"""Losses that draw each class together and classes apart: Deep SVDD to the information loss.

Distances are $D_c(z)$, B×C, of `models.GaussianHead`; labels int64 in 0…C−1; all values in nats. With
$q(c|z)\propto\pi_ce^{-D_c(z)}$, the information loss is

$L=-\log q(y|z)+\beta D_y+\gamma\sum_c\pi_c\log\sum_{c'}\pi_{c'}e^{-B_{cc'}}
+\eta\,[m+D_y-\min_{c\ne y}D_c]_+$.

γ = η = 0: Deep-MCDD. σ fixed as well: GCPL, with β = 0 DCE. One class, σ fixed: Deep SVDD.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F

from embedood import gaussians

COLLAPSED = 1e-5  # embeddings that differ by less, of the largest, are one point


def deep_svdd(embedding: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    r"""Squared distance to one fixed centre, $\|z-c\|^2$, mean over the batch; embedding B×D, centre D.

    Warns when all embeddings of a batch are the same point: then the network has learned a constant,
    which biases, a centre at 0 or one that is learned along make possible. Raises `ValueError` for a
    centre that requires a gradient.

    Source: Ruff et al., 2018, "Deep one-class classification", the one-class objective; its centre is
    the mean embedding before training.
    """
    if centre.requires_grad:
        raise ValueError("the centre of Deep SVDD is fixed: give it without a gradient")
    z = embedding.float() if embedding.dtype != torch.float64 else embedding
    if has_collapsed(z):
        warnings.warn("all embeddings of a batch are one point: Deep SVDD collapsed", stacklevel=2)
    return (z - centre).square().sum(1).mean()


def has_collapsed(embedding: torch.Tensor) -> bool:
    """Tell whether two or more embeddings, B×D, are all one point up to rounding."""
    z = embedding.detach()
    spread = (z - z.mean(0)).abs().max()
    return len(z) > 1 and bool(spread <= COLLAPSED * z.abs().max())


def posterior(
    distances: torch.Tensor, labels: torch.Tensor, log_priors: torch.Tensor
) -> torch.Tensor:
    r"""$-\log q(y|z)$, mean over the batch, ≥ 0; log_priors C.

    $H(Y)$ minus its mean is a lower bound of $I(Z;Y)$ (Barber & Agakov, 2003).
    """
    return F.cross_entropy(log_priors - distances, labels)


def own_distance(distances: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    r"""$D_y$, mean over the batch.

    Up to a constant an upper bound of $I(Z;X|Y)$, for embeddings with a little Gaussian noise and
    $\sigma\ge1$: what the embedding still tells of an image once its class is known.
    """
    return distances.gather(1, labels[:, None]).mean()


def separation(
    means: torch.Tensor, log_scales: torch.Tensor, log_priors: torch.Tensor
) -> torch.Tensor:
    r"""$\sum_c\pi_c\log\sum_{c'}\pi_{c'}e^{-B_{cc'}}$, between $-H(\pi)$ (far apart) and 0 (all the same).

    Means C×D, log_scales and log_priors C; B the Bhattacharyya divergence of spherical Gaussians, in
    float64. Its negative is a lower bound of $I(Z;Y)$ for a mixture of these Gaussians.

    Source: Kolchinsky & Tracey, 2017, "Estimating mixture entropy with pairwise distances".
    """
    variances = (2 * log_scales.double()).exp()[:, None]
    divergences = gaussians.bhattacharyya(means.double(), variances)
    log_priors = log_priors.double()
    near = (log_priors - divergences).logsumexp(1)
    return (log_priors.exp() * near).sum().to(means.dtype)


def margin_violation(
    distances: torch.Tensor, labels: torch.Tensor, margin: float = 1.0
) -> torch.Tensor:
    r"""$[m+D_y-\min_{c\ne y}D_c]_+$, mean over the batch, ≥ 0: 0 where no other class is within m.

    Source: the margin-based classification loss of Yang et al., 2018, with D for squared distances.
    """
    own = distances.gather(1, labels[:, None])[:, 0]
    other = distances.scatter(1, labels[:, None], torch.inf).amin(1)
    return (margin + own - other).clamp(min=0).mean()
