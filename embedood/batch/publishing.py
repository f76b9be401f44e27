"""Bring executed results into the book: for good, or for one reader's own copy of it."""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from embedood.batch.jobs import BatchError, Job, notebook_names, read_notebook, validate
from embedood.results import code_hash, is_injected, project_root, write_json

MAX_BYTES = 1_500_000
LARGE_PICTURE = 400_000
MAX_ATTACHMENT_BYTES = 3_000_000
COMPARED = "# NBVAL_CHECK_OUTPUT"
PARTS = ("reading sources", "writing output")  # of the work of Sphinx, with a percentage
EXECUTING = ": Executing notebook using"  # after the path of a page
NOT_STAGED = ("build", "__pycache__", ".*", "*.egg-info")


def with_outputs(source: Mapping[str, Any], executed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the source notebook with the outputs of its executed form, and nothing else of it.

    Injected parameters, papermill's marks and stderr stay behind, as warnings tell paths of the machine;
    execution counts start at 1.
    """
    result = copy.deepcopy(dict(source))
    targets = [cell for cell in result["cells"] if cell["cell_type"] == "code"]
    origins = [c for c in executed["cells"] if c["cell_type"] == "code" and not is_injected(c)]
    for number, (target, origin) in enumerate(zip(targets, origins, strict=True), 1):
        shown = [output for output in origin["outputs"] if output.get("name") != "stderr"]
        target["outputs"] = [_lighter(output) for output in _joined(copy.deepcopy(shown))]
        target["execution_count"] = number if origin["execution_count"] else None
        for output in target["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = number
    return result


def _joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same outputs, text that was printed in a row in one piece: a kernel tears it at any line."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        last: dict[str, Any] = joined[-1] if joined else {"output_type": ""}
        if output["output_type"] == last["output_type"] == "stream":
            text = "".join(last["text"]) + "".join(output["text"])
            last["text"] = text.splitlines(keepends=True)
        else:
            joined.append(output)
    return joined


def _lighter(output: dict[str, Any]) -> dict[str, Any]:
    """The same output, its picture without an alpha channel that hides nothing: a tenth smaller.

    A picture of more than `LARGE_PICTURE` bytes is kept in 256 colours, which few can tell.
    """
    encoded = output.get("data", {}).get("image/png")
    if encoded:
        picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
        if picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (255, 255):
            smaller, kept = io.BytesIO(), picture.convert("RGB")
            if len(encoded) > LARGE_PICTURE:
                kept = kept.quantize(256)
            kept.save(smaller, "PNG", optimize=True)
            output["data"]["image/png"] = base64.b64encode(smaller.getvalue()).decode()
    return output


def publishable(job: Job) -> tuple[str, dict[str, Any]]:
    """Return the text of the notebook with outputs, and its numbers.

    Raises BatchError where either is missing, belongs to other code or parameters, or is too large.
    """
    for path in (job.executed, job.numbers):
        if not path.is_file():
            raise BatchError(
                f"{path} does not exist: first run "
                f"'embedood run {job.notebook} --profile {job.profile}'"
            )
    source, executed = read_notebook(job.source), read_notebook(job.executed)
    numbers = json.loads(job.numbers.read_text(encoding="utf-8"))
    if {code_hash(executed), numbers["source_hash"]} != {code_hash(source)}:
        raise BatchError(
            f"the code of {job.source.name} changed since {job.executed} was executed: run it again"
        )
    _check_parameters(job, numbers)
    text = json.dumps(with_outputs(source, executed), indent=1, ensure_ascii=False) + "\n"
    size = len(text.encode())
    if size > MAX_BYTES:
        raise BatchError(
            f"{job.source.name} would be {size:,} bytes with its outputs, at most {MAX_BYTES:,}: "
            "draw smaller figures or fewer points"
        )
    for page in job.attachments:
        if page.stat().st_size > MAX_ATTACHMENT_BYTES:
            raise BatchError(
                f"{page} has {page.stat().st_size:,} bytes, at most {MAX_ATTACHMENT_BYTES:,} can be "
                "published: show fewer images"
            )
    return text, numbers


def _check_parameters(job: Job, numbers: Mapping[str, Any]) -> None:
    """Refuse what ran with other parameters than its profile's; more seeds are welcome."""
    ran = {name: value for name, value in numbers["parameters"].items() if name != "seeds"}
    other = {name: value for name, value in ran.items() if value != job.parameters.get(name)}
    if other:
        raise BatchError(
            f"{job.executed} was run with {other}, which is not what profile {job.profile} says: "
            f"run it again without -p, or change notebooks/profiles.yml"
        )


def publish(profile: str, notebooks: list[str] | None = None) -> list[Path]:
    """Copy outputs into ``notebooks/`` and numbers into ``book/published/``.

    Everything is checked before the first file is written. Returns the files written.
    """
    jobs = [validate(name, profile) for name in notebooks or notebook_names()]
    ready = [(job, *publishable(job)) for job in jobs]
    return [
        path for job, text, numbers in ready for path in _place(project_root(), job, text, numbers)
    ]


def _place(root: Path, job: Job, text: str, numbers: Mapping[str, Any]) -> list[Path]:
    notebook = root / "notebooks" / job.source.name
    temporary = notebook.with_name(f".{notebook.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, notebook)
    record = root / "book" / "published" / job.numbers.name
    write_json(record, numbers)
    return [notebook, record, *_place_attachments(root / "book" / "attachments", job)]


def _place_attachments(folder: Path, job: Job) -> list[Path]:
    """Copy the pages of a notebook to where the book takes them from; drop those of older runs."""
    for old in folder.glob(f"{job.notebook}-*.html"):
        old.unlink()
    if job.attachments:
        folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy2(page, folder)) for page in job.attachments]


