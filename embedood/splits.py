"""Known and unseen classes: nothing unseen can be reached from training or validation."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from embedood.data import ImageSet

UNSEEN = -1
"""The label of every image of an unseen class."""


class SplitError(ValueError):
    """The wanted split does not fit the data set."""


@dataclass(frozen=True, eq=False)
class Part:
    """Images of one part of a split.

    Attributes:
        images: uint8, shape (N, channels, height, width).
        labels: int64, shape (N,): 0 … C−1 for known classes, −1 for unseen ones.
        source_index: int64, shape (N,), rising: rows of the `ImageSet`.
    """

    images: np.ndarray
    labels: np.ndarray
    source_index: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def first(self, n: int) -> Part:
        """The first n images, or all where there are fewer; canonical order knows no class."""
        return Part(self.images[:n], self.labels[:n], self.source_index[:n])

    def of_class(self, label: int) -> Part:
        """The images of one class."""
        own = self.labels == label
        return Part(self.images[own], self.labels[own], self.source_index[own])

    def long_tailed(self, imbalance: float) -> Part:
        r"""Keep the first $n\rho^{-c/(C-1)}$ images of class c; n is that of the smallest class.

        The first class then has ρ = `imbalance` times as many as the last, which keeps one or more.
        Raises `SplitError` for ρ < 1, unseen images, or a single class.

        Source: Cui et al., 2019, "Class-balanced loss based on effective number of samples".
        """
        if not imbalance >= 1 or (self.labels < 0).any() or self.labels.max(initial=0) < 1:
            raise SplitError(
                f"an imbalance ≥ 1 between two known classes or more is needed, got {imbalance} "
                f"and labels {np.unique(self.labels)}"
            )
        counts = np.bincount(self.labels)
        kept = counts.min() * imbalance ** (-np.arange(len(counts)) / (len(counts) - 1))
        rows = [np.flatnonzero(self.labels == c)[: max(round(n), 1)] for c, n in enumerate(kept)]
        own = np.sort(np.concatenate(rows))
        return Part(self.images[own], self.labels[own], self.source_index[own])


@dataclass(frozen=True, eq=False)
class Split:
    """The four parts and the classes they are made of.

    Attributes:
        known_classes: original labels; the class at place i has the label i in the parts.
        unseen_classes: original labels, rising.
        class_names: names of the known classes, in the order of their labels.
        train, validation: images of known classes from the official training part.
        test_known, test_unseen: the official test part.
    """

    train: Part
    validation: Part
    test_known: Part
    test_unseen: Part
    known_classes: tuple[int, ...]
    unseen_classes: tuple[int, ...]
    class_names: tuple[str, ...]


def split(
    image_set: ImageSet,
    unseen: Collection[int] = (0,),
    validation: int = 5000,
    seed: int = 0,
    train_limit: int | None = None,
) -> Split:
    """Split a data set by classes into known and unseen.

    The unseen classes are taken out first; training and validation are then drawn from what is
    left of the official training part, every class by its share (largest remainders). The
    validation images do not depend on `train_limit`.

    Args:
        unseen: original labels of the unseen classes; () where all are known.
        validation: number of validation images, 0 for none.
        seed: of the drawing; the same seed gives the same parts.
        train_limit: at most so many training images; 0 or None for all.

    Raises:
        SplitError: the classes or the sizes do not fit the data set.
    """
    unseen_classes = _check_unseen(image_set, unseen)
    known_classes = tuple(c for c in range(len(image_set.class_names)) if c not in unseen_classes)
    names = tuple(image_set.class_names[c] for c in known_classes)
    labels = _known_labels(image_set, known_classes)
    is_known = labels != UNSEEN
    candidates = np.flatnonzero(is_known & ~image_set.is_test)
    train, held_out = _draw(candidates, labels, names, validation, seed, train_limit)

    def part(rows: np.ndarray) -> Part:
        return Part(image_set.images[rows], labels[rows], rows)

    return Split(
        train=part(train),
        validation=part(held_out),
        test_known=part(np.flatnonzero(is_known & image_set.is_test)),
        test_unseen=part(np.flatnonzero(~is_known & image_set.is_test)),
        known_classes=known_classes,
        unseen_classes=unseen_classes,
        class_names=names,
    )


def newcomers(image_set: ImageSet, split: Split) -> tuple[Part, Part]:
    """Return the unseen classes of a split as new ones, to be added after training: examples, test.

    Examples are their images of the official training part, which no training of the split has met;
    test, the same images as `test_unseen`. Class i of the U unseen ones has the label C + i in both.
    Raises `SplitError` where the image set is not that of the split.
    """
    places = np.flatnonzero(np.isin(image_set.labels, split.unseen_classes))
    rows = {is_test: places[image_set.is_test[places] == is_test] for is_test in (False, True)}
    if not np.array_equal(rows[True], split.test_unseen.source_index):
        raise SplitError(f"{image_set.name} is not the image set that was split")
    first = len(split.known_classes)

    def part(rows: np.ndarray) -> Part:
        labels = first + np.searchsorted(split.unseen_classes, image_set.labels[rows])
        return Part(image_set.images[rows], labels, rows)

    return part(rows[False]), part(rows[True])


def last(image_set: ImageSet, n: int) -> tuple[int, ...]:
    """The last `n` classes, the field's convention for CIFAR-100."""
    classes = len(image_set.class_names)
    _check_count(n, classes)
    return tuple(range(classes - n, classes))


def random_classes(image_set: ImageSet, n: int, seed: int) -> tuple[int, ...]:
    """`n` classes drawn without replacement; a larger `n` keeps those of a smaller one."""
    classes = len(image_set.class_names)
    _check_count(n, classes)
    return tuple(sorted(_shuffled(range(classes), seed)[:n]))


