"""Detect, count, cluster, name: from a stream of known and unseen rows to new classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import softmax
from sklearn.decomposition import PCA

from embedood.detector import Detector
from embedood.discovery.clustering import CLUSTERERS, cluster
from embedood.discovery.counting import CANDIDATES, Estimate, median_estimate
from embedood.discovery.probes import NAMES, estimate
from embedood.discovery.stream import StreamDetector
from embedood.outputs import Outputs
from embedood.scorers import Energy, NotFittedError
from embedood.scorers._base import check, check_known, chunked, class_means, in_double
from embedood.scorers.gaussians import scatter, whitening


@dataclass(frozen=True)
class Discovered:
    """What `Discovery.discover` found among N rows, C known classes and k new ones.

    labels N: a known class 0…C−1 or a new one C…C+k−1, the largest first; counts C+k: rows of each;
    medoids k: the row of each new class with the least mean distance to its others, to name it by;
    confidence N, in [0, 1]: the softmax of a known class; of a new class its posterior among the
    new ones, with one spherical Gaussian each, a single variance and weights by size. It does not say
    whether a row is unseen at all: that is the detector's p-value. threshold: that of the detector,
    NaN where the unseen rows were given. estimates: what k was chosen from, empty where it was given.
    """

    labels: np.ndarray
    counts: np.ndarray
    medoids: np.ndarray
    confidence: np.ndarray
    threshold: float
    estimates: dict[str, Estimate] = field(default_factory=dict)

    @property
    def k(self) -> int:
        """How many new classes there are."""
        return len(self.medoids)

    @property
    def is_new(self) -> np.ndarray:
        """Mask of the rows in new classes, N."""
        return self.labels >= len(self.counts) - self.k


@dataclass
class Discovery:
    """Which rows are unseen, how many classes do they form, and which rows name them?

    `Discovery().fit(train, validation).discover(outputs)`, all three of one network's last layer:

    >>> import numpy as np
    >>> from embedood.discovery import Discovery
    >>> from embedood.outputs import Outputs
    >>> own = np.load("own.npz")
    >>> def part(name):
    ...     rows = [own[f"{name}_{field}"] for field in ("logits", "embeddings", "labels")]
    ...     return Outputs(*rows, own["head_weight"], own["head_bias"])
    >>> discovery = Discovery(candidates=range(2, 11)).fit(part("train"), part("validation"))
    >>> found = discovery.discover(part("test"))
    >>> print(found.k, "new classes of", found.counts[-found.k :], "rows")
    3 new classes of [40 35 30] rows
    >>> for label, row in enumerate(found.medoids, start=len(found.counts) - found.k):
    ...     print(f"class {label} looks like test row {row}")
    class 5 looks like test row 114
    class 6 looks like test row 122
    class 7 looks like test row 156

    (The numbers are those of the made-up file of the tests.) Test labels are not looked at.

    detector: one that was calibrated is used as it is; another is fitted to train and calibrated on
    validation at `false_alarm`; None is the energy, judging each row alone; `StreamDetector()` looks at the
    whole stream first. estimator: "median" or a name of
    `counting`; clusterer: a name of `CLUSTERERS`. They see the embeddings in the first principal
    components of the training embeddings, the clusterer in `dimensions` (None: as they are), the estimator
    in `count_dimensions` (None: in as many), in an order that does not depend on that of the rows.
    With `whiten` the embeddings are first multiplied by A, $AA^\\top=\\Sigma^{-1}$ of the spread Σ within the
    known classes (as estimated by `scorers.Mahalanobis`): what varies within classes then counts less.
    More than `max_rows` unseen rows are thinned out for counting.
    """

    detector: Detector | StreamDetector | None = None
    estimator: str = "median"
    clusterer: str = "kmeans"
    candidates: Sequence[int] = CANDIDATES
    dimensions: int | None = 32
    count_dimensions: int | None = None
    whiten: bool = False
    false_alarm: float = 0.05
    max_rows: int = 3000
    seed: int = 0

    def fit(self, train: Outputs, validation: Outputs, outliers: Outputs | None = None) -> Self:
        """Learn detector and projection from known rows; pseudo-OOD `outliers` where a scorer asks.

        Validation also gives the probe classes of the count. Raises `ValueError` for an unknown
        estimator or clusterer, for a singular Σ where it is whitened by, and as the detector does;
        `TypeError` for another kind of detector.
        """
        if self.estimator not in ("median", *NAMES):
            raise ValueError(
                f'estimator {self.estimator!r} is none of "median", {", ".join(NAMES)}'
            )
        if self.clusterer not in CLUSTERERS:
            raise ValueError(f"clusterer {self.clusterer!r} is none of {', '.join(CLUSTERERS)}")
        if not isinstance(self.detector, Detector | StreamDetector | None):
            raise TypeError(
                "detector must be a Detector, a StreamDetector or None, as in "
                f'detector=Detector(make("energy")); got {self.detector!r}'
            )
        check_known(train, "train")
        check_known(validation, "validation")
        detector = copy.deepcopy(self.detector or Detector(Energy()))
        if not detector.is_calibrated:
            detector.fit(train).calibrate(validation, outliers, false_alarm=self.false_alarm)
        self.detector_, self.num_known_ = detector, train.logits.shape[1]
        self._fit_projection(in_double(train))
        self.known_ = self._project(in_double(validation).embeddings, self.count_directions_)
        self.known_labels_ = np.asarray(validation.labels)
        return self

    def discover(
        self, outputs: Outputs, is_unseen: np.ndarray | None = None, k: int | None = None
    ) -> Discovered:
        """Return known and new classes of the outputs' rows.

        Each stage can be given perfectly: `is_unseen`, a mask of N, for the detector, and k for the
        count, so that the loss of each is seen. Without a row that is unseen there are no new
        classes. Raises `NotFittedError`, and `ValueError` for outputs of another network's shape,
        fewer unseen rows than k or, if k is to be estimated, than the least candidate plus one;
        `TypeError` for a k that is no integer.
        """
        self._refuse(outputs)
        mask, threshold = self._unseen(outputs, is_unseen)
        outputs = in_double(outputs)
        labels, confidence = outputs.probabilities.argmax(1), outputs.probabilities.max(1)
        rows = np.flatnonzero(mask)
        if k is not None and not isinstance(k, int | np.integer):
            raise TypeError(f"k must be an integer or None, got {k!r}")
        if k is not None and not 1 <= k <= max(len(rows), 1):
            raise ValueError(
                f"k = {k} classes cannot be found in {len(rows)} unseen rows; k is 1 or more, and no "
                "more than these rows"
            )
        medoids = np.array([], int)
        estimates: dict[str, Estimate] = {}
        if len(rows):
            rows = rows[_canonical_order(outputs.embeddings[rows])]
            z = self._project(outputs.embeddings[rows], self.directions_)
            if k is None:
                k, estimates = self._count(outputs.embeddings[rows])
            found = _by_size(cluster(self.clusterer, z, k, self.seed))
            labels[rows] = self.num_known_ + found
            medoids, confidence[rows] = rows[_medoids(z, found)], _posterior(z, found)
        counts = np.bincount(labels, minlength=self.num_known_ + len(medoids))
        return Discovered(labels, counts, medoids, confidence, threshold, estimates)

    def _count(self, embeddings: np.ndarray) -> tuple[int, dict[str, Estimate]]:
        z = self._project(embeddings, self.count_directions_)
        kept = np.random.default_rng(self.seed).permutation(len(z))[: self.max_rows]
        estimates = estimate(
            self.estimator, z[np.sort(kept)], self.candidates, self.seed,
            self.known_, self.known_labels_,
        )  # fmt: skip
        return median_estimate(estimates), estimates

    def _unseen(self, outputs: Outputs, given: np.ndarray | None) -> tuple[np.ndarray, float]:
        if given is None:
            decisions = self.detector_.decide(outputs)
            return decisions.is_unseen, decisions.threshold
        mask = np.asarray(given)
        if mask.dtype != bool or mask.shape != (len(outputs),):
            raise ValueError(
                f"is_unseen must be a mask of {len(outputs)} booleans, got {mask.dtype} {mask.shape}"
            )
        return mask, np.nan

    def _fit_projection(self, train: Outputs) -> None:
        self.mean_ = train.embeddings.mean(0)
        white = _within_whitening(train) if self.whiten else np.eye(len(self.mean_))
        z = (train.embeddings - self.mean_) @ white
        self.directions_ = white @ _principal(z, self.dimensions)
        self.count_directions_ = self.directions_
        if self.count_dimensions is not None:
            self.count_directions_ = white @ _principal(z, self.count_dimensions)

    def _project(self, embeddings: np.ndarray, directions: np.ndarray) -> np.ndarray:
        return (embeddings - self.mean_) @ directions

    def _refuse(self, outputs: Outputs) -> None:
        if not hasattr(self, "directions_"):
            raise NotFittedError("Discovery has not been fitted; call fit(train, validation) first")
        check(outputs, "outputs")
        sizes, fitted = outputs.logits.shape[1:] + outputs.embeddings.shape[1:], len(self.mean_)
        if sizes != (self.num_known_, fitted):
            raise ValueError(
                f"Discovery was fitted with C = {self.num_known_}, D = {fitted}; "
                f"got C = {sizes[0]}, D = {sizes[1]}"
            )


def _within_whitening(train: Outputs) -> np.ndarray:
    r"""A, D×D, with $AA^\top=\Sigma^{-1}$ of the spread within the classes, shrunk as Ledoit & Wolf do."""
    means, places = class_means(train)
    within = scatter(train.embeddings, means, places, np.arange(len(train)))
    return whitening(within.covariance(None), len(train))


def _principal(z: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first principal directions of z N×D, D×d; all D axes as they are where d is None or not less."""
    if dimensions is None or dimensions >= z.shape[1]:
        return np.eye(z.shape[1])
    pca = PCA(min(dimensions, len(z)), svd_solver="covariance_eigh").fit(z)
    return pca.components_.T


