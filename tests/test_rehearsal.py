"""Known classes that play the unseen: which score finds them, and what weights they teach."""

from dataclasses import replace

import numpy as np
import pytest
from scorer_outputs import made
from sklearn.linear_model import LogisticRegression

from embedood import metrics, rehearsal, scorers

NAMES = ("energy", "mahalanobis", "nearest_neighbour")


def joined(*parts):
    """Rows of several outputs of one network, in this order."""
    rows = ("logits", "embeddings", "labels", "mse", "mse_noised", "perturbed_logits")
    arrays = {f: [getattr(part, f) for part in parts] for f in rows}
    return replace(
        parts[0], **{f: np.concatenate(a) for f, a in arrays.items() if a[0] is not None}
    )


def bare(outputs):
    """Without what a network only gives where it is asked for more."""
    return replace(outputs, mse=None, mse_noised=None, perturbed_logits=None)


def play(seed=0, kept=100, outliers=None):
    asked = joined(made(seed=10 * seed), made(kept, unseen=True, seed=seed))
    return rehearsal.Play(
        bare(made(seed=10 * seed + 1)), bare(made(seed=10 * seed + 2)), bare(asked), outliers
    )


def test_an_auroc_is_that_of_the_score_fitted_by_hand():
    one = play()
    scorer = scorers.Mahalanobis().fit(one.train)
    by_hand = metrics.auroc_unseen(scorer.score(one.asked), one.asked.labels == -1)
    assert one.auroc("mahalanobis") == by_hand


def test_scores_are_ranked_by_their_mean_over_plays():
    plays = [play(seed) for seed in range(3)]
    found = rehearsal.compare(plays, NAMES)
    assert set(found.aurocs) == set(NAMES)
    for name, aurocs in found.aurocs.items():
        assert aurocs.tolist() == [one.auroc(name) for one in plays]
    means = [aurocs.mean() for aurocs in found.aurocs.values()]
    assert means == sorted(means, reverse=True)
    assert found.best == max(NAMES, key=lambda name: found.aurocs[name].mean())


def test_by_default_all_scores_are_asked_that_the_outputs_serve():
    found = rehearsal.compare([play()])
    wanted = {"gradient", "decoder", "outliers"}
    assert set(found.aurocs) == {n for n, e in scorers.TABLE.items() if not wanted & set(e.needs)}
    with_more = replace(play(), asked=joined(made(), made(100, unseen=True)))
    with_outliers = replace(with_more, outliers=bare(made(50, unseen=True, seed=9)))
    assert "odin" in rehearsal.compare([with_more]).aurocs
    assert "fusion_logistic" in rehearsal.compare([with_outliers]).aurocs
    assert "odin" not in rehearsal.compare([with_more, play()]).aurocs, "one play cannot serve it"


def test_a_score_that_refuses_one_play_is_left_out_with_its_reason():
    shifted = [
        replace(part, embeddings=part.embeddings - 1)
        for part in (play().train, play().validation, play().asked)
    ]
    found = rehearsal.compare([play(), rehearsal.Play(*shifted)], ("react", "energy"))
    assert list(found.aurocs) == ["energy"]
    assert "needs embeddings ≥ 0" in found.refused["react"]
    with pytest.raises(ValueError, match=r"no score takes these outputs: ReAct.* needs"):
        rehearsal.compare([rehearsal.Play(*shifted)], ["react"])


def test_weights_are_those_of_a_regression_over_all_plays():
    plays = [play(0), play(1, kept=37)]
    fused = rehearsal.fusion(plays, NAMES, choices=[0.1])
    columns, sides, rows = [], [], []
    for one in plays:
        members = [scorers.make(name).fit(one.train) for name in NAMES]
        usual, told = (
            np.stack([m.score(o) for m in members], 1) for o in (one.validation, one.asked)
        )
        columns.append((told - usual.mean(0)) / usual.std(0))
        side = one.asked.labels == -1
        sides.append(side)
        rows.append(np.where(side, 1 / side.sum(), 1 / (~side).sum()))
    total = sum(map(len, sides))
    slow = LogisticRegression(C=0.1, max_iter=2000)
    slow.fit(np.vstack(columns), np.concatenate(sides), np.concatenate(rows) * total / 4)
    np.testing.assert_allclose(fused.weights, slow.coef_[0], rtol=1e-4)
    assert [type(m) for m in fused.scorers] == [type(scorers.make(name)) for name in NAMES]


