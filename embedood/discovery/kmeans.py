"""k-means as the parts of discovery need it: shared over many k, on the sphere, and semi-supervised."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances

from embedood.scorers._base import unit


class Clusters(NamedTuple):
    """Label of each row, N; centres, k×D; and the sum of squared distances to the own centre."""

    labels: np.ndarray
    centres: np.ndarray
    inertia: float


@dataclass
class KMeansRuns:
    """scikit-learn's k-means of one set of rows, run once for each k that is asked for.

    The best of `restarts` starts by k-means++ and, better where there are many clusters, one from
    Ward's tree, cut into k. Every estimator of the number of classes begins with these runs, and the
    silhouettes with one matrix of distances, N×N: 32 MB for 2,000 rows, as for the tree.
    """

    embeddings: np.ndarray
    seed: int = 0
    restarts: int = 5
    _runs: dict[int, Clusters] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, k: int) -> Clusters:
        """Return labels, centres and inertia for k clusters."""
        if k not in self._runs:
            runs = [KMeans(k, n_init=self.restarts, random_state=self.seed)]
            if k > 1:
                runs += [KMeans(k, init=self._ward(k), n_init=1)]
            best = min((run.fit(self.embeddings) for run in runs), key=lambda run: run.inertia_)
            self._runs[k] = Clusters(best.labels_, best.cluster_centers_, best.inertia_)
        return self._runs[k]

    def _ward(self, k: int) -> np.ndarray:
        labels = fcluster(self._tree, k, "maxclust") - 1
        return _means(self.embeddings, labels, k)

    @cached_property
    def _tree(self) -> np.ndarray:
        return linkage(self.embeddings, "ward")

    @cached_property
    def distances(self) -> np.ndarray:
        """Euclidean distances between all rows, N×N."""
        return pairwise_distances(self.embeddings)


def spherical_kmeans(z: np.ndarray, k: int, seed: int = 0, restarts: int = 5) -> Clusters:
    r"""Maximise $\sum_i\cos(z_i,m_{y_i})$ over labels and unit vectors m; the best of some restarts.

    z N×D is brought to length one, where $\|z-m\|^2=2-2\cos$: an ordinary k-means whose centres are
    brought back to the sphere after each step. The inertia is the sum of these squared distances.

    Source: Dhillon & Modha, 2001; the start is that of k-means++, not theirs.
    """
    z, rng = unit(z), np.random.default_rng(seed)
    starts = (plus_plus(z, k, rng) for _ in range(restarts))
    return min((lloyd(z, s, on_sphere=True) for s in starts), key=lambda run: run.inertia)


def semi_supervised_kmeans(
    z: np.ndarray, k: int, pinned: np.ndarray, seed: int = 0, restarts: int = 5
) -> Clusters:
    """Cluster z N×D into k, of which the first rows must stay where `pinned` says: 0…m−1.

    The first m centres start as the means of the pinned rows, the others are drawn from the free rows
    as by k-means++. Returns the run of least inertia. Raises `ValueError` for k < m.

    Source: Han et al., 2019, in their code; an empty cluster is not a NaN here, see `lloyd`.
    """
    classes = pinned.max() + 1
    if k < classes:
        raise ValueError(f"{k} clusters cannot hold {classes} pinned classes apart")
    rng, first = np.random.default_rng(seed), _means(z[: len(pinned)], pinned, classes)
    starts = (plus_plus(z[len(pinned) :], k, rng, first) for _ in range(restarts))
    return min((lloyd(z, s, pinned) for s in starts), key=lambda run: run.inertia)


def plus_plus(
    z: np.ndarray, k: int, rng: np.random.Generator, first: np.ndarray | None = None
) -> np.ndarray:
    r"""Draw rows of z as further centres, each in proportion to its squared distance to the nearest.

    Of $2+\lfloor\ln k\rfloor$ rows drawn, the one that leaves the least sum of these distances is taken.
    Returns k×D, beginning with the centres `first`, without which the first is a row at random.

    Source: Arthur & Vassilvitskii, 2007; several trials as in scikit-learn.
    """
    centres = list(z[rng.integers(len(z), size=1)] if first is None else first)
    nearest = cdist(z, np.array(centres), "sqeuclidean").min(1)
    while len(centres) < k:
        chances = nearest if nearest.sum() > 0 else np.ones(len(z))
        rows = rng.choice(len(z), 2 + int(np.log(k)), p=chances / chances.sum())
        after = np.minimum(nearest[:, None], cdist(z, z[rows], "sqeuclidean"))
        best = after.sum(0).argmin()
        centres.append(z[rows[best]])
        nearest = after[:, best]
    return np.array(centres)


def lloyd(
    z: np.ndarray,
    centres: np.ndarray,
    pinned: np.ndarray | None = None,
    on_sphere: bool = False,
    iterations: int = 300,
) -> Clusters:
    """Alternate nearest centres and means until no label changes, from given centres k×D.

    The first rows keep the labels `pinned`; with `on_sphere` the means are brought to length one. An
    empty cluster takes the free row that lies farthest from its centre, of those not alone.

    Source: Lloyd, 1982.
    """
    fixed = np.array([], int) if pinned is None else pinned
    labels = np.full(len(z), -1)
    for _ in range(iterations):
        affinity = z @ centres.T - np.square(centres).sum(1) / 2
        nearest = affinity.argmax(1)
        nearest[: len(fixed)] = fixed
        _fill_empty(nearest, np.square(z - centres[nearest]).sum(1), len(centres), len(fixed))
        if (nearest == labels).all():
            break
        labels, centres = nearest, _means(z, nearest, len(centres))
        centres = unit(centres) if on_sphere else centres
    return Clusters(labels, centres, float(np.square(z - centres[labels]).sum()))


def _fill_empty(labels: np.ndarray, distances: np.ndarray, k: int, fixed: int) -> None:
    counts = np.bincount(labels, minlength=k)
    for empty in np.flatnonzero(counts == 0):
        movable = counts[labels] > 1
        movable[:fixed] = False
        if movable.any():
            row = np.where(movable, distances, -1).argmax()
            counts[labels[row]] -= 1
            counts[empty], labels[row], distances[row] = 1, empty, 0


def _means(z: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """The mean of the rows of each label, k×D; of no rows, zero."""
    member = csr_array((np.ones(len(z)), (labels, np.arange(len(z)))), shape=(k, len(z)))
    return member @ z / np.maximum(np.bincount(labels, minlength=k), 1)[:, None]
