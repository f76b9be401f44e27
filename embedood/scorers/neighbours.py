"""Scores from the nearest training embeddings; those are kept, N×D in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import NearestNeighbors

from embedood.outputs import Outputs
from embedood.scorers._base import Scorer, chunked, unit
from embedood.scorers.logits import energy


def check_neighbours(k: int, rows: int) -> None:
    """Raise `ValueError` unless every training row has k others."""
    if not 1 <= k < rows:
        raise ValueError(f"k = {k} neighbours need at least {k + 1} training rows, got {rows}")


@dataclass
class NearestNeighbour(Scorer):
    r"""$\|\hat z-\hat z_{(k)}\|$, the distance to the k-th nearest training embedding, in $[0, 2]$.

    $\hat z=z/\|z\|$; a zero row stays zero. `score` of the training outputs counts each row as its
    own neighbour; `leave_one_out` does not. `fit` raises `ValueError` for k rows or fewer.

    Source: Sun et al., 2022, with all training rows; exact search.
    """

    k: int = 50
    needs = ("train",)

    def _fit(self, train: Outputs) -> None:
        check_neighbours(self.k, len(train))
        self.bank_ = unit(train.embeddings)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return self._distances(unit(outputs.embeddings))

    def leave_one_out(self) -> np.ndarray:
        """Return the scores of the training rows, none of which is its own neighbour."""
        self._refuse_unfitted()
        return self._distances(None)

    def _distances(self, queries: np.ndarray | None) -> np.ndarray:
        index = NearestNeighbors(n_neighbors=self.k, algorithm="brute").fit(self.bank_)
        return index.kneighbors(queries)[0][:, -1]


@dataclass
class NNGuide(Scorer):
    r"""$-E(z)\cdot\frac1k\sum_{i\in kNN}E(z_i)\cos(z,z_i)$, $E=\log\sum_c e^{\ell_c}$, any real number.

    The neighbours are the training rows with the largest $E(z_i)\cos(z,z_i)$. `score` of the training
    outputs counts each row as its own neighbour; `leave_one_out` does not. Raises `ValueError` where
    an E is not positive, since the product then loses its order, and for k training rows or fewer.

    Source: Park et al., 2023, who keep a random share of the training rows; we keep all.
    """

    k: int = 100
    needs = ("train",)

    def _fit(self, train: Outputs) -> None:
        check_neighbours(self.k, len(train))
        self.confidence_ = _positive_confidence(train.logits)
        self.bank_ = unit(train.embeddings) * self.confidence_[:, None]

    def _score(self, outputs: Outputs) -> np.ndarray:
        similar = unit(outputs.embeddings) @ self.bank_.T
        return -_positive_confidence(outputs.logits) * self._mean_of_largest(similar)

    def leave_one_out(self, chunk_size: int = 1024) -> np.ndarray:
        """Return the scores of the training rows, none of which is its own neighbour."""
        self._refuse_unfitted()
        guidance = [self._others(rows) for rows in chunked(len(self.bank_), chunk_size)]
        return -self.confidence_ * np.concatenate(guidance)

    def _others(self, rows: slice) -> np.ndarray:
        similar = unit(self.bank_[rows]) @ self.bank_.T
        own = np.arange(len(similar))
        similar[own, own + rows.start] = -np.inf
        return self._mean_of_largest(similar)

    def _mean_of_largest(self, similar: np.ndarray) -> np.ndarray:
        similar.partition(-self.k, axis=1)  # in place: `similar` is the largest array here
        return similar[:, -self.k :].mean(1)


def _positive_confidence(logits: np.ndarray) -> np.ndarray:
    confidence = -energy(logits)
    if confidence.min() <= 0:
        raise ValueError(
            f"NNGuide needs positive log-sum-exps of the logits; {(confidence <= 0).sum()} of "
            f"{len(logits)} rows have none, the least is {confidence.min():.3g}"
        )
    return confidence
