"""Thresholds, p-values and decisions: by hand, by brute force, and their guarantees on fresh data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scorer_outputs import made

from embedood import detector, scorers
from embedood.detector import Detector


def calibrated(scorer=None, **settings):
    found = Detector(scorer or scorers.Energy()).fit(made(seed=1))
    return found.calibrate(made(seed=2), made(unseen=True, seed=2), **settings)


# Thresholds


def gains(known, outliers, loss):
    """The loss of every threshold between, below and above the scores."""
    every = np.unique(np.concatenate([known, outliers]))
    between = [every[0] - 1, *(every[:-1] + every[1:]) / 2, every[-1]]
    return {t: loss((known > t).mean(), (outliers <= t).mean()) for t in between}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("rule", "loss"),
    [
        (detector.youden_threshold, lambda alarms, misses: alarms + misses),
        (detector.equal_error_threshold, lambda alarms, misses: abs(alarms - misses)),
        (lambda k, o: detector.cost_threshold(k, o, 4.0), lambda alarms, misses: alarms + 4 * misses),
        (lambda k, o: detector.cost_threshold(k, o, 99.0), lambda alarms, misses: alarms + 99 * misses),
    ],
)  # fmt: skip
def test_thresholds_are_the_best_of_all_by_brute_force(rule, loss, tied):
    rng = np.random.default_rng(0)
    known, outliers = rng.normal(0, 1, 80), rng.normal(1.5, 1, 50)
    if tied:
        known, outliers = known.round(), outliers.round()
    t = rule(known, outliers)
    reached = loss((known > t).mean(), (outliers <= t).mean())
    assert reached == pytest.approx(min(gains(known, outliers, loss).values()))
    assert t not in known
    assert t not in outliers


def test_outliers_on_the_wrong_side_reject_nothing_or_everything():
    low, high = np.arange(5.0), np.arange(10.0, 15)
    t = detector.youden_threshold(high, low)
    assert t == 14, "no threshold has a gain: nothing is rejected"
    t = detector.cost_threshold(high, low, 99)
    assert t < 0, "missing costs more: all are"


def test_neighbouring_floats_are_still_told_apart():
    known = np.array([1.0])
    outliers = np.nextafter(known, 2)
    t = detector.youden_threshold(known, outliers)
    assert known[0] <= t < outliers[0]


@pytest.mark.parametrize("bad", [np.array([]), np.array([np.nan]), np.zeros((2, 2))])
def test_bad_scores_are_refused_by_name(bad):
    with pytest.raises(ValueError, match="outliers must be a non-empty 1-D"):
        detector.youden_threshold(np.zeros(3), bad)


def test_too_few_known_scores_for_a_rate_are_refused():
    with pytest.raises(ValueError, match=r"10 known scores cannot hold.*at least 19"):
        detector.false_alarm_threshold(np.arange(10.0), 0.05)
    assert detector.false_alarm_threshold(np.arange(19.0), 0.05) == 18


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.29, 0.3, 0.57, 0.7, 0.9])
@pytest.mark.parametrize("n", [99, 100, 137])
def test_scores_above_the_threshold_are_those_with_p_up_to_alpha(alpha, n):
    known = np.random.default_rng(n).normal(size=n)
    fresh = np.random.default_rng(0).normal(size=1000)
    reject = fresh > detector.false_alarm_threshold(known, alpha)
    p = scorers.p_values(fresh, np.sort(known))
    np.testing.assert_array_equal(reject, p <= alpha + 1e-12)


# Guarantees


def fresh_alarms(scorer, repeats, alpha=0.1):
    """One fresh known image a calibration: p-values, and whether it is rejected."""
    judge = Detector(scorer).fit(made(seed=1))
    sizes = 80 if "validation" in scorer.needs else 40
    pool = made(repeats * (sizes + 1), seed=3)
    answers = [
        judge.calibrate(block[1:], false_alarm=alpha, seed=i).decide(block[:1])
        for i in range(repeats)
        for block in [pool[i * (sizes + 1) : (i + 1) * (sizes + 1)]]
    ]
    return np.array([a.p_values[0] for a in answers]), np.array([a.is_unseen[0] for a in answers])


@pytest.mark.parametrize(
    ("scorer", "repeats"),
    [
        (scorers.Energy(), 1500),
        (scorers.Mahalanobis(), 500),
        (scorers.TemperatureSoftmax(), 300),
        (scorers.Fusion((scorers.Energy(), scorers.Mahalanobis())), 300),
    ],
)
def test_false_alarms_on_fresh_images_are_binomial_at_the_promised_rate(scorer, repeats):
    """With 40 scores and α = 0.1 a fresh image is rejected with probability 4/41, exactly, or less."""
    p, rejected = fresh_alarms(scorer, repeats)
    low, high = stats.binom.interval(0.999, repeats, 4 / 41)
    assert rejected.sum() <= high
    if not isinstance(scorer, scorers.Fusion):  # whose scores tie, which makes it more careful
        assert rejected.sum() >= low
    for level in np.arange(1, 41) / 41:
        assert (p <= level).sum() <= stats.binom.ppf(0.99999, repeats, level)


def test_false_alarm_rate_of_one_calibration_is_beta_binomial():
    """Of m fresh known images, given one calibration: exact interval of the number rejected."""
    judge = Detector(scorers.Energy()).fit(made(seed=1)).calibrate(made(999, seed=2))
    rejected = judge.decide(made(20_000, seed=3)).is_unseen.sum()
    low, high = stats.betabinom.interval(0.999, 20_000, 50, 950)
    assert low <= rejected <= high


def test_p_values_of_tied_scores_are_super_uniform():
    rng = np.random.default_rng(0)
    p = [scorers.p_values(s[:1], np.sort(s[1:]))[0] for s in rng.integers(0, 4, (4000, 20)) / 1.0]
    for level in np.arange(1, 20) / 20:
        assert (np.array(p) <= level).sum() <= stats.binom.ppf(0.99999, 4000, level)


def test_scorer_and_threshold_learn_from_different_rows_of_validation():
    first, second = detector.halves(made(401), seed=0)
    assert (len(first), len(second)) == (201, 200)
    rows = np.concatenate([first.embeddings, second.embeddings])
    assert len(np.unique(rows, axis=0)) == 401

    judge = calibrated(scorers.make("fusion_logistic"))
    assert judge.scorer.calibrated_ == 200
    assert len(judge.known_scores_) == 200
    assert len(calibrated(scorers.Energy()).known_scores_) == 400


def test_false_discoveries_stay_within_their_rate():
    judge = Detector(scorers.Mahalanobis()).fit(made(seed=1))
    shares = []
    for seed in range(60):
        judge.calibrate(made(500, seed=100 + seed))
        far = made(60, unseen=True, seed=200 + seed)
        far = replace(far, embeddings=far.embeddings * 3)
        found = judge.decide(far, false_discovery=0.2).is_unseen
        batch = replace(far, **{
            f: np.concatenate([getattr(far, f), getattr(made(140, seed=300 + seed), f)])
            for f in ("logits", "embeddings", "labels", "mse", "mse_noised", "perturbed_logits")
        })  # fmt: skip
        reject = judge.decide(batch, false_discovery=0.2).is_unseen
        shares.append(reject[60:].sum() / max(reject.sum(), 1))
        assert found.mean() > 0.9
    error = np.std(shares) / np.sqrt(60)
    assert np.mean(shares) <= 0.2 * 140 / 200 + 3 * error


def test_benjamini_hochberg_is_the_step_up_rule():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(30) ** 3
        ordered = np.sort(p)
        below = np.flatnonzero(ordered <= 0.1 * np.arange(1, 31) / 30)
        cut = ordered[below[-1]] if len(below) else -1
        np.testing.assert_array_equal(detector.benjamini_hochberg(p, 0.1), p <= cut)
    with pytest.raises(ValueError, match="between 0 and 1, got 5"):
        detector.benjamini_hochberg(p, 5)


# Decisions


def test_decisions_are_class_or_unseen_with_score_threshold_and_p_value():
    judge, test = calibrated(), made(unseen=True)
    answer = judge.decide(test)
    expected = np.where(answer.scores > answer.threshold, -1, test.logits.argmax(1))
    np.testing.assert_array_equal(answer.labels, expected)
    assert answer.threshold == judge.threshold_
    np.testing.assert_array_equal(answer.p_values <= 0.05, answer.is_unseen)
    assert 0 < answer.is_unseen.mean() < 1


def test_one_image_is_decided_as_in_a_batch():
    judge, test = calibrated(scorers.Mahalanobis()), made(30, unseen=True)
    together = judge.decide(test)
    for i in range(30):
        alone = judge.decide(test[i : i + 1])
        assert alone.labels[0] == together.labels[i]
        assert alone.scores[0] == pytest.approx(together.scores[i])
        assert alone.p_values[0] == together.p_values[i]


def test_rules_of_the_detector_are_the_functions():
    known, odd = (scorers.Energy().score(o) for o in (made(seed=2), made(unseen=True, seed=2)))
    for settings, expected in [
        ({}, detector.false_alarm_threshold(known, 0.05)),
        ({"false_alarm": 0.2}, detector.false_alarm_threshold(known, 0.2)),
        ({"rule": "youden"}, detector.youden_threshold(known, odd)),
        ({"rule": "equal_error"}, detector.equal_error_threshold(known, odd)),
        ({"rule": "cost", "miss_cost": 3}, detector.cost_threshold(known, odd, 3)),
    ]:
        assert calibrated(**settings).threshold_ == expected


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: Detector(scorers.Energy()).decide(made()), scorers.NotFittedError, "no threshold"),
        (lambda: Detector(scorers.Energy()).save("x"), scorers.NotFittedError, "no threshold"),
        (lambda: calibrated().fit(made()).decide(made()), scorers.NotFittedError, "no threshold"),
        (lambda: Detector(scorers.Mahalanobis()).calibrate(made()), scorers.NotFittedError, "fit"),
        (lambda: calibrated(rule="best"), ValueError, "'best' is none of"),
        (lambda: Detector(scorers.Energy()).calibrate(made(), rule="youden"), ValueError, "pseudo"),
        (lambda: calibrated(rule="cost", miss_cost=-1), ValueError, "positive, got -1"),
        (lambda: calibrated(false_alarm=0), ValueError, "between 0 and 1, got 0"),
        (lambda: calibrated(false_alarm=0.001), ValueError, "at least 999 are needed"),
        (lambda: detector.halves(made(1), 0), ValueError, "1 rows"),
    ],
)  # fmt: skip
def test_wrong_use_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


@pytest.mark.parametrize("array", ["logits", "embeddings", "head_bias", "mse"])
def test_no_array_may_hold_nan_whether_the_scorer_reads_it_or_not(array):
    judge, spoilt = calibrated(scorers.MaxLogit()), made(40)
    getattr(spoilt, array)[3] = np.nan
    for part, use in {
        "train": lambda: judge.fit(spoilt),
        "validation": lambda: judge.calibrate(spoilt),
        "outliers": lambda: judge.calibrate(made(), spoilt),
        "outputs": lambda: judge.decide(spoilt),
    }.items():
        with pytest.raises(ValueError, match=f"^{array} of {part}, .* NaN"):
            use()


# Files


@pytest.mark.parametrize("name", scorers.TABLE)
def test_a_detector_comes_back_from_one_file(name, tmp_path):
    before = calibrated(scorers.make(name), rule="youden")
    before.save(tmp_path / "detector.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["detector.npz"]
    after = Detector.load(tmp_path / "detector.npz")
    assert after.scorer == before.scorer
    first, second = (d.decide(made(50, unseen=True)) for d in (before, after))
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.p_values, second.p_values)
    assert first.threshold == second.threshold


def test_another_file_is_refused(tmp_path):
    made(5).save(tmp_path / "outputs.npz")
    with pytest.raises(ValueError, match=r"no 'embedood detector 2' file; it holds \['embeddings'"):
        Detector.load(tmp_path / "outputs.npz")


def test_a_file_of_another_format_says_which(tmp_path):
    calibrated().save(tmp_path / "detector.npz")
    with np.load(tmp_path / "detector.npz") as file:
        arrays = dict(file)
    arrays["config"] = str(arrays["config"]).replace("embedood detector 2", "embedood detector 1")
    np.savez(tmp_path / "old.npz", **arrays)
    with pytest.raises(
        ValueError, match=r"old\.npz is no 'embedood detector 2' file; it is '.* 1'"
    ):
        Detector.load(tmp_path / "old.npz")


BROKEN = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"energy,0.5",
    "cut": lambda whole: whole[: len(whole) // 2],
    "bytes changed": lambda whole: whole[:60] + bytes(20) + whole[80:],
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_refused_by_name(fault, tmp_path):
    path = tmp_path / "broken.npz"
    calibrated(scorers.Mahalanobis()).save(path)
    path.write_bytes(BROKEN[fault](path.read_bytes()))
    with pytest.raises(ValueError, match=r"broken\.npz cannot be read, save the detector again"):
        Detector.load(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        Detector.load(tmp_path / "none.npz")


def test_no_pickle_is_ever_loaded(tmp_path):
    np.savez(tmp_path / "evil.npz", config=np.array([{"format": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        Detector.load(tmp_path / "evil.npz")


def test_rows_of_no_known_class_set_no_threshold():
    strange = replace(made(), labels=np.where(np.arange(len(made())) == 3, -1, made().labels))
    with pytest.raises(ValueError, match=r"validation must hold known classes only.*\[-1\]"):
        Detector(scorers.Energy()).calibrate(strange)


def test_what_is_no_scorer_or_no_outputs_is_refused_with_what_would_be_right():
    with pytest.raises(
        TypeError, match=r"takes a scorer, such as scorers.make\('energy'\), got 'energy'"
    ):
        Detector("energy")
    detector = Detector(scorers.Energy()).calibrate(made())
    with pytest.raises(
        TypeError, match="outputs must be Outputs, made of your arrays, got ndarray"
    ):
        detector.decide(np.zeros((3, 5)))


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda outputs: {"logits": outputs.logits.tolist()}, "logits of train .* got list"),
        (lambda outputs: {"labels": None}, "labels of train .* got NoneType"),
        (lambda outputs: {"embeddings": outputs.embeddings.astype(str)}, "array of <U"),
        (lambda outputs: {"embeddings": outputs.embeddings + 0j}, "array of complex128"),
        (
            lambda outputs: {"embeddings": torch.tensor(outputs.embeddings).bfloat16()},
            "after .detach().cpu().float(); got a tensor for which .*BFloat16",
        ),
        (
            lambda outputs: {"embeddings": torch.tensor(outputs.embeddings).requires_grad_()},
            "got a tensor for which .*requires grad",
        ),
    ],
)
def test_what_is_no_array_of_real_numbers_is_refused_by_name(change, got):
    outputs = made()
    pattern = got.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(TypeError, match=pattern):
        Detector(scorers.Energy()).fit(replace(outputs, **change(outputs)))


def test_labels_between_two_classes_are_refused():
    with pytest.raises(ValueError, match=r"rows have the labels \[0\.5, 1\.5"):
        Detector(scorers.Energy()).fit(replace(made(), labels=made().labels + 0.5))
