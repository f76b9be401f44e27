"""How many classes are there among unlabelled embeddings? Four estimates and a median; `probes` has the fifth.

Each takes N×D embeddings and the candidates, and returns an `Estimate`. All but the Dirichlet process
look at every candidate, so that a curve has no holes; they share one sweep of k-means, and everything
else starts from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.mixture import BayesianGaussianMixture

from embedood.discovery.clustering import checked, mixture
from embedood.discovery.kmeans import KMeansRuns

CANDIDATES = range(2, 51)
SMALLEST = 0.01  # of the largest cluster; smaller ones are no classes


@dataclass(frozen=True)
class Estimate:
    """The estimated number of classes k, and named curves with a value for each candidate."""

    k: int
    candidates: np.ndarray
    curves: dict[str, np.ndarray] = field(default_factory=dict)


def bic(
    embeddings: np.ndarray,
    candidates: Sequence[int] = CANDIDATES,
    seed: int = 0,
    runs: KMeansRuns | None = None,
    shapes: Sequence[str] = ("spherical", "diagonal", "tied"),
) -> Estimate:
    r"""Return the k with the least $\mathrm{BIC}=-2\log L+p\log N$ of a Gaussian mixture, p its parameters.

    For each k the least over the covariance shapes is taken, as mclust does. EM starts from k-means.
    Curves: "bic" and "bic_spherical" and so on; lower is better.

    Source: Schwarz, 1978; Fraley & Raftery, 2002. Theirs starts from an agglomerative clustering.
    """
    z, ks, runs = _prepared(embeddings, candidates, seed, runs)
    curves = {
        f"bic_{shape}": np.array([mixture(z, runs(k).labels, shape).bic(z) for k in ks])
        for shape in shapes
    }
    least = np.min(list(curves.values()), axis=0)
    return Estimate(int(ks[least.argmin()]), ks, {"bic": least} | curves)


def dirichlet_process(
    embeddings: np.ndarray,
    candidates: Sequence[int] = CANDIDATES,
    seed: int = 0,
    runs: KMeansRuns | None = None,
) -> Estimate:
    r"""Return how many components of a truncated Dirichlet-process mixture keep rows.

    One variational fit with as many components as the largest candidate, T; k counts those with more
    than 1 % of the rows of the largest one, so it may lie outside the candidates. A component's
    variances are expected a priori, with the weight of D rows, to be $v^{2/3}t^{1/3}$: v those within T
    clusters of k-means, t those of all rows. On Gaussians in 8 to 32 dimensions v alone saw too many
    classes where rows are few, and t/D, scikit-learn's default, often a single one. As classes come
    closer, the estimate falls to 1 at once. The curve "share" is that of the rows in the k largest
    components.

    Source: Blei & Jordan, 2006; components with diagonal covariances, as in scikit-learn.
    """
    z, ks, runs = _prepared(embeddings, candidates, seed, runs)
    most, tiny = int(ks[-1]), 1e-6 * z.var(0).mean() + 1e-12
    within = np.square(z - runs(most).centres[runs(most).labels]).sum(0) / (len(z) - most)
    expected = np.cbrt((within + tiny) ** 2 * (z.var(0) + tiny))
    model = BayesianGaussianMixture(
        n_components=most, covariance_type="diag", covariance_prior=expected * z.shape[1],
        degrees_of_freedom_prior=z.shape[1], reg_covar=tiny, max_iter=500, tol=1e-4,
        random_state=seed,
    )  # fmt: skip
    counts = np.bincount(model.fit_predict(z), minlength=most)
    shares = np.cumsum(np.sort(counts)[::-1]) / len(z)
    return Estimate(large_clusters(counts), ks, {"share": shares[ks - 1]})


def silhouette(
    embeddings: np.ndarray,
    candidates: Sequence[int] = CANDIDATES,
    seed: int = 0,
    runs: KMeansRuns | None = None,
) -> Estimate:
    r"""Return the k whose k-means has the largest mean silhouette $(b_i-a_i)/\max(a_i,b_i)$.

    $a_i$: mean distance to the own cluster's other rows; $b_i$: to the nearest other cluster. The
    curve "silhouette" lies in [−1, 1].

    Source: Rousseeuw, 1987, who clusters by medoids.
    """
    _, ks, runs = _prepared(embeddings, candidates, seed, runs)
    curve = np.array([mean_silhouette(runs.distances, runs(k).labels) for k in ks])
    return Estimate(int(ks[curve.argmax()]), ks, {"silhouette": curve})


def gap(
    embeddings: np.ndarray,
    candidates: Sequence[int] = CANDIDATES,
    seed: int = 0,
    runs: KMeansRuns | None = None,
    references: int = 5,
) -> Estimate:
    r"""Return the least k with $\mathrm{Gap}(k)\ge\mathrm{Gap}(k')-s_{k'}$, $k'$ the next candidate.

    $\mathrm{Gap}(k)=\overline{\log W^*_k}-\log W_k$: W is the k-means inertia, $W^*$ that of
    `references` samples, uniform in the box along the principal components. $s_k$ is the standard
    deviation of $\log W^*_k$ times $\sqrt{1+1/B}$. Without such a k, the one of largest gap. Curves:
    "gap" and "error", s.

    Source: Tibshirani, Walther & Hastie, 2001, who also try k = 1.
    """
    z, ks, runs = _prepared(embeddings, candidates, seed, runs)
    sweeps = [KMeansRuns(r, seed, runs.restarts) for r in _references(z, references, seed)]
    expected = np.array([_log_inertias(sweep, ks) for sweep in sweeps])
    curve = expected.mean(0) - _log_inertias(runs, ks)
    error = expected.std(0) * np.sqrt(1 + 1 / references)
    enough = np.flatnonzero(curve[:-1] >= curve[1:] - error[1:])
    best = enough[0] if len(enough) else curve.argmax()
    return Estimate(int(ks[best]), ks, {"gap": curve, "error": error})


def _log_inertias(runs: KMeansRuns, ks: np.ndarray) -> np.ndarray:
    return np.log([max(runs(k).inertia, 1e-300) for k in ks])  # equal rows have none


def _references(z: np.ndarray, number: int, seed: int) -> list[np.ndarray]:
    """Rows drawn uniformly from the box around z along its principal components, centred."""
    box = PCA(svd_solver="full").fit_transform(z)
    rng = np.random.default_rng(seed)
    return [rng.uniform(box.min(0), box.max(0), box.shape) for _ in range(number)]


Estimator = Callable[..., Estimate]

ESTIMATORS: dict[str, Estimator] = {
    "bic": bic,
    "dirichlet_process": dirichlet_process,
    "silhouette": silhouette,
    "gap": gap,
}


def median_estimate(estimates: Mapping[str, Estimate]) -> int:
    """Return the median of the estimated numbers; of an even count, the middle pair's mean, rounded up."""
    return int(np.ceil(np.median([estimate.k for estimate in estimates.values()])))


