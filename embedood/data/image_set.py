"""What a loaded data set is: arrays in one canonical order, with a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
"""images uint8 (N, channels, height, width), labels int64 (N,), is_test bool (N,)."""

Superclasses = Mapping[str, tuple[str, ...]]
"""Superclass name → names of its classes."""


class DataError(RuntimeError):
    """A data set cannot be had, or is not what it should be."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images with labels, in canonical order: by (is_test, SHA-256 of the pixels, label).

    Attributes:
        name: the name given to `load`.
        images: uint8, shape (N, channels, height, width), 0 … 255.
        labels: int64, shape (N,), 0 … C−1.
        is_test: bool, shape (N,): the official test part.
        class_names: one name a class.
        source: where the images came from, for people; no path of this machine.
        fingerprint: SHA-256 (hex) over images, labels and is_test: the same from every source.
        superclass_of: int64, shape (C,): the superclass of each class, or None.
        superclass_names: one name a superclass, empty where there are none.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    is_test: np.ndarray
    class_names: tuple[str, ...]
    source: str
    fingerprint: str
    superclass_of: np.ndarray | None = None
    superclass_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.images.shape[1:]))
        test = int(self.is_test.sum())
        return (
            f"<ImageSet {self.name}: {len(self) - test:,} training and {test:,} test images "
            f"of {shape}, {len(self.class_names)} classes, from {self.source}, "
            f"fingerprint {self.fingerprint[:12]}>"
        )


def from_arrays(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    is_test: np.ndarray,
    class_names: tuple[str, ...],
    superclasses: Superclasses | None = None,
    source: str = "arrays",
) -> ImageSet:
    """Put arrays into canonical order and fingerprint them.

    Args:
        images: uint8, shape (N, channels, height, width).
        labels: integers, shape (N,), indices into `class_names`.
        is_test: bool, shape (N,).
        superclasses: superclass name → names of its classes; every class in exactly one.

    Raises:
        DataError: the shapes, types or labels do not fit together.
    """
    images = np.ascontiguousarray(images)
    labels, is_test = np.asarray(labels, np.int64), np.asarray(is_test, bool)
    _check_arrays(name, images, labels, is_test, len(class_names))
    order = canonical_order(images, labels, is_test)
    images, labels, is_test = images[order], labels[order], is_test[order]
    return describe(
        name,
        (images, labels, is_test),
        tuple(class_names),
        superclasses,
        source,
        fingerprint(images, labels, is_test),
    )


def parity(image_set: ImageSet) -> ImageSet:
    """Return the same rows, labelled 0 where the number of their class is even and 1 where it is odd.

    The fingerprint stays that of the data.
    """
    return replace(
        image_set,
        labels=image_set.labels % 2,
        class_names=("even", "odd"),
        superclass_of=None,
        superclass_names=(),
    )


def describe(
    name: str,
    arrays: Arrays,
    class_names: tuple[str, ...],
    superclasses: Superclasses | None,
    source: str,
    fingerprint: str,
) -> ImageSet:
    """Return an `ImageSet` of arrays that are in canonical order already."""
    images, labels, is_test = arrays
    return ImageSet(
        name=name,
        images=images,
        labels=labels,
        is_test=is_test,
        class_names=class_names,
        source=source,
        fingerprint=fingerprint,
        superclass_of=_superclass_of(name, class_names, superclasses),
        superclass_names=tuple(superclasses or ()),
    )


def canonical_order(images: np.ndarray, labels: np.ndarray, is_test: np.ndarray) -> np.ndarray:
    """Row order by (is_test, SHA-256 of the pixels, label): the same whatever order came in."""
    digests = b"".join(hashlib.sha256(image).digest() for image in images)
    words = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 4)
    return np.lexsort((labels, *words.T[::-1], is_test))


def fingerprint(images: np.ndarray, labels: np.ndarray, is_test: np.ndarray) -> str:
    """SHA-256 (hex) over the bytes of images, labels (little-endian int64) and is_test."""
    digest = hashlib.sha256()
    for array, kind in ((images, np.uint8), (labels, "<i8"), (is_test, bool)):
        digest.update(np.ascontiguousarray(array, kind).data)
    return digest.hexdigest()


def _check_arrays(
    name: str, images: np.ndarray, labels: np.ndarray, is_test: np.ndarray, classes: int
) -> None:
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise DataError(
            f"{name}: images must be uint8 of shape (N, channels, height, width) with N ≥ 1, "
            f"got {images.dtype} {images.shape}"
        )
    if labels.shape != (len(images),) or is_test.shape != (len(images),):
        raise DataError(
            f"{name}: {len(images)} images need as many labels and is_test flags, "
            f"got shapes {labels.shape} and {is_test.shape}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{name}: labels must lie in 0 … {classes - 1} ({classes} class names), "
            f"got {labels.min()} … {labels.max()}"
        )


def _superclass_of(
    name: str, class_names: tuple[str, ...], superclasses: Superclasses | None
) -> np.ndarray | None:
    if superclasses is None:
        return None
    members = [member for group in superclasses.values() for member in group]
    if sorted(members) != sorted(class_names):
        raise DataError(f"{name}: each of the classes must be in exactly one superclass")
    index = {c: i for i, group in enumerate(superclasses.values()) for c in group}
    return np.array([index[c] for c in class_names], np.int64)
