"""Scores from the nearest training embeddings; those are kept, N×D."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedood.outputs import Outputs
from embedood.scorers._base import Scorer, chunked, unit
from embedood.scorers.logits import energy

BLOCK = 256
"""Rows whose products with the bank are held at a time."""


def check_neighbours(k: int, rows: int) -> None:
    """Raise `ValueError` unless k is an integer from 1 on and every training row has k others."""
    if not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k, a number of neighbours, must be an integer from 1 on, got {k!r}")
    if k >= rows:
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
    reads = ("embeddings",)

    def _fit(self, train: Outputs) -> None:
        check_neighbours(self.k, len(train))
        self.bank_ = unit(train.embeddings)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return self._distances(unit(outputs.embeddings))

    def leave_one_out(self, chunk_size: int = 1024) -> np.ndarray:
        """Return the scores of the training rows, none of which is its own neighbour."""
        self._refuse_unfitted()
        chunks = chunked(len(self.bank_), chunk_size)
        found = [self._distances(self.bank_[rows], rows.start) for rows in chunks]
        return np.concatenate(found).astype(np.float64)

    def _distances(self, queries: np.ndarray, own: int | None = None) -> np.ndarray:
        """Return the distance to the k-th nearest of unit rows, the first being row `own` of the bank."""
        dark = np.flatnonzero(~self.bank_[:, :8].any(1))
        dark = dark[~self.bank_[dark].any(1)]
        found = []
        for rows in chunked(len(queries), BLOCK):
            similar = queries[rows] @ self.bank_.T.astype(queries.dtype, copy=False)
            similar[:, dark] = 0.5  # so that ‖a‖² + 1 − 2·similar is the squared distance
            if own is not None:
                leave_out(similar, own + rows.start)
            found.append(self._kth_distance(queries[rows], similar))
        return np.concatenate(found)

    def _kth_distance(self, queries: np.ndarray, similar: np.ndarray) -> np.ndarray:
        r"""Return $\sqrt{\|a\|^2+1-2s}$ for the k-th largest s of each row, all digits exact.

        That formula is right but for an error near the number type's. Where the distance is not far
        above it, all that may be among the k nearest is measured again, by differences in float64.
        """
        kth = np.partition(similar, -self.k, axis=1)[:, -self.k]
        squared = np.vecdot(queries, queries) + 1 - 2 * kth
        distances = np.sqrt(np.maximum(squared, 0))
        error = 16 * np.finfo(similar.dtype).eps
        for row in np.flatnonzero(squared < 5e4 * error):
            near = np.flatnonzero(similar[row] >= kth[row] - error)
            query, groups = queries[row].astype(np.float64), chunked(len(near), BLOCK)
            apart = [np.linalg.norm(self.bank_[near[g]] - query, axis=1) for g in groups]
            distances[row] = np.partition(np.concatenate(apart), self.k - 1)[self.k - 1]
        return distances


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
    reads = ("logits", "embeddings")

    def _fit(self, train: Outputs) -> None:
        check_neighbours(self.k, len(train))
        self.confidence_ = _positive_confidence(train.logits)
        weights = self.confidence_.astype(train.embeddings.dtype)
        self.bank_ = unit(train.embeddings) * weights[:, None]

    def _score(self, outputs: Outputs) -> np.ndarray:
        return -_positive_confidence(outputs.logits) * self._guidance(unit(outputs.embeddings))

    def leave_one_out(self, chunk_size: int = 1024) -> np.ndarray:
        """Return the scores of the training rows, none of which is its own neighbour."""
        self._refuse_unfitted()
        chunks = chunked(len(self.bank_), chunk_size)
        guidance = [self._guidance(unit(self.bank_[rows]), rows.start) for rows in chunks]
        return -self.confidence_ * np.concatenate(guidance)

    def _guidance(self, queries: np.ndarray, own: int | None = None) -> np.ndarray:
        """Return the mean of the k largest products with the bank; not with row `own` and those after."""
        found = []
        for rows in chunked(len(queries), BLOCK):
            similar = queries[rows] @ self.bank_.T.astype(queries.dtype, copy=False)
            if own is not None:
                leave_out(similar, own + rows.start)
            similar.partition(-self.k, axis=1)  # in place: `similar` is the largest array here
            found.append(similar[:, -self.k :].mean(1, dtype=np.float64))
        return np.concatenate(found)


def leave_out(similar: np.ndarray, first: int) -> None:
    """Make row i of B×N unlike row `first` + i of the bank, in place."""
    own = np.arange(len(similar))
    similar[own, own + first] = -np.inf


def _positive_confidence(logits: np.ndarray) -> np.ndarray:
    confidence = -energy(logits)
    if confidence.min() <= 0:
        raise ValueError(
            f"NNGuide needs positive log-sum-exps of the logits; {(confidence <= 0).sum()} of "
            f"{len(logits)} rows have none, the least is {confidence.min():.3g}"
        )
    return confidence
