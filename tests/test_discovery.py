"""Clusterings, numbers of classes and discovery: by hand, by slow loops, by scikit-learn, and exactly
where classes lie far apart."""

import doctest
from dataclasses import replace
from functools import cache
from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_samples

from embedood import metrics
from embedood.detector import Detector
from embedood.discovery import (
    CLUSTERERS,
    ESTIMATORS,
    Discovery,
    Estimate,
    KMeansRuns,
    cluster,
    counting,
    estimate,
    kmeans,
    median_estimate,
    pipeline,
    probe_classes,
    probes,
    semi_supervised_kmeans,
    spherical_kmeans,
)
from embedood.discovery.clustering import mixture
from embedood.outputs import Outputs
from embedood.scorers import Energy, MaxLogit, NotFittedError, TemperatureSoftmax


def blobs(k, per_class=25, d=8, apart=12.0, seed=0):
    """Rows of k Gaussians with unit variances and the centres `apart`, shuffled, and their classes."""
    rng = np.random.default_rng([seed, k])
    centres = apart / np.sqrt(2) * np.linalg.qr(rng.normal(size=(max(k, d), max(k, d))))[0][:k]
    labels = rng.permutation(k * per_class) % k
    z = centres[labels]
    return z + rng.normal(size=z.shape), labels


# k-means


def slow_lloyd(z, centres, pinned=(), on_sphere=False):
    """Nearest centre, then means, row by row; no cluster is ever empty in these tests."""
    centres, labels = [np.array(c) for c in centres], None
    while True:
        new = [int(np.argmin([np.sum((row - c) ** 2) for c in centres])) for row in z]
        new[: len(pinned)] = pinned
        if new == labels:
            return np.array(labels), sum(
                np.sum((row - centres[c]) ** 2) for row, c in zip(z, new, strict=True)
            )
        labels = new
        for c in range(len(centres)):
            own = [row for row, label in zip(z, labels, strict=True) if label == c]
            centres[c] = sum(own) / len(own)
            if on_sphere:
                centres[c] = centres[c] / np.sqrt(np.sum(centres[c] ** 2))


def test_spherical_kmeans_is_the_slow_loop():
    z, _ = blobs(4, apart=3.0)
    found = spherical_kmeans(5 * z, 4, seed=3, restarts=4)
    directions = np.array([row / np.sqrt(np.sum(row**2)) for row in z])
    rng = np.random.default_rng(3)
    starts = [kmeans.plus_plus(directions, 4, rng) for _ in range(4)]
    slow = [slow_lloyd(directions, start, on_sphere=True) for start in starts]
    labels, inertia = min(slow, key=lambda run: run[1])
    np.testing.assert_array_equal(found.labels, labels)
    assert found.inertia == pytest.approx(inertia)
    assert len({round(run[1], 6) for run in slow}) > 1, "the restarts matter here"
    np.testing.assert_allclose(np.linalg.norm(found.centres, axis=1), 1)
    cosines = (directions * found.centres[found.labels]).sum(1)
    assert found.inertia == pytest.approx(np.sum(2 - 2 * cosines))


def slow_semi_supervised(z, k, pinned, seed, restarts):
    first = [z[: len(pinned)][pinned == c].mean(0) for c in np.unique(pinned)]
    rng = np.random.default_rng(seed)
    starts = [kmeans.plus_plus(z[len(pinned) :], k, rng, first) for _ in range(restarts)]
    return min((slow_lloyd(z, start, pinned) for start in starts), key=lambda run: run[1])[0]


def test_semi_supervised_kmeans_is_the_slow_loop_and_keeps_what_is_pinned():
    z, labels = blobs(5, per_class=10, apart=3.0)
    pinned = np.where(labels[:20] < 3, labels[:20] % 2, 1)
    found = semi_supervised_kmeans(z, 6, pinned, seed=1, restarts=3).labels
    np.testing.assert_array_equal(found, slow_semi_supervised(z, 6, pinned, 1, 3))
    np.testing.assert_array_equal(found[:20], pinned)
    assert (kmeans.lloyd(z, z[:6]).labels[:20] != pinned).any(), "alone, they would move"
    with pytest.raises(ValueError, match="1 clusters cannot hold 2 pinned classes"):
        semi_supervised_kmeans(z, 1, pinned)


