"""Splits: nothing unseen in reach, exact sizes, the same parts from the same seed."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedood import data, splits
from embedood.splits import SplitError


def image_set(sizes, test_sizes=None, superclasses=None):
    """Every image holds its class in its first pixel, so that a label can be checked by it."""
    test_sizes = test_sizes or [2] * len(sizes)
    labels = np.repeat(np.tile(np.arange(len(sizes)), 2), [*sizes, *test_sizes])
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 1, 3, 3), np.uint8)
    images[:, 0, 0, 0] = labels
    names = tuple(f"c{i}" for i in range(len(sizes)))
    is_test = np.arange(len(labels)) >= sum(sizes)
    return data.from_arrays("tiny", images, labels, is_test, names, superclasses)


def parts(split):
    return split.train, split.validation, split.test_known, split.test_unseen


def test_hand_sized_split_has_the_expected_parts():
    split = splits.split(image_set([10, 20, 30, 40], [1, 2, 3, 4]), unseen=(1,), validation=8)
    assert split.known_classes == (0, 2, 3)
    assert split.unseen_classes == (1,)
    assert split.class_names == ("c0", "c2", "c3")
    assert Counter(split.validation.labels.tolist()) == {0: 1, 1: 3, 2: 4}
    assert Counter(split.train.labels.tolist()) == {0: 9, 1: 27, 2: 36}
    assert Counter(split.test_known.labels.tolist()) == {0: 1, 1: 3, 2: 4}
    assert split.test_unseen.labels.tolist() == [-1, -1]


@given(
    sizes=st.lists(st.integers(20, 40), min_size=3, max_size=6),
    n_unseen=st.integers(1, 3),
    validation=st.sampled_from([0, *range(12, 31)]),
    limit=st.sampled_from([None, 0, *range(20, 200, 7)]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_nothing_unseen_is_in_reach_and_parts_are_disjoint(
    sizes, n_unseen, validation, limit, seed
):
    source = image_set(sizes)
    unseen = splits.random_classes(source, min(n_unseen, len(sizes) - 2), seed)
    split = splits.split(source, unseen, validation, seed, limit)
    for part in (split.train, split.validation, split.test_known):
        assert not set(part.images[:, 0, 0, 0].tolist()) & set(unseen)
        assert np.array_equal(np.take(split.known_classes, part.labels), part.images[:, 0, 0, 0])
    assert set(split.test_unseen.images[:, 0, 0, 0].tolist()) == set(unseen)
    assert set(split.test_unseen.labels.tolist()) == {splits.UNSEEN}
    everything = np.concatenate([part.source_index for part in parts(split)])
    assert len(np.unique(everything)) == len(everything)
    assert len(split.validation) == validation
    known_training = sum(size for c, size in enumerate(sizes) if c not in unseen)
    left = known_training - validation
    assert len(split.train) == min(limit or left, left)
    for part in parts(split):
        assert np.array_equal(part.images, source.images[part.source_index])
    again = splits.split(source, unseen, validation, seed, limit)
    for part, same in zip(parts(split), parts(again), strict=True):
        assert np.array_equal(part.source_index, same.source_index)


def test_seed_changes_the_drawing_but_not_the_test_parts():
    source = image_set([50] * 4)
    first, second = (splits.split(source, (0,), 20, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.validation.source_index, second.validation.source_index)
    assert np.array_equal(first.test_known.source_index, second.test_known.source_index)
    assert np.array_equal(first.test_unseen.source_index, second.test_unseen.source_index)


def test_train_limit_leaves_validation_as_it_is_and_takes_part_of_train():
    source = image_set([50] * 4)
    whole = splits.split(source, (0,), 30, seed=3)
    limited = splits.split(source, (0,), 30, seed=3, train_limit=60)
    assert np.array_equal(whole.validation.source_index, limited.validation.source_index)
    assert set(limited.train.source_index) < set(whole.train.source_index)
    assert Counter(limited.train.labels.tolist()) == {0: 20, 1: 20, 2: 20}


def test_unseen_images_cannot_change_training_or_validation():
    """Other pixels in the unseen class, same others: the parts hold the same images."""
    source = image_set([30] * 4)
    images = source.images.copy()
    images[source.labels == 2] = 255 - images[source.labels == 2]
    changed = data.from_arrays("tiny", images, source.labels, source.is_test, source.class_names)
    for part, same in zip(
        parts(splits.split(source, (2,), 20))[:3],
        parts(splits.split(changed, (2,), 20))[:3],
        strict=True,
    ):
        assert np.array_equal(part.images, same.images)


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=12),
    share=st.fractions(min_value=0, max_value=1),
)
def test_stratified_counts_are_within_one_of_the_exact_share(sizes, share):
    total = int(share * sum(sizes))
    counts = splits.stratified_counts(sizes, total)
    assert sum(counts) == total
    for size, count in zip(sizes, counts, strict=True):
        assert abs(count - Fraction(total * size, sum(sizes))) < 1
        assert 0 <= count <= size


def test_left_over_images_go_to_the_largest_remainders_then_to_earlier_groups():
    assert splits.stratified_counts([5, 3, 2], 4) == [2, 1, 1]  # shares 2, 1.2, 0.8
    assert splits.stratified_counts([1, 1, 1], 2) == [1, 1, 0]


def test_mnist_5k_splits_as_expected():
    split = splits.split(data.load("mnist-5k"), unseen=(0,), validation=500)
    assert list(map(len, parts(split))) == [3100, 500, 900, 100]
    assert Counter(split.validation.labels.tolist()) == {c: 56 if c < 5 else 55 for c in range(9)}


def test_newcomers_are_the_unseen_classes_of_either_official_part():
    source = image_set([10, 20, 30, 40], [1, 2, 3, 4])
    split = splits.split(source, unseen=(1, 3), validation=8)
    examples, test = splits.newcomers(source, split)
    assert Counter(examples.labels.tolist()) == {2: 20, 3: 40}
    assert Counter(test.labels.tolist()) == {2: 2, 3: 4}
    for part in (examples, test):
        assert np.array_equal(np.take([0, 2, 1, 3], part.labels), part.images[:, 0, 0, 0])
        assert np.array_equal(source.images[part.source_index], part.images)
    assert not source.is_test[examples.source_index].any()
    trained = np.concatenate([split.train.source_index, split.validation.source_index])
    assert not np.isin(examples.source_index, trained).any()
    assert np.array_equal(test.source_index, split.test_unseen.source_index)


def test_newcomers_of_another_image_set_are_refused():
    split = splits.split(image_set([10, 20, 30]), unseen=(1,), validation=8)
    with pytest.raises(SplitError, match="tiny is not the image set that was split"):
        splits.newcomers(image_set([10, 21, 30]), split)


def labelled(labels):
    labels = np.array(labels)
    return splits.Part(np.arange(len(labels)).reshape(-1, 1, 1, 1), labels, np.arange(len(labels)))


def test_a_long_tail_falls_by_powers_and_keeps_the_first():
    part = labelled([2, 0, 1] * 16 + [0]).long_tailed(16)
    assert np.bincount(part.labels).tolist() == [16, 4, 1]
    assert part.source_index[part.labels == 1].tolist() == [2, 5, 8, 11]
    assert (np.diff(part.source_index) > 0).all()
    assert (part.images.ravel() == part.source_index).all()
    assert np.bincount(labelled([0, 1, 0, 1]).long_tailed(1000).labels).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("labels", "ratio"), [([0, 1], 0.5), ([-1, 0, 1], 2.0), ([0, 0], 2.0), ([], 2)]
)
def test_a_long_tail_needs_known_classes(labels, ratio):
    with pytest.raises(SplitError, match=f"imbalance ≥ 1 between two known classes.*got {ratio}"):
        labelled(np.array(labels, dtype=int)).long_tailed(ratio)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unseen": (4,)}, r"tiny has the classes 0 … 3, not the unseen \[4\]"),
        ({"unseen": (-1, 7)}, r"not the unseen \[-1, 7\]"),
        ({"unseen": (0, 1, 2, 3)}, "4 of the 4 classes of tiny are unseen"),
        ({"unseen": (0, 1, 2)}, "at least two must stay known, so at most 2"),
        ({"validation": 30}, "validation=30 does not fit 30 training images"),
        ({"validation": 5000}, "it must be 0 … 29"),
        ({"validation": -1}, "validation=-1"),
        ({"validation": 2}, "validation=2 leaves 2 images for 3 known classes and none of c3"),
        ({"train_limit": 2}, "train_limit=2 leaves 2 images for 3 known classes and none of c3"),
        ({"train_limit": -5}, "train_limit=-5 must be positive"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments, message):
    with pytest.raises(SplitError, match=message):
        splits.split(image_set([10] * 4), **({"unseen": (0,), "validation": 6} | arguments))


def test_where_all_classes_are_known_nothing_is_unseen():
    split = splits.split(image_set([10] * 4), unseen=(), validation=6)
    assert split.known_classes == (0, 1, 2, 3)
    assert len(split.test_unseen) == 0


def test_known_class_without_training_images_is_named():
    with pytest.raises(SplitError, match="none of c2"):
        splits.split(image_set([10, 10, 0, 10]), unseen=(0,), validation=0)


GROUPS = {"low": ("c0", "c3"), "high": ("c1", "c2", "c5"), "odd": ("c4",)}


def test_class_choices():
    source = image_set([5] * 6, superclasses=GROUPS)
    assert splits.last(source, 2) == (4, 5)
    drawn = splits.random_classes(source, 3, seed=1)
    assert drawn == splits.random_classes(source, 3, seed=1)
    assert len(set(drawn)) == 3
    assert set(drawn) <= set(range(6))
    assert len({splits.random_classes(source, 3, seed) for seed in range(20)}) > 5
    assert splits.whole_superclasses(source, ("low", "odd")) == (0, 3, 4)
    assert splits.whole_superclasses(source, "high") == (1, 2, 5)
    for seed in range(10):
        one_each = splits.one_of_each_superclass(source, seed)
        assert [len({0, 3} & {*one_each}), len({1, 2, 5} & {*one_each}), 4 in one_each] == [1, 1, 1]
        assert splits.random_superclasses(source, 2, seed) in {
            (0, 3, 4),
            (0, 1, 2, 3, 5),
            (1, 2, 4, 5),
        }


def test_draws_are_those_worked_out_by_hand():
    """`printf "1 $i" | sha256sum` for i = 0 … 5 begins with 8f, 02, f7, 63, d6, 68."""
    order = [1, 3, 5, 0, 4, 2]
    source = image_set([5] * 6, superclasses=GROUPS)
    for n in range(1, 5):
        assert splits.random_classes(source, n, seed=1) == tuple(sorted(order[:n]))
    assert splits.one_of_each_superclass(source, seed=1) == (1, 3, 4)  # the first of each group
    assert splits.random_superclasses(source, 1, seed=1) == (1, 2, 5)  # "high", number 1
    assert splits.random_superclasses(source, 2, seed=1) == (0, 1, 2, 3, 5)  # and "low", number 0


def grouped(groups, each):
    """A set of `groups` superclasses with `each` classes, dealt out in turn as cards are."""
    names = {f"g{g}": tuple(f"c{g + i * groups}" for i in range(each)) for g in range(groups)}
    return image_set([1] * (groups * each), superclasses=names)


@given(groups=st.integers(2, 6), each=st.integers(2, 5), seed=st.integers(0, 2**64), data=st.data())
@settings(max_examples=60, deadline=None)
def test_classes_drawn_for_a_split(groups, each, seed, data):
    """Sizes, known and unseen apart, a superclass whole or with one class, the same when repeated."""
    source = grouped(groups, each)
    classes = groups * each
    n = data.draw(st.integers(1, classes - 2))
    n_super = data.draw(st.integers(1, groups - 1))
    drawn = [
        splits.last(source, n),
        splits.random_classes(source, n, seed),
        splits.random_superclasses(source, n_super, seed),
        splits.one_of_each_superclass(source, seed),
    ]
    assert [len(d) for d in drawn] == [n, n, n_super * each, groups]
    for unseen in drawn:
        assert list(unseen) == sorted(set(unseen))
        assert set(unseen) <= set(range(classes))
        split = splits.split(source, unseen, validation=0, seed=0)
        assert split.unseen_classes == unseen
        assert {*split.known_classes} == {*range(classes)} - {*unseen}
    _, some, far, near = drawn
    assert some == splits.random_classes(source, n, seed)
    assert n == classes - 2 or set(some) < set(splits.random_classes(source, n + 1, seed))
    counts = np.bincount(source.superclass_of[list(far)], minlength=groups).tolist()
    assert sorted(counts) == [0] * (groups - n_super) + [each] * n_super
    assert set(source.superclass_of[list(near)]) == set(range(groups))


def test_every_class_is_drawn_about_equally_often():
    """Of 20 classes 5, a thousand times: 250 each, and a binomial's five deviations are 69."""
    source = grouped(5, 4)
    draws = [splits.random_classes(source, 5, seed) for seed in range(1000)]
    near = [splits.one_of_each_superclass(source, seed) for seed in range(1000)]
    for drawn in (draws, near):
        counts = np.bincount(np.concatenate(drawn), minlength=20)
        assert np.abs(counts - 250).max() < 69


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda s: splits.last(s, 5), "of 6 classes 1 … 4 can be unseen, got 5"),
        (lambda s: splits.random_classes(s, 0, 0), "got 0"),
        (lambda s: splits.whole_superclasses(s, ("fish",)), "no superclass fish; it has low, high"),
        (lambda s: splits.whole_superclasses(s, ()), "none named"),
        (
            lambda s: splits.random_superclasses(s, 3, 0),
            "of 3 superclasses 1 … 2 can be unseen, got 3",
        ),
        (lambda s: splits.random_superclasses(s, 0, 0), "got 0"),
    ],
)
def test_impossible_class_choices_are_refused(choose, message):
    with pytest.raises(SplitError, match=message):
        choose(image_set([5] * 6, superclasses=GROUPS))


def test_superclass_choice_needs_superclasses():
    with pytest.raises(SplitError, match="tiny has no superclasses"):
        splits.one_of_each_superclass(image_set([5] * 4), seed=0)
    with pytest.raises(SplitError, match="tiny has no superclasses"):
        splits.random_superclasses(image_set([5] * 4), 1, seed=0)