def test_c_is_the_one_that_serves_a_play_it_was_not_taught_by():
    plays = [play(seed) for seed in range(3)]

    def slow(c):
        found = []
        for i, one in enumerate(plays):
            taught = rehearsal.fusion([*plays[:i], *plays[i + 1 :]], NAMES, [c])
            taught = taught.fit(one.train).calibrate(one.validation)
            found.append(metrics.auroc_unseen(taught.score(one.asked), one.is_unseen))
        return np.mean(found)

    choices = (1e-6, 0.1, 10.0)
    tried = {c: slow(c) for c in choices}
    assert len(set(tried.values())) == 3
    best = rehearsal.fusion(plays, NAMES, [max(tried, key=tried.get)])
    np.testing.assert_allclose(rehearsal.fusion(plays, NAMES, choices).weights, best.weights)


def test_weights_go_to_the_score_that_knows_something():
    rng = np.random.default_rng(0)

    def noise_logits(outputs):
        return replace(outputs, logits=rng.normal(size=outputs.logits.shape))

    plays = [
        rehearsal.Play(*map(noise_logits, (p.train, p.validation, p.asked)))
        for p in (play(), play(1))
    ]
    energy, distance = rehearsal.fusion(plays, ("energy", "mahalanobis")).weights
    assert abs(energy) < 0.2 * distance


def test_a_learned_fusion_is_a_score_like_any_other():
    fused = rehearsal.fusion([play(), play(1)], NAMES)
    here = play(2)
    fused.fit(here.train).calibrate(here.validation)
    assert metrics.auroc_unseen(fused.score(here.asked), here.is_unseen) > 0.6


@pytest.mark.parametrize("labels", [np.full(500, -1), np.zeros(500, int)])
def test_a_play_without_one_side_is_refused(labels):
    one = play()
    with pytest.raises(ValueError, match=f"of 500 rows {(labels == -1).sum()} are labelled −1"):
        replace(one, asked=replace(one.asked, labels=labels))


def test_labels_and_values_of_a_play_are_checked_before_any_score_is_asked():
    one = play()
    labels = one.asked.labels.copy()
    labels[:3] = 9
    with pytest.raises(ValueError, match=r"asked must be labelled 0 … 4, or −1 .* got \[9\] among"):
        replace(one, asked=replace(one.asked, labels=labels))
    embeddings = one.train.embeddings.copy()
    embeddings[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"embeddings of train, .* the first in row 7"):
        replace(one, train=replace(one.train, embeddings=embeddings))
    with pytest.raises(TypeError, match="train must be Outputs, made of your arrays, got tuple"):
        rehearsal.Play((1,), (2,), (3,))


@pytest.mark.parametrize(
    ("request_", "kind", "message"),
    [
        (lambda p: rehearsal.compare([]), ValueError, "at least one play"),
        (lambda p: rehearsal.compare([p], []), ValueError, "at least one name"),
        (lambda p: rehearsal.compare(p), TypeError, "plays and names are lists"),
        (lambda p: rehearsal.compare([p], "energy"), TypeError, "plays and names are lists"),
        (lambda p: rehearsal.compare([p], ["best"]), ValueError, "unknown scorer 'best'"),
        (lambda p: rehearsal.fusion([p], NAMES), ValueError, "two are needed; got 1"),
        (lambda p: rehearsal.fusion([p, p], ()), ValueError, "at least one score"),
        (lambda p: rehearsal.fusion([p, p], NAMES, [0]), ValueError, "must be positive"),
        (lambda p: rehearsal.fusion([p, p], NAMES, []), ValueError, "must be positive"),
        (lambda p: rehearsal.fusion([p, p], ["odin"]), ValueError, "play 0: no perturbed_logits"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(request_, kind, message):
    with pytest.raises(kind, match=message):
        request_(play())


def test_what_the_plays_do_not_hold_is_named():
    refused = rehearsal.compare([play()]).refused
    assert refused["odin"] == "asks for gradient, which not every play holds"
    assert set(refused) == {n for n, e in scorers.TABLE.items()
                            if {"gradient", "decoder", "outliers"} & set(e.needs)}  # fmt: skip


def test_only_a_logistic_fusion_standardises():
    members = (scorers.Energy(), scorers.MaxLogit())
    with pytest.raises(scorers.NotFittedError):
        scorers.Fusion(members, "logistic", (1, 1)).standardised(made())
    ranks = scorers.Fusion(members).fit(made(seed=1)).calibrate(made(seed=2))
    with pytest.raises(ValueError, match='only how="logistic"'):
        ranks.standardised(made())
    even = scorers.Fusion(members, "logistic", (1, 1)).fit(made(seed=1)).calibrate(made(seed=2))
    told = even.standardised(made(seed=2))
    np.testing.assert_allclose(told.mean(1), 0, atol=1e-9)
    np.testing.assert_allclose(told.std(1), 1)
