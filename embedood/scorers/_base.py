"""What all scorers share: the verbs, the checks, number types, chunks, and learned arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from embedood.outputs import HEAD, Outputs


class NotFittedError(RuntimeError):
    """A scorer was asked for scores before it had learned what it needs."""


@dataclass
class Scorer:
    """Base of all scorers: a constructor only stores, what is learned are arrays that end in `_`.

    A scorer overrides `_score`, which sees a chunk of rows and must judge every row by itself, and
    `_fit` and `_calibrate` where it learns something. All three see NumPy arrays in float32 where
    they came so, which halves the time, and in float64 otherwise; what they sum over many rows, and
    what they decompose, is in float64.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """What a score asks for: some of train, validation, outliers, gradient, decoder."""
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The arrays of outputs that it looks at, now or when it learns: only these must be finite.

        All by default. Labels, from which many learn, must be known classes wherever it learns.
        """
        return tuple(f.name for f in fields(Outputs) if f.name != "labels")

    def fit(self, train: Outputs) -> Self:
        """Learn from training outputs of known classes; forgets what was learned before.

        Classes of the head without a training row are left out, unless a scorer refuses them.
        Raises `ValueError` for empty or misshapen arrays, for non-finite ones among those that it
        `reads`, for labels outside 0…C−1 and for rows of one class only.
        """
        check_known(train, "train", self.reads)
        if len(np.unique(np.asarray(train.labels))) < 2:
            raise ValueError(
                f"train holds {len(train)} rows of one class only; at least two classes are needed"
            )
        for name in list(self.learned()):
            delattr(self, name)
        self.sizes_ = np.array([train.logits.shape[1], train.embeddings.shape[1]])
        self._fit(in_arrays(train))
        return self

    def calibrate(self, validation: Outputs, outliers: Outputs | None = None) -> Self:
        """Learn from known validation outputs, and from pseudo-OOD ones, what a scorer needs of them.

        Raises `ValueError` as `fit` does, and where outliers are needed and not given.
        """
        check_known(validation, "validation", self.reads)
        if outliers is not None:
            check(outliers, "outliers", self.reads)
        elif "outliers" in self.needs:
            raise ValueError(f"{self} learns from pseudo-OOD; calibrate(validation, outliers)")
        self._refuse_other_sizes(validation)
        self._calibrate(in_arrays(validation), outliers)
        self.calibrated_ = np.array(len(validation))
        return self

    def score(self, outputs: Outputs, chunk_size: int = 1024) -> np.ndarray:
        """Return one float64 per row; higher is more unusual.

        At most `chunk_size` rows are worked on at a time, which bounds the memory on top of what the
        scorer has learned. Raises `NotFittedError`, and `ValueError` for outputs of another network's
        shape or without what the scorer needs, and for numbers so large that a score overflows.
        """
        check(outputs, "outputs", self.reads)
        self._refuse_unfitted()
        self._refuse_other_sizes(outputs)
        arrays = in_arrays(outputs)
        chunks = (arrays[rows] for rows in chunked(len(outputs), chunk_size))
        return np.concatenate([self._finite_scores(chunk) for chunk in chunks]).astype(np.float64)

    def learned(self) -> dict[str, Any]:
        """Everything learned so far, by attribute name."""
        return {n: v for n, v in vars(self).items() if n.endswith("_")}

    def arguments(self) -> dict[str, Any]:
        """What the constructor was given."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _fit(self, train: Outputs) -> None: ...

    def _calibrate(self, validation: Outputs, outliers: Outputs | None) -> None: ...

    def _score(self, outputs: Outputs) -> np.ndarray:
        raise NotImplementedError

    def _finite_scores(self, outputs: Outputs) -> np.ndarray:
        """Return the scores of a chunk; a row for which float32 is too small is done again in float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            scores = self._score(outputs)
            lost = ~np.isfinite(scores)
            if lost.any():
                scores = scores.astype(np.float64)
                scores[lost] = self._score(in_double(outputs[lost]))
        if not np.isfinite(scores).all():
            raise ValueError(
                f"{self} overflows float64 at {(~np.isfinite(scores)).sum()} of {len(scores)} rows; "
                "smaller numbers, such as outputs divided by a constant, would be right"
            )
        return scores

    def _refuse_unfitted(self) -> None:
        if "train" in self.needs and not hasattr(self, "sizes_"):
            raise NotFittedError(f"{self} has not been fitted; call fit(train) first")
        if "validation" in self.needs and not hasattr(self, "calibrated_"):
            raise NotFittedError(
                f"{self} has not been calibrated; call calibrate(validation) first"
            )

    def _refuse_other_sizes(self, outputs: Outputs) -> None:
        sizes = (outputs.logits.shape[1], outputs.embeddings.shape[1])
        if hasattr(self, "sizes_") and sizes != tuple(self.sizes_):
            fitted = "C = {}, D = {}".format(*self.sizes_)
            raise ValueError(f"{self} was fitted with {fitted}; got C = {sizes[0]}, D = {sizes[1]}")


def check(outputs: Outputs, name: str, reads: Collection[str] | None = None) -> None:
    """Raise `ValueError`, naming the sizes, unless all arrays fit each other and are finite.

    Where it is said what a scorer `reads`, the values of other arrays may be NaN or infinite. Raises
    `TypeError` for what is not `Outputs`, or holds something else than arrays of real numbers.
    """
    if not isinstance(outputs, Outputs):
        raise TypeError(
            f"{name} must be Outputs, made of your arrays, got {type(outputs).__name__}"
        )
    named = {f.name: getattr(outputs, f.name) for f in fields(outputs)}
    asked = ("logits", "embeddings", "labels")
    arrays = {
        f: _real_array(f"{f} of {name}", a) for f, a in named.items() if f in asked or a is not None
    }
    absent = [f for f in HEAD if f not in arrays and f in (reads or ())]
    if absent:
        raise ValueError(
            f"{name} lack {' and '.join(absent)}, which this score reads: the weight C×D and the bias "
            "C of your network's last layer"
        )
    shapes = {f: a.shape for f, a in arrays.items()}
    sizes = shapes["logits"] + shapes["embeddings"][1:]
    n, c, d = sizes if len(sizes) == 3 else (0, 0, 0)
    expected = {
        "logits": (n, c), "embeddings": (n, d), "labels": (n,), "head_weight": (c, d),
        "head_bias": (c,), "mse": (n,), "mse_noised": (n,), "perturbed_logits": (n, c),
    }  # fmt: skip
    misfits = [f for f, shape in shapes.items() if shape != expected[f]]
    if misfits:
        raise ValueError(
            f"{name} must be N×C, N×D, N, C×D and C arrays, got {shapes}; {misfits[0]} does not fit, "
            "and a single row is outputs[i : i + 1]"
        )
    if n == 0 or c < 2:
        raise ValueError(f"{name} need at least one row and two classes, got {shapes}")
    for f, array in arrays.items():
        if (reads is None or f in reads) and not all_finite(array):
            bad = np.argwhere(~np.isfinite(array))
            raise ValueError(
                f"{f} of {name}, shape {array.shape}, hold {len(bad)} NaN or infinite values, the "
                f"first in row {bad[0][0]}"
            )


def _real_array(name: str, values: Any) -> np.ndarray:
    """The values as a NumPy array; `TypeError`, with their name, for what is no array of real numbers."""
    right = "a NumPy array of real numbers, or such a tensor, after .detach().cpu().float()"
    if not hasattr(values, "shape"):
        hint = ", of −1 where they are not known" if name.startswith("labels") else ""
        raise TypeError(f"{name} must be {right}{hint}; got {type(values).__name__}")
    try:
        array = np.asarray(values)
    except (TypeError, RuntimeError) as error:  # of torch: bfloat16, on a GPU, part of a graph
        raise TypeError(f"{name} must be {right}; got a tensor for which {error}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be {right}; got an array of {array.dtype}")
    return array


def all_finite(array: np.ndarray) -> bool:
    """Tell whether no value is NaN or infinite, by one product of the array with itself.

    That is finite only where all values are; where it is not, the values may just be large.
    """
    if array.dtype in (np.float32, np.float64) and array.flags.c_contiguous:
        flat = array.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(flat @ flat):
                return True
    return bool(np.isfinite(array).all())


def check_known(outputs: Outputs, name: str, reads: Collection[str] | None = None) -> None:
    """Raise `ValueError` unless `check` passes and every label is one of the head's classes."""
    check(outputs, name, None if reads is None else (*reads, "labels"))
    classes, labels = np.asarray(outputs.logits).shape[1], np.asarray(outputs.labels)
    rows = np.flatnonzero((labels < 0) | (labels >= classes) | (labels % 1 != 0))
    if len(rows):
        raise ValueError(
            f"{name} must hold known classes only, 0 … {classes - 1}; {len(rows)} of {len(labels)} "
            f"rows have the labels {np.unique(labels[rows]).tolist()}, the first is row {rows[0]}"
        )


