"""Jensen–Shannon divergences, which have no closed form between Gaussians, by Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.special import entr

from embedood.gaussians.densities import (
    ELEMENTS,
    Gaussians,
    checked_priors,
    log_density,
    standardised,
)


class Estimate(NamedTuple):
    """A Monte Carlo mean and its standard error, in the unit of the mean."""

    value: torch.Tensor
    standard_error: torch.Tensor


def jsd(
    means: torch.Tensor, covariances: torch.Tensor, samples: int, generator: torch.Generator
) -> Estimate:
    r"""Jensen–Shannon divergence of each pair, C×C, symmetric, in $[0,\log 2]$ nats, estimated.

    $\mathrm{JSD}_{ij}=\frac12\mathrm{KL}(i\|m)+\frac12\mathrm{KL}(j\|m)$ with $m=\frac12(p_i+p_j)$
    is the information that a draw from m holds about its class: $\log 2-E_m[h(p(i|z))]$, h the
    entropy of a coin. That form is averaged, over `samples` draws from each class, since each draw
    then stays in $[0,\log 2]$; the logarithms of density ratios do not. Time is $O(SC^2D)$, full
    $O(SC^2D^2)$, memory is bounded; the generator may live on another device. Raises `ValueError`
    for fewer than 2 samples.

    Source: Lin, 1991.
    """
    entropies, variances = [], []
    for own, log_p in _log_densities(means, covariances, samples, generator):
        ratio = log_p - log_p.gather(2, own[:, None, None].expand(-1, samples, 1))
        coin = entr(ratio.sigmoid()) + entr((-ratio).sigmoid())
        entropies.append(coin.mean(1))
        variances.append(coin.var(1) / samples)
    entropy, variance = torch.cat(entropies), torch.cat(variances)
    value = (math.log(2) - (entropy + entropy.mT) / 2).clamp(0, math.log(2))
    return Estimate(value.fill_diagonal_(0), (variance + variance.mT).sqrt() / 2)


def generalised_jsd(
    means: torch.Tensor,
    covariances: torch.Tensor,
    samples: int,
    generator: torch.Generator,
    priors: torch.Tensor | None = None,
) -> Estimate:
    r"""Information of an embedding about its class, $I(Z;Y)=\sum_c\pi_c\mathrm{KL}(p_c\|m)$.

    One number, in $[0,H(\pi)]$ nats, for the mixture $m=\sum_c\pi_cp_c$, with `priors` π, C numbers
    with sum 1 (else even). Averaged as $H(\pi)-\sum_c\pi_cE_{p_c}[H(Y|z)]$ over `samples` draws from
    each class; with uneven priors an estimate near 0 may fall below it. Cost and errors as `jsd`,
    which it equals for two even classes, and `ValueError` for other priors.

    Source: Lin, 1991, as generalised Jensen–Shannon divergence.
    """
    priors = checked_priors(priors, means)
    entropies, variances = [], []
    for _, log_p in _log_densities(means, covariances, samples, generator):
        entropy = entr((log_p + priors.log()).softmax(2)).sum(2)
        entropies.append(entropy.mean(1))
        variances.append(entropy.var(1) / samples)
    left = priors @ torch.cat(entropies)
    return Estimate(entr(priors).sum() - left, (priors.square() @ torch.cat(variances)).sqrt())


def _log_densities(
    means: torch.Tensor, covariances: torch.Tensor, samples: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield k classes and the log-densities k×S×C of samples from each, up to one constant."""
    if samples < 2:
        raise ValueError(f"at least 2 samples a class are needed, got {samples}")
    gaussians = standardised(means, covariances)
    classes = max(1, ELEMENTS // (samples * max(means.shape)))
    for own in torch.arange(len(means), device=means.device).split(classes):
        z = _draw(gaussians, own, samples, generator)
        yield own, log_density(gaussians, z.flatten(0, 1)).unflatten(0, (len(own), samples))


def _draw(
    gaussians: Gaussians, own: torch.Tensor, samples: int, generator: torch.Generator
) -> torch.Tensor:
    """Return samples k×S×D from the k classes `own`."""
    means, factors = gaussians.means[own], gaussians.factors[own]
    shape = (len(own), samples, means.shape[1])
    noise = torch.randn(shape, generator=generator, device=generator.device, dtype=means.dtype)
    noise = noise.to(means.device)
    spread = noise * factors[:, None] if gaussians.is_diagonal else noise @ factors.mT
    return means[:, None] + spread
