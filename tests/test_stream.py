"""Detection by a whole stream: EM by a slow loop, symmetry, promises kept by simulation, faults told."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from embedood import scorers
from embedood.discovery import Discovery, OpenMixture, StreamDetector
from embedood.metrics import auroc_unseen
from embedood.outputs import Outputs
from embedood.scorers import NotFittedError
from embedood.splits import UNSEEN

KNOWN = np.array([[-3.0, 0, 0], [3.0, 0, 0], [0, 4.0, 0]])
BETWEEN = np.array([0.0, 0.3, 0])  # nearer to the known classes than many of their own rows


def outputs(z, labels):
    """Rows in three dimensions; logits are a linear head's, that of equal Gaussians at the known means."""
    weight, bias = KNOWN.copy(), -np.square(KNOWN).sum(1) / 2
    return Outputs(z @ weight.T + bias, z, labels, weight, bias)


def known(rows, seed):
    rng = np.random.default_rng([seed, 1])
    labels = rng.integers(0, 3, rows)
    return outputs(KNOWN[labels] + rng.normal(size=(rows, 3)), labels)


def stream(usual, unusual, seed, centre=BETWEEN):
    """Known rows, then rows of a new class."""
    old, rng = known(usual, seed + 1000), np.random.default_rng([seed, 2])
    new = centre + 0.7 * rng.normal(size=(unusual, 3))
    labels = np.concatenate([old.labels, np.full(unusual, UNSEEN)])
    return outputs(np.concatenate([old.embeddings, new]), labels)


def detector(**settings):
    return StreamDetector(**({"components": 3, "restarts": 2} | settings)).fit(known(300, 0))


MIXTURE = OpenMixture(
    known=np.array([[0.0, 0.0], [3.0, 0.0]]),
    new=np.array([[1.0, 2.0], [-1.0, -1.0], [5.0, 5.0]]),
    known_weights=np.array([0.3, 0.7]),
    new_weights=np.array([0.5, 0.2, 0.3]),
    share=0.25,
    variance=1.7,
)


def slow_posterior(mixture, row):
    """Of each known and each new component, by Bayes' rule with scipy's densities."""
    weights = [*(1 - mixture.share) * mixture.known_weights, *mixture.share * mixture.new_weights]
    means = [*mixture.known, *mixture.new]
    densities = [multivariate_normal(mean, mixture.variance).pdf(row) for mean in means]
    joint = np.array(weights) * densities
    return joint / joint.sum()


def test_log_odds_are_those_of_bayes_rule():
    z = np.random.default_rng(0).normal(size=(20, 2)) * 3
    slow = [slow_posterior(MIXTURE, row) for row in z]
    expected = [np.log(p[2:].sum() / p[:2].sum()) for p in slow]
    np.testing.assert_allclose(MIXTURE.log_odds(z), expected, rtol=1e-9)


def test_a_step_is_the_slow_em_with_one_more_row_at_each_mean():
    z = np.random.default_rng(1).normal(size=(30, 2)) * 2
    posterior = np.array([slow_posterior(MIXTURE, row) for row in z])
    rows, after = posterior.sum(0) + 1, MIXTURE.step(z)
    new = [
        (sum(p * row for p, row in zip(posterior[:, 2 + k], z, strict=True)) + MIXTURE.new[k])
        / rows[2 + k]
        for k in range(3)
    ]
    means = np.concatenate([MIXTURE.known, MIXTURE.new])
    squares = np.array([[np.sum((row - mean) ** 2) for mean in means] for row in z])
    np.testing.assert_array_equal(after.known, MIXTURE.known)
    np.testing.assert_allclose(after.new, new, rtol=1e-9)
    np.testing.assert_allclose(after.known_weights, rows[:2] / rows[:2].sum(), rtol=1e-9)
    np.testing.assert_allclose(after.new_weights, rows[2:] / rows[2:].sum(), rtol=1e-9)
    assert after.share == pytest.approx(rows[2:].sum() / rows.sum())
    assert after.variance == pytest.approx((posterior * squares).sum() / z.size)