def large_clusters(counts: np.ndarray) -> int:
    """Return how many clusters have more than 1 % of the rows of the largest: Han et al., 2019."""
    return int(np.count_nonzero(counts > SMALLEST * counts.max()))


def mean_silhouette(distances: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean silhouette from distances N×N; −1 where it is undefined: one cluster, or N."""
    if not 1 < len(np.unique(labels)) < len(labels):
        return -1.0
    return float(silhouette_score(distances, labels, metric="precomputed"))


def usable(candidates: Sequence[int], rows: int) -> np.ndarray:
    """Return the candidates below the number of rows, increasing; `ValueError` if none or below 2."""
    ks = np.unique(np.asarray(candidates, int))
    if not len(ks) or ks[0] < 2:
        raise ValueError(f"candidates must be numbers from 2 on, got {ks.tolist()}")
    if not (ks < rows).any():
        raise ValueError(
            f"{rows} rows are too few to count classes among them from {ks[0]} on; it takes "
            f"{ks[0] + 1} rows, or a number of classes that is given"
        )
    return ks[ks < rows]


def _prepared(
    embeddings: np.ndarray, candidates: Sequence[int], seed: int, runs: KMeansRuns | None
) -> tuple[np.ndarray, np.ndarray, KMeansRuns]:
    z = checked(embeddings)
    return z, usable(candidates, len(z)), KMeansRuns(z, seed) if runs is None else runs
