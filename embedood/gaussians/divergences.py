r"""Divergences in closed form between the Gaussians of classes, C×C matrices in nats.

Below, $\delta=\mu_i-\mu_j$, and entry (i, j) is a divergence from class i to class j.
"""

from __future__ import annotations

import torch
from torch.linalg import cholesky, solve_triangular

from embedood.gaussians.densities import Gaussians, checked_priors, standardised

IN_CACHE = 2**18  # numbers in a temporary array over pairs; larger ones made it six times as slow


def kl(means: torch.Tensor, covariances: torch.Tensor) -> torch.Tensor:
    r"""Kullback–Leibler divergence from class i to class j, C×C, in $[0,\infty)$, not symmetric.

    $\mathrm{KL}(i\|j)=\frac12\big[\mathrm{tr}\,\Sigma_j^{-1}\Sigma_i+\delta^\top\Sigma_j^{-1}\delta
    -D+\log\frac{|\Sigma_j|}{|\Sigma_i|}\big]$, by products of matrices only: $O(C^2D)$, full
    $O(C^2D^2+CD^3)$. Rounding below 0 is cut off.

    Source: Kullback & Leibler, 1951.
    """
    gaussians = standardised(means, covariances)
    second, precisions, weighted = _moments(gaussians)
    own = (gaussians.means * weighted).sum(1)
    traces = second @ precisions.mT - 2 * gaussians.means @ weighted.mT + own
    log_dets = gaussians.log_dets()
    return _clean((traces - means.shape[1] + log_dets - log_dets[:, None]) / 2)


def _moments(gaussians: Gaussians) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Return $\Sigma+\mu\mu^\top$ and $\Sigma^{-1}$, a flat row a class, and $\Sigma^{-1}\mu$."""
    means, covariances, factors = gaussians
    if gaussians.is_diagonal:
        precisions = 1 / covariances
        return covariances + means.square(), precisions, precisions * means
    precisions = torch.cholesky_inverse(factors)
    second = covariances + means[:, :, None] * means[:, None, :]
    weighted = (precisions @ means[:, :, None])[:, :, 0]
    return second.flatten(1), precisions.flatten(1), weighted


def _clean(matrix: torch.Tensor) -> torch.Tensor:
    """Cut rounding off: no divergence is below 0, and that of a class from itself is 0."""
    itself = torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    return matrix.clamp(min=0).masked_fill(itself, 0)


def jeffreys(means: torch.Tensor, covariances: torch.Tensor) -> torch.Tensor:
    r"""Symmetrised KL, $J_{ij}=\mathrm{KL}(i\|j)+\mathrm{KL}(j\|i)$, C×C, in $[0,\infty)$.

    The sum, as in the source; others take half of it.

    Source: Jeffreys, 1946.
    """
    divergence = kl(means, covariances)
    return divergence + divergence.mT


def chernoff(means: torch.Tensor, covariances: torch.Tensor, alpha: float = 0.5) -> torch.Tensor:
    r"""$C_\alpha(i,j)=-\log\int p_i^{1-\alpha}p_j^{\alpha}$, C×C, in $[0,\infty)$.

    With $\bar\Sigma=\alpha\Sigma_i+(1-\alpha)\Sigma_j$ it is $\frac{\alpha(1-\alpha)}2\delta^\top
    \bar\Sigma^{-1}\delta+\frac12\log\frac{|\bar\Sigma|}{|\Sigma_i|^\alpha|\Sigma_j|^{1-\alpha}}$.
    Symmetric for α = ½ only; $C_\alpha(i,j)=C_{1-\alpha}(j,i)$. It costs $O(C^2D)$, with full
    covariances one Cholesky factor a pair, $O(C^2D^3)$; memory is bounded. Raises `ValueError`
    unless 0 < α < 1.

    Source: Kailath, 1967, for α = ½; the general α by the same integral.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    gaussians = standardised(means, covariances)
    i, j = torch.triu_indices(len(means), len(means), 1, device=means.device)
    upper = _chernoff_of_pairs(gaussians, i, j, alpha)
    lower = upper if alpha == 0.5 else _chernoff_of_pairs(gaussians, j, i, alpha)
    matrix = means.new_zeros(len(means), len(means))
    return _clean(matrix.index_put((i, j), upper).index_put((j, i), lower))


