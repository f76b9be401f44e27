"""Numbers with provenance: what a notebook measured, on what data, with which code and machine."""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedood.data import ImageSet


class ResultsError(ValueError):
    """A number that cannot be recorded, or a record that cannot be found."""


def find_project_root() -> Path | None:
    """Return the nearest folder above the working directory, or else above this package, that
    holds ``notebooks/profiles.yml``; None where the package is used without the book."""
    starts = (Path.cwd(), Path(__file__).resolve().parent)
    for folder in (parent for start in starts for parent in (start, *start.parents)):
        if (folder / "notebooks" / "profiles.yml").is_file():
            return folder
    return None


def project_root() -> Path:
    """Return the folder of the book's sources; raises ResultsError where there is none."""
    root = find_project_root()
    if root is None:
        raise ResultsError(
            f"no notebooks/profiles.yml in {Path.cwd()}, in a folder above it or above the "
            "package: run this inside a checkout of the book"
        )
    return root


def code_hash(notebook: Mapping[str, Any]) -> str:
    """Return the sha256 of the sources of the code cells of a notebook (its parsed JSON), without
    the parameters that papermill injected: outputs and prose do not change it."""
    digest = hashlib.sha256()
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and not is_injected(cell):
            source = "".join(cell["source"])
            digest.update(source.strip().encode() + b"\0")
    return digest.hexdigest()


def is_injected(cell: Mapping[str, Any]) -> bool:
    """Tell whether papermill put this cell into the notebook (parameters, error marks)."""
    tags = cell.get("metadata", {}).get("tags", [])
    return "injected-parameters" in tags or any(tag.startswith("papermill-error") for tag in tags)


def source_hash(notebook: str) -> str:
    """Return ``code_hash`` of ``notebooks/<notebook>.ipynb`` as it is now."""
    path = project_root() / "notebooks" / f"{notebook}.ipynb"
    return code_hash(json.loads(path.read_text(encoding="utf-8")))


def summarise(
    values: Iterable[float], within: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, tuple[float, float] | None]:
    """Return the mean over seeds and its Student-t 95 % interval.

    ``mean ± t(0.975, n − 1) · s / √n`` with the sample standard deviation ``s``, cut off where the
    quantity itself must end, ``within=(0, 1)`` for a proportion (which keeps its coverage); None for
    a single value, which has no spread. Raises ResultsError without values, with NaN, or outside.
    """
    sample = [float(value) for value in values]
    if not sample or not all(map(math.isfinite, sample)):
        raise ResultsError(f"a mean needs at least one value, all finite; got {sample}")
    low, high = within
    if not low <= min(sample) <= max(sample) <= high:
        raise ResultsError(f"values lie within {low} and {high}; got {sample}")
    count, mean = len(sample), math.fsum(sample) / len(sample)
    if count == 1:
        return mean, None
    from scipy import stats

    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in sample) / (count - 1))
    half = float(stats.t.ppf(0.975, count - 1)) * spread / math.sqrt(count)
    return mean, (max(mean - half, low), min(mean + half, high))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON under a temporary name in the same folder, then move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def published(notebook: str) -> dict[str, Any]:
    """Return what ``book/published/<notebook>.json`` holds; raises ResultsError without it."""
    path = project_root() / "book" / "published" / f"{notebook}.json"
    if not path.is_file():
        known = sorted(found.stem for found in path.parent.glob("*.json"))
        raise ResultsError(
            f"nothing is published for {notebook!r}; there is {known} in {path.parent}"
        )
    return json.loads(path.read_text(encoding="utf-8"))


