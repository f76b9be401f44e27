"""Which rows belong together, when the number of clusters is given: one table of clusterings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.cluster import AgglomerativeClustering
from sklearn.mixture import GaussianMixture

from embedood.discovery.kmeans import KMeansRuns, spherical_kmeans

SHAPES = {"spherical": "spherical", "diagonal": "diag", "tied": "tied"}
NEIGHBOURS, FEWEST_FOR_UMAP = (
    15,
    45,
)  # rows: with three neighbourhoods or fewer there is nothing to unfold
FLOORS = {"spherical": 0.05, "diagonal": 0.05, "tied": 1e-6}


def mixture(z: np.ndarray, start: np.ndarray, shape: str, iterations: int = 100) -> GaussianMixture:
    r"""Fit $\sum_c\pi_c\,\mathcal N(\mu_c,\Sigma_c)$ to z N×D by EM from the clusters `start`, N labels.

    Σ by `shape`: "spherical" $\sigma_c^2I$, "diagonal", or "tied", one full Σ for all. To each
    variance a twentieth of the mean variance within the start's clusters is added (tied: a millionth):
    a component of one row must not win by a variance of zero.

    Source: Dempster, Laird & Rubin, 1977, as in scikit-learn.
    """
    start = np.unique(start, return_inverse=True)[1]  # a start may lack a label, of equal rows
    counts = np.bincount(start)
    means = np.array([z[start == c].mean(0) for c in range(len(counts))])
    centred = z - means[start]
    variances = np.array([np.square(centred[start == c]).mean(0) for c in range(len(counts))])
    floor = FLOORS[shape] * np.square(centred).mean() * len(z) / max(len(z) - len(counts), 1)
    floor += 1e-12 * max(z.var(), 1)  # all rows may be equal
    precisions = {
        "spherical": lambda: 1 / (variances.mean(1) + floor),
        "diagonal": lambda: 1 / (variances + floor),
        "tied": lambda: np.linalg.inv(centred.T @ centred / len(z) + floor * np.eye(z.shape[1])),
    }
    return GaussianMixture(
        len(counts), covariance_type=SHAPES[shape], reg_covar=floor, max_iter=iterations,
        weights_init=counts / len(z), means_init=means, precisions_init=precisions[shape](),
        init_params="random_from_data", random_state=0,  # what they draw is replaced by the above
    ).fit(z)  # fmt: skip


def _kmeans(z: np.ndarray, k: int, seed: int) -> np.ndarray:
    return KMeansRuns(z, seed, restarts=10)(k).labels


def _spherical_kmeans(z: np.ndarray, k: int, seed: int) -> np.ndarray:
    return spherical_kmeans(z, k, seed, restarts=10).labels


def _gaussians(z: np.ndarray, k: int, seed: int, shape: str) -> np.ndarray:
    return mixture(z, _kmeans(z, k, seed), shape).predict(z)


def _umap_kmeans(z: np.ndarray, k: int, seed: int) -> np.ndarray:
    if len(z) < FEWEST_FOR_UMAP:
        return _kmeans(z, k, seed)
    from umap import UMAP  # slow to import, and only this needs it

    reducer = UMAP(NEIGHBOURS, n_components=10, min_dist=0.0, random_state=seed, n_jobs=1)
    return _kmeans(reducer.fit_transform(z), k, seed)


def _agglomerative(z: np.ndarray, k: int, seed: int, linkage: str, metric: str) -> np.ndarray:
    return AgglomerativeClustering(k, linkage=linkage, metric=metric).fit_predict(z)


Clusterer = Callable[[np.ndarray, int, int], np.ndarray]

CLUSTERERS: dict[str, Clusterer] = {
    "kmeans": _kmeans,
    "spherical_kmeans": _spherical_kmeans,
    "umap_kmeans": _umap_kmeans,
    "gaussians_spherical": partial(_gaussians, shape="spherical"),
    "gaussians_diagonal": partial(_gaussians, shape="diagonal"),
    "gaussians_tied": partial(_gaussians, shape="tied"),
    "agglomerative_ward": partial(_agglomerative, linkage="ward", metric="euclidean"),
    "agglomerative_cosine": partial(_agglomerative, linkage="average", metric="cosine"),
}


def cluster(name: str, embeddings: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Return a label 0…k−1 for each row of N×D embeddings, by a clustering of `CLUSTERERS`.

    "kmeans", "spherical_kmeans" (directions only), "umap_kmeans": k-means after UMAP has unfolded the rows
    into ten coordinates, as N2D does (McConville et al., 2021; of fewer than 45 rows k-means alone), EM
    of Gaussian mixtures "gaussians_spherical", "…_diagonal" and "…_tied", from k-means;
    "agglomerative_ward" (Ward, 1963) and "agglomerative_cosine", average linkage. The last two draw
    nothing from the seed. A mixture may leave a component without rows.

    Raises `ImportError` for "umap_kmeans" without umap-learn; `ValueError` for an unknown name, for
    embeddings that are not finite N×D, and for k outside 1…N.
    """
    if name not in CLUSTERERS:
        raise ValueError(f"unknown clusterer {name!r}; they are {', '.join(CLUSTERERS)}")
    z = checked(embeddings)
    if not 1 <= k <= len(z):
        raise ValueError(f"{len(z)} rows cannot be put into {k} clusters")
    return np.zeros(len(z), int) if k == 1 else CLUSTERERS[name](z, k, seed)


def checked(embeddings: np.ndarray, name: str = "embeddings") -> np.ndarray:
    """Return N×D embeddings in float64; `ValueError` unless they are 2-D, not empty and finite."""
    z = np.asarray(embeddings, np.float64)
    if z.ndim != 2 or not z.size:
        raise ValueError(f"{name} must be N×D and not empty, got shape {z.shape}")
    if not np.isfinite(z).all():
        bad = np.count_nonzero(~np.isfinite(z))
        raise ValueError(f"{name}, shape {z.shape}, hold {bad} NaN or infinite values")
    return z
