"""Scores from Gaussians fitted to the embeddings of known classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas, lapack, solve_triangular
from scipy.special import logsumexp

from embedood.outputs import Outputs
from embedood.scorers._base import Scorer, chunked, class_means, rows_of


@dataclass
class Scatter:
    r"""$\sum_nx_nx_n^\top$, D×D, and $\sum_n\|x_n\|^4$ of the rows x added so far, in float64.

    The rows are centred before, so that no digits cancel, and few at a time.
    """

    products: np.ndarray
    fourth: float = 0.0
    rows: int = 0

    def add(self, centred: np.ndarray) -> None:
        """Add rows N×D."""
        self.products += centred.T @ centred
        self.fourth += np.square(squared_lengths(centred)).sum()
        self.rows += len(centred)

    def covariance(self, shrinkage: float | None) -> np.ndarray:
        r"""Return $(1-a)S+a\frac{\mathrm{tr}S}{D}I$, D×D, $S$ the sum of products divided by N.

        The shrinkage a is a number in [0, 1], or None for the one of Ledoit & Wolf, 2004.
        """
        cov = self.products / self.rows
        share = self._ledoit_wolf(cov) if shrinkage is None else shrinkage
        mean_variance = np.trace(cov) / len(cov)
        cov *= 1 - share
        cov.flat[:: len(cov) + 1] += share * mean_variance
        return cov

    def _ledoit_wolf(self, cov: np.ndarray) -> float:
        r"""Return $\min(1,\frac{(\sum\|x\|^4/N-\|S\|^2)/N}{\|S-mI\|^2})$, m the mean variance."""
        squares = np.vdot(cov, cov)
        spread = squares - np.trace(cov) ** 2 / len(cov)  # ‖S − mI‖²
        noise = (self.fourth / self.rows - squares) / self.rows
        return float(min(noise / spread, 1)) if len(cov) > 1 and min(noise, spread) > 0 else 0.0


def scatter(z: np.ndarray, means: np.ndarray, places: np.ndarray, rows: np.ndarray) -> Scatter:
    """Return the scatter of some `rows` of z, N×D, around the mean of each row's class."""
    found = Scatter(np.zeros((z.shape[1], z.shape[1])))
    for some in chunked(len(rows), 1024):
        found.add(z[rows[some]] - means[places[rows[some]]])
    return found


def whitening(cov: np.ndarray, rows: int) -> np.ndarray:
    r"""Return A, D×D and upper triangular, with $AA^\top=\Sigma^{-1}$.

    Raises `ValueError` where Σ is singular, naming D and the number of rows it was estimated from.
    """
    dimensions = len(cov)
    factor, failed = lapack.dpotrf(cov, lower=True, clean=True)
    # A Cholesky factor of a singular matrix may exist by rounding; its condition number gives it away.
    inverse_condition = lapack.dpocon(factor, np.abs(cov).sum(0).max(), uplo="L")[0]
    if failed or not inverse_condition > dimensions * np.finfo(float).eps:
        raise ValueError(
            f"the covariance in D = {dimensions} dimensions, from {rows} rows, is singular; "
            "more rows, fewer dimensions, or some shrinkage would be right"
        )
    return lapack.dtrtri(factor, lower=True)[0].T