def test_further_centres_are_drawn_by_their_squared_distance():
    z = np.array([[0.0], [1.0], [3.0]])
    draws = [kmeans.plus_plus(z, 2, np.random.default_rng(i), z[:1])[1, 0] for i in range(1000)]
    # Both candidates of two trials are row 1 with (1/10)²; else row 3, which leaves the lesser sum.
    assert np.mean(np.array(draws) == 1) == pytest.approx(0.01, abs=0.01)
    assert set(draws) == {1.0, 3.0}


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_an_empty_cluster_takes_the_farthest_row_and_equal_rows_are_survived():
    z = np.array([[0.0], [1.0], [2.0], [10.0]])
    found = kmeans.lloyd(z, np.array([[1.0], [-100.0]]))
    np.testing.assert_array_equal(found.labels, [0, 0, 0, 1])
    pinned = kmeans.lloyd(z[::-1], np.array([[1.0], [-100.0]]), pinned=np.array([0]))
    assert pinned.labels[0] == 0
    assert len(np.unique(pinned.labels)) == 2
    assert kmeans.plus_plus(np.ones((5, 2)), 3, np.random.default_rng(0)).shape == (3, 2)
    for name in CLUSTERERS:
        assert len(cluster(name, np.ones((5, 2)), 2)) == 5


def test_shared_runs_are_as_good_as_those_of_scikit_learn():
    z, labels = blobs(12, apart=6.0, d=12)
    runs = KMeansRuns(z)
    for k in (2, 7, 12, 30):
        assert runs(k).inertia <= KMeans(k, n_init=5, random_state=0).fit(z).inertia_ + 1e-9
        assert runs(k) is runs(k)
    assert adjusted_rand_score(labels, runs(12).labels) > 0.95
    np.testing.assert_allclose(runs.distances[3, 5], np.linalg.norm(z[3] - z[5]))


def test_of_many_classes_that_lie_apart_none_is_missed():
    z, labels = blobs(30, per_class=10, d=30)
    assert adjusted_rand_score(labels, KMeans(30, n_init=1, random_state=0).fit(z).labels_) < 1
    assert adjusted_rand_score(labels, KMeansRuns(z, restarts=1)(30).labels) == 1


# Clusterings


@pytest.mark.parametrize("name", CLUSTERERS)
def test_clusterings_recover_classes_that_lie_apart(name):
    for k in (1, 2, 5):
        z, labels = blobs(k, apart=15.0)
        found = cluster(name, z, k, seed=1)
        assert metrics.cluster_accuracy(labels, found) == 1
        assert set(found) == set(range(k))
        np.testing.assert_array_equal(found, cluster(name, z, k, seed=1))


def rings(radii=(1.0, 4.0), each=150):
    """Two rings in one plane, one within the other: no straight line parts them."""
    draw = np.random.default_rng(0)
    angles = draw.uniform(0, 2 * np.pi, (len(radii), each, 1))
    points = np.concatenate([np.cos(angles), np.sin(angles)], 2) * np.reshape(radii, (-1, 1, 1))
    noise = draw.normal(0, 0.1, (len(radii) * each, 2))
    return points.reshape(-1, 2) + noise, np.repeat(range(len(radii)), each)


def test_umap_unfolds_what_k_means_cannot_part():
    z, labels = rings()
    assert metrics.cluster_accuracy(labels, cluster("kmeans", z, 2)) < 0.8
    assert metrics.cluster_accuracy(labels, cluster("umap_kmeans", z, 2)) > 0.95


@pytest.mark.parametrize(
    ("name", "linkage", "metric"),
    [("agglomerative_ward", "ward", "euclidean"), ("agglomerative_cosine", "average", "cosine")],
)
def test_agglomerative_is_the_slow_merging(name, linkage, metric):
    z, _ = blobs(3, per_class=10, apart=3.0)
    reference = AgglomerativeClustering(4, linkage=linkage, metric=metric).fit_predict(z)
    assert adjusted_rand_score(reference, cluster(name, z, 4)) == 1
    groups = [[i] for i in range(len(z))]
    while len(groups) > 4:
        pairs = [(a, b) for a in range(len(groups)) for b in range(a)]
        a, b = min(pairs, key=lambda pair: merging_cost(z, groups[pair[0]], groups[pair[1]], name))
        groups[b] += groups.pop(a)
    slow = np.empty(len(z), int)
    for number, group in enumerate(groups):
        slow[group] = number
    assert adjusted_rand_score(slow, cluster(name, z, 4)) == 1