def whole_superclasses(image_set: ImageSet, names: Collection[str]) -> tuple[int, ...]:
    """All classes of the named superclasses: unseen classes far from the known ones.

    Raises `SplitError` for a name that is not there, or none; the names that are, it lists.
    """
    superclass_of = _superclasses(image_set)
    names = (names,) if isinstance(names, str) else tuple(names)
    strange = [name for name in names if name not in image_set.superclass_names]
    if strange or not names:
        raise SplitError(
            f"{image_set.name} has no superclass {', '.join(strange) or '(none named)'}; "
            f"it has {', '.join(image_set.superclass_names)}"
        )
    wanted = [image_set.superclass_names.index(name) for name in names]
    return tuple(np.flatnonzero(np.isin(superclass_of, wanted)).tolist())


def random_superclasses(image_set: ImageSet, n: int, seed: int) -> tuple[int, ...]:
    """All classes of `n` superclasses drawn without replacement: a far split of any seed."""
    _superclasses(image_set)
    names = image_set.superclass_names
    if not 1 <= n < len(names):
        raise SplitError(
            f"of {len(names)} superclasses 1 … {len(names) - 1} can be unseen, got {n}"
        )
    drawn = _shuffled(range(len(names)), seed)[:n]
    return whole_superclasses(image_set, [names[i] for i in drawn])


def one_of_each_superclass(image_set: ImageSet, seed: int) -> tuple[int, ...]:
    """One drawn class of every superclass: unseen classes near known ones."""
    superclass_of = _superclasses(image_set)
    drawn: dict[int, int] = {}
    for c in _shuffled(range(len(superclass_of)), seed):
        drawn.setdefault(int(superclass_of[c]), c)
    return tuple(sorted(drawn.values()))


def _check_unseen(image_set: ImageSet, unseen: Collection[int]) -> tuple[int, ...]:
    classes = len(image_set.class_names)
    chosen = tuple(sorted({int(c) for c in unseen}))
    strange = [c for c in chosen if not 0 <= c < classes]
    if strange:
        raise SplitError(
            f"{image_set.name} has the classes 0 … {classes - 1}, not the unseen {strange}"
        )
    if classes - len(chosen) < 2:
        raise SplitError(
            f"{len(chosen)} of the {classes} classes of {image_set.name} are unseen; "
            f"at least two must stay known, so at most {classes - 2} can be unseen"
        )
    return chosen


def _shuffled(numbers: Iterable[int], seed: int) -> list[int]:
    """Numbers in the order of SHA-256 of "seed number": a shuffle that no library's version changes."""
    return sorted(numbers, key=lambda i: hashlib.sha256(f"{seed} {i}".encode()).digest())


def _check_count(n: int, classes: int) -> None:
    if not 1 <= n <= classes - 2:
        raise SplitError(f"of {classes} classes 1 … {classes - 2} can be unseen, got {n}")


def _superclasses(image_set: ImageSet) -> np.ndarray:
    if image_set.superclass_of is None:
        raise SplitError(f"{image_set.name} has no superclasses")
    return image_set.superclass_of


def _known_labels(image_set: ImageSet, known_classes: tuple[int, ...]) -> np.ndarray:
    label_of = np.full(len(image_set.class_names), UNSEEN, np.int64)
    label_of[list(known_classes)] = np.arange(len(known_classes))
    return label_of[image_set.labels]


def _draw(
    candidates: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    validation: int,
    seed: int,
    train_limit: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of training and of validation; one shuffle a class, validation from its front."""
    _check_sizes(len(candidates), validation, train_limit)
    rng = np.random.default_rng(seed)
    groups = [rng.permutation(candidates[labels[candidates] == c]) for c in range(len(names))]
    held_out, rest = _take(groups, validation)
    left = len(candidates) - validation
    train, _ = _take(rest, min(train_limit or left, left))
    _check_every_class(f"validation={validation}", held_out if validation else groups, names)
    _check_every_class(f"validation={validation}, train_limit={train_limit}", train, names)
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(held_out))


def _take(groups: list[np.ndarray], total: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The first rows of every group, `total` in all by share, and what is left."""
    counts = stratified_counts([len(g) for g in groups], total)
    pairs = list(zip(groups, counts, strict=True))
    return [g[:n] for g, n in pairs], [g[n:] for g, n in pairs]


def stratified_counts(sizes: Sequence[int], total: int) -> list[int]:
    """Share `total` among groups by their sizes: rounded down, then the largest remainders.

    A tie of remainders goes to the earlier group; integers throughout, so no rounding error.
    """
    whole = sum(sizes)
    counts = [total * size // whole for size in sizes]
    remainders = [total * size % whole for size in sizes]
    largest = sorted(range(len(sizes)), key=lambda i: -remainders[i])
    for i in largest[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _check_sizes(available: int, validation: int, train_limit: int | None) -> None:
    if not 0 <= validation < available:
        raise SplitError(
            f"validation={validation} does not fit {available} training images of known classes; "
            f"it must be 0 … {available - 1}"
        )
    if train_limit is not None and train_limit < 0:
        raise SplitError(f"train_limit={train_limit} must be positive, or 0 or None for all")


def _check_every_class(settings: str, groups: list[np.ndarray], names: tuple[str, ...]) -> None:
    missing = [name for name, group in zip(names, groups, strict=True) if len(group) == 0]
    if missing:
        raise SplitError(
            f"{settings} leaves {sum(map(len, groups))} images for {len(names)} known classes "
            f"and none of {', '.join(missing)}; every class needs at least one"
        )
