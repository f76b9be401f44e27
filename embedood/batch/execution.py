"""Execute one notebook with papermill so that its outputs appear whole or not at all."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from embedood.batch.jobs import BatchError, Job, read_notebook, validate
from embedood.batch.progress import Progress
from embedood.results import Results, code_hash, is_injected, write_json

LOCK_SECONDS = 20
TRACEBACK_LINES = 12
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def execute(
    notebook: str,
    profile: str,
    overrides: Mapping[str, Any] | None = None,
    out_folder: str | os.PathLike[str] | None = None,
    place: str = "notebook 1 of 1",
    live: bool = True,
) -> Job:
    """Check, execute and keep one notebook; return the job with the places of its outputs.

    The executed notebook is moved into place last, after its numbers and figures. A failure
    leaves ``<notebook>.failed.ipynb`` and raises BatchError with notebook, cell and traceback.
    """
    job = validate(notebook, profile, overrides, out_folder)
    with _only_writer(job):
        scratch = job.folder / f".{job.notebook}.partial"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            _execute_in(job, scratch, place, live)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return job


@contextmanager
def _only_writer(job: Job) -> Iterator[None]:
    """Hold a lock that the system releases even when this process is killed."""
    lock = FileLock(job.folder / f".{job.notebook}.lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise BatchError(
            f"another run is writing {job.executed}: wait for it, or end it, and try again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _execute_in(job: Job, scratch: Path, place: str, live: bool) -> None:
    started = time.monotonic()
    executed = scratch / f"{job.notebook}.ipynb"
    code_cells = sum(map(_runs, read_notebook(job.source)["cells"]))
    progress = Progress(job.notebook, place, code_cells, live=live)
    progress.show()
    try:
        _run_papermill(job, executed, scratch, progress)
        content = read_notebook(executed)
        _check_every_cell_ran(job, content)
    except Exception as error:
        progress.end("failed")
        if executed.exists():
            os.replace(executed, job.failed)
        raise BatchError(_failure(job, error)) from error
    numbers = _numbers(job, scratch, content, time.monotonic() - started)
    _move_into_place(job, scratch, content, numbers)
    progress.end("done")


def _run_papermill(job: Job, executed: Path, scratch: Path, progress: Progress) -> None:
    from papermill import execute_notebook
    from papermill.engines import papermill_engines

    from embedood.batch.engine import ReportingEngine

    papermill_engines.register("embedood", ReportingEngine)
    logs = job.folder / "logs"
    logs.mkdir(exist_ok=True)
    with (logs / f"{job.notebook}.log").open("w", encoding="utf-8") as log:
        execute_notebook(
            job.source,
            executed,
            dict(job.parameters),
            engine_name="embedood",
            cwd=job.source.parent,
            progress_bar=False,
            stdout_file=log,
            stderr_file=log,
            progress=progress,
            kernel={
                "stderr": log,
                "env": os.environ | {"EMBEDOOD_RESULTS": str(scratch.resolve())},
            },
        )


def _runs(cell: Mapping[str, Any]) -> bool:
    return cell["cell_type"] == "code" and bool("".join(cell["source"]).strip())


def _check_every_cell_ran(job: Job, content: Mapping[str, Any]) -> None:
    cells = [cell for cell in content["cells"] if _runs(cell)]
    missed = [i for i, cell in enumerate(cells, 1) if not cell["execution_count"]]
    if missed:
        raise BatchError(f"code cells {missed} of {len(cells)} never ran")


def _failure(job: Job, error: Exception) -> str:
    """Say which cell failed, counted among the code cells as the source notebook has them."""
    if not job.failed.exists():
        return f"{job.notebook} failed: {_reason(error)}"
    cells = [c for c in read_notebook(job.failed)["cells"] if _runs(c) and not is_injected(c)]
    number = next((i for i, c in enumerate(cells, 1) if not _succeeded(c)), len(cells))
    first_line = "".join(cells[number - 1]["source"]).strip().splitlines()[0]
    return (
        f"{job.notebook} failed in code cell {number} of {len(cells)} ({first_line!r}): "
        f"{_reason(error)}\nkept as {job.failed}"
    )


def _succeeded(cell: Mapping[str, Any]) -> bool:
    state = cell["metadata"].get("papermill", {})
    failed = any(output["output_type"] == "error" for output in cell["outputs"])
    return bool(cell["execution_count"]) and not failed and state.get("status") == "completed"


def _reason(error: Exception) -> str:
    """Return the error in one line and, where the notebook raised it, its last traceback lines."""
    if not hasattr(error, "ename"):
        return f"{type(error).__name__}: {error}"
    lines = _COLOUR.sub("", "\n".join(error.traceback)).splitlines()  # type: ignore[attr-defined]
    tail = "\n".join(f"  {line}" for line in lines[-TRACEBACK_LINES:])
    return f"{error.ename}: {error.evalue}\n{tail}"  # type: ignore[attr-defined]


def _numbers(job: Job, scratch: Path, content: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    recorded = scratch / f"{job.notebook}.json"
    if recorded.exists():
        numbers = json.loads(recorded.read_text(encoding="utf-8"))
    else:
        numbers = Results(job.notebook, job.profile, job.seeds).as_dict()
    how = {"parameters": dict(job.parameters), "seconds": round(seconds, 2)}
    return numbers | how | {"source_hash": code_hash(content)}


def _move_into_place(
    job: Job, scratch: Path, content: Mapping[str, Any], numbers: Mapping[str, Any]
) -> None:
    """The old notebook goes first and the new one comes last: where it is, all of it is there."""
    for old in (job.executed, *job.attachments):
        old.unlink(missing_ok=True)
    write_figures(job, content)
    for page in scratch.glob(f"{job.notebook}-*.html"):
        os.replace(page, job.folder / page.name)
    write_json(job.numbers, numbers)
    os.replace(scratch / job.executed.name, job.executed)
    job.failed.unlink(missing_ok=True)


def write_figures(job: Job, content: Mapping[str, Any]) -> list[Path]:
    """Write every PNG output as ``figures/<notebook>-<name or number>.png``; drop older ones."""
    job.figures.mkdir(exist_ok=True)
    written = []
    for name, image in _images(content):
        path = job.figures / f"{job.notebook}-{name}.png"
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(base64.b64decode(image))
        os.replace(temporary, path)
        written.append(path)
    for path in job.figures.glob(f"{job.notebook}-*.png"):
        if path not in written:
            path.unlink()
    return written


def _images(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    taken: set[str] = set()
    for cell in content["cells"]:
        for output in cell.get("outputs", []):
            image = output.get("data", {}).get("image/png")
            if image:
                figure = cell["metadata"].get("mystnb", {}).get("figure", {})
                name = figure.get("name") or str(len(taken) + 1)
                if name in taken:
                    name = f"{name}-{len(taken) + 1}"
                taken.add(name)
                yield name, "".join(image)