def merging_cost(z, a, b, name):
    if name.endswith("ward"):
        gap = z[a].mean(0) - z[b].mean(0)
        return len(a) * len(b) / (len(a) + len(b)) * np.sum(gap**2)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    return 1 - (unit[a] @ unit[b].T).mean()


@pytest.mark.parametrize("shape", ["spherical", "diagonal", "tied"])
def test_mixtures_are_the_slow_em(shape):
    z, labels = blobs(3, per_class=30, d=3, apart=4.0)
    kept = (labels > 0) | (np.arange(90) < 30)  # of unequal sizes
    z, labels = z[kept], labels[kept]
    model = mixture(z, labels, shape)
    within = sum(np.square(z[labels == c] - z[labels == c].mean(0)).sum() for c in range(3))
    floor = {"spherical": 0.05, "diagonal": 0.05, "tied": 1e-6}[shape] * within / (3 * (len(z) - 3))
    responsibilities = np.eye(3)[labels]
    for _ in range(model.n_iter_ + 1):
        weights = responsibilities.mean(0)
        means = [np.average(z, axis=0, weights=r) for r in responsibilities.T]
        each = [np.cov(z.T, ddof=0, aweights=r) for r in responsibilities.T]
        if shape == "spherical":
            each = [np.eye(3) * np.trace(c) / 3 for c in each]
        elif shape == "diagonal":
            each = [np.diag(np.diag(c)) for c in each]
        else:
            each = [sum(w * c for w, c in zip(weights, each, strict=True))] * 3
        each = [c + floor * np.eye(3) for c in each]
        parts = zip(weights, means, each, strict=True)
        densities = np.array([w * multivariate_normal(m, c).pdf(z) for w, m, c in parts]).T
        responsibilities = densities / densities.sum(1, keepdims=True)
    assert model.score(z) == pytest.approx(np.log(densities.sum(1)).mean(), abs=1e-6)
    np.testing.assert_array_equal(model.predict(z), responsibilities.argmax(1))
    parameters = {"spherical": 3, "diagonal": 9, "tied": 6}[shape] + 9 + 2
    expected = -2 * np.log(densities.sum(1)).sum() + parameters * np.log(len(z))
    assert model.bic(z) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dbscan", np.ones((4, 2)), 2), "unknown clusterer 'dbscan'; they are kmeans"),
        (("kmeans", np.ones(4), 2), r"must be N×D and not empty, got shape \(4,\)"),
        (("kmeans", np.ones((0, 2)), 1), "not empty"),
        (("kmeans", np.array([[1.0, np.nan]]), 1), "hold 1 NaN"),
        (("kmeans", np.ones((4, 2)), 5), "4 rows cannot be put into 5 clusters"),
        (("kmeans", np.ones((4, 2)), 0), "4 rows cannot be put into 0 clusters"),
    ],
)
def test_what_cannot_be_clustered_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cluster(*arguments)


# How many classes


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("k", [3, 6, 9])
def test_estimators_find_the_number_of_separated_gaussians(name, k):
    """Exactly, in 8 to 9 dimensions with centres 12 standard deviations apart."""
    z, _ = blobs(k, per_class=40)
    found = ESTIMATORS[name](z, range(2, 13), seed=0)
    assert found.k == k
    assert all(len(curve) == 11 for curve in found.curves.values())
    again = ESTIMATORS[name](z, range(2, 13), seed=0)
    for curve in found.curves:
        np.testing.assert_array_equal(found.curves[curve], again.curves[curve])


@pytest.mark.parametrize(("k", "rows", "apart"), [(5, 40, 6.0), (20, 60, 6.0), (20, 100, 5.0)])
def test_the_dirichlet_process_sees_classes_in_many_dimensions(k, rows, apart):
    """A prior of the variances of all rows misses one of these cases, that within k-means another."""
    z, _ = blobs(k, rows, 32, apart)
    assert counting.dirichlet_process(z, range(2, 51)).k == k


@pytest.mark.parametrize("k", [3, 6, 9])
def test_probe_classes_find_the_number_of_separated_gaussians(k):
    """Never too few, and up to a half too many: where accuracies tie at 1, the largest k is taken."""
    z, labels = blobs(k + 6, d=16)
    known = labels >= k
    found = probe_classes(z[~known], z[known], labels[known], range(2, 16), seed=0)
    assert k <= found.k <= 1.5 * k
    assert found.curves["probe_accuracy"][found.candidates == k] == 1