def test_a_class_between_the_known_ones_is_found_by_its_crowd_and_not_alone():
    seen = stream(600, 120, seed=3)
    is_new = seen.labels == UNSEEN
    found = detector().calibrate(known(300, 7)).decide(seen)
    alone = scorers.make("mahalanobis").fit(known(300, 0)).score(seen)
    assert auroc_unseen(found.scores, is_new) > auroc_unseen(alone, is_new) + 0.1
    assert found.is_unseen[is_new].mean() > 0.6
    assert found.is_unseen[~is_new].mean() < 0.1
    accepted = ~found.is_unseen & ~is_new
    assert (found.labels[accepted] == seen.labels[accepted]).mean() > 0.95


def test_a_crowd_of_one_class_says_nothing_of_another():
    listened = detector().listen(stream(600, 120, seed=3))
    other = stream(600, 120, seed=4, centre=np.array([3.2, 3.5, 0.0]))
    assert auroc_unseen(listened.score(other), other.labels == UNSEEN) < 0.7
    own = detector().listen(other)
    assert auroc_unseen(own.score(other), other.labels == UNSEEN) > 0.95


def test_neither_order_nor_labels_nor_who_is_hidden_makes_a_difference():
    seen, hidden = stream(200, 40, seed=5), known(100, 8)
    before = detector().calibrate(hidden).decide(seen).scores
    order = np.random.default_rng(0).permutation(len(seen))
    nameless = replace(seen[order], labels=np.full(len(seen), UNSEEN))
    again = detector().calibrate(hidden).decide(nameless).scores
    np.testing.assert_allclose(again, before[order])
    # A known row of the stream and a hidden one change places: all keep their scores.
    place = replace(seen, embeddings=seen.embeddings.copy(), logits=seen.logits.copy())
    swapped = replace(hidden, embeddings=hidden.embeddings.copy(), logits=hidden.logits.copy())
    for a, b in ((place.embeddings, swapped.embeddings), (place.logits, swapped.logits)):
        a[0], b[0] = b[0].copy(), a[0].copy()
    judge = detector().calibrate(swapped)
    after = judge.decide(place).scores
    np.testing.assert_allclose(after[1:], before[1:])
    assert judge.score(swapped)[0] == pytest.approx(before[0])


def test_known_rows_are_rejected_at_the_promised_rate():
    rates = []
    for seed in range(60):
        seen = stream(60, 20, seed)
        judge = detector(restarts=1, iterations=5).calibrate(known(39, seed), false_alarm=0.1)
        decided = judge.decide(seen)
        rates.append(decided.is_unseen[seen.labels != UNSEEN].mean())
    # The rate is 0.1 exactly, on average; its standard error over the draws is told by them.
    assert abs(np.mean(rates) - 0.1) < 3 * np.std(rates) / np.sqrt(len(rates))


def test_false_discoveries_are_as_few_as_promised():
    shares, found = [], []
    for seed in range(60):
        seen = stream(100, 40, seed, centre=np.array([0.0, 0.3, 2.0]))
        judge = detector(restarts=1, iterations=5).calibrate(known(150, seed))
        decided = judge.decide(seen, false_discovery=0.2)
        is_known = seen.labels != UNSEEN
        shares.append((decided.is_unseen & is_known).sum() / max(decided.is_unseen.sum(), 1))
        found.append(decided.is_unseen[~is_known].mean())
    assert np.mean(shares) < 0.2 + 2 * np.std(shares) / np.sqrt(len(shares))
    assert np.mean(found) > 0.3, "a rule that finds nothing would keep the promise, too"


def test_fitting_again_forgets_validation_and_stream():
    judge = detector().calibrate(known(60, 1)).listen(stream(100, 20, 0))
    assert judge.is_calibrated
    assert np.isfinite(judge.score(known(5, 1))).all()
    with pytest.raises(NotFittedError, match=r"call listen\(stream\) first"):
        judge.fit(known(300, 0)).score(known(5, 1))
    with pytest.raises(NotFittedError, match=r"call calibrate\(validation\) first"):
        judge.decide(known(5, 1))