def _chernoff_of_pairs(
    gaussians: Gaussians, i: torch.Tensor, j: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Return the Chernoff distances of P pairs, computed in chunks."""
    pairs = max(1, IN_CACHE // gaussians.covariances[0].numel())
    parts = zip(i.split(pairs), j.split(pairs), strict=True)
    terms = torch.cat([_distance_and_log_det(gaussians, a, b, alpha) for a, b in parts])
    log_dets = gaussians.log_dets()
    distances, mixed = terms.unbind(1)
    between = mixed - alpha * log_dets[i] - (1 - alpha) * log_dets[j]
    return (alpha * (1 - alpha) * distances + between) / 2


def _distance_and_log_det(
    gaussians: Gaussians, i: torch.Tensor, j: torch.Tensor, alpha: float
) -> torch.Tensor:
    r"""Return $\delta^\top\bar\Sigma^{-1}\delta$ and $\log|\bar\Sigma|$ of P pairs, P×2."""
    mixed = torch.lerp(gaussians.covariances[j], gaussians.covariances[i], alpha)
    gap = gaussians.means[i] - gaussians.means[j]
    if gaussians.is_diagonal:
        return torch.stack([(gap.square() / mixed).sum(1), mixed.log().sum(1)], 1)
    factors = cholesky(mixed)
    white = solve_triangular(factors, gap[:, :, None], upper=False)
    log_dets = 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1)
    return torch.stack([white.square().sum((1, 2)), log_dets], 1)


def bhattacharyya(means: torch.Tensor, covariances: torch.Tensor) -> torch.Tensor:
    r"""$B_{ij}=\frac18\delta^\top\bar\Sigma^{-1}\delta+\frac12\log\frac{|\bar\Sigma|}
    {\sqrt{|\Sigma_i||\Sigma_j|}}$, $\bar\Sigma=\frac12(\Sigma_i+\Sigma_j)$, C×C, symmetric, ≥ 0.

    It is $-\log\int\sqrt{p_ip_j}$, and no metric; cost as `chernoff`.

    Source: Bhattacharyya, 1943; between Gaussians: Kailath, 1967.
    """
    return chernoff(means, covariances, 0.5)


def bhattacharyya_coefficient(means: torch.Tensor, covariances: torch.Tensor) -> torch.Tensor:
    r"""Overlap $\int\sqrt{p_ip_j}=e^{-B_{ij}}$, C×C, symmetric, in (0, 1]; 1 on the diagonal.

    Where B exceeds the range of the exponential (745 in float64) it is 0.

    Source: Bhattacharyya, 1943.
    """
    return torch.exp(-bhattacharyya(means, covariances))


def error_bound(
    means: torch.Tensor, covariances: torch.Tensor, priors: torch.Tensor | None = None
) -> torch.Tensor:
    r"""$\sqrt{\pi_i\pi_j}\,e^{-B_{ij}}\ge\int\min(\pi_ip_i,\pi_jp_j)$, C×C, symmetric, in [0, 1].

    The right side is the error of the best classifier of i against j, each as frequent as in
    `priors`, C numbers with sum 1 (else even); so the sum over pairs i < j bounds the error of the
    best classifier of all. The diagonal is π. Raises `ValueError` for other priors.

    Source: Kailath, 1967, for two classes whose priors sum to 1; here they are those of all C.
    """
    roots = checked_priors(priors, means).sqrt()
    return roots[:, None] * roots * bhattacharyya_coefficient(means, covariances)


def geometric_jsd(
    means: torch.Tensor, covariances: torch.Tensor, alpha: float = 0.5
) -> torch.Tensor:
    r"""$(1-\alpha)\mathrm{KL}(i\|g)+\alpha\mathrm{KL}(j\|g)$ with $g\propto p_i^{1-\alpha}p_j^\alpha$.

    C×C, in $[0,\infty)$, symmetric for α = ½; unlike the JSD it has no upper bound. The geometric
    mean g of two Gaussians is one, so it has a closed form: as $\log g$ is linear in $\log p_i$ and
    $\log p_j$, the sum is $\alpha(1-\alpha)J_{ij}-C_\alpha(i,j)$, with `jeffreys` and `chernoff`,
    which also give cost and errors.

    Source: Nielsen, 2019, who writes it with the parameters of g.
    """
    spread = alpha * (1 - alpha) * jeffreys(means, covariances)
    return _clean(spread - chernoff(means, covariances, alpha))