@cache
def digit_estimates():
    """A third of scikit-learn's digits, raw pixels: 5 to 9 without labels, 0 to 4 as known."""
    pixels, digits = (array[::3] for array in load_digits(return_X_y=True))
    new = digits >= 5
    return estimate("median", pixels[new], range(2, 16), 0, pixels[~new], digits[~new])


DIGIT_BANDS = {
    "bic": (6, 10), "dirichlet_process": (8, 13), "silhouette": (5, 7), "gap": (8, 15),
    "probe_classes": (6, 12),
}  # fmt: skip


@pytest.mark.parametrize(("name", "band"), DIGIT_BANDS.items())
def test_numbers_of_real_digits_stay_in_their_bands(name, band):
    """There are five. Found at first: 8, 10, 6, 11 and 9, for digits have several styles."""
    assert band[0] <= digit_estimates()[name].k <= band[1]


def test_the_median_of_real_digits_is_that_of_all_five():
    assert set(digit_estimates()) == set(DIGIT_BANDS)
    assert median_estimate(digit_estimates()) == sorted(e.k for e in digit_estimates().values())[2]


@pytest.mark.parametrize(
    ("found", "median"), [([3, 9, 4], 4), ([3, 4], 4), ([2, 4, 5, 9], 5), ([7], 7)]
)
def test_medians_of_an_even_number_are_rounded_up(found, median):
    none = np.array([])
    assert median_estimate({str(i): Estimate(k, none) for i, k in enumerate(found)}) == median


def test_criteria_are_their_formulas():
    z, _ = blobs(4, per_class=10, apart=4.0)
    runs = KMeansRuns(z)
    curve = counting.silhouette(z, [3, 5], runs=runs).curves["silhouette"]
    labels = runs(5).labels
    assert curve[1] == pytest.approx(np.mean([slow_silhouette(z, labels, i) for i in range(40)]))
    assert curve[1] == pytest.approx(silhouette_samples(z, labels).mean())
    found = counting.gap(z, [3, 4, 5], runs=runs, references=3)
    logs = np.array([
        [np.log(KMeansRuns(r)(k).inertia) for k in (3, 4, 5)]
        for r in counting._references(z, 3, 0)
    ])  # fmt: skip
    gaps = logs.mean(0) - np.log([runs(k).inertia for k in (3, 4, 5)])
    np.testing.assert_allclose(found.curves["gap"], gaps)
    np.testing.assert_allclose(found.curves["error"], logs.std(0) * np.sqrt(4 / 3))
    bics = counting.bic(z, [3, 4], runs=runs).curves
    assert bics["bic_tied"][1] == pytest.approx(mixture(z, runs(4).labels, "tied").bic(z))
    parts = [bics[f"bic_{shape}"] for shape in ("spherical", "diagonal", "tied")]
    np.testing.assert_array_equal(bics["bic"], np.minimum.reduce(parts))


def slow_silhouette(z, labels, i):
    far = [np.sqrt(np.sum((z[i] - row) ** 2)) for row in z]
    means = {
        c: np.mean([d for j, d in enumerate(far) if labels[j] == c and j != i])
        for c in np.unique(labels)
    }
    own = means.pop(labels[i])
    return (min(means.values()) - own) / max(min(means.values()), own)


def test_references_fill_the_box_along_the_principal_components():
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    z = rng.normal(size=(4000, 3)) * [10, 3, 1] @ turned + 100
    reference = counting._references(z, 2, seed=0)[1]
    box = np.abs((z - z.mean(0)) @ turned.T).max(0)
    np.testing.assert_allclose(np.abs(reference).max(0), box, rtol=0.15)


def slow_probe_classes(z, known, labels, candidates, seed, classes, restarts):
    anchors, tested = probes._drawn(labels, classes, 0.6, 100, seed)
    names = sorted(set(labels[anchors]))
    pinned = np.array([names.index(c) for c in labels[anchors]])
    rows = np.concatenate([known[anchors], known[tested], z])
    accuracies, indices, found = [], [], []
    for k in candidates:
        own = slow_semi_supervised(rows, k + classes, pinned, seed, restarts)[len(pinned) :]
        accuracies.append(best_assignment(labels[tested], own[: len(tested)]))
        free = rows[len(pinned) :]
        indices.append(silhouette_samples(free, own).mean())
        sizes = [np.sum(own[len(tested) :] == c) for c in range(k + classes)]
        found.append(sum(size > max(sizes) / 100 for size in sizes))
    last = [max(np.flatnonzero(np.array(c) == max(c))) for c in (accuracies, indices)]
    return found[int(np.ceil(sum(last) / 2))], accuracies, indices