class Results:
    """The numbers of one notebook under one profile, kept as ``<folder>/<notebook>.json``.

    ``seeds`` lists the seeds used; ``data`` is the image set measured on (its name, source and
    fingerprint are kept); ``folder`` defaults to the variable EMBEDOOD_RESULTS, else to
    ``build/<profile>`` in the project, else to the same in the working directory.
    """

    def __init__(
        self,
        notebook: str,
        profile: str,
        seeds: Sequence[int],
        data: ImageSet | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.notebook, self.profile, self.seeds = notebook, profile, [int(seed) for seed in seeds]
        self.data = data
        self.folder = Path(folder) if folder is not None else default_folder(profile)
        self.numbers: dict[str, dict[str, Any]] = {}
        self._started = time.monotonic()

    @property
    def path(self) -> Path:
        """The file that ``record`` writes."""
        return self.folder / f"{self.notebook}.json"

    def attachment(self, name: str) -> Path:
        """Return where to write a page of one's own, such as "map.html"; publishing takes it along.

        Raises ResultsError for a name that does not end in .html or names a folder.
        """
        if not name.endswith(".html") or Path(name).name != name:
            raise ResultsError(f"an attachment is one page, such as 'map.html', got {name!r}")
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{self.notebook}-{name}"

    def record(
        self,
        name: str,
        value: float,
        unit: str = "",
        n: int | None = None,
        interval: Sequence[float] | None = None,
    ) -> float:
        """Keep a number under a name of its own, write the file, and return the number.

        ``n`` is the number of items measured on, ``interval`` its 95 % bounds (lo, hi) around
        ``value``. Raises ResultsError for a name used twice, NaN, or bounds that miss the value.
        """
        if not name or name in self.numbers:
            raise ResultsError(f"each number needs a name of its own; {name!r} is empty or taken")
        number = _finite(name, value)
        self.numbers[name] = {
            "value": number,
            "unit": unit,
            "n": None if n is None else int(n),
            "interval": _bounds(name, number, interval),
        }
        self.write()
        return number

    def write(self) -> None:
        """Write everything recorded so far, with its provenance, in one move."""
        write_json(self.path, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the file."""
        from embedood import runs, runtime  # torch is slow to import, and only records need it

        return {
            "notebook": self.notebook,
            "profile": self.profile,
            **_machine(),
            "seeds": self.seeds,
            "seconds": round(time.monotonic() - self._started, 2),
            "trained_on": runs.used(),
            "versions": runtime.versions(),
            "data": _data_entry(self.data),
            "source_hash": _source_hash_or_none(self.notebook),
            "numbers": self.numbers,
        }


def default_folder(profile: str) -> Path:
    """Return EMBEDOOD_RESULTS, else ``build/<profile>`` in the project or working directory."""
    chosen = os.environ.get("EMBEDOOD_RESULTS")
    return Path(chosen) if chosen else (find_project_root() or Path.cwd()) / "build" / profile


def _finite(name: str, value: Any) -> float:
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise ResultsError(f"{name!r} must be a number, got {value!r}")
    if not math.isfinite(number):
        raise ResultsError(f"{name!r} must be finite, got {number}")
    return int(number) if isinstance(number, numbers.Integral) else float(number)


def _bounds(name: str, value: float, interval: Sequence[float] | None) -> list[float] | None:
    if interval is None:
        return None
    bounds = [_finite(f"interval of {name}", bound) for bound in interval]
    slack = 1e-9 * max(1.0, abs(value))
    if len(bounds) != 2 or not bounds[0] - slack <= value <= bounds[1] + slack:
        raise ResultsError(f"{name!r} = {value} needs an interval (lo, hi) around it, got {bounds}")
    return bounds


def _machine() -> dict[str, str]:
    from embedood import runtime

    device = runtime.device()
    return {"device": device.type, "processor": runtime.describe(device)}


def _data_entry(data: ImageSet | None) -> dict[str, str] | None:
    if data is None:
        return None
    return {"name": data.name, "source": data.source, "fingerprint": data.fingerprint}


def _source_hash_or_none(notebook: str) -> str | None:
    """A notebook on its own (Colab, a copy under another name) has no source to compare with."""
    try:
        return source_hash(notebook)
    except (ResultsError, OSError):
        return None