def build_book(profile: str | None = None) -> Path:
    """Render the book, executing no chapter; with a profile, show that profile's results instead
    of the published ones. Returns the first page; raises BatchError where a page has a warning.
    """
    root = project_root()
    stage = root / "build" / "book-source"
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(root, stage, ignore=shutil.ignore_patterns(*NOT_STAGED))
    if profile:
        _replace_results(stage, profile)
    _show_parameters(stage)
    _hide_marks(stage)
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", "-W", "-n", "--keep-going", str(stage)]
    failed, said = _watched(command)
    if failed:
        print(said, file=sys.stderr)
        raise BatchError("the book was not built: see the warnings above")
    return _keep_html(stage / "_build" / "html", root / "build" / "book" / "html")


def _watched(command: list[str]) -> tuple[int, str]:
    """Run a build of pages; return its exit status and all that it said.

    On a terminal one line shows the page that it is at; elsewhere each part of the work has a line, and
    each page whose code is executed. The build ends with this process.
    """
    live, shown, said = sys.stdout.isatty(), "", []
    at_once = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=at_once, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            for line in process.stdout or ():
                said.append(line)
                shown = _tell(line, shown, live)
        except BaseException:
            process.terminate()
            raise
    if live:
        print("\r\x1b[K", end="")
    return process.returncode, "".join(said)


def _tell(line: str, shown: str, live: bool) -> str:
    """Print what a line of Sphinx says of its work, unless it is shown already; return what is shown."""
    doing = next((f"{part} …" for part in PARTS if part in line and "%]" in line), "")
    if EXECUTING in line:
        doing = line = f"executing {Path(line.split(EXECUTING)[0]).stem} …"
    if doing and live:
        print(f"\r\x1b[K{line.strip()}", end="", flush=True)
    elif doing not in ("", shown):
        print(doing, flush=True)
    return doing or shown


def _replace_results(stage: Path, profile: str) -> None:
    jobs = [validate(name, profile) for name in notebook_names()]
    ready = [job for job in jobs if job.executed.is_file()]
    if not ready:
        raise BatchError(f"no executed notebook in {jobs[0].folder}: run 'make figures' first")
    for job in ready:
        _place(stage, job, *publishable(job))
    print(f"results of {profile}: {', '.join(job.notebook for job in ready)}; others as published")


def _show_parameters(stage: Path) -> None:
    """Let each staged page show the parameters that its results were made with."""
    for name in notebook_names():
        record, path = (
            stage / "book" / "published" / f"{name}.json",
            stage / "notebooks" / f"{name}.ipynb",
        )
        if not record.is_file():
            continue
        made = json.loads(record.read_text(encoding="utf-8"))
        shown = {"profile": ""} | dict(validate(name, made["profile"]).parameters)
        if "seeds" in shown:
            shown["seeds"] = len(made["seeds"])
        notebook = read_notebook(path)
        cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", ()))
        cell["source"] = "\n".join(
            f"{n} = {value!r}".replace("'", '"') for n, value in shown.items()
        )
        path.write_text(json.dumps(notebook), encoding="utf-8")


def _hide_marks(stage: Path) -> None:
    """Leave out of each staged page the line that tells nbval which outputs to compare."""
    for path in (stage / "notebooks").glob("*.ipynb"):
        notebook = read_notebook(path)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["source"] = "".join(cell["source"]).removeprefix(COMPARED + "\n")
        path.write_text(json.dumps(notebook), encoding="utf-8")


def _keep_html(built: Path, kept: Path) -> Path:
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    os.replace(built, kept)
    return kept / "index.html"
