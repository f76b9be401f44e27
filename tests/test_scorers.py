"""Scores against slow formulas and scipy, and what every scorer of the table must keep to."""

import json
import tracemalloc
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal
from scorer_outputs import CLASSES, DIMENSIONS, deficient, made, real
from sklearn.covariance import LedoitWolf, empirical_covariance, ledoit_wolf, shrunk_covariance
from sklearn.linear_model import LogisticRegression

from embedood import metrics, scorers
from embedood.outputs import Outputs
from embedood.scorers import activations, gaussians

EXPECTED = Path(__file__).with_name("scorers_auroc.json")


def learned(name, source=made):
    """A scorer of the table that has been given all it may ask for."""
    scorer = scorers.make(name).fit(source(seed=1))
    return scorer.calibrate(source(seed=2), source(unseen=True, seed=2))


def norm(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


# Formulas


def test_scores_from_logits_by_hand():
    logits = np.log([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3]])
    two = Outputs(logits, logits, np.zeros(2, int), np.eye(3), np.zeros(3))
    np.testing.assert_allclose(scorers.MaxSoftmax().score(two), [0.3, 0.6])
    np.testing.assert_allclose(scorers.Energy().score(two), [0, 0], atol=1e-12)
    np.testing.assert_allclose(scorers.MaxLogit().score(two), -np.log([0.7, 0.4]))
    entropy = -0.7 * np.log(0.7) - 0.2 * np.log(0.2) - 0.1 * np.log(0.1)
    assert scorers.Entropy().score(two)[0] == pytest.approx(entropy)
    gen = (0.7 * 0.3) ** 0.1 + (0.2 * 0.8) ** 0.1
    assert scorers.GEN(gamma=0.1, largest=2).score(two)[0] == pytest.approx(gen)


def test_very_sure_images_keep_their_order():
    logits = np.array([[60.0, 0, 0], [70.0, 0, 0]])
    sure = Outputs(logits, logits, np.zeros(2, int), np.eye(3), np.zeros(3))
    for scorer in (scorers.MaxSoftmax(), scorers.GEN(), scorers.Entropy()):
        first, second = scorer.score(sure)
        assert first > second > 0


def test_energy_with_a_temperature():
    o = made()
    slow = [-2 * np.log(np.exp(row / 2).sum()) for row in o.logits]
    np.testing.assert_allclose(scorers.Energy(temperature=2).score(o), slow)