def best_assignment(true, found):
    """The best share right when each class is given a cluster of its own, by trying them all."""
    classes = np.unique(true)
    tried = permutations(range(found.max() + len(classes)), len(classes))
    return max(np.mean([ways[np.searchsorted(classes, t)] == f for t, f in zip(true, found, strict=True)])
               for ways in tried)  # fmt: skip


def test_probe_classes_are_their_slow_recipe():
    z, labels = blobs(7, per_class=8, d=7, apart=4.0)
    known = labels >= 3
    arguments = z[~known], z[known], labels[known]
    found = probe_classes(*arguments, [2, 3, 4, 6], seed=5, classes=4, restarts=2)
    k, accuracies, silhouettes = slow_probe_classes(*arguments, [2, 3, 4, 6], 5, 4, 2)
    assert found.k == k
    np.testing.assert_allclose(found.curves["probe_accuracy"], accuracies)
    np.testing.assert_allclose(found.curves["probe_silhouette"], silhouettes)


def test_probes_and_anchors_are_different_classes_of_few_rows():
    labels = np.repeat(np.arange(12), 30)
    anchors, tested = probes._drawn(labels, 10, 0.6, 20, seed=0)
    assert [len(set(labels[rows])) for rows in (anchors, tested)] == [6, 4]
    assert not set(labels[anchors]) & set(labels[tested])
    assert {*np.unique(labels[anchors], return_counts=True)[1]} == {20}
    assert [len(set(labels[r])) for r in probes._drawn(labels[:60], 10, 0.6, 20, 0)] == [1, 1]


def test_best_candidates_are_averaged_last_first_and_rounded_up():
    first, second = np.array([0.2, 0.9, 0.5, 0.9, 0.1]), np.array([0.1, 0.3, 0.2, 0.1, 0.0])
    assert probes._compromise(first, second) == 2
    assert probes._compromise(first, first[::-1]) == 3
    assert probes._compromise(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1


def test_small_clusters_are_no_classes():
    assert counting.large_clusters(np.array([1000, 11, 10, 0, 400])) == 3


Z = np.random.default_rng(0).normal(size=(12, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: estimate("elbow", Z), "unknown estimator 'elbow'"),
        (lambda: estimate("bic", Z, [1, 2]), r"from 2 on, got \[1, 2\]"),
        (lambda: estimate("bic", Z, []), r"from 2 on, got \[\]"),
        (
            lambda: estimate("bic", Z[:2]),
            "2 rows are too few to count classes among them from 2 on",
        ),
        (lambda: estimate("gap", np.full((9, 2), np.nan)), "hold 18 NaN"),
        (lambda: estimate("probe_classes", Z), "needs embeddings and labels of known classes"),
        (lambda: probe_classes(Z, Z, np.zeros(12, int)), "known rows have 1 class"),
        (lambda: probe_classes(Z, Z[0], np.zeros(1, int)), "known embeddings must be N×D"),
        (lambda: probe_classes(Z, Z[:, :1], np.arange(12)), "known embeddings have D = 1"),
        (lambda: probe_classes(Z, Z, np.arange(11)), "12 known embeddings have 11 labels"),
    ],
)
def test_what_cannot_be_counted_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_candidates_end_below_the_number_of_rows():
    found = estimate("median", Z, range(2, 40))
    assert set(found) == {*ESTIMATORS}, "without known classes there are no probes"
    assert all(e.candidates[-1] == 11 and e.k <= 11 for e in found.values())


# Discovery

KNOWN, NEW, D = 5, 3, 12
ROWS = {"train": 40, "validation": 20, "test": 15}
OF_NEW = (40, 35, 30)


