"""New classes from mean directions: by hand, exact removal, order, files, refusals, a live network."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.exceptions import NotFittedError

from embedood import models, outputs, splits
from embedood.novel import SPACES, NovelClassifier, accuracies, shots

RNG = np.random.default_rng(0)
NAMES = np.array(["ant", "bee", "cow"])


def clouds(centres, each=40, spread=0.3, seed=0):
    """Gaussian clouds around centres, C×D, and the place of the centre of each row."""
    draw = np.random.default_rng(seed)
    place = np.repeat(np.arange(len(centres)), each)
    return centres[place] + spread * draw.normal(size=(len(place), centres.shape[1])), place


CENTRES = 4 + 2 * RNG.normal(size=(5, 6))
KNOWN, known_place = clouds(CENTRES[:3])
NEW, new_place = clouds(CENTRES[3:], seed=1)
ASKED, asked_place = clouds(CENTRES, seed=2)


def fitted(space="whitened", **settings):
    return NovelClassifier(space, **settings).fit(KNOWN, NAMES[known_place])


def test_by_hand_in_two_dimensions():
    known = np.array([[2.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 1.0]])
    classifier = NovelClassifier("raw", scale=2.0).fit(known, [0, 0, 1, 1])
    classifier.add(7, [[-1.0, 0.0], [0.0, -9.0]])  # of length 1 their mean points to −135°
    root = np.sqrt(0.5)
    np.testing.assert_allclose(classifier.directions_, [[1, 0], [0, 1], [-root, -root]])
    cosines = classifier.decision_function([[3.0, 4.0], [-2.0, 0.0]])
    np.testing.assert_allclose(cosines, [[0.6, 0.8, -1.4 * root], [-1, 0, root]], atol=1e-12)
    assert classifier.predict([[3.0, 4.0], [-2.0, 0.0]]).tolist() == [1, 7]
    np.testing.assert_allclose(
        classifier.predict_proba([[3.0, 4.0]])[0], softmax([1.2, 1.6, -2.8 * root])
    )


@pytest.mark.parametrize("space", SPACES)
def test_every_class_is_found_jointly_and_the_new_ones_disjointly(space):
    classifier = fitted(space)
    for c, name in enumerate(("dog", "elk")):
        classifier.add(name, NEW[new_place == c])
    truth = np.array([*NAMES, "dog", "elk"])[asked_place]
    assert (classifier.predict(ASKED) == truth).mean() > 0.95
    only = classifier.predict(ASKED, disjoint=True)
    assert set(only) == {"dog", "elk"}
    assert (only[asked_place > 2] == truth[asked_place > 2]).all()


def test_whitened_cosines_by_a_slow_loop():
    classifier = fitted("whitened", shrinkage=0.25).add("dog", NEW[:4])
    means = np.stack([KNOWN[known_place == c].mean(0) for c in range(3)])
    within = sum(np.outer(r, r) for r in KNOWN - means[known_place]) / len(KNOWN)
    within = 0.75 * within + 0.25 * np.trace(within) / 6 * np.eye(6)
    inverse, origin = np.linalg.inv(within), means.mean(0)

    def cosine(a, b):
        return a @ inverse @ b / np.sqrt((a @ inverse @ a) * (b @ inverse @ b))

    examples = [z - origin for z in NEW[:4]]
    mean = sum(e / np.sqrt(e @ inverse @ e) for e in examples)
    wanted = [cosine(z - origin, mean) for z in ASKED[:9]]
    np.testing.assert_allclose(classifier.decision_function(ASKED[:9])[:, -1], wanted)


@pytest.mark.parametrize("disjoint", [False, True])
def test_adapted_cosines_by_a_slow_loop(disjoint):
    examples = NEW[:7], NEW[new_place == 1]
    classifier = fitted("adapted", shrinkage=0.25).add("dog", examples[0]).add("elk", examples[1])
    means = [KNOWN[known_place == c].mean(0) for c in range(3)]
    origin = sum(means) / 3
    within = sum(np.outer(r, r) for r in KNOWN - np.stack(means)[known_place]) / len(KNOWN)
    spreads = [] if disjoint else 3 * [within]
    for z in examples:
        own = sum(np.outer(row - z.mean(0), row - z.mean(0)) for row in z)
        spreads.append((6 * within + own) / (6 + len(z) - 1))
    mean = sum(spreads) / len(spreads)
    inverse = np.linalg.inv(0.75 * mean + 0.25 * np.trace(mean) / 6 * np.eye(6))
    competing = (
        [z.mean(0) for z in examples] if disjoint else [*means, *(z.mean(0) for z in examples)]
    )

    def cosine(a, b):
        return a @ inverse @ b / np.sqrt((a @ inverse @ a) * (b @ inverse @ b))

    wanted = [[cosine(z - origin, m - origin) for m in competing] for z in ASKED[:9]]
    np.testing.assert_allclose(classifier.decision_function(ASKED[:9], disjoint), wanted)


@pytest.mark.parametrize("disjoint", [False, True])
def test_adapted_to_one_example_it_is_whitened(disjoint):
    both = (fitted(space).add("dog", NEW[:1]) for space in ("whitened", "adapted"))
    white, adapted = (c.decision_function(ASKED, disjoint)[:, -1] for c in both)
    np.testing.assert_allclose(adapted, white, atol=1e-12)


def test_adapted_to_many_examples_it_knows_in_which_direction_they_vary():
    draw, right = np.random.default_rng(5), {}
    noise = 0.1 * draw.normal(size=(2, 4000, 6)) + 3 * draw.normal(size=(2, 4000, 1)) * [1] * 6
    for space in ("whitened", "adapted"):
        classifier = fitted(space)
        new = classifier.origin_ + noise + np.array([-1, 1])[:, None, None] * np.eye(6)[0]
        classifier.add("dog", new[0][:2000]).add("elk", new[1][:2000])
        answers = [classifier.predict(z[2000:], disjoint=True) for z in new]
        right[space] = np.mean([answers[0] == "dog", answers[1] == "elk"])
    assert right["adapted"] > 0.95 > 0.7 > right["whitened"]


def test_directions_are_not_given_where_they_follow_from_means():
    with pytest.raises(ValueError, match="follow from means"):
        NovelClassifier("adapted").fit(KNOWN, known_place, directions=np.eye(3, 6))


@pytest.mark.parametrize("space", SPACES)
def test_it_may_be_fitted_again_to_other_dimensions(space):
    again = NovelClassifier(space).fit(KNOWN[:, :4], known_place).add(7, NEW[:, :4])
    again.fit(KNOWN, known_place)
    fresh = NovelClassifier(space).fit(KNOWN, known_place)
    np.testing.assert_array_equal(again.decision_function(ASKED), fresh.decision_function(ASKED))


def test_whitening_makes_clouds_round():
    classifier = fitted("whitened", shrinkage=0.0)
    means = np.stack([KNOWN[known_place == c].mean(0) for c in range(3)])
    rest = (KNOWN - means[known_place]) @ classifier.map_
    np.testing.assert_allclose(rest.T @ rest / len(rest), np.eye(6), atol=1e-9)


@pytest.mark.parametrize("space", SPACES)
def test_removing_an_added_class_restores_every_answer_bit_by_bit(space):
    classifier = fitted(space).add("dog", NEW[new_place == 0])
    before = classifier.decision_function(ASKED), classifier.predict(ASKED)
    classifier.add("a much longer name", NEW[new_place == 1])
    assert (classifier.predict(ASKED) == "a much longer name").any()
    classifier.remove("a much longer name")
    after = classifier.decision_function(ASKED), classifier.predict(ASKED)
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])


@pytest.mark.parametrize("space", SPACES)
def test_removing_the_first_of_two_leaves_the_second(space):
    both = fitted(space).add("dog", NEW[new_place == 0]).add("elk", NEW[new_place == 1])
    both.remove("dog")
    alone = fitted(space).add("elk", NEW[new_place == 1])
    np.testing.assert_array_equal(both.decision_function(ASKED), alone.decision_function(ASKED))


@pytest.mark.parametrize("space", SPACES)
def test_the_order_of_adding_does_not_matter(space):
    pair = {"dog": NEW[new_place == 0], "elk": NEW[new_place == 1]}
    one, other = fitted(space), fitted(space)
    for name in pair:
        one.add(name, pair[name])
    for name in reversed(pair):
        other.add(name, pair[name])
    cosines = other.decision_function(ASKED)[:, [0, 1, 2, 4, 3]]
    np.testing.assert_allclose(one.decision_function(ASKED), cosines, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(one.predict(ASKED), other.predict(ASKED))


def test_a_new_class_does_not_move_the_cosines_of_the_others():
    classifier = fitted()
    before = classifier.decision_function(ASKED)
    after = classifier.add("dog", NEW[:1]).decision_function(ASKED)[:, :3]
    np.testing.assert_allclose(before, after, rtol=0, atol=1e-14)


@pytest.mark.parametrize("space", ["centred", "adapted"])
@pytest.mark.parametrize("names", [NAMES, np.array([10, 20, 30])])
def test_save_and_load(tmp_path, names, space):
    classifier = NovelClassifier(space, scale=5.0).fit(KNOWN, names[known_place])
    new = "dog" if names is NAMES else 40
    classifier.add(new, NEW[:3]).save(tmp_path / "sphere.npz")
    again = NovelClassifier.load(tmp_path / "sphere.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["sphere.npz"]
    assert (again.space, again.scale, again.known_) == (space, 5.0, 3)
    np.testing.assert_array_equal(again.predict_proba(ASKED), classifier.predict_proba(ASKED))
    np.testing.assert_array_equal(again.predict(ASKED), classifier.predict(ASKED))
    assert again.remove(new).classes_.tolist() == names.tolist()


@pytest.mark.parametrize("space", ["raw", "centred", "whitened"])
def test_trained_directions_answer_as_the_normalised_head_does(space):
    weight = RNG.normal(size=(3, 6))
    classifier = NovelClassifier(space).fit(KNOWN, known_place, directions=weight)
    cosines = classifier.decision_function(ASKED)
    if space == "raw":
        wanted = torch.nn.functional.cosine_similarity(
            torch.from_numpy(ASKED)[:, None], torch.from_numpy(weight), dim=2
        )
        np.testing.assert_allclose(cosines, wanted.numpy())
        return
    # Centred and whitened, cosine times both lengths is still the logit, up to a number per row.
    w, shifted = weight - weight.mean(0), ASKED - classifier.origin_
    lengths = np.linalg.norm(shifted @ classifier.map_, axis=1)[:, None]
    of_weights = np.linalg.norm(np.linalg.inv(classifier.map_) @ w.T, axis=0)
    np.testing.assert_allclose(cosines * lengths * of_weights, shifted @ w.T)


def test_more_shots_come_nearer_to_the_direction_of_the_class():
    draw = np.random.default_rng(3)
    spread = draw.normal(size=(4000, 6)) * 2 + CENTRES[3]
    truth = fitted().add("dog", spread).directions_[-1]

    def miss(shots):
        starts = range(0, 400, shots)
        drawn = [fitted().add("dog", spread[i : i + shots]).directions_[-1] for i in starts]
        return 1 - np.mean([direction @ truth for direction in drawn])

    assert miss(1) > miss(5) > miss(20) > miss(100)


def test_nothing_given_is_changed_in_place():
    known, new = KNOWN.copy(), NEW.copy()
    fitted().add("dog", new).decision_function(known)
    np.testing.assert_array_equal(known, KNOWN)
    np.testing.assert_array_equal(new, NEW)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda c: c.add("bee", NEW), "there is a class 'bee' already; remove it first"),
        (lambda c: c.add(3, NEW), "3 is no name like those there are, 'ant', 'bee', 'cow'"),
        (lambda c: c.add("dog", NEW[:, :5]), r"must have D = 6, got shape \(80, 5\)"),
        (lambda c: c.add("dog", NEW[0]), r"must be N×D, at least one row, got shape \(6,\)"),
        (lambda c: c.add("dog", NEW[:0]), r"at least one row, got shape \(0, 6\)"),
        (lambda c: c.add("dog", [*NEW[:2], [np.nan] * 6]), "1 embeddings are NaN.*first in row 2"),
        (lambda c: c.add("dog", np.stack([c.origin_] * 2)), "'dog' have a mean of zero"),
        (lambda c: c.remove("bee"), r"'bee' was not added; added were \[\]"),
        (lambda c: c.add("dog", NEW).remove("elk"), r"'elk' was not added; added were \['dog'\]"),
        (lambda c: c.predict(ASKED, disjoint=True), "no class was added"),
        (lambda c: c.fit(KNOWN, known_place[:7]), r"120 examples need as many labels, .* got shape \(7,\)"),
        (lambda c: c.fit(KNOWN, 0 * known_place), r"at least two known classes are needed, got \[0\]"),
        (lambda c: c.fit(KNOWN, known_place, np.ones((2, 6))), r"finite, 3×6, got shape \(2, 6\)"),
        (lambda c: NovelClassifier("round").fit(KNOWN, known_place), "the spaces are raw.*got 'round'"),
        (lambda c: NovelClassifier(scale=0).fit(KNOWN, known_place), "the scale above 0.* got 0.03, 0 and 0.0"),
        (lambda c: NovelClassifier(handicap=np.nan).fit(KNOWN, known_place), "finite; got .* nan"),
        (lambda c: NovelClassifier(scale=np.inf).fit(KNOWN, known_place), "finite; got 0.03, inf"),
        (lambda c: c.add(["dog", "elk"], NEW), r"\['dog', 'elk'\] is no name"),
        (lambda c: c.fit(KNOWN, known_place / 2), "all names or all whole numbers"),
        (lambda c: c.fit(KNOWN, known_place, np.zeros((3, 6))), "a direction of zero"),
        (lambda c: setattr(c, "space", "raw") or c.predict(ASKED), "fitted in the space 'whitened'"),
        (lambda c: fitted("adapted").add("dog", np.stack([c.origin_] * 2)), "'dog' have a mean of zero"),
        (lambda c: NovelClassifier(shrinkage=0).fit(np.eye(3), range(3)), "do not vary within"),
    ],
)  # fmt: skip
def test_what_is_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call(fitted())


def test_a_refused_fit_leaves_what_was_learned_before():
    classifier = fitted("adapted").add("dog", NEW)
    before = classifier.decision_function(ASKED)
    with pytest.raises(ValueError, match="follow from means"):
        classifier.fit(NEW, new_place, directions=np.eye(2, 6))
    np.testing.assert_array_equal(classifier.decision_function(ASKED), before)


@pytest.mark.parametrize("kind", [object, "uint8", "int16"])
def test_labels_of_any_whole_kind_take_a_number_as_a_name(kind, tmp_path):
    classifier = NovelClassifier().fit(KNOWN, known_place.astype(kind)).add(np.int64(7), NEW)
    classifier.save(tmp_path / "a.npz")
    assert NovelClassifier.load(tmp_path / "a.npz").classes_.tolist() == [0, 1, 2, 7]


@pytest.mark.parametrize("content", [b"", b"no archive", "scores"])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "other.npz"
    if content == "scores":
        np.savez(path, scores=np.arange(3))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"was not written by NovelClassifier\.save"):
        NovelClassifier.load(path)


def test_settings_of_numpy_are_saved(tmp_path):
    fitted(scale=np.float32(2), shrinkage=np.float32(0.5)).save(tmp_path / "a.npz")
    assert NovelClassifier.load(tmp_path / "a.npz").scale == 2


def test_an_opposed_pair_has_no_mean_direction():
    classifier = NovelClassifier("raw").fit(np.eye(2), [0, 1])
    with pytest.raises(ValueError, match="examples of 2 have a mean of zero"):
        classifier.add(2, [[1.0, 2.0], [-2.0, -4.0]])


def test_unfitted_use_is_refused(tmp_path):
    for call in (
        lambda c: c.add("dog", NEW),
        lambda c: c.remove("dog"),
        lambda c: c.predict(ASKED),
        lambda c: c.save(tmp_path / "x.npz"),
    ):
        with pytest.raises(NotFittedError, match="call fit"):
            call(NovelClassifier())


def test_a_live_network_takes_images(tmp_path):
    model = models.build("compact", 3, 4, 1)
    images = RNG.integers(0, 256, (30, 1, 28, 28), dtype=np.uint8)

    def embed(images):
        part = splits.Part(images, np.zeros(len(images), int), np.arange(len(images)))
        return outputs.compute(model, part).embeddings

    live = NovelClassifier("centred", embed=embed).fit(images[:20], np.arange(20) % 3)
    frozen = NovelClassifier("centred").fit(embed(images[:20]), np.arange(20) % 3)
    live.add(3, images[20:25]).save(tmp_path / "live.npz")
    frozen.add(3, embed(images[20:25]))
    again = NovelClassifier.load(tmp_path / "live.npz", embed=embed)
    for one in (live, again):
        np.testing.assert_allclose(
            one.decision_function(images[25:]),
            frozen.decision_function(embed(images[25:])),
            atol=1e-6,
        )


def test_a_handicap_moves_answers_to_the_new_classes_and_needs_one():
    plain, late = fitted("raw"), fitted("raw", handicap=0.3)
    np.testing.assert_array_equal(plain.decision_function(ASKED), late.decision_function(ASKED))
    for classifier in (plain, late):
        classifier.add("dog", NEW[new_place == 0])
    wanted = plain.decision_function(ASKED) - np.array([0.3, 0.3, 0.3, 0])
    np.testing.assert_allclose(late.decision_function(ASKED), wanted)
    new = plain.decision_function(ASKED, disjoint=True)
    np.testing.assert_array_equal(new, late.decision_function(ASKED, disjoint=True))


def test_accuracies_by_hand():
    found = accuracies(([0, 1, 5, 1], [0, 1, 1, 1]), ([5, 6, 0], [5, 5, 6]), [5, 5, 6])
    assert found == (4 / 7, 1.0, 3 / 4, 1 / 3)
    assert found.harmonic == pytest.approx(2 / (4 / 3 + 3))


@pytest.mark.parametrize(("known", "new", "only"), [(0, 2, 2), (2, 0, 0), (2, 2, 3)])
def test_accuracies_of_rows_that_do_not_fit(known, new, only):
    told = f"got {known} known, {new} new, {only} disjoint"
    with pytest.raises(ValueError, match=told):
        accuracies((np.ones(known), np.ones(known)), (np.ones(new), np.ones(new)), np.ones(only))


def test_shots_are_different_rows_of_each_class():
    labels = np.repeat([7, 3, 9], [5, 4, 6])
    rows = shots(labels, 4, np.random.default_rng(0))
    assert labels[rows].tolist() == [3] * 4 + [7] * 4 + [9] * 4
    assert len(set(rows.tolist())) == 12
    again = shots(labels, 4, np.random.default_rng(1))
    assert set(rows.tolist()) != set(again.tolist())


@pytest.mark.parametrize("n", [0, 5])
def test_more_shots_than_there_are_examples(n):
    with pytest.raises(ValueError, match=f"1 … 4 examples of each class can be drawn, not {n}"):
        shots(np.repeat([0, 1], [5, 4]), n, np.random.default_rng(0))
