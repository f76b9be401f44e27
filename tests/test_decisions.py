"""Scores, thresholds and metrics against closed forms, slow loops and other libraries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import confusion_matrix

from embedood import detector, metrics, scorers
from embedood.outputs import Outputs


def some_outputs(n=60, classes=4, dimensions=6, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    weight = rng.normal(size=(classes, dimensions))
    z = weight[labels] * 2 + rng.normal(size=(n, dimensions))
    return Outputs(z @ weight.T, z, labels, weight, np.zeros(classes), mse=rng.random(n))


def test_softmax_scores_by_hand():
    logits = np.log([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3]])
    known = Outputs(logits, logits, np.zeros(2, int), np.eye(3), np.zeros(3))
    np.testing.assert_allclose(scorers.MaxSoftmax().score(known), [0.3, 0.6])
    np.testing.assert_allclose(scorers.Energy().score(known), [0, 0], atol=1e-12)
    np.testing.assert_allclose(scorers.MaxLogit().score(known), -np.log([0.7, 0.4]))


def test_mahalanobis_is_the_slow_formula_with_the_same_covariance():
    from sklearn.covariance import LedoitWolf

    train, test = some_outputs(), some_outputs(seed=1)
    means = np.stack([train.embeddings[train.labels == c].mean(0) for c in range(4)])
    tied = LedoitWolf(assume_centered=True).fit(train.embeddings - means[train.labels])
    slow = cdist(test.embeddings, means, "mahalanobis", VI=tied.precision_).min(1) ** 2
    np.testing.assert_allclose(scorers.Mahalanobis().fit(train).score(test), slow, rtol=1e-8)


def test_mahalanobis_survives_directions_without_variance():
    flat = some_outputs()
    flat.embeddings[:, 0] = 0
    scores = scorers.Mahalanobis().fit(flat).score(flat)
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()


def test_nearest_neighbour_is_the_slow_formula_and_bears_zero_rows():
    train, test = some_outputs(), some_outputs(seed=1)
    test.embeddings[0] = 0
    unit = [z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
            for z in (test.embeddings, train.embeddings)]  # fmt: skip
    slow = np.sort(cdist(*unit), axis=1)[:, 4]
    np.testing.assert_allclose(
        scorers.NearestNeighbour(k=5).fit(train).score(test), slow, rtol=1e-6
    )


@pytest.mark.parametrize("scorer", [scorers.Mahalanobis(), scorers.NearestNeighbour()])
def test_unfitted_use_is_refused(scorer):
    with pytest.raises(scorers.NotFittedError, match=type(scorer).__name__):
        scorer.score(some_outputs())


def test_p_values_by_hand():
    known = np.array([1.0, 2.0, 2.0, 3.0])
    np.testing.assert_allclose(
        scorers.p_values(np.array([0.0, 2.0, 9.0]), known), [1, 4 / 5, 1 / 5]
    )


@given(st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_p_values_stay_within_0_and_1(n, seed):
    rng = np.random.default_rng(seed)
    p = scorers.p_values(rng.integers(0, 5, 20), np.sort(rng.integers(0, 5, n)))
    assert ((p > 0) & (p <= 1)).all()


def test_youden_threshold_is_the_best_of_all_by_brute_force():
    rng = np.random.default_rng(0)
    known, outliers = rng.normal(0, 1, 80), rng.normal(1.5, 1, 50)

    def gain(t):
        return (outliers > t).mean() - (known > t).mean()

    every = np.concatenate([known, outliers, [-9.0]])
    assert gain(detector.youden_threshold(known, outliers)) == pytest.approx(max(map(gain, every)))


def test_false_alarm_rate_holds_on_fresh_scores():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        threshold = detector.false_alarm_threshold(rng.normal(size=99), 0.05)
        rates.append((rng.normal(size=500) > threshold).mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=0.006)


def test_too_few_known_scores_for_a_rate_are_refused():
    with pytest.raises(ValueError, match=r"10 known scores cannot hold.*at least 19"):
        detector.false_alarm_threshold(np.arange(10.0), 0.05)


@pytest.mark.parametrize("bad", [np.array([]), np.array([np.nan]), np.zeros((2, 2))])
def test_bad_scores_are_refused_by_name(bad):
    with pytest.raises(ValueError, match="outliers must be a non-empty 1-D"):
        detector.youden_threshold(np.zeros(3), bad)


def test_decide_keeps_rejects_and_tells_the_p_value():
    answer = detector.decide(np.array([4, 7]), np.array([0.1, 0.9]), 0.5, np.array([0.2, 0.3, 0.4]))
    assert answer.labels.tolist() == [4, -1]
    np.testing.assert_allclose(answer.p_values, [1.0, 0.25])


def test_constant_scores_have_no_skill():
    assert metrics.auroc_unseen(np.ones(10), np.arange(10) < 3) == 0.5


def test_trade_off_is_the_slow_count_at_every_threshold():
    rng = np.random.default_rng(0)
    scores, right, unseen = rng.integers(0, 9, 80) / 1.0, rng.random(80) < 0.8, rng.random(80) < 0.3
    for found, kept, threshold in zip(*metrics.trade_off(scores, right, unseen), strict=True):
        reject = scores >= threshold
        assert found == pytest.approx(reject[unseen].mean())
        assert kept == pytest.approx((right & ~reject)[~unseen].mean())


def test_confusion_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels, decided = rng.integers(-1, 4, 200), rng.integers(-1, 4, 200)
    expected = confusion_matrix(labels, decided, labels=[0, 1, 2, 3, -1])
    np.testing.assert_array_equal(metrics.confusion(decided, labels, 4), expected)


def test_accuracy_counts_only_known_and_detection_only_unseen():
    labels, decided = np.array([0, 1, 2, -1, -1]), np.array([0, -1, 1, -1, 2])
    unseen = labels == -1
    assert metrics.accepted_accuracy(decided, labels, unseen) == pytest.approx(1 / 3)
    assert metrics.detection_rate(decided, unseen) == 0.5