def in_double(outputs: Outputs) -> Outputs:
    """The same outputs as NumPy arrays in float64."""
    return _converted(outputs, lambda array: np.float64)


def in_arrays(outputs: Outputs) -> Outputs:
    """The same outputs as NumPy arrays, without a copy where they are in float32 or float64."""
    return _converted(outputs, working_type)


def working_type(array: np.ndarray) -> type:
    """The number type in which an array is worked on: float32 for float32 and float16, or float64."""
    return np.float32 if array.dtype in (np.float16, np.float32) else np.float64


def _converted(outputs: Outputs, to: Callable[[np.ndarray], type]) -> Outputs:
    named = {f.name: getattr(outputs, f.name) for f in fields(outputs)}
    arrays = {f: np.asarray(a) for f, a in named.items() if a is not None}
    numbers: dict[str, Any] = {f: np.asarray(a, to(a)) for f, a in arrays.items() if f != "labels"}
    return replace(outputs, **numbers, labels=arrays["labels"])


def column_sums(z: np.ndarray) -> np.ndarray:
    """Sum of the rows, D in float64, of N×D in any type: at most 1024 of them are added in that type."""
    parts = (z[rows] for rows in chunked(len(z), 1024))
    sums = np.stack([np.ones(len(part), z.dtype) @ part for part in parts])
    return sums.sum(0, dtype=np.float64)


def class_means(train: Outputs) -> tuple[np.ndarray, np.ndarray]:
    """Mean embedding of every class that has rows, K×D, and each row's place among them, N."""
    _, places = np.unique(train.labels, return_inverse=True)
    groups = rows_of(places)
    return np.stack([column_sums(train.embeddings[g]) / len(g) for g in groups]), places


def rows_of(places: np.ndarray) -> list[np.ndarray]:
    """The indices of the rows at place 0, at place 1 … of N places, none of which is empty."""
    return np.split(np.argsort(places, kind="stable"), np.cumsum(np.bincount(places))[:-1])


def unit(z: np.ndarray) -> np.ndarray:
    """Rows of length one; a row of zeros stays zero."""
    return z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-12)


def chunked(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover 0…n−1."""
    return (slice(i, i + size) for i in range(0, n, size))
