"""What is to be run: notebook, profile and parameters, checked before anything starts."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from embedood import config, data
from embedood.results import code_hash, project_root

Scalar = bool | int | float | str
MAX_PARAMETERS = 8
TRAININGS = ("trains", "trains_once")  # presets, with every seed and with seed 0 only


class BatchError(RuntimeError):
    """A request that cannot be carried out, or a notebook that failed, in one clear message."""


@dataclass(frozen=True)
class Job:
    """One notebook under one profile: its source, its parameters, and where its results go."""

    notebook: str
    profile: str
    parameters: Mapping[str, Scalar]
    trains: tuple[str, ...]
    trains_once: tuple[str, ...]
    source: Path
    folder: Path

    @property
    def executed(self) -> Path:
        """The executed notebook; where it exists, its numbers and figures are whole."""
        return self.folder / f"{self.notebook}.ipynb"

    @property
    def numbers(self) -> Path:
        """The numbers that the notebook recorded."""
        return self.folder / f"{self.notebook}.json"

    @property
    def failed(self) -> Path:
        """The partial notebook of a run that failed."""
        return self.folder / f"{self.notebook}.failed.ipynb"

    @property
    def attachments(self) -> list[Path]:
        """The pages that the notebook wrote beside its numbers, such as interactive maps."""
        return sorted(self.folder.glob(f"{self.notebook}-*.html"))

    @property
    def figures(self) -> Path:
        """The folder of the figures of all notebooks of this profile."""
        return self.folder / "figures"

    @property
    def seeds(self) -> list[int]:
        """The seeds that the notebook averages over."""
        return list(range(int(self.parameters.get("seeds", 1))))

    @property
    def training(self) -> dict[str, Scalar]:
        """The parameters that shape an experiment, as ``config.preset`` takes them."""
        return {k: v for k, v in self.parameters.items() if k in config.field_names()}


def read_notebook(path: Path) -> dict[str, Any]:
    """Return the parsed JSON of a notebook; raises BatchError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BatchError(f"{path} is not a notebook: {error}") from None


def read_profiles() -> dict[str, dict[str, Any]]:
    """Return ``notebooks/profiles.yml``: notebook → profile → parameters, and what it trains."""
    path = project_root() / "notebooks" / "profiles.yml"
    try:
        profiles = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BatchError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(profiles, dict):
        raise BatchError(f"{path} must map notebook names to profiles, got {profiles!r}")
    return profiles


def notebook_names() -> list[str]:
    """Return the names of all notebooks of the book, in reading order."""
    return sorted(read_profiles())


def notebook_name(wanted: str) -> str:
    """Complete ``03`` or ``03_threshold.ipynb`` to the name of one notebook of the book."""
    known = notebook_names()
    stem = Path(wanted).name.removesuffix(".ipynb")
    stem = stem.zfill(2) if stem.isdigit() else stem
    matches = [name for name in known if name == stem or name.startswith(f"{stem}_")]
    if len(matches) != 1:
        raise BatchError(f"unknown notebook {wanted!r}; there are {', '.join(known)}")
    return matches[0]


def validate(
    notebook: str,
    profile: str,
    overrides: Mapping[str, Any] | None = None,
    out_folder: str | os.PathLike[str] | None = None,
) -> Job:
    """Return the job, or raise BatchError naming what is unknown, mistyped or unwritable.

    ``overrides`` replaces parameters of the profile; text is read as the type of the default in
    the notebook. ``out_folder`` defaults to ``build/<profile>``.
    """
    root, name = project_root(), notebook_name(notebook)
    entry = read_profiles()[name]
    profiles = [key for key in entry if key not in TRAININGS]
    if profile not in profiles:
        raise BatchError(f"unknown profile {profile!r} of {name}; there are {', '.join(profiles)}")
    source = root / "notebooks" / f"{name}.ipynb"
    if not source.is_file():
        raise BatchError(f"notebooks/profiles.yml names {name}, but {source} does not exist")
    defaults = declared_parameters(source)
    asked = {**(entry[profile] or {}), **(overrides or {})}
    parameters = _checked(asked, defaults, f"{name}, profile {profile}")
    if parameters.get("seeds", 1) < 1:  # type: ignore[operator]
        raise BatchError(f"{name} needs at least one seed, got {parameters['seeds']}")
    if parameters.get("data_name", data.NAMES[0]) not in data.NAMES:
        raise BatchError(
            f"data_name of {name} must be one of {', '.join(data.NAMES)}, "
            f"got {parameters['data_name']!r}"
        )
    if "profile" in defaults:
        parameters["profile"] = profile
    folder = Path(out_folder) if out_folder is not None else root / "build" / profile
    _ensure_writable(folder)
    trains, once = (tuple(entry.get(key) or ()) for key in TRAININGS)
    job = Job(name, profile, parameters, trains, once, source, folder)
    trainings(job)
    return job


