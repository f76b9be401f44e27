"""Every notebook of the book: executed under `smoke`, compared with itself, and published true."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedood import batch
from embedood.results import code_hash, project_root

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="session")
def run_cache(tmp_path_factory):
    """One cache of trained models for all notebooks and workers: chapters share what they train."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "runs"


@pytest.fixture(scope="class")
def job(request, tmp_path_factory, run_cache):
    """The notebook of the test class, executed once."""
    folder = tmp_path_factory.mktemp(request.cls.notebook)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("EMBEDOOD_RUNS", str(run_cache))
        yield batch.execute(request.cls.notebook, "smoke", out_folder=folder, live=False)


def code_cells(path):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def test_profiles_name_every_notebook_and_no_other(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert batch.notebook_names() == NOTEBOOKS


@pytest.mark.parametrize("profile", ["smoke", "quick", "full", "gpu"])
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_profile_fits_the_parameters_cell(notebook, profile, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    job = batch.validate(notebook, profile, out_folder=tmp_path)
    assert job.parameters["profile"] == profile


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_defaults_of_the_parameters_cell_are_the_quick_profile(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    quick = batch.validate(notebook, "quick", out_folder=tmp_path)
    assert dict(quick.parameters) == batch.declared_parameters(quick.source)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_published_numbers_come_from_the_present_code(notebook):
    published = ROOT / "book" / "published" / f"{notebook}.json"
    if not published.exists():
        pytest.skip(f"{notebook} is not published yet")
    source = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())
    assert json.loads(published.read_text())["source_hash"] == code_hash(source)


class NotebookRuns:
    """Executed once under papermill, then cell by cell under nbval (one class a notebook, so that
    they run in parallel)."""

    notebook: str

    def test_papermill_leaves_notebook_and_numbers(self, job):
        numbers = json.loads(job.numbers.read_text())
        assert numbers["notebook"] == self.notebook
        assert numbers["profile"] == "smoke"
        assert numbers["numbers"], "a notebook records at least one number"

    def test_every_picture_is_kept_as_a_figure(self, job):
        outputs = [o for cell in code_cells(job.executed) for o in cell["outputs"]]
        pictures = [o for o in outputs if "image/png" in o.get("data", {})]
        kept = list(job.figures.glob("*.png"))
        assert len(kept) == len(pictures)
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in kept)

    def test_marked_cells_have_outputs(self, job):
        """nbval passes a marked cell without an output to compare with, whatever it prints."""
        marked = [c for c in code_cells(job.executed) if is_marked(c)]
        assert marked, "mark the cells that print recorded numbers with # NBVAL_CHECK_OUTPUT"
        assert all(cell["outputs"] for cell in marked)

    def test_nbval_finds_the_same_outputs_again(self, job, tmp_path, run_cache):
        copy = tmp_path / f"{self.notebook}.ipynb"
        copy.write_text(job.executed.read_text())
        found = run_nbval(copy, tmp_path, run_cache)
        assert found.returncode == 0, found.stdout[-4000:]


def is_marked(cell):
    return "".join(cell["source"]).startswith("# NBVAL_CHECK_OUTPUT")


def run_nbval(notebook, results, run_cache):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["--nbval-lax", "--nbval-cell-timeout=600", "-c", os.devnull, notebook.name]
    environment = os.environ | {"EMBEDOOD_RESULTS": str(results), "EMBEDOOD_RUNS": str(run_cache)}
    return subprocess.run(
        command, cwd=notebook.parent, env=environment, text=True, capture_output=True, check=False
    )


for name in NOTEBOOKS:
    globals()[f"Test_{name}"] = type(f"Test_{name}", (NotebookRuns,), {"notebook": name})


def test_the_project_is_found_from_the_notebooks_folder(monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    assert project_root() == ROOT
