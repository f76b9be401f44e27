"""The number of classes from known ones that are treated as if they were not: probe classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import pairwise_distances

from embedood import metrics
from embedood.discovery.clustering import checked
from embedood.discovery.counting import (
    CANDIDATES,
    ESTIMATORS,
    Estimate,
    large_clusters,
    mean_silhouette,
    usable,
)
from embedood.discovery.kmeans import KMeansRuns, semi_supervised_kmeans

PROBES = "probe_classes"
NAMES = (*ESTIMATORS, PROBES)


def probe_classes(
    embeddings: np.ndarray,
    known: np.ndarray,
    labels: np.ndarray,
    candidates: Sequence[int] = CANDIDATES,
    seed: int = 0,
    classes: int = 10,
    anchor_share: float = 0.6,
    rows_per_class: int = 100,
    restarts: int = 3,
) -> Estimate:
    """Return the number of classes in embeddings N×D by clustering them together with known classes.

    Of the known classes (embeddings M×D, labels M) at most `classes` are drawn. A share of them, the
    anchors, keep their labels; the others, the probes, join the unlabelled rows. For each candidate,
    semi-supervised k-means makes that many clusters more than there are classes drawn. The
    best candidate by the clustering accuracy of the probes and the one by the silhouette of all free
    rows, in ties the largest, are averaged by their places, rounded up. There, the clusters with more
    than 1 % of the unlabelled rows of the largest are counted; so k may lie outside the candidates.
    Where classes lie so far apart that many candidates reach an accuracy of 1, it gives too many, by
    up to a half on separated Gaussians. Curves: "probe_accuracy" and "probe_silhouette".

    Source: Han, Vedaldi & Zisserman, 2019 (DTC), in the settings of their code for CIFAR-100. Their
    network was not trained on the drawn classes, ours as a rule was. At most `rows_per_class` rows
    are used, and 3 restarts, theirs 10. Raises `ValueError` for fewer than two known classes.
    """
    z, known, labels = checked(embeddings), checked(known, "known embeddings"), np.asarray(labels)
    _refuse_misfits(z, known, labels)
    ks = usable(candidates, len(z))
    anchors, probes = _drawn(labels, classes, anchor_share, rows_per_class, seed)
    _, pinned = np.unique(labels[anchors], return_inverse=True)
    rows = np.concatenate([known[anchors], known[probes], z])
    extra = len(np.unique(labels[anchors])) + len(np.unique(labels[probes]))
    free = slice(len(anchors), None)
    distances = pairwise_distances(rows[free])
    found, curves = [], np.empty((2, len(ks)))
    for i, k in enumerate(ks):
        own = semi_supervised_kmeans(rows, k + extra, pinned, seed, restarts).labels[free]
        accuracy = metrics.cluster_accuracy(labels[probes], own[: len(probes)])
        curves[:, i] = accuracy, mean_silhouette(distances, own)
        found.append(np.bincount(own[len(probes) :]))
    named = dict(zip(("probe_accuracy", "probe_silhouette"), curves, strict=True))
    return Estimate(large_clusters(found[_compromise(*curves)]), ks, named)


def _refuse_misfits(z: np.ndarray, known: np.ndarray, labels: np.ndarray) -> None:
    if known.shape[1] != z.shape[1]:
        raise ValueError(f"known embeddings have D = {known.shape[1]}, the others {z.shape[1]}")
    if labels.shape != known.shape[:1]:
        raise ValueError(f"{len(known)} known embeddings have {len(labels)} labels")


def _compromise(first: np.ndarray, second: np.ndarray) -> int:
    """The place half-way between those of the last maxima, rounded up."""
    last = [len(curve) - 1 - curve[::-1].argmax() for curve in (first, second)]
    return int(-(-sum(last) // 2))


def _drawn(
    labels: np.ndarray, classes: int, anchor_share: float, rows_per_class: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the anchors and of the probes: classes drawn by seed, at least one on each side."""
    every, rng = np.unique(labels), np.random.default_rng(seed)
    if len(every) < 2:
        raise ValueError(f"an anchor and a probe are needed; known rows have {len(every)} class")
    drawn = rng.permutation(every)[:classes]
    rows = [rng.permutation(np.flatnonzero(labels == c))[:rows_per_class] for c in drawn]
    anchors = min(max(round(anchor_share * len(drawn)), 1), len(drawn) - 1)
    return np.concatenate(rows[:anchors]), np.concatenate(rows[anchors:])


def estimate(
    name: str,
    embeddings: np.ndarray,
    candidates: Sequence[int] = CANDIDATES,
    seed: int = 0,
    known: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> dict[str, Estimate]:
    """Return the estimate of a name, or for "median" those of all names, sharing what they can.

    Names are "bic", "dirichlet_process", "silhouette", "gap" and "probe_classes"; the last needs
    known embeddings M×D and labels M, and is left out of "median" without them. On 2,000 rows of 32
    numbers and 49 candidates all take about 40 seconds on one core. Raises `ValueError` for an
    unknown name or for too few rows.
    """
    if name not in (*NAMES, "median"):
        raise ValueError(f'unknown estimator {name!r}; they are "median", {", ".join(NAMES)}')
    names = NAMES if name == "median" else (name,)
    z = checked(embeddings)
    runs = KMeansRuns(z, seed)
    found = {n: ESTIMATORS[n](z, candidates, seed, runs) for n in names if n in ESTIMATORS}
    if known is not None and labels is not None and PROBES in names:
        found[PROBES] = probe_classes(z, known, labels, candidates, seed)
    elif name == PROBES:
        raise ValueError(f"{name} needs embeddings and labels of known classes")
    return found
