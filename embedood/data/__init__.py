"""Image data sets by name: found, downloaded or unpacked, checked, in one canonical order.

`load("mnist")` gives the same arrays, with the same fingerprint, whatever source they came from.
"""

from __future__ import annotations

import os
import warnings

from embedood.data import prepared
from embedood.data.catalogue import SPECS, Spec
from embedood.data.formats import Absent, Rejected
from embedood.data.image_set import Arrays, DataError, ImageSet, describe, from_arrays, parity

__all__ = ["NAMES", "DataError", "ImageSet", "from_arrays", "load", "parity"]

NAMES = tuple(SPECS)
"""The names `load` knows."""


def load(name: str, root: str | os.PathLike | None = None) -> ImageSet:
    """Load a data set by name.

    A copy prepared by an earlier load is taken first, as its fingerprint is checked; then the
    folder `root` or EMBEDOOD_DATA, what is installed on the machine, and download mirrors.

    Args:
        name: one of `NAMES`.
        root: a data folder, instead of EMBEDOOD_DATA.

    Raises:
        DataError: unknown name, or no source has the data whole; it names each and why.
    """
    if name not in SPECS:
        raise DataError(f"unknown data set {name!r}; known are {', '.join(SPECS)}")
    return _from_cache(name, SPECS[name]) or _from_sources(name, SPECS[name], root)


def _from_cache(name: str, spec: Spec) -> ImageSet | None:
    kept = prepared.read(name, spec.fingerprint)
    if kept is None:
        return None
    arrays, fingerprint, origin = kept
    source = f"cache, first from {origin}"
    return describe(name, arrays, spec.class_names, spec.superclasses, source, fingerprint)


def _from_sources(name: str, spec: Spec, root: str | os.PathLike | None) -> ImageSet:
    absent: list[str] = []
    rejected: list[str] = []
    for source in spec.sources:
        for attempt in source.attempts(root):
            try:
                image_set = _accept(name, spec, attempt.read(), attempt.source)
            except Absent as problem:
                absent.append(f"{attempt.place}: {problem}")
            except Rejected as problem:
                rejected.append(f"{attempt.place}: {problem}")
            else:
                _keep(image_set, rejected)
                return image_set
    tried = "\n".join(f"  {problem}" for problem in rejected + absent)
    raise DataError(f"{name} could not be loaded; tried\n{tried}\n{spec.help}")


def _accept(name: str, spec: Spec, arrays: Arrays, source: str) -> ImageSet:
    image_set = from_arrays(name, *arrays, spec.class_names, spec.superclasses, source)
    if spec.fingerprint not in (None, image_set.fingerprint):
        raise Rejected(
            f"its {len(image_set):,} images are not those of {name} "
            f"(fingerprint {image_set.fingerprint}, should be {spec.fingerprint})"
        )
    return image_set


def _keep(image_set: ImageSet, rejected: list[str]) -> None:
    if rejected:
        problems = "; ".join(rejected)
        message = f"{image_set.name} was loaded from {image_set.source}, passing over {problems}"
        warnings.warn(message, RuntimeWarning, stacklevel=4)
    prepared.write(image_set)
