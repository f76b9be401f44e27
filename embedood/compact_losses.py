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

COLLAPSED = 1e-5  # embeddings that differ by less than this share of the largest are one point


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


def information(
    distances: torch.Tensor,
    labels: torch.Tensor,
    means: torch.Tensor,
    log_scales: torch.Tensor,
    log_priors: torch.Tensor,
    *,
    distance_weight: float = 0.1,
    separation_weight: float = 1.0,
    margin_weight: float = 0.0,
    margin: float = 1.0,
) -> dict[str, torch.Tensor]:
    r"""The information loss, "loss", and its terms before they are weighed; those of weight 0 are left out.

    Distances B×C are of the Gaussians with means C×D, log_scales C and log_priors C. The weights are β,
    γ and η of the formula above.

    Source: ours, a reconstruction of a loss of which only the abstract could be had (see chapter 08).
    """
    terms = {"posterior": posterior(distances, labels, log_priors)}
    if distance_weight:
        terms["distance"] = own_distance(distances, labels)
    if separation_weight:
        terms["separation"] = separation(means, log_scales, log_priors)
    if margin_weight:
        terms["margin"] = margin_violation(distances, labels, margin)
    weight_of = {"posterior": 1.0, "distance": distance_weight, "separation": separation_weight,
                 "margin": margin_weight}  # fmt: skip
    loss = sum((weight_of[n] * term for n, term in terms.items()), start=distances.new_zeros(()))
    return {"loss": loss} | terms


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
    float64; of one class 0. Its negative is a lower bound of $I(Z;Y)$ for a mixture of these Gaussians.

    Source: Kolchinsky & Tracey, 2017, "Estimating mixture entropy with pairwise distances".
    """
    if len(means) == 1:
        return 0 * means.sum()
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