def part(name):
    """Outputs of one imagined network: five known classes, in the test also three new ones.

    Validation is a little noisier than the test, so that no known test row is rejected.
    """
    rng = np.random.default_rng([*name.encode()])
    centres = 10 * np.eye(D)[: KNOWN + NEW]
    true = np.repeat(np.arange(KNOWN), ROWS[name])
    if name == "test":
        true = np.concatenate([true, np.repeat(KNOWN + np.arange(NEW), OF_NEW)])
    z = centres[true] + rng.normal(size=(len(true), D)) * (1.0 if name == "validation" else 0.5)
    weight = np.eye(KNOWN, D)
    labels = np.where(true < KNOWN, true, -1)
    return Outputs(z @ weight.T, z, labels, weight, np.zeros(KNOWN)), true


(TRAIN, _), (VALIDATION, _), (TEST, TRUE) = (part(name) for name in ROWS)
IS_UNSEEN = TRUE >= KNOWN
SMALL = {"candidates": range(2, 9), "dimensions": None, "false_alarm": 0.01}


def fitted(**settings):
    return Discovery(**SMALL | settings).fit(TRAIN, VALIDATION)


@cache
def everything():
    return fitted().discover(TEST)


def test_all_stages_recover_what_lies_apart():
    found = everything()
    assert found.k == NEW
    assert set(found.estimates) == {*probes.NAMES}
    np.testing.assert_array_equal(found.is_new, IS_UNSEEN)
    assert metrics.discovery_accuracy(TRUE, found.labels, IS_UNSEEN, KNOWN) == 1
    np.testing.assert_array_equal(found.labels, TRUE, "new classes come by size, as they were made")
    np.testing.assert_array_equal(found.counts, [15] * KNOWN + [*OF_NEW])
    np.testing.assert_array_equal(TRUE[found.medoids], KNOWN + np.arange(NEW))
    assert found.confidence.min() > 0.9
    assert found.threshold == fitted().detector_.threshold_


def test_each_stage_can_be_given():
    finder = fitted(estimator="silhouette")
    flipped = IS_UNSEEN.copy()
    flipped[[0, -1]] = [True, False]
    found = finder.discover(TEST, is_unseen=flipped, k=4)
    np.testing.assert_array_equal(found.is_new, flipped)
    assert found.k == 4
    assert found.estimates == {}
    assert np.isnan(found.threshold)
    assert found.labels[-1] == TEST.logits[-1].argmax()
    counted = finder.discover(TEST, is_unseen=IS_UNSEEN)
    assert counted.k == NEW
    assert [*counted.estimates] == ["silhouette"]
    given = finder.discover(TEST, k=2)
    assert given.k == 2
    assert given.counts[KNOWN:].sum() == sum(OF_NEW)


@pytest.mark.parametrize("clusterer", CLUSTERERS)
def test_every_clusterer_serves(clusterer):
    found = fitted(clusterer=clusterer).discover(TEST, k=NEW)
    np.testing.assert_array_equal(found.labels, TRUE)


def test_counting_may_look_at_fewer_components_than_clustering():
    finder = fitted(dimensions=6, count_dimensions=3, estimator="probe_classes")
    assert finder.directions_.shape == (D, 6)
    assert finder.known_.shape == (len(VALIDATION), 3)
    np.testing.assert_allclose(finder.directions_[:, :3], finder.count_directions_)
    alone = fitted(dimensions=3, estimator="probe_classes")
    counted, same = (f.discover(TEST, IS_UNSEEN).estimates for f in (finder, alone))
    for name, found in counted.items():
        for curve, values in found.curves.items():
            np.testing.assert_allclose(values, same[name].curves[curve])


def test_whitened_distances_are_those_of_mahalanobis():
    finder = fitted(whiten=True)
    means = np.array([TRAIN.embeddings[TRAIN.labels == c].mean(0) for c in range(KNOWN)])
    within = TRAIN.embeddings - means[TRAIN.labels]
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(within).covariance_)
    white = finder._project(TEST.embeddings, finder.directions_)
    apart = TEST.embeddings[0] - TEST.embeddings[-1]
    assert np.sum((white[0] - white[-1]) ** 2) == pytest.approx(apart @ precision @ apart)
    fewer = fitted(whiten=True, dimensions=3, count_dimensions=2)
    assert fewer.known_.shape == (len(VALIDATION), 2)
    first = PCA(3).fit((TRAIN.embeddings - finder.mean_) @ finder.directions_).components_.T
    np.testing.assert_allclose(
        np.abs(fewer.directions_), np.abs(finder.directions_ @ first), atol=1e-9
    )


