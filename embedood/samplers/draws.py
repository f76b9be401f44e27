"""Draws from weights that are known by their logarithms, so that none is too small or too large."""

from __future__ import annotations

import math

import torch

# What is so much smaller is 0 to any draw, and noise of order 1 is still seen beside it in float64.
FARTHEST = 1e8


def tempered(log_weights: torch.Tensor, temperature: float) -> torch.Tensor:
    r"""Return $\frac1T\log\frac w{\max w}$ in float64, w finite in the maximum, cut off at ±`FARTHEST`.

    Weights of ∞ count as larger than the largest finite one. For T = ∞ all are equal.
    """
    log_weights = log_weights.double()
    if math.isinf(temperature):  # the quotient would be NaN for weights of 0 and ∞
        return torch.zeros_like(log_weights)
    finite = log_weights.where(log_weights.isfinite(), -math.inf)
    most = finite.max().clamp_min(torch.finfo(finite.dtype).min)
    return ((log_weights - most) / temperature).clamp(-FARTHEST, FARTHEST)


def log_probabilities(
    log_weights: torch.Tensor,
    allowed: torch.Tensor,
    temperature: float = 1.0,
    floor: float = 0.0,
) -> torch.Tensor:
    r"""Return $\log\big[(1-f)\frac{w_i^{1/T}}{\sum_jw_j^{1/T}}+\frac fn\big]$ over n allowed ones.

    Log-weights and `allowed` have one shape, which the result keeps; what is not allowed gets −∞.
    Weights of 0 and ∞ count as the smallest and the largest there are, so equal ones stay equal.
    """
    far = tempered(log_weights.masked_fill(~allowed, -math.inf), temperature)
    log_q = far.masked_fill(~allowed, -math.inf).flatten().log_softmax(0)
    if floor:
        others = math.log1p(-floor) if floor < 1 else -math.inf
        log_q = torch.logaddexp(log_q + others, torch.log(floor / allowed.sum()).to(log_q))
    return log_q.reshape_as(far).masked_fill(~allowed, -math.inf)


def gumbel(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return Gumbel noise of a shape: added to log-weights, it makes the largest a draw by weight."""
    return torch.empty_like(like).exponential_(generator=generator).log().neg()


def some(log_q: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    r"""Return `count` places drawn one after the other without replacement, in that order.

    Each draw is proportional to $e^{\log q}$ among those left. All at once: the places of the largest
    $\log q_i+G_i$ with Gumbel noise G.

    Source: Yellott, 1977, as used by Kool et al., 2019, "Stochastic beams and where to find them".
    """
    return (log_q + gumbel(log_q, generator)).topk(count).indices


def noise_of(
    allowed: torch.Tensor, count: int, floor: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what decides `count` draws, one after the other, among allowed ones of C.

    Gumbel noise, count×C, −∞ where not allowed, and count numbers: 0 for a draw that is uniform, which
    each is with the probability `floor`, else 1. The largest of noise + number · log-weights is drawn.
    All draws' noise at once spares most of their time.
    """
    noise = gumbel(allowed.new_empty((count, len(allowed)), dtype=torch.float64), generator)
    coin = torch.rand(count, generator=generator, device=allowed.device, dtype=torch.float64)
    return noise.masked_fill_(~allowed, -math.inf), (coin >= floor).double()


def uniform(allowed: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` of the allowed places, drawn without replacement, in random order."""
    even = torch.zeros(allowed.shape, dtype=torch.float64, device=allowed.device)
    return some(even.masked_fill(~allowed, -math.inf), count, generator)


def filled(log_weights: torch.Tensor) -> torch.Tensor:
    """Give what is not known yet, NaN, the mean of the finite ones, or 0 where there are none."""
    finite = log_weights.isfinite()
    mean = log_weights.where(finite, 0).sum() / finite.sum().clamp_min(1)
    return log_weights.where(~log_weights.isnan(), mean)
