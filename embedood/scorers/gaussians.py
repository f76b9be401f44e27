"""Scores from Gaussians fitted to the embeddings of known classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.covariance import empirical_covariance, ledoit_wolf, shrunk_covariance

from embedood.outputs import Outputs
from embedood.scorers._base import Scorer, class_means


def covariance(centred: np.ndarray, shrinkage: float | None) -> np.ndarray:
    r"""Return $(1-a)S+a\frac{\mathrm{tr}S}{D}I$, D×D, of centred rows N×D, $S$ divided by N.

    The shrinkage a is a number in [0, 1], or None for the one of Ledoit & Wolf, 2004.
    """
    if shrinkage is None:
        return ledoit_wolf(centred, assume_centered=True)[0]
    return shrunk_covariance(empirical_covariance(centred, assume_centered=True), shrinkage)


def whitening(cov: np.ndarray, rows: int) -> np.ndarray:
    r"""Return A, D×D, with $AA^\top=\Sigma^{-1}$.

    Raises `ValueError` where Σ is singular, naming D and the number of rows it was estimated from.
    """
    dimensions = len(cov)
    # A Cholesky factor of a singular matrix may exist by rounding; its condition number gives it away.
    if not np.linalg.cond(cov) < 1 / (dimensions * np.finfo(float).eps):
        raise ValueError(
            f"the covariance in D = {dimensions} dimensions, from {rows} rows, is singular; "
            "use shrinkage"
        )
    factor = np.linalg.cholesky(cov)
    return solve_triangular(factor, np.eye(dimensions), lower=True).T


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

    def _fit(self, train: Outputs) -> None:
        z, n = train.embeddings, len(train)
        means, places = class_means(train)
        self.whitening_ = whitening(covariance(z - means[places], self.shrinkage), n)
        self.white_means_ = means @ self.whitening_
        if self.relative:
            self.mean_ = z.mean(0)
            self.global_whitening_ = whitening(covariance(z - self.mean_, self.shrinkage), n)

    def _score(self, outputs: Outputs) -> np.ndarray:
        z = outputs.embeddings
        nearest = cdist(z @ self.whitening_, self.white_means_, "sqeuclidean").min(1)
        if not self.relative:
            return nearest
        return nearest - np.square((z - self.mean_) @ self.global_whitening_).sum(1)


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

    def _fit(self, train: Outputs) -> None:
        if self.covariance not in ("full", "diagonal", "tied"):
            raise ValueError(f'"full", "diagonal" or "tied", not {self.covariance!r}')
        self.means_, places = class_means(train)
        counts = np.bincount(places)
        centred = train.embeddings - self.means_[places]
        group = np.zeros_like(places) if self.covariance == "tied" else places
        groups = [centred[group == g] for g in np.unique(group)]
        self.whitenings_ = np.stack([self._whitening(rows) for rows in groups])
        _, log_det = np.linalg.slogdet(self.whitenings_)
        log_two_pi = train.embeddings.shape[1] * np.log(2 * np.pi)
        self.log_weights_ = np.log(counts / len(train)) + log_det - log_two_pi / 2

    def _whitening(self, centred: np.ndarray) -> np.ndarray:
        cov = covariance(centred, self.shrinkage)
        if self.covariance == "diagonal":
            cov = np.diag(np.diag(cov))
        return whitening(cov, len(centred))

    def _score(self, outputs: Outputs) -> np.ndarray:
        whitenings = np.broadcast_to(
            self.whitenings_, (len(self.means_), *self.whitenings_.shape[1:])
        )
        squared = [
            np.square((outputs.embeddings - mean) @ white).sum(1)
            for mean, white in zip(self.means_, whitenings, strict=True)
        ]
        return -logsumexp(self.log_weights_ - np.stack(squared, axis=1) / 2, axis=1)