def whitened(z: np.ndarray, mean: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return (z − mean) @ upper, N×D in the type of z; half the work, since `upper` is triangular."""
    centred = z - mean.astype(z.dtype)
    trmm = blas.get_blas_funcs("trmm", (centred,))
    lower = upper.astype(z.dtype, copy=False).T
    return trmm(1, lower, centred.T, lower=True, overwrite_b=True).T


def fourth_powers(z: np.ndarray, mean: np.ndarray) -> float:
    r"""Return $\sum_n\|z_n-\bar z\|^4$ in float64."""
    parts = (squared_lengths(z[rows] - mean) for rows in chunked(len(z), 1024))
    return float(sum(np.square(part).sum() for part in parts))


def squared_lengths(z: np.ndarray) -> np.ndarray:
    """Return the squared length of each row, N."""
    return np.vecdot(z, z)


@dataclass
class Mahalanobis(Scorer):
    r"""$\min_c d_c(z)$, $d_c(z)=(z-\mu_c)^\top\Sigma^{-1}(z-\mu_c)\ge0$, one Σ for all classes.

    Σ is the within-class covariance, shrunk by Ledoit–Wolf so that directions without variance stay
    harmless, or by a fixed share `shrinkage`. With `relative=True` the distance $d_0$ to one Gaussian
    of all classes is subtracted, and the score can be any real number. `fit` raises `ValueError` for
    a singular Σ.

    Source: Lee et al., 2018; relative: Ren et al., 2021. Neither shrinks. pytorch-ood inverts the
    scatter NΣ: with `shrinkage=0`, its scores times 2N (relative: N) are ours.
    """

    relative: bool = False
    shrinkage: float | None = None
    needs = ("train",)
    reads = ("embeddings",)

    def _fit(self, train: Outputs) -> None:
        z, n = train.embeddings, len(train)
        means, places = class_means(train)
        within = scatter(z, means, places, np.arange(n))
        self.whitening_ = whitening(within.covariance(self.shrinkage), n)
        self.white_means_ = means @ self.whitening_
        if self.relative:
            counts = np.bincount(places)
            self.mean_ = counts @ means / n
            apart = (means - self.mean_) * np.sqrt(counts)[:, None]
            whole = Scatter(within.products + apart.T @ apart, fourth_powers(z, self.mean_), n)
            self.global_whitening_ = whitening(whole.covariance(self.shrinkage), n)

    def _score(self, outputs: Outputs) -> np.ndarray:
        z = outputs.embeddings
        nearest = self._to_nearest(z)
        if not self.relative:
            return nearest
        return nearest - squared_lengths(whitened(z, self.mean_, self.global_whitening_))

    def _to_nearest(self, z: np.ndarray) -> np.ndarray:
        r"""Return $\min_cd_c$, N: found by $\|\mu\|^2-2z\mu$, then taken from the difference.

        All is centred, so that digits are lost neither here nor there.
        """
        middle = self.white_means_.mean(0)
        white = whitened(z, solve_triangular(self.whitening_, middle, trans=1), self.whitening_)
        means = (self.white_means_ - middle).astype(z.dtype)
        nearest = (squared_lengths(means) / 2 - white @ means.T).argmin(1)
        return squared_lengths(white - means[nearest])


@dataclass
class ClassGaussians(Scorer):
    r"""$-\log\sum_c\pi_c\,\mathcal N(z;\mu_c,\Sigma_c)$, any real number; $\pi_c$ the share of rows.

    `covariance` is "full" (one Σ a class), "diagonal" (its diagonal) or "tied" (one Σ for all);
    `shrinkage` as in `Mahalanobis`. `fit` raises `ValueError` for a singular Σ, such as that of a
    class with one row.

    Source: Lee et al., 2018, take the tied Gaussians' nearest class; the sum over classes is that of
    a Gaussian mixture (McLachlan & Peel, 2000) with known components.
    """

    covariance: str = "full"
    shrinkage: float | None = None
    needs = ("train",)
    reads = ("embeddings",)

    def _fit(self, train: Outputs) -> None:
        if self.covariance not in ("full", "diagonal", "tied"):
            raise ValueError(f'"full", "diagonal" or "tied", not {self.covariance!r}')
        z = train.embeddings
        self.means_, places = class_means(train)
        groups = [np.arange(len(z))] if self.covariance == "tied" else rows_of(places)
        factors = [self._whitening(scatter(z, self.means_, places, rows)) for rows in groups]
        log_det = [np.log(np.diag(factor)).sum() for factor in factors]
        self.whitenings_ = np.stack([factor.astype(z.dtype) for factor in factors])
        log_two_pi = z.shape[1] * np.log(2 * np.pi)
        self.log_weights_ = np.log(np.bincount(places) / len(z)) + log_det - log_two_pi / 2

    def _whitening(self, rows: Scatter) -> np.ndarray:
        cov = rows.covariance(self.shrinkage)
        if self.covariance == "diagonal":
            cov = np.diag(np.diag(cov))
        return whitening(cov, rows.rows)

    def _score(self, outputs: Outputs) -> np.ndarray:
        shape = (len(self.means_), *self.whitenings_.shape[1:])
        pairs = zip(self.means_, np.broadcast_to(self.whitenings_, shape), strict=True)
        squared = [squared_lengths(whitened(outputs.embeddings, *pair)) for pair in pairs]
        return -logsumexp(self.log_weights_ - np.stack(squared, axis=1) / 2, axis=1)
