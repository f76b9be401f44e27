"""How unusual is each image? One class per score; higher = more unusual; one value per row.

`Scorer().fit(train_outputs).score(outputs)`; a constructor only stores, what `fit` learns ends in `_`.
Scores that need nothing learned may be used without `fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from embedood.outputs import Outputs


class NotFittedError(RuntimeError):
    """A scorer that learns from training outputs was asked for scores before `fit`."""


class Scorer:
    """Base of all scores: `fit` learns nothing unless a scorer says otherwise."""

    def fit(self, outputs: Outputs) -> Self:
        return self

    def score(self, outputs: Outputs) -> np.ndarray:
        raise NotImplementedError

    def _learned(self, name: str) -> Any:
        if not hasattr(self, name):
            raise NotFittedError(
                f"{type(self).__name__} has not been fitted; call fit(outputs) first"
            )
        return getattr(self, name)


class MaxSoftmax(Scorer):
    r"""$1-\max_c p_c$, in $[0, 1-1/C]$. Source: Hendrycks & Gimpel, 2017."""

    def score(self, outputs: Outputs) -> np.ndarray:
        return 1 - outputs.probabilities.max(1)


class MaxLogit(Scorer):
    r"""$-\max_c\ell_c$. Source: Hendrycks et al., 2022; Vaze et al., 2022."""

    def score(self, outputs: Outputs) -> np.ndarray:
        return -outputs.logits.max(1)


class Energy(Scorer):
    r"""$-\log\sum_c e^{\ell_c}$, temperature 1. Source: Liu et al., 2020."""

    def score(self, outputs: Outputs) -> np.ndarray:
        return -logsumexp(outputs.logits, axis=1)


@dataclass
class Mahalanobis(Scorer):
    r"""$\min_c (z-\mu_c)^\top\Sigma^{-1}(z-\mu_c)$, one covariance for all classes.

    Σ is the pooled within-class covariance with Ledoit–Wolf shrinkage, so that directions without
    variance stay harmless. With `relative=True` the distance to one global Gaussian is subtracted.

    Source: Lee et al., 2018; relative: Ren et al., 2021. Neither shrinks.
    """

    relative: bool = False

    def fit(self, outputs: Outputs) -> Self:
        z, y = outputs.embeddings.astype(np.float64), outputs.labels
        self.means_ = np.stack([z[y == c].mean(0) for c in range(outputs.logits.shape[1])])
        self.whitening_ = _whitening(z - self.means_[y])
        self.global_mean_ = z.mean(0)
        self.global_whitening_ = _whitening(z - self.global_mean_)
        return self

    def score(self, outputs: Outputs) -> np.ndarray:
        white = outputs.embeddings @ self._learned("whitening_")
        squared = _squared_distances(white, self.means_ @ self.whitening_)
        if self.relative:
            white = (outputs.embeddings - self.global_mean_) @ self.global_whitening_
            squared = squared - np.square(white).sum(1, keepdims=True)
        return squared.min(1)


def _whitening(centred: np.ndarray) -> np.ndarray:
    """Return A (D×D) with $AA^\top=\\Sigma^{-1}$, Σ shrunk by Ledoit–Wolf."""
    precision = LedoitWolf(assume_centered=True).fit(centred).precision_
    return np.linalg.cholesky(precision)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, N×D and M×D to N×M, never below zero."""
    cross = a @ b.T
    return np.maximum(np.square(a).sum(1)[:, None] - 2 * cross + np.square(b).sum(1), 0)


@dataclass
class NearestNeighbour(Scorer):
    r"""$\|\hat z-\hat z_{(k)}\|$, the distance to the k-th nearest training embedding, in $[0, 2]$.

    $\hat z=z/\|z\|$; a zero row stays zero. Source: Sun et al., 2022.
    """

    k: int = 50

    def fit(self, outputs: Outputs) -> Self:
        if len(outputs) < self.k:
            raise ValueError(f"k = {self.k} neighbours need as many embeddings, got {len(outputs)}")
        self.neighbours_ = NearestNeighbors(n_neighbors=self.k).fit(_unit(outputs.embeddings))
        return self

    def score(self, outputs: Outputs) -> np.ndarray:
        distances, _ = self._learned("neighbours_").kneighbors(_unit(outputs.embeddings))
        return distances[:, -1]


def _unit(z: np.ndarray) -> np.ndarray:
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


class ReconstructionError(Scorer):
    """Mean squared error of the reconstructed clean image. Needs a network with a decoder."""

    def score(self, outputs: Outputs) -> np.ndarray:
        if outputs.mse is None:
            raise ValueError(
                "the outputs hold no reconstruction errors; the network has no decoder"
            )
        return outputs.mse


@dataclass
class Fusion(Scorer):
    r"""Sum of the scorers' standardised logits of rank, $\sum_s -\log p_s$.

    $p_s$ is the share of calibration scores at least as high, $(1+\#\{s_i\ge s\})/(n+1)$: Fisher's
    combination of p-values. `calibrate` takes known validation outputs only.

    Source: Fisher, 1925, "Statistical methods for research workers"; the scores are dependent, so
    the sum orders images but is no p-value itself.
    """

    scorers: tuple[Scorer, ...]

    def fit(self, outputs: Outputs) -> Self:
        for scorer in self.scorers:
            scorer.fit(outputs)
        return self

    def calibrate(self, validation: Outputs) -> Self:
        self.calibration_ = [np.sort(s.score(validation)) for s in self.scorers]
        return self

    def score(self, outputs: Outputs) -> np.ndarray:
        known = self._learned("calibration_")
        return sum(
            -np.log(p_values(scorer.score(outputs), sorted_scores))
            for scorer, sorted_scores in zip(self.scorers, known, strict=True)
        )


def p_values(scores: np.ndarray, sorted_known: np.ndarray) -> np.ndarray:
    r"""Conformal p-values $(1+\#\{s_i\ge s\})/(n+1)$ in $(0, 1]$; `sorted_known` rises."""
    at_least = len(sorted_known) - np.searchsorted(sorted_known, scores, side="left")
    return (1 + at_least) / (len(sorted_known) + 1)