def _canonical_order(embeddings: np.ndarray) -> np.ndarray:
    """Rows sorted by their numbers, so that what follows does not depend on their order."""
    return np.lexsort(embeddings.T)


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Labels renumbered without holes, the largest cluster first; of equal ones the first to appear."""
    _, first, places, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(counts), int)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[places]


def _medoids(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The row of each cluster with the least sum of distances to the others of it."""

    def medoid(rows: np.ndarray) -> int:
        own = z[rows]
        sums = [cdist(own[part], own).sum(1) for part in chunked(len(own), 1024)]
        return rows[np.concatenate(sums).argmin()]

    return np.array([medoid(np.flatnonzero(labels == c)) for c in range(labels.max() + 1)])


def _posterior(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    r"""$\pi_ye^{-\|z-\mu_y\|^2/2\sigma^2}/\sum_c\pi_ce^{-\|z-\mu_c\|^2/2\sigma^2}$, σ² that within clusters."""
    counts = np.bincount(labels)
    means = np.array([z[labels == c].mean(0) for c in range(len(counts))])
    distances = cdist(z, means, "sqeuclidean")
    own = np.arange(len(z)), labels
    variance = max(distances[own].sum() / (z.shape[1] * max(len(z) - len(counts), 1)), 1e-12)
    return softmax(np.log(counts) - distances / (2 * variance), axis=1)[own]