def validate_all(
    notebooks: Sequence[str], profile: str, overrides: Mapping[str, Any] | None = None
) -> list[Job]:
    """Return the jobs of some notebooks, or of all of the book where none is named.

    Of all, one that repeats over something else than seeds keeps to its profile where ``overrides`` has
    a number of them; one that is named is refused. Raises BatchError as ``validate`` does.
    """
    if notebooks:
        return [validate(name, profile, overrides) for name in notebooks]
    return [validate(n, profile, _without_seeds(n, overrides or {})) for n in notebook_names()]


def _without_seeds(name: str, overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    """The overrides, a number of seeds left out where the notebook declares none."""
    source = project_root() / "notebooks" / f"{name}.ipynb"
    if not source.is_file() or "seeds" in declared_parameters(source):
        return overrides
    return {key: value for key, value in overrides.items() if key != "seeds"}


def declared_parameters(source: Path) -> dict[str, Scalar]:
    """Return names and defaults of the one cell tagged ``parameters``."""
    cells = [c for c in read_notebook(source)["cells"] if _has_tag(c, "parameters")]
    if len(cells) != 1:
        raise BatchError(
            f"{source.name} needs exactly one cell tagged 'parameters', has {len(cells)}"
        )
    defaults = {}
    for line in ast.parse("".join(cells[0]["source"])).body:
        try:
            target = line.targets[0].id  # type: ignore[attr-defined]
            defaults[target] = ast.literal_eval(line.value)  # type: ignore[attr-defined]
        except (AttributeError, ValueError):
            raise BatchError(
                f"the parameters cell of {source.name} may only hold lines such as 'epochs = 3', "
                f"got {ast.unparse(line)!r}"
            ) from None
    if len(defaults) > MAX_PARAMETERS:
        raise BatchError(f"{source.name} has {len(defaults)} parameters, at most {MAX_PARAMETERS}")
    return defaults


def _has_tag(cell: Mapping[str, Any], tag: str) -> bool:
    return tag in cell.get("metadata", {}).get("tags", [])


def _checked(
    asked: Mapping[str, Any], defaults: Mapping[str, Scalar], where: str
) -> dict[str, Scalar]:
    unknown = sorted(set(asked) - set(defaults))
    if unknown:
        raise BatchError(
            f"unknown parameter {', '.join(map(repr, unknown))} for {where}; "
            f"its parameters cell has {', '.join(defaults)}"
        )
    return {name: _as_type_of(defaults[name], value, name, where) for name, value in asked.items()}


def _as_type_of(default: Scalar, value: Any, name: str, where: str) -> Scalar:
    kind = type(default)
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(value, str) and kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    if isinstance(value, str) and kind is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise BatchError(
        f"parameter {name!r} for {where} must be {kind.__name__} like {default!r}, got {value!r}"
    )


def _ensure_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BatchError(
            f"cannot write into the output folder {folder}: {error.strerror}"
        ) from None


def job_digest(job: Job) -> str:
    """Return a hash of all that decides a job's result: code cells, parameters, package.

    It depends on content alone, so a checkout that touches files repeats nothing.
    """
    parts = [
        code_hash(read_notebook(job.source)),
        package_digest(),
        json.dumps(dict(job.parameters)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def noted_digest(job: Job, build: str | Path) -> str:
    """Return the path of the file in `build` that holds a job's digest; write it where it changed.

    Its date says since when results are out of date, so that an engine which has lost its own records
    still sees it.
    """
    path, digest = Path(build) / "digests" / job.notebook, job_digest(job)
    if not path.exists() or path.read_text() != digest:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(digest)
        os.replace(partial, path)
    return str(path)


@dataclass(frozen=True)
class Training:
    """One model that notebooks use: a preset with parameters and a seed."""

    preset: str
    seed: int
    parameters: str
    key: str

    @property
    def name(self) -> str:
        """A readable file name; equal experiments of several notebooks share it."""
        return f"{self.preset}-{self.seed}-{self.key}"


def trainings(job: Job) -> list[Training]:
    """Return the models of a job; raises BatchError for a preset that does not exist."""
    wanted = [(preset, seed) for preset in job.trains for seed in job.seeds]
    wanted += [(preset, 0) for preset in job.trains_once]
    return [training(job, preset, seed) for preset, seed in wanted]


def training(job: Job, preset: str, seed: int) -> Training:
    """Return one model of a job, with its parameters as JSON."""
    try:
        key = config.preset(preset, **job.training, seed=seed).key
    except config.ConfigError as error:
        raise BatchError(f"{job.notebook}, profile {job.profile}: {error}") from None
    return Training(preset, seed, json.dumps(job.training, sort_keys=True), key)


def package_digest() -> str:
    """Return a hash of the package's sources, without the ``batch`` and ``cli`` that only drive."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    for path in sorted(package.rglob("*.py")):
        if "batch" not in path.relative_to(package).parts and path.name != "cli.py":
            digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
