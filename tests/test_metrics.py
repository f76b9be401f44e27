"""Metrics against scikit-learn, torchmetrics and slow counts, ties included."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import auc, confusion_matrix

from embedood import metrics, runtime

runtime.import_torchvision()
from torchmetrics import classification  # noqa: E402

UNSEEN_POSITIVE = [metrics.auroc_unseen, metrics.aupr_unseen, metrics.fpr_at_95_tpr_unseen]


def drawn(n=300, ties=False, seed=0):
    """Scores, which are unseen, and which are predicted right."""
    rng = np.random.default_rng(seed)
    unseen = rng.random(n) < 0.3
    scores = rng.normal(size=n) + 1.2 * unseen
    return scores.round() if ties else scores, unseen, rng.random(n) < 0.8


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("side", ["unseen", "known"])
def test_metrics_agree_with_torchmetrics(ties, side):
    scores, unseen, _ = drawn(ties=ties)
    positive, signed = (unseen, scores) if side == "unseen" else (~unseen, -scores)
    # Ranks over 300 are exact in its float32 and keep within [0, 1], where it applies no sigmoid.
    ranks = torch.tensor(np.unique(signed, return_inverse=True)[1] / 300)
    target = torch.tensor(positive).int()
    assert metrics.auroc_unseen(scores, unseen) == pytest.approx(
        classification.BinaryAUROC()(ranks, target).item(), rel=1e-5
    )
    aupr = getattr(metrics, f"aupr_{side}")(scores, unseen)
    expected = classification.BinaryAveragePrecision()(ranks, target).item()
    assert aupr == pytest.approx(expected, rel=1e-5)
    specificity = classification.BinarySpecificityAtSensitivity(0.95)(ranks, target)[0].item()
    rate = getattr(metrics, f"fpr_at_95_tpr_{side}")(scores, unseen)
    assert rate == pytest.approx(1 - specificity, abs=1e-6)


def test_the_two_sides_are_named_apart():
    scores = np.array([0.0, 1, 2, 3, 4, 5])
    unseen = np.array([False, False, True, False, True, True])
    assert metrics.fpr_at_95_tpr_unseen(scores, unseen) == 1 / 3
    assert metrics.fpr_at_95_tpr_known(scores, unseen) == 1 / 3
    assert metrics.fpr_at_95_tpr_known(scores[1:], unseen[1:]) == 1 / 3
    assert metrics.fpr_at_95_tpr_unseen(scores[1:], unseen[1:]) == 1 / 2
    assert metrics.aupr_unseen(scores, unseen) == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert metrics.aupr_known(scores[1:], unseen[1:]) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_are_slow_counts(ties):
    scores, unseen, right = drawn(ties=ties)
    known = scores[~unseen]
    odd = scores[unseen]
    pairs = (odd[:, None] > known) + 0.5 * (odd[:, None] == known)
    assert metrics.auroc_unseen(scores, unseen) == pytest.approx(pairs.mean())
    assert metrics.oscr(scores, unseen, right) == pytest.approx((pairs * right[~unseen]).mean())
    thresholds = [*np.unique(scores), np.inf]
    errors = [((known >= t).mean() + (odd < t).mean()) / 2 for t in thresholds]
    assert metrics.detection_error(scores, unseen) == pytest.approx(min(errors))
    alarms = [(known >= t).mean() for t in thresholds if (odd >= t).mean() >= 0.95]
    assert metrics.fpr_at_95_tpr_unseen(scores, unseen) == pytest.approx(min(alarms))


@pytest.mark.parametrize("ties", [False, True])
def test_oscr_is_the_area_under_the_trade_off(ties):
    scores, unseen, right = drawn(ties=ties)
    detected, kept, _ = metrics.trade_off(scores, right, unseen)
    area = auc(1 - np.append(detected, 1), np.append(kept, 0))
    assert metrics.oscr(scores, unseen, right) == pytest.approx(area)
    assert metrics.oscr(scores, unseen, np.zeros(300, bool)) == 0


def test_order_of_rows_does_not_matter_even_with_ties():
    scores, unseen, right = drawn(ties=True)
    turned = np.argsort(unseen)[::-1]
    for metric in (*UNSEEN_POSITIVE, metrics.aupr_known, metrics.fpr_at_95_tpr_known):
        assert metric(scores, unseen) == pytest.approx(metric(scores[turned], unseen[turned]))
    found = metrics.oscr(scores[turned], unseen[turned], right[turned])
    assert found == pytest.approx(metrics.oscr(scores, unseen, right))


def test_constant_scores_have_no_skill():
    scores, unseen = np.ones(10), np.arange(10) < 3
    assert metrics.auroc_unseen(scores, unseen) == 0.5
    assert metrics.fpr_at_95_tpr_unseen(scores, unseen) == 1
    assert metrics.fpr_at_95_tpr_known(scores, unseen) == 1
    assert metrics.aupr_unseen(scores, unseen) == pytest.approx(0.3)
    assert metrics.aupr_known(scores, unseen) == pytest.approx(0.7)
    assert metrics.detection_error(scores, unseen) == 0.5
    assert metrics.oscr(scores, unseen, np.ones(10, bool)) == 0.5


@pytest.mark.parametrize(
    ("scores", "unseen", "message"),
    [
        (np.ones(3), np.zeros(3, bool), "got 3 known and 0 unseen"),
        (np.ones(3), np.ones(3, bool), "got 0 known and 3 unseen"),
        (np.ones(3), np.zeros(2, bool), r"\(3,\) and bool \(2,\)"),
        (np.ones((2, 2)), np.zeros((2, 2), bool), r"1-D.*\(2, 2\)"),
        (np.ones(2), np.array([0, 1]), "mask.*int64"),
        (np.array([1, np.nan]), np.array([True, False]), "1 of 2 scores are NaN"),
        (np.ones(0), np.zeros(0, bool), "got 0 known and 0 unseen"),
    ],
)
def test_bad_input_is_refused(scores, unseen, message):
    for metric in (*UNSEEN_POSITIVE, metrics.aupr_known, metrics.detection_error):
        with pytest.raises(ValueError, match=message):
            metric(scores, unseen)
    with pytest.raises(ValueError, match=message):
        metrics.bootstrap_interval(metrics.auroc_unseen, scores, unseen)


def test_lists_are_refused_by_name():
    with pytest.raises(TypeError, match="scores must be a NumPy array, got list"):
        metrics.auroc_unseen([0.5, 1.0], np.array([False, True]))
    with pytest.raises(TypeError, match="is_unseen must be a NumPy array, got list"):
        metrics.auroc_unseen(np.array([0.5, 1.0]), [False, True])


def test_oscr_refuses_another_length():
    scores, unseen, right = drawn()
    with pytest.raises(ValueError, match="is_right must have 300 entries, got 299"):
        metrics.oscr(scores, unseen, right[1:])


# Error bars


def delong(scores, unseen):
    """Placement values of the unseen and of the known: AUROC is the mean of either."""
    known, odd = scores[~unseen], scores[unseen]
    above = (odd[:, None] > known) + 0.5 * (odd[:, None] == known)
    return above.mean(1), above.mean(0)


def standard_error(a, b):
    return np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))


def test_bootstrap_interval_has_the_width_of_delongs():
    scores, unseen, _ = drawn(1000)
    found = metrics.bootstrap_interval(metrics.auroc_unseen, scores, unseen, resamples=600)
    assert found.value == metrics.auroc_unseen(scores, unseen)
    assert found.low < found.value < found.high
    width = 2 * 1.96 * standard_error(*delong(scores, unseen))
    assert found.high - found.low == pytest.approx(width, rel=0.12)


def test_paired_difference_has_the_width_of_delongs():
    scores, unseen, _ = drawn(1000)
    other = scores + np.random.default_rng(1).normal(size=1000) / 2
    found = metrics.paired_difference(metrics.auroc_unseen, scores, other, unseen, resamples=600)
    pairs = zip(delong(scores, unseen), delong(other, unseen), strict=True)
    width = 2 * 1.96 * standard_error(*(a - b for a, b in pairs))
    assert found.high - found.low == pytest.approx(width, rel=0.12)
    assert found.value == pytest.approx(
        metrics.auroc_unseen(scores, unseen) - metrics.auroc_unseen(other, unseen)
    )
    alone = metrics.bootstrap_interval(metrics.auroc_unseen, scores, unseen, resamples=200)
    assert found.high - found.low < alone.high - alone.low, "what both share cancels"


def test_a_scorer_does_not_differ_from_itself():
    scores, unseen, right = drawn(100)
    args = (metrics.oscr, scores, scores, unseen, right)
    assert metrics.paired_difference(*args, resamples=20) == (0, 0, 0)


def test_intervals_repeat_with_their_seed_and_keep_both_sides_at_their_size():
    scores, unseen, right = drawn(40)
    seen = []

    def metric(scores, unseen, right):
        seen.append((unseen.sum(), len(scores), len(right)))
        return metrics.oscr(scores, unseen, right)

    first, second, third = (
        metrics.bootstrap_interval(metric, scores, unseen, right, resamples=50, seed=s)
        for s in (0, 0, 1)
    )
    assert first == second != third
    assert set(seen) == {(unseen.sum(), 40, 40)}


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    """AUROC of two normals 1.2 apart is Φ(1.2/√2); about 38 of 40 intervals hold it."""
    truth, held = 0.80193, 0
    for seed in range(40):
        scores, unseen, _ = drawn(200, seed=seed)
        found = metrics.bootstrap_interval(metrics.auroc_unseen, scores, unseen, resamples=60)
        held += found.low <= truth <= found.high
    assert held >= 34


# Decisions


def test_trade_off_is_the_slow_count_at_every_threshold():
    scores, unseen, right = drawn(80, ties=True)
    for found, kept, threshold in zip(*metrics.trade_off(scores, right, unseen), strict=True):
        reject = scores >= threshold
        assert found == pytest.approx(reject[unseen].mean())
        assert kept == pytest.approx((right & ~reject)[~unseen].mean())


def test_confusion_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels, decided = rng.integers(-1, 4, 200), rng.integers(-1, 4, 200)
    expected = confusion_matrix(labels, decided, labels=[0, 1, 2, 3, -1])
    np.testing.assert_array_equal(metrics.confusion(decided, labels, 4), expected)


def test_decisions_are_counted_by_side():
    labels, decided = np.array([0, 1, 2, -1, -1]), np.array([0, -1, 1, -1, 2])
    unseen = labels == -1
    assert metrics.accepted_accuracy(decided, labels, unseen) == pytest.approx(1 / 3)
    assert metrics.detection_rate(decided, unseen) == 0.5
    assert metrics.rejection_accuracy(decided, labels, unseen) == pytest.approx(2 / 5)


# Several methods on several data sets


def test_mean_ranks_by_hand_and_ties_share():
    values = np.array([[0.9, 0.8], [0.9, 0.7], [0.5, 0.9]])
    np.testing.assert_allclose(metrics.mean_ranks(values), [(1.5 + 2) / 2, (1.5 + 3) / 2, 2.0])
    with pytest.raises(ValueError, match=r"methods × data sets; got shape \(2,\)"):
        metrics.mean_ranks(np.ones(2))


def test_critical_difference_equals_the_table_of_demsar():
    # q at 5 % for 2, 4 and 10 methods: 1.960, 2.569, 3.164
    for methods, q in ((2, 1.960), (4, 2.569), (10, 3.164)):
        expected = q * np.sqrt(methods * (methods + 1) / (6 * 14))
        assert metrics.critical_difference(methods, 14) == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match="got 1 on 3"):
        metrics.critical_difference(1, 3)


# Clusters


def best_matching(true, found):
    """The share right under the best one-to-one matching, by trying them all."""
    classes, clusters = np.unique(true), np.unique(found)
    names = [*classes, *[-99] * len(clusters)]  # a cluster may stay without a class
    tried = (dict(zip(clusters, p, strict=True)) for p in set(permutations(names, len(clusters))))
    return max(np.mean([way[f] == t for t, f in zip(true, found, strict=True)]) for way in tried)


@pytest.mark.parametrize(("classes", "clusters"), [(3, 3), (4, 2), (2, 4), (1, 3), (3, 1)])
def test_cluster_accuracy_is_the_best_of_all_matchings(classes, clusters):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        true, found = 7 * rng.integers(classes, size=12) - 3, rng.integers(clusters, size=12)
        reached = metrics.cluster_accuracy(true, found)
        assert reached == pytest.approx(best_matching(true, found))


def test_pairs_and_information_by_hand():
    true, found = np.array([0, 0, 1, 1]), np.array([5, 5, 5, 2])
    assert metrics.cluster_accuracy(true, found) == 3 / 4
    # Of 6 pairs 2 are together in truth, 3 as found, 1 in both: by chance 2·3/6 would be.
    assert metrics.adjusted_rand_index(true, found) == pytest.approx((1 - 1) / (2.5 - 1))
    both = sum(p * np.log(p / q) for p, q in [(0.5, 0.375), (0.25, 0.375), (0.25, 0.125)])
    entropies = np.log(2) - 0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    information = metrics.normalized_mutual_information(true, found)
    assert information == pytest.approx(2 * both / entropies)


def test_accuracy_over_known_and_new_classes_by_hand():
    #  known: right, wrong, called new | unseen: two together, one strayed, one called known
    true = np.array([0, 1, 1, 8, 8, 8, 9])
    found = np.array([0, 0, 2, 2, 2, 3, 1])
    is_unseen = true >= 8
    assert metrics.discovery_accuracy(true, found, is_unseen, 2) == 3 / 7
    found[-1] = 3  # its cluster now takes the class 9, and the row that strayed stays wrong
    assert metrics.discovery_accuracy(true, found, is_unseen, 2) == 4 / 7
    assert metrics.discovery_accuracy(true, np.zeros(7, int), is_unseen, 2) == 1 / 7
    assert metrics.discovery_accuracy(true, np.full(7, 4), is_unseen, 2) == 3 / 7
    assert metrics.discovery_accuracy(true[:4], np.full(4, 4), is_unseen[:4], 2) == 1 / 4


def test_accuracy_over_all_classes_is_the_best_of_all_matchings():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        true, found = rng.integers(5, size=12), rng.integers(6, size=12)
        unseen = true >= 3
        new = unseen & (found >= 3)
        expected = np.sum((true == found) & ~unseen)
        if new.any():
            expected += best_matching(true[new], found[new]) * new.sum()
        assert metrics.discovery_accuracy(true, found, unseen, 3) == pytest.approx(expected / 12)


@pytest.mark.parametrize("bad", [np.array([], int), np.zeros(3, int), np.zeros((2, 2), int)])
def test_partitions_that_do_not_fit_are_refused(bad):
    fine = bad if not bad.size else np.zeros(2, int)
    for metric in (metrics.cluster_accuracy, metrics.adjusted_rand_index):
        with pytest.raises(ValueError, match="1-D, of one length, not empty"):
            metric(fine, bad)