def test_float32_is_worked_on_in_double_precision():
    seen, hidden = stream(100, 20, 0), known(60, 1)
    halved = [
        replace(part, embeddings=part.embeddings.astype(np.float32), logits=part.logits.astype(np.float32))
        for part in (seen, hidden)
    ]  # fmt: skip
    scores = detector().calibrate(halved[1]).decide(halved[0]).scores
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, detector().calibrate(hidden).decide(seen).scores, atol=1e-3)


def test_shrinkage_is_that_of_the_mahalanobis_score():
    train = known(30, 0)
    shrunk = StreamDetector(components=2, shrinkage=0.3).fit(train)
    whitening = scorers.Mahalanobis(shrinkage=0.3).fit(train).whitening_
    np.testing.assert_allclose(shrunk.whitening_, whitening)


def test_discovery_takes_it_as_its_detector():
    seen = stream(600, 120, seed=3)
    judge = StreamDetector(components=3, restarts=2)
    discovery = Discovery(detector=judge, dimensions=None, false_alarm=0.03)
    found = discovery.fit(known(300, 0), known(300, 7)).discover(seen, k=1)
    alone = detector().calibrate(known(300, 7), false_alarm=0.03).decide(seen)
    np.testing.assert_array_equal(found.is_new, alone.is_unseen)
    assert found.threshold == alone.threshold
    assert not judge.is_calibrated, "the one that was passed in is not changed"
    with pytest.raises(ValueError, match="takes no outliers"):
        discovery.fit(known(300, 0), known(300, 7), outliers=seen)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"components": 0}, ValueError, "components must be a whole number of at least 1, got 0"),
        (
            {"components": True},
            ValueError,
            "components must be a whole number of at least 1, got True",
        ),
        ({"restarts": 1.5}, ValueError, "restarts must be a whole number of at least 1, got 1.5"),
        ({"suspects": 1.0}, ValueError, "suspects must be a share between 0 and 1, got 1.0"),
        ({"suspects": "many"}, ValueError, "suspects must be a share between 0 and 1, got 'many'"),
        ({"seed": "a"}, ValueError, "seed must be a whole number of at least 0, got 'a'"),
        ({"seed": -1}, ValueError, "seed must be a whole number of at least 0, got -1"),
        ({"scorer": "energy"}, TypeError, "scorers.make"),
        ({"scorer": scorers.make("temperature_softmax")}, ValueError, "needs .*validation"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        detector(**settings)


def test_faults_are_told():
    with pytest.raises(NotFittedError, match=r"call fit\(train\) first"):
        StreamDetector().listen(known(10, 0))
    with pytest.raises(ValueError, match=r"3 components start among suspects.* of 5 rows is 2"):
        detector().listen(known(5, 0))
    with pytest.raises(ValueError, match="labels"):
        detector().calibrate(stream(50, 10, 1))
    with pytest.raises(ValueError, match=r"cannot hold a false-alarm rate of 0\.05"):
        detector().calibrate(known(10, 1)).decide(stream(50, 10, 0))
    few = detector().calibrate(known(10, 1))
    assert len(few.decide(stream(50, 10, 0), false_discovery=0.2).labels) == 60
    with pytest.raises(ValueError, match="nothing to listen to"):
        detector().listen()
    other = Outputs(np.zeros((4, 3)), np.zeros((4, 2)), np.zeros(4, int), None, None)
    with pytest.raises(ValueError, match="fitted with C = 3, D = 3; stream has C = 3, D = 2"):
        detector().listen(other)
    far = known(50, 1)
    far.embeddings[3:5] *= 1e200
    with pytest.raises(ValueError, match="overflow float64 at 2 of 50 rows of stream"):
        detector().listen(far)
    flat = replace(known(50, 1), embeddings=np.ones((50, 3)))
    with pytest.raises(ValueError, match="D = 3 dimensions, from 50 rows, is singular"):
        StreamDetector().fit(flat)
