"""What a map shows, and the checks that it can be shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k training images nearest to each of N images, as found in the embedding space.

    Attributes:
        rows: ints, N×k, nearest first: rows of `images`, 0 … M−1.
        images: uint8, M×channels×height×width; only those named in `rows` are kept.
        labels: ints, M: places in the map's `class_names`.
    """

    rows: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def used(self) -> Neighbours:
        """The same neighbours without the images that are nobody's."""
        kept, rows = np.unique(self.rows, return_inverse=True)
        return Neighbours(rows.reshape(self.rows.shape), self.images[kept], self.labels[kept])


@dataclass(frozen=True, eq=False)
class MapData:
    """N images: where each lies, what it is, and what was decided. `check` refuses what cannot be shown.

    Labels are those of the whole data set, so that unseen classes have their names too: of a
    `Split`, `image_set.labels[part.source_index]`, and `np.array(split.known_classes)[logits.argmax(1)]`
    for the prediction. If the unseen have no names, they share one: `(*names, "unseen")`.

    Attributes:
        points: N×2, any unit, the same for both axes.
        images: uint8, N×channels×height×width with 1 or 3 channels.
        labels: ints, N: the true class, a place in `class_names`.
        predicted: ints, N: the most likely known class, also where the image is rejected.
        scores: N; higher = more unusual, rejected where it exceeds the threshold.
        p_values: N, in [0, 1].
        class_names: one name a class, known and unseen.
        unseen_classes: places in `class_names`.
        threshold: the one that was calibrated, at which the map opens.
        superclass_of: ints, one a class, places in `superclass_names`; or None.
        superclass_names: empty where there are none.
        neighbours: the nearest training images; or None.
        title: the page's heading.
    """

    points: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    p_values: np.ndarray
    class_names: Sequence[str]
    unseen_classes: Collection[int]
    threshold: float
    superclass_of: np.ndarray | None = None
    superclass_names: Sequence[str] = ()
    neighbours: Neighbours | None = None
    title: str = "Map of an embedding"

    def __len__(self) -> int:
        return len(self.points)

    @property
    def is_unseen(self) -> np.ndarray:
        """Mask of the images of unseen classes."""
        return np.isin(self.labels, list(self.unseen_classes))

    def check(self) -> None:
        """Raise `ValueError`, with sizes and names, unless everything fits together."""
        rows = ("points", "images", "labels", "predicted", "scores", "p_values")
        sizes = {name: len(getattr(self, name)) for name in rows}
        if self.neighbours is not None:
            sizes["neighbours.rows"] = len(self.neighbours.rows)
        _refuse_unequal(sizes)
        _refuse_bad_shape("points", self.points, (len(self), 2))
        for name in ("labels", "predicted", "scores", "p_values"):
            _refuse_bad_shape(name, getattr(self, name), (len(self),))
        _refuse_bad_images("images", self.images)
        for name in ("points", "scores", "p_values", "threshold"):
            _refuse_nan(name, np.asarray(getattr(self, name)))
        if not ((self.p_values >= 0) & (self.p_values <= 1)).all():
            low, high = self.p_values.min(), self.p_values.max()
            raise ValueError(f"p_values must lie in [0, 1], they lie in [{low:g}, {high:g}]")
        self._check_classes()
        if self.neighbours is not None:
            self._check_neighbours(self.neighbours)

    def _check_classes(self) -> None:
        classes = len(self.class_names)
        _refuse_outside("unseen_classes", np.array(list(self.unseen_classes), int), classes)
        _refuse_outside("labels", self.labels, classes, "; an unseen class has a name of its own")
        _refuse_outside("predicted", self.predicted, classes)
        wrong = np.intersect1d(self.predicted, list(self.unseen_classes))
        if len(wrong):
            names = ", ".join(self.class_names[c] for c in wrong)
            raise ValueError(f"predicted holds unseen classes, which no network can name: {names}")
        if self.superclass_of is not None:
            _refuse_unequal({"class_names": classes, "superclass_of": len(self.superclass_of)})
            _refuse_outside("superclass_of", self.superclass_of, len(self.superclass_names))

    def _check_neighbours(self, near: Neighbours) -> None:
        if near.rows.ndim != 2 or not near.rows.size:
            raise ValueError(f"neighbours.rows must be N×k, got shape {near.rows.shape}")
        _refuse_bad_images("neighbours.images", near.images)
        sizes = {"neighbours.images": len(near.images), "neighbours.labels": len(near.labels)}
        _refuse_unequal(sizes)
        _refuse_outside("neighbours.rows", near.rows, len(near.images))
        _refuse_outside("neighbours.labels", near.labels, len(self.class_names))


def _refuse_unequal(sizes: Mapping[str, int]) -> None:
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        told = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ValueError(f"the numbers of rows must be equal and not 0: {told}")


def _refuse_bad_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")


def _refuse_bad_images(name: str, images: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"{name} must be uint8, N×channels×height×width with 1 or 3 channels, "
            f"got {images.dtype} of shape {images.shape}"
        )


def _refuse_nan(name: str, array: np.ndarray) -> None:
    # A threshold may be infinite: all are rejected, or none.
    bad = np.isnan(array) if name == "threshold" else ~np.isfinite(array)
    if bad.any():
        raise ValueError(f"{name} must be finite, {bad.sum()} of {array.size} values are not")


def _refuse_outside(name: str, array: np.ndarray, count: int, hint: str = "") -> None:
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integers, got {array.dtype}")
    if len(strange := np.unique(array[(array < 0) | (array >= count)])):
        told = ", ".join(map(str, strange[:5]))
        raise ValueError(f"{name} must be 0 … {count - 1}, got {told}{hint}")
