r"""How compact classes are in an embedding, and how far apart: embeddings N×D, labels N.

Only rows of known classes are meant; all raise `ValueError` for NaN, other shapes, a label below 0 or
fewer than two classes.
"""

from __future__ import annotations

import numpy as np


def within_spread(embeddings: np.ndarray, labels: np.ndarray) -> float:
    r"""Compactness: mean squared distance to the own class's mean, $\frac1N\sum\|z-\bar z_y\|^2$, ≥ 0."""
    z, means, places, _ = _grouped(embeddings, labels)
    return float(np.square(z - means[places]).sum(1).mean())


def between_spread(embeddings: np.ndarray, labels: np.ndarray) -> float:
    r"""Separation: spread of the class means, $\sum_c\frac{N_c}N\|\bar z_c-\bar z\|^2$, ≥ 0."""
    z, means, _, counts = _grouped(embeddings, labels)
    return float(counts @ np.square(means - z.mean(0)).sum(1) / len(z))


def fisher_ratio(embeddings: np.ndarray, labels: np.ndarray) -> float:
    r"""`between_spread` over `within_spread`, $\mathrm{tr}\,S_B/\mathrm{tr}\,S_W$, in $[0,\infty)$.

    No shift, rotation or scale changes it; it is ∞ where classes are points. Raises `ValueError` where
    all embeddings are one point.

    Source: after Fisher, 1936, who takes the best direction; the ratio of traces takes them all.
    """
    within, between = within_spread(embeddings, labels), between_spread(embeddings, labels)
    if within == between == 0:
        raise ValueError("all embeddings are one point, so no class is apart from another")
    return between / within if within else float("inf")


def _grouped(
    embeddings: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings in float64, class means, the place of each row among them, and rows of each class."""
    z, labels = np.asarray(embeddings, np.float64), np.asarray(labels)
    if z.ndim != 2 or labels.shape != z.shape[:1] or not np.isfinite(z).all():
        raise ValueError(f"needs N×D finite embeddings and N labels, got {z.shape}, {labels.shape}")
    classes, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2 or classes[0] < 0:
        raise ValueError(f"needs two known classes or more, got the labels {classes.tolist()}")
    sums = np.zeros((len(classes), z.shape[1]))
    np.add.at(sums, places, z)
    return z, sums / counts[:, None], places, counts