@pytest.mark.parametrize("source", [made, real, deficient])
def test_temperature_is_that_of_another_minimiser(source):
    o = source()

    def loss(t):
        return -np.log(softmax(o.logits / t[0], axis=1)[np.arange(len(o)), o.labels]).mean()

    best = minimize(loss, [1.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
    found = scorers.TemperatureSoftmax().calibrate(o).temperature_
    assert found == pytest.approx(best.x[0], rel=1e-4)


def test_kl_matching_is_the_slow_formula():
    validation, test = made(seed=1), made()
    p, q = validation.probabilities, test.probabilities
    typical = [p[p.argmax(1) == c].mean(0) for c in range(CLASSES)]
    slow = [min((row * np.log(row / d)).sum() for d in typical) for row in q]
    np.testing.assert_allclose(
        scorers.KLMatching().calibrate(validation).score(test), slow, rtol=1e-6
    )


@pytest.mark.parametrize("source", [made, real, deficient])
@pytest.mark.parametrize("relative", [False, True])
def test_mahalanobis_is_the_slow_formula_with_the_same_covariance(source, relative):
    train, test = source(), source(seed=1)
    classes = train.logits.shape[1]
    means = np.stack([train.embeddings[train.labels == c].mean(0) for c in range(classes)])
    tied = LedoitWolf(assume_centered=True).fit(train.embeddings - means[train.labels])
    slow = cdist(test.embeddings, means, "mahalanobis", VI=tied.precision_).min(1) ** 2
    if relative:
        slow = slow - LedoitWolf().fit(train.embeddings).mahalanobis(test.embeddings)
    found = scorers.Mahalanobis(relative).fit(train).score(test)
    np.testing.assert_allclose(found, slow, rtol=1e-7, atol=1e-8)


def test_mahalanobis_has_the_size_of_a_covariance_not_of_a_scatter():
    few, many = (scorers.Mahalanobis().fit(made(n)).score(made(n)).mean() for n in (1000, 4000))
    assert few == pytest.approx(many, rel=0.1)
    assert many == pytest.approx(DIMENSIONS, rel=0.3), "a χ² with D degrees of freedom, roughly"


def test_mahalanobis_of_rank_deficient_embeddings_is_no_negative_number():
    flat = deficient()
    flat.embeddings[:, 0] = 0
    scores = scorers.Mahalanobis().fit(flat).score(deficient(seed=1, unseen=True))
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    with pytest.raises(ValueError, match=r"D = 16 dimensions, from 400 rows, is singular"):
        scorers.Mahalanobis(shrinkage=0).fit(flat)


@pytest.mark.parametrize("kind", ["full", "diagonal", "tied"])
@pytest.mark.parametrize("source", [made, real, deficient])
def test_class_gaussians_are_those_of_scipy(kind, source):
    train, test = source(), source(seed=1)
    classes = range(train.logits.shape[1])
    rows = [train.embeddings[train.labels == c] for c in classes]
    residuals = [r - r.mean(0) for r in rows]
    if kind == "tied":
        residuals = [np.concatenate(residuals)] * len(rows)
    covs = [LedoitWolf(assume_centered=True).fit(r).covariance_ for r in residuals]
    if kind == "diagonal":
        covs = [np.diag(np.diag(c)) for c in covs]
    log_p = [
        np.log(len(r) / len(train)) + multivariate_normal(r.mean(0), c).logpdf(test.embeddings)
        for r, c in zip(rows, covs, strict=True)
    ]
    found = scorers.ClassGaussians(kind).fit(train).score(test)
    np.testing.assert_allclose(found, -logsumexp(log_p, axis=0), rtol=1e-7)


@pytest.mark.parametrize("source", [made, real, deficient])
def test_nearest_neighbour_is_the_slow_formula_and_bears_zero_rows(source):
    train, test = source(), source(seed=1)
    test.embeddings[0] = 0
    unit = [z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
            for z in (test.embeddings, train.embeddings)]  # fmt: skip
    slow = np.sort(cdist(*unit), axis=1)[:, 4]
    found = scorers.NearestNeighbour(k=5).fit(train).score(test)
    np.testing.assert_allclose(found, slow, rtol=1e-6)


def test_training_rows_are_not_their_own_neighbours_where_left_out():
    train = made()
    distances = cdist(norm(train.embeddings), norm(train.embeddings))
    np.fill_diagonal(distances, np.inf)
    knn = scorers.NearestNeighbour(k=5).fit(train)
    np.testing.assert_allclose(knn.leave_one_out(), np.sort(distances, 1)[:, 4], rtol=1e-6)
    assert (knn.score(train) <= knn.leave_one_out()).all()

    weighted = -scorers.Energy().score(train)
    similar = norm(train.embeddings) @ (norm(train.embeddings) * weighted[:, None]).T
    np.fill_diagonal(similar, -np.inf)
    slow = -weighted * np.sort(similar, 1)[:, -5:].mean(1)
    guide = scorers.NNGuide(k=5).fit(train)
    np.testing.assert_allclose(guide.leave_one_out(chunk_size=77), slow, rtol=1e-9)


def test_cosine_prototype_is_the_slow_formula():
    train, test = made(), made(seed=1)
    means = np.stack([train.embeddings[train.labels == c].mean(0) for c in range(CLASSES)])
    slow = cdist(test.embeddings, means, "cosine").min(1)
    np.testing.assert_allclose(scorers.CosinePrototype().fit(train).score(test), slow, atol=1e-12)


def test_vim_by_hand_and_its_default_dimension():
    train = made()
    shifted = train.embeddings + np.linalg.pinv(train.head_weight) @ train.head_bias
    axes = np.linalg.svd(shifted, full_matrices=False)[2]
    for d, scorer in [(DIMENSIONS // 2, scorers.ViM()), (3, scorers.ViM(d=3))]:
        residual = np.linalg.norm(shifted - shifted @ axes[:d].T @ axes[:d], axis=1)
        alpha = train.logits.max(1).mean() / residual.mean()
        slow = alpha * residual - logsumexp(train.logits, axis=1)
        np.testing.assert_allclose(scorer.fit(train).score(train), slow, rtol=1e-8)


@pytest.mark.parametrize(("source", "d"), [(made, 16), (deficient, 11)])
def test_vim_without_a_residual_is_refused_not_nan(source, d):
    with pytest.raises(ValueError, match=f"d = {d} leaves no residual of D = 16"):
        scorers.ViM(d=d).fit(source())


def test_she_takes_all_rows_of_a_class_never_predicted_right():
    train = made()
    train.logits[train.labels == 2, 2] = -50
    pattern = scorers.SHE().fit(train).patterns_[2]
    np.testing.assert_allclose(pattern, train.embeddings[train.labels == 2].mean(0))


def test_rows_of_zeros_get_finite_scores_from_every_scorer():
    dark = made()
    dark.embeddings[:3] = 0
    for name in scorers.TABLE:
        assert np.isfinite(learned(name).score(dark)).all(), name


def test_reconstruction_errors_are_those_of_the_outputs():
    o = made()
    np.testing.assert_array_equal(scorers.ReconstructionError().score(o), o.mse)
    np.testing.assert_array_equal(scorers.ReconstructionError(noised=True).score(o), o.mse_noised)


def test_class_reconstruction_is_the_slow_formula_and_bears_rare_classes():
    validation, test = made(seed=1), made()
    predicted = validation.logits.argmax(1)
    validation.logits[(predicted == 3), 3] = -50  # nothing is predicted 3 any more
    predicted = validation.logits.argmax(1)
    groups = {c: validation.mse[predicted == c] for c in range(CLASSES)} | {3: validation.mse}
    slow = [(e - groups[c].mean()) / groups[c].std(ddof=1)
            for e, c in zip(test.mse, test.logits.argmax(1), strict=True)]  # fmt: skip
    scorer = scorers.ClassReconstructionError().calibrate(validation)
    np.testing.assert_allclose(scorer.score(test), slow)


def test_p_values_by_hand():
    known = np.array([1.0, 2.0, 2.0, 3.0])
    found = scorers.p_values(np.array([0.0, 2.0, 9.0]), known)
    np.testing.assert_allclose(found, [1, 4 / 5, 1 / 5])


@given(st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_p_values_stay_within_0_and_1(n, seed):
    rng = np.random.default_rng(seed)
    p = scorers.p_values(rng.integers(0, 5, 20), np.sort(rng.integers(0, 5, n)))
    assert ((p > 0) & (p <= 1)).all()


MEMBERS = (scorers.Energy(), scorers.Mahalanobis())


def test_fusion_of_ranks_is_the_sum_of_log_p():
    train, validation, test = made(seed=1), made(seed=2), made()
    fused = scorers.Fusion(MEMBERS).fit(train).calibrate(validation)
    slow = [
        -sum(np.log((1 + (m.score(validation) >= m.score(one)).sum()) / 401) for m in MEMBERS)
        for one in (test[i : i + 1] for i in range(20))
    ]
    np.testing.assert_allclose(fused.score(test[:20]), slow)


def test_fusion_by_logistic_regression_is_scikit_learns():
    train, known, odd, test = made(seed=1), made(seed=2), made(100, unseen=True), made()
    fused = scorers.Fusion(MEMBERS, how="logistic").fit(train).calibrate(known, odd)
    columns = [np.stack([m.score(o) for m in MEMBERS], 1) for o in (known, odd, test)]
    mean, deviation = columns[0].mean(0), columns[0].std(0)
    a, b, c = ((x - mean) / deviation for x in columns)
    model = LogisticRegression(class_weight="balanced")
    model.fit(np.concatenate([a, b]), np.arange(500) >= 400)
    np.testing.assert_allclose(fused.score(test), model.decision_function(c), rtol=1e-4, atol=1e-4)
    strict = scorers.Fusion(MEMBERS, how="logistic", C=1e-3).fit(train).calibrate(known, odd)
    assert np.linalg.norm(strict.weights_) < 0.5 * np.linalg.norm(fused.weights_)


def test_weights_of_a_fusion_serve_another_network_with_scores_of_its_own_scale():
    train, known, odd, test = made(seed=1), made(seed=2), made(100, unseen=True), made()
    learned = scorers.Fusion(MEMBERS, "logistic").fit(train).calibrate(known, odd)
    carried = scorers.Fusion(MEMBERS, "logistic", learned.weights_)
    assert set(carried.needs) == {"train", "validation"}
    same = carried.fit(train).calibrate(known).score(test)
    np.testing.assert_allclose(same, learned.score(test) - learned.intercept_)
    louder = [
        replace(o, logits=o.logits * 3, head_weight=o.head_weight * 3) for o in (train, known, test)
    ]
    members = (scorers.MaxLogit(), scorers.Mahalanobis())
    quiet, loud = (
        scorers.Fusion(members, "logistic", (2.0, 1.0)).fit(a).calibrate(b).score(c)
        for a, b, c in ((train, known, test), louder)
    )
    np.testing.assert_allclose(loud, quiet)


# What every scorer keeps to


def in_type(kind, o):
    """The outputs with all numbers but the labels in another type."""
    arrays = {f.name: getattr(o, f.name) for f in fields(o) if f.name != "labels"}
    return replace(o, **{n: a.astype(kind) for n, a in arrays.items() if a is not None})


single, double = partial(in_type, np.float32), partial(in_type, np.float64)


@pytest.mark.parametrize("name", sorted(set(scorers.TABLE) - {"fusion_rank", "fusion_logistic"}))
def test_float32_arrays_score_as_the_same_numbers_in_float64_do(name):
    parts = [single(o) for o in (made(seed=1), made(seed=2), made(unseen=True, seed=2))]
    tests = [single(made(seed=5)), single(made(unseen=True, seed=5))]
    found = []
    for turn in (single, double):
        train, validation, odd = map(turn, parts)
        scorer = scorers.make(name).fit(train).calibrate(validation, odd)
        found.append(np.concatenate([scorer.score(turn(o)) for o in tests]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-5 * np.abs(found[1]).mean())
    areas = [metrics.auroc_unseen(scores, np.arange(800) >= 400) for scores in found]
    assert areas[0] == pytest.approx(areas[1], abs=1e-5)  # one pair of 160,000 is 6e-6


@pytest.mark.parametrize("name", scorers.TABLE)
@pytest.mark.parametrize("rows", ["fresh", "learned from"])
def test_float32_scores_alone_or_in_a_batch(name, rows):
    """Rows of the validation set too, each of which must tie with itself where ranks are taken."""
    scorer = learned(name, lambda **how: single(made(**how)))
    test = single(made(60) if rows == "fresh" else made(seed=2)[:60])
    together = scorer.score(test)
    assert together.dtype == np.float64
    alone = np.concatenate([scorer.score(test[i : i + 1]) for i in range(60)])
    digits = 1e-6 if name.startswith("fusion") else 1e-5
    near = {"rtol": digits, "atol": digits * np.abs(together).mean()}
    np.testing.assert_allclose(alone, together, **near)
    np.testing.assert_allclose(scorer.score(test, chunk_size=7), together, **near)


ENDS = [[1, -1, 0, 0, 0], [1, 1, -1, -1, 0], [-1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, -1, 1, 1]]


def at_the_ends(o):
    """Every other row has logits so large, of both signs, that their differences overflow."""
    end = 0.9 * np.finfo(o.logits.dtype).max
    logits = o.logits.copy()
    logits[::2] = end * np.resize(np.array(ENDS, o.logits.dtype), logits[::2].shape)
    return replace(o, logits=logits, perturbed_logits=logits)


def spoiled_logits_score(name, kind, turn):
    parts = (made(seed=1), made(seed=2), made(unseen=True, seed=2), made())
    train, validation, odd, test = (in_type(kind, part) for part in parts)
    scorer = scorers.make(name).fit(turn(train)).calibrate(turn(validation), turn(odd))
    return scorer.score(at_the_ends(test))


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("turn", [at_the_ends, lambda o: o], ids=["learned from", "scored"])
@pytest.mark.parametrize("name", scorers.TABLE)
def test_float32_logits_whose_differences_overflow_have_finite_scores(name, turn):
    assert np.isfinite(spoiled_logits_score(name, np.float32, turn)).all()


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("turn", [at_the_ends, lambda o: o], ids=["learned from", "scored"])
@pytest.mark.parametrize("name", scorers.TABLE)
def test_float64_logits_whose_differences_overflow_are_finite_or_refused(name, turn):
    try:
        told = str(np.isfinite(spoiled_logits_score(name, np.float64, turn)).all())
    except ValueError as refused:
        told = str(refused)
    assert told == "True" or "overflows float64 at" in told


def test_very_sure_float32_images_keep_their_order_and_digits():
    logits = np.array([[60, 0, 0], [90, 0, 0], [200, 1, 0], [300, 0, 0]], np.float32)
    sure = Outputs(logits, logits, np.zeros(4, int), np.eye(3), np.zeros(3))
    for scorer in (scorers.MaxSoftmax(), scorers.GEN(), scorers.Entropy()):
        found = scorer.score(sure)
        assert (np.diff(found) < 0).all()
        assert found[-1] > 0
        np.testing.assert_allclose(found, scorer.score(double(sure)), rtol=1e-5)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_neighbours_almost_equal_to_a_row_keep_their_distances(kind):
    rng = np.random.default_rng(0)
    rows = (1 + 1e-3 * rng.normal(size=(300, 16))).astype(kind)
    rows[10:30] = rows[5]
    close = replace(made(300), embeddings=rows)
    unit = norm(rows.astype(np.float64))
    slow = np.sort(cdist(unit, unit), axis=1)
    knn = scorers.NearestNeighbour(k=40).fit(close)
    digits = 1e-3 if kind == np.float32 else 1e-9  # float32 unit rows are exact to 6e-8 only
    np.testing.assert_allclose(knn.score(close), slow[:, 39], rtol=digits)
    assert scorers.NearestNeighbour(k=5).fit(close).score(close)[12] == 0


@pytest.mark.parametrize("largest", [1, 3, 4, 5, 100])
def test_gen_is_the_slow_formula(largest):
    o, p = made(), -np.sort(-made().probabilities, axis=1)[:, :largest]
    slow = ((p * (1 - p)) ** 0.1).sum(1)
    np.testing.assert_allclose(scorers.GEN(largest=largest).score(o), slow, rtol=1e-6)


@pytest.mark.parametrize("percentile", [0, 30, 65, 90, 99])
@pytest.mark.parametrize("ties", [False, True])
def test_the_largest_activations_are_those_of_a_stable_sort(percentile, ties):
    z = np.random.default_rng(0).gamma(1, size=(200, 17))
    z = np.floor(3 * z) if ties else z
    kept = max(17 - round(17 * percentile / 100), 1)
    slow = np.zeros(z.shape, bool)
    np.put_along_axis(slow, np.argsort(-z, axis=1, kind="stable")[:, :kept], True, axis=1)
    np.testing.assert_array_equal(activations.largest(z, percentile), slow)
    found = activations.quantile(z, percentile / 100)
    assert found == pytest.approx(np.quantile(z, percentile / 100), rel=1e-12)


@pytest.mark.parametrize("shrinkage", [None, 0, 0.3])
@pytest.mark.parametrize("rows", [3, 40, 2500])
def test_covariance_is_scikit_learns(rows, shrinkage):
    x = np.random.default_rng(0).normal(size=(rows, 12)) * np.arange(1, 13)
    means = x.mean(0, keepdims=True)
    found = gaussians.scatter(x, means, np.zeros(rows, int), np.arange(rows))
    centred = x - means
    if shrinkage is None:
        slow = ledoit_wolf(centred, assume_centered=True)[0]
    else:
        slow = shrunk_covariance(empirical_covariance(centred, assume_centered=True), shrinkage)
    np.testing.assert_allclose(found.covariance(shrinkage), slow, rtol=1e-10, atol=1e-12)


def test_separable_labels_give_the_lowest_temperature():
    sure = replace(made(), logits=20.0 * np.eye(CLASSES)[made().labels])
    for o in (sure, single(sure)):
        assert scorers.TemperatureSoftmax().calibrate(o).temperature_ == pytest.approx(0.01)


def test_large_finite_numbers_are_not_taken_for_infinite():
    far, knn = single(made()), scorers.NearestNeighbour().fit(made())
    far.embeddings[0, 0] = 1e30  # its square is infinite in float32
    assert np.isfinite(knn.score(far)).all()
    far.embeddings[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"\(400, 16\), hold 1 NaN"):
        knn.score(far)


@pytest.mark.parametrize("name", scorers.TABLE)
def test_auroc_on_frozen_outputs_is_what_it_was(name):
    scorer = learned(name)
    scores = np.concatenate([scorer.score(made(seed=5)), scorer.score(made(unseen=True, seed=5))])
    found = metrics.auroc_unseen(scores, np.arange(800) >= 400)
    assert found == pytest.approx(json.loads(EXPECTED.read_text())[name], abs=1e-4)


@pytest.mark.parametrize("name", scorers.TABLE)
def test_scores_are_one_float64_per_row_alone_or_in_a_batch(name):
    scorer, test = learned(name), made(60)
    together = scorer.score(test)
    assert (together.shape, together.dtype) == ((60,), np.float64)
    alone = np.concatenate([scorer.score(test[i : i + 1]) for i in range(60)])
    np.testing.assert_allclose(alone, together, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(scorer.score(test, chunk_size=7), together, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", scorers.TABLE)
def test_inputs_stay_as_they_were(name):
    parts = [made(seed=1), made(seed=2), made(unseen=True, seed=2), made()]
    for part in parts:
        for field in fields(part):
            getattr(part, field.name).flags.writeable = False
    train, validation, odd, test = parts
    first = scorers.make(name).fit(train).calibrate(validation, odd)
    np.testing.assert_array_equal(first.score(test), first.score(test))


@pytest.mark.parametrize("name", scorers.TABLE)
def test_float32_outputs_do(name):
    scorer = scorers.make(name).fit(single(made(seed=1)))
    scorer.calibrate(single(made(seed=2)), single(made(unseen=True, seed=2)))
    expected = learned(name).score(made())
    scale = np.abs(expected).mean()
    close = np.isclose(scorer.score(single(made())), expected, rtol=1e-3, atol=1e-4 * scale)
    assert close.mean() > 0.99  # a rank or a tied activation may turn on the last digit


@pytest.mark.parametrize("name", scorers.TABLE)
def test_torch_tensors_give_the_same_as_arrays(name):
    def tensors(o):
        return Outputs(**{f.name: torch.from_numpy(getattr(o, f.name)) for f in fields(o)})

    scorer = scorers.make(name).fit(tensors(made(seed=1)))
    scorer.calibrate(tensors(made(seed=2)), tensors(made(unseen=True, seed=2)))
    np.testing.assert_array_equal(scorer.score(tensors(made())), learned(name).score(made()))


@pytest.mark.parametrize("name", scorers.TABLE)
def test_unfitted_use_is_refused(name):
    scorer = scorers.make(name)
    if {"train", "validation"} & set(scorer.needs):
        with pytest.raises(scorers.NotFittedError, match=type(scorer).__name__):
            scorer.score(made())
    else:
        assert len(scorer.score(made())) == 400


@pytest.mark.parametrize("name", scorers.TABLE)
def test_fit_again_is_fit_anew(name):
    again = learned(name).fit(made(seed=3)).calibrate(made(seed=4), made(unseen=True, seed=4))
    fresh = scorers.make(name).fit(made(seed=3))
    fresh.calibrate(made(seed=4), made(unseen=True, seed=4))
    np.testing.assert_array_equal(again.score(made()), fresh.score(made()))
    if "validation" in again.needs:
        with pytest.raises(scorers.NotFittedError, match="calibrate"):
            again.fit(made(seed=3)).score(made())


def spoiled(**arrays):
    return replace(made(20), **arrays)


BAD = {
    "rows": (spoiled(labels=np.zeros(19, int)), r"N×C.*\(20, 5\).*\(19,\)"),
    "head": (spoiled(head_weight=np.zeros((4, 16))), r"N×C.*\(4, 16\)"),
    "flat": (spoiled(embeddings=np.zeros(20)), r"N×C.*'embeddings': \(20,\)"),
    "errors": (spoiled(mse=np.zeros((20, 1))), r"N×C.*'mse': \(20, 1\)"),
    "empty": (made(20)[:0], r"at least one row and two classes.*\(0, 5\)"),
    "one class": (
        spoiled(
            logits=np.zeros((20, 1)),
            head_weight=np.zeros((1, 16)),
            head_bias=np.zeros(1),
            perturbed_logits=None,
        ),
        r"two classes.*\(20, 1\)",
    ),
}


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("name", scorers.TABLE)
def test_bad_outputs_are_refused_with_their_sizes(name, fault):
    bad, message = BAD[fault]
    with pytest.raises(ValueError, match=message):
        scorers.make(name).fit(bad)
    with pytest.raises(ValueError, match=message):
        learned(name).score(bad)


ARRAYS = [f.name for f in fields(Outputs) if f.name != "labels"]
READ = [(name, array) for name in scorers.TABLE for array in scorers.make(name).reads]
UNREAD = [(n, array) for n in scorers.TABLE for array in ARRAYS if (n, array) not in READ]


def learned_and_scored(name, turn):
    return learned(name, lambda **how: turn(made(**how))).score(turn(made()))


@pytest.mark.parametrize(("name", "array"), UNREAD)
def test_arrays_that_a_scorer_does_not_read_may_hold_anything(name, array):
    found = learned_and_scored(name, lambda o: replace(o, **{array: getattr(o, array) * np.nan}))
    np.testing.assert_array_equal(found, learned(name).score(made()))


@pytest.mark.parametrize(("name", "array"), READ)
def test_arrays_that_a_scorer_reads_count_and_must_be_finite(name, array):
    values = getattr(made(), array)
    other = values * np.random.default_rng(0).uniform(0.7, 1.3, values.shape)
    found = learned_and_scored(name, lambda o: replace(o, **{array: other}))
    assert not np.array_equal(found, learned(name).score(made()))

    spoilt, scorer = made(20), learned(name)
    getattr(spoilt, array).flat[0] = np.inf
    for part, use in {
        "train": lambda: scorers.make(name).fit(spoilt),
        "validation": lambda: scorer.calibrate(spoilt, made(unseen=True)),
        "outliers": lambda: scorer.calibrate(made(), spoilt),
        "outputs": lambda: scorer.score(spoilt),
    }.items():
        message = f"^{array} of {part}, shape .*, hold 1 NaN or infinite values, the first in row 0"
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize(("name", "array"), [(n, a) for n, a in READ if a.startswith("head")])
def test_a_score_that_reads_the_last_layer_says_so_where_there_is_none(name, array):
    headless = replace(made(20), **{array: None})
    message = f"^train lack {array}, which this score reads: the weight C×D and the bias C"
    with pytest.raises(ValueError, match=message):
        scorers.make(name).fit(headless)


def test_other_scores_do_without_the_last_layer():
    whole = made()
    headless = replace(whole, head_weight=None, head_bias=None)
    with_head, without = (scorers.make("mahalanobis").fit(o).score(o) for o in (whole, headless))
    np.testing.assert_array_equal(without, with_head)


def test_what_a_new_scorer_does_not_declare_it_reads():
    assert list(scorers.Scorer().reads) == ARRAYS


@pytest.mark.parametrize("name", scorers.TABLE)
def test_outputs_of_another_network_are_refused(name):
    other = real(50)
    with pytest.raises(ValueError, match=r"fitted with C = 5, D = 16; got C = 9, D = 24"):
        learned(name).score(other)


@pytest.mark.parametrize("name", scorers.TABLE)
def test_unseen_labels_and_single_classes_are_refused_in_training(name):
    labels = made().labels.copy()
    labels[:3] = -1
    with pytest.raises(
        ValueError, match=r"0 … 4; 3 of 400 rows have the labels \[-1\], the first is row 0"
    ):
        scorers.make(name).fit(replace(made(), labels=labels))
    with pytest.raises(ValueError, match="400 rows of one class only"):
        scorers.make(name).fit(replace(made(), labels=np.full(400, 3)))


@pytest.mark.parametrize("name", sorted(set(scorers.TABLE) - {"she"}))
def test_a_class_without_training_rows_is_left_out(name):
    train = made(seed=1)
    scorer = scorers.make(name).fit(train[train.labels != 2])
    scorer.calibrate(made(seed=2), made(unseen=True, seed=2))
    assert np.isfinite(scorer.score(made())).all()


def test_she_refuses_a_class_without_training_rows():
    train = made()
    with pytest.raises(ValueError, match=r"all 5 classes; of 320 rows none is of \[2\]"):
        scorers.SHE().fit(train[train.labels != 2])


@pytest.mark.parametrize("name", ["react", "dice", "ash_s", "ash_b", "scale"])
def test_negative_embeddings_are_refused(name):
    signed = made()
    signed.embeddings[0, :2] = -1
    with pytest.raises(ValueError, match=r"≥ 0.*\(400, 16\), 2 values are negative"):
        scorers.make(name).fit(signed).score(signed)


def test_energies_that_are_not_positive_are_refused_by_nnguide():
    low = made()
    low.logits[:2] = -9
    with pytest.raises(ValueError, match=r"2 of 400 rows have none"):
        scorers.NNGuide(k=5).fit(low)


@pytest.mark.parametrize("k", [0, 2.5, -1])
def test_a_number_of_neighbours_is_an_integer_from_one_on(k):
    with pytest.raises(ValueError, match="must be an integer from 1 on, got"):
        scorers.NearestNeighbour(k).fit(made())


def test_fdbd_refuses_two_classes_with_one_weight():
    train = made()
    train.head_weight[3] = train.head_weight[1]
    with pytest.raises(ValueError, match="two of the 5 classes have the same head_weight"):
        scorers.FDBD().fit(train)


@pytest.mark.parametrize("scorer", [scorers.NearestNeighbour(50), scorers.NNGuide(50)])
def test_too_few_rows_for_k_neighbours_are_refused(scorer):
    with pytest.raises(
        ValueError, match="k = 50 neighbours need at least 51 training rows, got 50"
    ):
        scorer.fit(made(50))


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("odin", "perturbed_logits", "odin_epsilon"),
        ("reconstruction", "mse", "decoder"),
        ("reconstruction_noised", "mse_noised", "noise_seed"),
    ],
)
def test_what_the_outputs_lack_is_named(name, missing, message):
    with pytest.raises(ValueError, match=message):
        scorers.make(name).score(replace(made(), **{missing: None}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: scorers.make("softmax"), "unknown scorer 'softmax'; the scorers are max_softmax, "),
        (lambda: scorers.ClassGaussians("round").fit(made()), "not 'round'"),
        (lambda: scorers.ReAct(100).fit(made()), r"\[0, 100\), got 100"),
        (lambda: scorers.ASH("p").score(made()), "not 'p'"),
        (
            lambda: scorers.Fusion(MEMBERS, "logistic", (1.0,)).fit(made()),
            "one for each of 2 scorers",
        ),
        (
            lambda: scorers.Fusion(MEMBERS, "rank", (1.0, 2.0)).fit(made()).calibrate(made()),
            "of 'rank'",
        ),
        (lambda: scorers.Fusion(MEMBERS, "rank", C=0.0).fit(made()).calibrate(made()), "C = 0.0"),
        (lambda: scorers.Fusion((), "rank").calibrate(made()), "of 0"),
        (lambda: scorers.make("fusion_logistic").fit(made()).calibrate(made()), "pseudo-OOD"),
        (lambda: scorers.KLMatching().calibrate(made(unseen=True)), "validation must hold known"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_the_table_names_families_needs_and_sources():
    assert all(name == entry.name for name, entry in scorers.TABLE.items())
    assert set(scorers.TABLE["fusion_logistic"].needs) == {"outliers", "train", "validation"}
    assert scorers.TABLE["odin"].needs == ("gradient",)
    assert set(scorers.TABLE["reconstruction_by_class"].needs) == {"decoder", "validation"}
    for entry in scorers.TABLE.values():
        needs = set(entry.needs)
        assert needs <= {"train", "validation", "outliers", "gradient", "decoder"}, entry.name


@pytest.mark.parametrize("scorer", [scorers.NearestNeighbour(50), scorers.NNGuide(50)])
def test_memory_is_bounded_by_the_chunk(scorer):
    scorer.fit(made(2000))
    queries = made(8000, seed=1)
    scorer.score(queries[:10])
    peaks = []
    for chunk_size in (100, 2000):
        tracemalloc.start()
        scorer.score(queries, chunk_size)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    whole = 8000 * 2000 * 8
    assert peaks[0] < whole / 20
    assert peaks[1] < whole / 2


@pytest.mark.parametrize("name", scorers.TABLE)
def test_no_matrix_of_rows_by_rows_is_built(name):
    """Not of rows to learn from, nor of those to score: 6000 of each, and for some left out in turn."""
    rows = made(6000)
    tracemalloc.start()
    scorer = scorers.make(name).fit(rows).calibrate(rows, rows)
    scorer.score(rows, chunk_size=6000)
    if hasattr(scorer, "leave_one_out"):
        scorer.leave_one_out(chunk_size=6000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000 * 6000 * 4 / 3  # a third of such a matrix in float32