def test_whitening_finds_classes_that_noise_hides():
    def stretched(outputs):
        rng = np.random.default_rng(len(outputs))
        noise = 40 * rng.normal(size=(len(outputs), 1)) * np.eye(D)[-1]
        return replace(outputs, embeddings=outputs.embeddings + noise)

    train, validation, test = map(stretched, (TRAIN, VALIDATION, TEST))
    right = {}
    for whiten in (False, True):
        finder = Discovery(**SMALL, clusterer="kmeans", whiten=whiten).fit(train, validation)
        found = finder.discover(test, IS_UNSEEN, NEW)
        right[whiten] = metrics.cluster_accuracy(TRUE[IS_UNSEEN], found.labels[IS_UNSEEN])
    assert right[True] == 1
    assert right[False] < 0.6


def test_whitening_by_a_singular_spread_is_refused():
    flat = replace(TRAIN, embeddings=np.eye(KNOWN, D)[TRAIN.labels])
    with pytest.raises(ValueError, match=r"D = 12 dimensions, from 200 rows, is singular"):
        Discovery(whiten=True).fit(flat, VALIDATION)


def close_together():
    """Test outputs whose new classes overlap, so that their clusters hang by a thread."""
    moved = 9 * np.eye(D)[TRUE] * IS_UNSEEN[:, None]
    return replace(TEST, embeddings=TEST.embeddings - moved)


def test_the_order_of_the_rows_does_not_matter():
    outputs, order = close_together(), np.random.default_rng(0).permutation(len(TEST))
    for clusterer in CLUSTERERS:
        finder = fitted(clusterer=clusterer, estimator="silhouette", max_rows=60)
        found = finder.discover(outputs, IS_UNSEEN)
        other = finder.discover(outputs[order], IS_UNSEEN[order])
        np.testing.assert_array_equal(found.labels[order], other.labels)
        np.testing.assert_array_equal(found.medoids, order[other.medoids])
        np.testing.assert_allclose(found.confidence[order], other.confidence)
        assert found.counts.tolist() == other.counts.tolist()


def test_the_same_seed_gives_the_same_and_nothing_is_read_from_labels():
    finder = fitted(estimator="silhouette")
    once = finder.discover(close_together(), IS_UNSEEN)
    lied = replace(close_together(), labels=np.zeros(len(TEST), int))
    for again in (finder.discover(lied, IS_UNSEEN), finder.discover(close_together(), IS_UNSEEN)):
        np.testing.assert_array_equal(once.labels, again.labels)
        np.testing.assert_array_equal(once.confidence, again.confidence)


def test_tensors_give_the_same():
    tensors = {n: torch.tensor(getattr(TEST, n)) for n in ("logits", "embeddings", "labels")}
    found = fitted().discover(replace(TEST, **tensors), torch.tensor(IS_UNSEEN), k=3)
    expected = fitted().discover(TEST, IS_UNSEEN, k=3)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.confidence, expected.confidence)


def test_medoids_and_confidence_are_their_formulas():
    outputs = close_together()
    found = fitted().discover(outputs, IS_UNSEEN, k=3)
    z = outputs.embeddings - TRAIN.embeddings.mean(0)
    own = [np.flatnonzero(found.labels == KNOWN + c) for c in range(3)]
    for rows, medoid in zip(own, found.medoids, strict=True):
        sums = [sum(np.linalg.norm(z[i] - z[j]) for j in rows) for i in rows]
        assert medoid == rows[np.argmin(sums)]
    variance = sum(np.square(z[r] - z[r].mean(0)).sum() for r in own) / (D * (sum(OF_NEW) - 3))
    for c, rows in enumerate(own):
        densities = [len(r) * multivariate_normal(z[r].mean(0), variance).pdf(z[rows]) for r in own]
        np.testing.assert_allclose(found.confidence[rows], densities[c] / sum(densities))
    assert found.confidence[IS_UNSEEN].min() < 0.7
    known = TEST.probabilities[~IS_UNSEEN].max(1)
    np.testing.assert_allclose(found.confidence[~IS_UNSEEN], known)


def test_new_classes_are_numbered_by_size_without_holes():
    np.testing.assert_array_equal(
        pipeline._by_size(np.array([7, 2, 2, 9, 4, 4])), [2, 0, 0, 3, 1, 1]
    )


def test_counting_sees_at_most_so_many_rows_and_clustering_all():
    found = fitted(estimator="silhouette", max_rows=6).discover(TEST)
    assert found.estimates["silhouette"].candidates[-1] == 5
    assert found.is_new.sum() == sum(OF_NEW)


