"""The cache: one file a data set, in canonical order, checked by its fingerprint when read."""

from __future__ import annotations

import os
import uuid
import warnings
import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np

from embedood.data.image_set import Arrays, ImageSet, fingerprint


def folder() -> Path:
    """The cache folder: EMBEDOOD_CACHE, or ~/.cache/embedood/data."""
    chosen = os.environ.get("EMBEDOOD_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "embedood" / "data"


def read(name: str, expected: str | None) -> tuple[Arrays, str, str] | None:
    """Arrays, their fingerprint and their first source; None if absent, damaged, older, or other."""
    try:
        with np.load(folder() / f"{name}.npz", allow_pickle=False) as kept:
            arrays = kept["images"], kept["labels"], kept["is_test"]
            written, origin = str(kept["fingerprint"]), str(kept["origin"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
    if fingerprint(*arrays) != (expected or written):
        return None
    return arrays, expected or written, origin


def write(image_set: ImageSet) -> None:
    """Keep a data set for the next load; warn once and go on where that is impossible."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        _write_atomically(image_set, folder() / f"{image_set.name}.npz")
    except OSError as error:
        _warn_once(
            f"The data cache {folder()} cannot be written ({error}); going on without it. "
            "Set EMBEDOOD_CACHE to a folder that can."
        )


def _write_atomically(image_set: ImageSet, path: Path) -> None:
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.part")
    try:
        with temporary.open("wb") as file:
            np.savez(
                file,
                images=image_set.images,
                labels=image_set.labels,
                is_test=image_set.is_test,
                fingerprint=image_set.fingerprint,
                origin=image_set.source,
            )
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)