def test_projection_is_learned_from_training_rows_alone():
    finder = fitted(dimensions=4)
    centred = TRAIN.embeddings - TRAIN.embeddings.mean(0)
    directions = np.linalg.svd(centred)[2][:4].T
    np.testing.assert_allclose(np.abs(finder.directions_.T @ directions), np.eye(4), atol=1e-9)
    assert finder.known_.shape == (len(VALIDATION), 4)


def test_a_calibrated_detector_is_used_as_it_is_and_another_is_left_alone():
    mine = Detector(MaxLogit()).fit(TRAIN).calibrate(VALIDATION, false_alarm=0.2)
    assert fitted(detector=mine).discover(TEST, k=3).threshold == mine.threshold_
    fresh = Detector(Energy())
    fitted(detector=fresh)
    assert not hasattr(fresh, "known_scores_")
    fitted(detector=Detector(TemperatureSoftmax()), false_alarm=0.05)


def test_a_stream_without_unseen_rows_has_no_new_classes():
    known = TEST[~IS_UNSEEN]
    found = fitted().discover(known, np.zeros(len(known), bool))
    assert found.k == 0
    assert len(found.medoids) == 0
    np.testing.assert_array_equal(found.labels, known.logits.argmax(1))
    np.testing.assert_array_equal(found.counts, [15] * KNOWN)
    assert not found.is_new.any()


NOTHING = np.zeros(len(TEST), bool)
TWO = NOTHING.copy()
TWO[-2:] = True


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fitted(estimator="elbow"), "estimator 'elbow' is none of \"median\", bic"),
        (lambda: fitted(clusterer="dbscan"), "clusterer 'dbscan' is none of kmeans"),
        (lambda: fitted().discover(TEST, TWO, k=3), "k = 3 classes cannot be found in 2 unseen"),
        (lambda: fitted().discover(TEST, NOTHING, k=2), "k = 2 classes cannot be found in 0"),
        (lambda: fitted().discover(TEST, k=0), "k = 0 classes"),
        (lambda: fitted().discover(TEST, TWO), "2 rows are too few to count classes"),
        (lambda: fitted().discover(TEST, NOTHING[1:]), r"a mask of \d+ booleans, got bool"),
        (lambda: fitted().discover(TEST, TRUE), r"a mask of \d+ booleans, got int64"),
        (lambda: Discovery().fit(TEST, VALIDATION), "train must hold known classes only"),
        (lambda: Discovery().fit(TRAIN, TEST), "validation must hold known classes only"),
        (
            lambda: fitted().discover(replace(TEST, embeddings=TEST.embeddings * np.nan)),
            "hold .* NaN or infinite",
        ),
        (
            lambda: fitted().discover(
                replace(TEST, embeddings=TEST.embeddings[:, 1:], head_weight=TEST.head_weight[:, 1:])
            ),
            "fitted with C = 5, D = 12; got C = 5, D = 11",
        ),
        (lambda: fitted().discover(replace(TEST, embeddings=TEST.logits)), "must be N×C, N×D"),
    ],
)  # fmt: skip
def test_faults_are_told_with_their_sizes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("k", [3.0, "3"])
def test_a_number_of_classes_is_an_integer(k):
    with pytest.raises(TypeError, match="k must be an integer or None, got"):
        fitted().discover(TEST, ~NOTHING, k=k)


@pytest.mark.parametrize("detector", ["energy", Energy()])
def test_discovery_says_which_detectors_there_are(detector):
    with pytest.raises(TypeError, match="detector must be a Detector, a StreamDetector or None"):
        Discovery(detector=detector).fit(TRAIN, VALIDATION)


def test_discovery_asks_to_be_fitted():
    with pytest.raises(NotFittedError, match=r"call fit\(train, validation\) first"):
        Discovery().discover(TEST)


def test_the_example_runs(tmp_path, monkeypatch):
    outputs = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    fields = ("logits", "embeddings", "labels")
    arrays = {f"{n}_{f}": getattr(o, f) for (n, o), f in product(outputs.items(), fields)}
    head = {"head_weight": TEST.head_weight, "head_bias": TEST.head_bias}
    np.savez(tmp_path / "own.npz", **arrays, **head)
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(Discovery)
    assert sum(len(e.source.splitlines()) for e in example.examples) == 12
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed == 0
