"""The batch on a small project of its own: what is repeated, refused, kept, and continued."""

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from embedood import __version__, batch, cli
from embedood.batch import publishing
from embedood.batch.progress import Progress, last_heading
from embedood.batch.publishing import _hide_marks

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = 'profile = "quick"\nseeds = 1\nstep = 0.5\nlabel = "a"'
COUNT = 'from pathlib import Path\nwith Path("{name}.ran").open("a") as ran:\n    ran.write("x")'
NUMBER = (
    "from embedood.results import Results\n"
    'results = Results("{name}", profile, range(seeds))\n'
    'results.record("step", step)'
)
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([0, step])\nplt.show()"
WAIT = (
    "import os, time\n"
    'Path("pids").write_text(f"{os.getppid()} {os.getpid()}")\n'
    'while not Path("go").exists():\n'
    "    time.sleep(0.05)"
)


def write_notebook(path, *sources):
    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Title"), parameters, new_markdown_cell("text\n## Stage two")]
    notebook = new_notebook(cells=[*cells, *map(new_code_cell, sources)])
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata.kernelspec = kernel
    nbformat.write(notebook, path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two notebooks that work; tests add what they need."""
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    shutil.copy(ROOT / "Snakefile", root)
    shutil.copytree(ROOT / "workflow", root / "workflow")
    for name in ("01_first", "02_second"):
        sources = [text.replace("{name}", name) for text in (COUNT, NUMBER)]
        write_notebook(root / "notebooks" / f"{name}.ipynb", *sources)
    set_profiles(root, "01_first", "02_second")
    monkeypatch.chdir(root)
    monkeypatch.setenv("EMBEDOOD_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("EMBEDOOD_RESULTS", raising=False)
    return root


def set_profiles(root, *names, step=1.0):
    lines = [f"{name}: {{quick: {{seeds: 1, step: {step}}}}}" for name in names]
    (root / "notebooks" / "profiles.yml").write_text("\n".join(lines))


def engine_command(*config):
    command = [sys.executable, "-m", "snakemake", "--profile", "workflow/local", "--cores", "2"]
    return [*command, "--config", "profile=quick", *config]


def run_engine(*config):
    return subprocess.run(
        engine_command(*config), text=True, capture_output=True, check=False, timeout=300
    )


def times_ran(root, name):
    path = root / "notebooks" / f"{name}.ran"
    return len(path.read_text()) if path.exists() else 0


def runs_of_both(root):
    return times_ran(root, "01_first"), times_ran(root, "02_second")


def edit_cell(path, index, source):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[index].source = source
    nbformat.write(notebook, path)


def test_only_changed_content_is_repeated(project):
    """Once; then nothing; nothing for new dates or prose; one notebook for its new code."""
    assert run_engine().returncode == 0
    assert runs_of_both(project) == (1, 1)
    written = (project / "build/quick/01_first.ipynb").stat().st_mtime_ns

    first = project / "notebooks" / "01_first.ipynb"
    edit_cell(first, 0, "# Another title")
    for path in [*project.glob("notebooks/*.ipynb"), *project.glob("notebooks/*.yml")]:
        os.utime(path)
    assert run_engine().returncode == 0
    assert runs_of_both(project) == (1, 1)
    assert (project / "build/quick/01_first.ipynb").stat().st_mtime_ns == written

    edit_cell(first, 4, NUMBER.format(name="01_first") + " * 2")
    assert run_engine().returncode == 0
    assert runs_of_both(project) == (2, 1)

    assert run_engine('notebooks="02"', "seeds=2").returncode == 0
    assert runs_of_both(project) == (2, 2)
    assert json.loads((project / "build/quick/02_second.json").read_text())["seeds"] == [0, 1]


def test_changed_content_is_seen_without_the_records_of_the_engine(project):
    assert run_engine().returncode == 0
    shutil.rmtree(project / ".snakemake")
    assert run_engine().returncode == 0
    assert runs_of_both(project) == (1, 1)
    shutil.rmtree(project / ".snakemake")
    edit_cell(
        project / "notebooks" / "02_second.ipynb", 4, NUMBER.format(name="02_second") + " * 2"
    )
    assert run_engine().returncode == 0
    assert runs_of_both(project) == (1, 2)


def wait_for(condition, what, engine=None, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        assert engine is None or engine.poll() is None, f"the engine ended before {what}"
        time.sleep(0.05)


def is_alive(pid):
    """A zombie that nobody collects any more counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads process states from /proc")
@pytest.mark.parametrize("victim", ["engine", "papermill", "kernel"])
def test_kill_9_then_continue(project, victim):
    folder, pids = project / "build" / "quick", project / "notebooks" / "pids"
    number = NUMBER.replace("{name}", "03_slow")
    write_notebook(
        project / "notebooks" / "03_slow.ipynb", COUNT.format(name="03_slow"), number, WAIT
    )
    set_profiles(project, "01_first", "03_slow")
    with (project / "log").open("w") as log:
        engine = subprocess.Popen(engine_command(), stdout=log, stderr=log)
    wait_for(lambda: pids.exists() and pids.read_text().count(" "), "the slow notebook", engine)
    wait_for((folder / "01_first.ipynb").exists, "the fast notebook", engine)
    # A busy engine takes its time to note this; then only the slow one's two outputs are incomplete.
    incomplete = project / ".snakemake" / "incomplete"
    wait_for(lambda: len(list(incomplete.rglob("*"))) == 2, "the engine to note it", engine)
    papermill, kernel = map(int, pids.read_text().split())
    os.kill(
        {"engine": engine.pid, "papermill": papermill, "kernel": kernel}[victim], signal.SIGKILL
    )
    assert engine.wait(60) != 0
    wait_for(lambda: not is_alive(papermill) and not is_alive(kernel), "the orphans to end")
    assert not (folder / "03_slow.ipynb").exists()
    assert not (folder / "03_slow.json").exists()

    (project / "notebooks" / "go").touch()
    subprocess.run([*engine_command(), "--unlock"], check=True, capture_output=True)
    again = run_engine()
    assert again.returncode == 0, again.stdout + again.stderr
    assert (times_ran(project, "01_first"), times_ran(project, "03_slow")) == (1, 2)
    assert_whole(folder, "03_slow")
    assert not list(folder.glob(".*.partial"))
    assert not list(folder.glob("*.failed.ipynb"))


def assert_whole(folder, name):
    cells = nbformat.read(folder / f"{name}.ipynb", as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    assert "step" in json.loads((folder / f"{name}.json").read_text())["numbers"]


def test_a_failing_notebook_is_named_and_the_others_go_on(project):
    write_notebook(project / "notebooks" / "00_broken.ipynb", "x = 0", "y = 1\nz = y / x", "z")
    set_profiles(project, "00_broken", "01_first", "02_second")
    found = run_engine()
    assert found.returncode != 0
    assert runs_of_both(project) == (1, 1)
    assert "00_broken failed in code cell 3 of 4 ('y = 1'): ZeroDivisionError" in found.stderr
    assert "z = y / x" in found.stderr
    assert "00_broken.failed.ipynb" in found.stderr
    folder = project / "build" / "quick"
    assert not (folder / "00_broken.ipynb").exists()
    assert not (folder / "00_broken.json").exists()
    partial = nbformat.read(folder / "00_broken.failed.ipynb", as_version=4)
    assert any("y / x" in cell.source for cell in partial.cells)
    assert_whole(folder, "01_first")


def test_a_notebook_that_stops_early_is_not_taken_for_finished(project):
    """papermill itself accepts `sys.exit(0)` and leaves the cells after it unexecuted."""
    write_notebook(project / "notebooks" / "03_early.ipynb", "import sys\nsys.exit(0)", "1 + 1")
    set_profiles(project, "03_early")
    with pytest.raises(batch.BatchError, match=r"03_early failed in code cell 2 of 3"):
        batch.execute("03", "quick")
    assert not (project / "build/quick/03_early.ipynb").exists()


def test_a_failure_keeps_the_last_good_results(project):
    batch.execute("01", "quick")
    good = (project / "build/quick/01_first.ipynb").read_bytes()
    edit_cell(project / "notebooks" / "01_first.ipynb", 4, "1 / 0")
    with pytest.raises(batch.BatchError, match="ZeroDivisionError"):
        batch.execute("01", "quick")
    assert (project / "build/quick/01_first.ipynb").read_bytes() == good


@pytest.mark.parametrize(
    ("notebook", "profile", "overrides", "message"),
    [
        ("09", "quick", {}, "unknown notebook '09'; there are 01_first, 02_second"),
        ("0", "quick", {}, "unknown notebook '0'"),
        ("01", "huge", {}, "unknown profile 'huge' of 01_first; there are quick"),
        ("01", "quick", {"stepp": 1}, "unknown parameter 'stepp' for 01_first, profile quick; "
         "its parameters cell has profile, seeds, step, label"),
        ("01", "quick", {"step": "wide"}, "'step' .* must be float like 0.5, got 'wide'"),
        ("01", "quick", {"seeds": 1.5}, "'seeds' .* must be int like 1, got 1.5"),
        ("01", "quick", {"seeds": True}, "'seeds' .* must be int like 1, got True"),
        ("01", "quick", {"seeds": 0}, "at least one seed, got 0"),
        ("01", "quick", {"label": 3}, "'label' .* must be str like 'a', got 3"),
    ],
)  # fmt: skip
def test_impossible_requests_are_refused_before_anything_starts(
    project, notebook, profile, overrides, message
):
    with pytest.raises(batch.BatchError, match=message):
        batch.execute(notebook, profile, overrides)
    assert runs_of_both(project) == (0, 0)
    assert not list(project.glob("build/*/*"))


def test_an_unwritable_folder_is_refused(project):
    (project / "build").write_text("a file where a folder should be")
    with pytest.raises(
        batch.BatchError, match=r"cannot write into the output folder .*build/quick"
    ):
        batch.execute("01", "quick")
    assert runs_of_both(project) == (0, 0)


def test_text_is_read_as_the_type_of_the_default(project):
    job = batch.validate("1", "quick", {"step": "1e-3", "seeds": "3", "label": "5"})
    assert job.notebook == "01_first"
    assert job.parameters == {"profile": "quick", "seeds": 3, "step": 0.001, "label": "5"}
    assert job.seeds == [0, 1, 2]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = 1\nb = a + 1", "'b = a \\+ 1'"),
        ("import os", "'import os'"),
        ("\n".join(f"p{i} = {i}" for i in range(9)), "9 parameters, at most 8"),
    ],
)
def test_a_parameters_cell_holds_only_few_literals(project, source, message):
    edit_cell(project / "notebooks" / "01_first.ipynb", 1, source)
    with pytest.raises(batch.BatchError, match=message):
        batch.validate("01", "quick")


def test_the_engine_refuses_an_unknown_notebook(project):
    found = subprocess.run(
        [*engine_command('notebooks="09"'), "--quiet", "rules"],
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert found.returncode != 0
    assert "unknown notebook" in found.stderr


def test_more_seeds_pass_by_a_notebook_that_has_none(project):
    second = 'profile = "quick"\nstep = 0.5\nlabel = "a"'
    edit_cell(project / "notebooks" / "02_second.ipynb", 1, second)
    lines = "01_first: {quick: {seeds: 1}}\n02_second: {quick: {step: 1.0}}"
    (project / "notebooks" / "profiles.yml").write_text(lines)
    jobs = batch.validate_all([], "quick", {"seeds": 3})
    assert [job.parameters.get("seeds") for job in jobs] == [3, None]
    assert cli.main(["check", "--seeds", "3"]) == 0
    dry = subprocess.run(
        [*engine_command("seeds=3"), "--dry-run", "--printshellcmds"],
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert dry.returncode == 0, dry.stderr
    told = {
        line.split(" run ")[1] for line in (dry.stdout + dry.stderr).splitlines() if " run " in line
    }
    assert {"01_first --profile quick --seeds 3", "02_second --profile quick "} <= told
    with pytest.raises(batch.BatchError, match="unknown parameter 'seeds' for 02_second"):
        batch.validate_all(["02"], "quick", {"seeds": 3})


def test_an_unknown_data_set_is_refused_before_anything_starts():
    with pytest.raises(
        batch.BatchError, match=r"data_name of 11_stream must be one of .*got 'foo'"
    ):
        batch.validate("11", "quick", {"data_name": "foo"})


def test_command_line_says_what_can_run_and_which_version_it_is(project, capsys):
    assert cli.main(["check", "01"]) == 0
    assert capsys.readouterr().out == "profile quick: 01_first can run\n"
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"embedood {__version__}\n"


def test_command_line_tells_errors_without_traceback(project, capsys):
    assert cli.main(["check", "01", "-p", "stepp", "1"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: unknown parameter 'stepp'")
    assert "Traceback" not in told
    assert cli.main(["check", "--seeds", "2"]) == 0


def test_status_names_notebooks_numbers_and_figures(project, capsys):
    assert cli.main(["status"]) == 0
    assert "nothing executed yet" in capsys.readouterr().out
    assert cli.main(["run", "01"]) == 0
    assert cli.main(["status", "--profile", "quick"]) == 0
    told = capsys.readouterr().out
    for name in ("01_first.ipynb", "01_first.json", "figures/01_first-*.png (0)"):
        assert str(project / "build/quick" / name) in told
    assert "02_second" not in told


def add_figures(project):
    path = project / "notebooks" / "01_first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    named = new_code_cell(FIGURE, metadata={"mystnb": {"figure": {"name": "fig-line"}}})
    notebook.cells += [new_code_cell(FIGURE), named]
    nbformat.write(notebook, path)


def test_figures_are_named_and_old_ones_leave(project):
    add_figures(project)
    figures = project / "build/quick/figures"
    figures.mkdir(parents=True)
    for name in ("01_first-9.png", "02_second-1.png"):
        (figures / name).write_bytes(b"old")
    batch.execute("01", "quick")
    kept = sorted(path.name for path in figures.iterdir())
    assert kept == ["01_first-1.png", "01_first-fig-line.png", "02_second-1.png"]
    assert (figures / "01_first-1.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_publish_copies_outputs_and_nothing_else(project):
    add_figures(project)
    before = nbformat.read(project / "notebooks" / "01_first.ipynb", as_version=4)
    batch.execute("01", "quick")
    notebook, numbers = batch.publish("quick", ["01"])
    after = nbformat.read(notebook, as_version=4)
    assert [c.source for c in after.cells] == [c.source for c in before.cells]
    assert [c.metadata for c in after.cells] == [c.metadata for c in before.cells]
    assert "papermill" not in after.metadata
    code = [c for c in after.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == [1, 2, 3, 4, 5]
    assert [c.id for c in after.cells] == [c.id for c in before.cells]
    assert "image/png" in code[-1].outputs[-1].data
    assert json.loads(numbers.read_text())["numbers"]["step"]["value"] == 1.0
    assert numbers == project / "book" / "published" / "01_first.json"
    assert run_again_publishes_the_same(notebook)


def test_warnings_are_not_published(project):
    path = project / "notebooks" / "01_first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    warn = "import sys\nprint('warned', file=sys.stderr)\nprint('said')"
    notebook.cells.append(nbformat.v4.new_code_cell(warn))
    nbformat.write(notebook, path)
    job = batch.execute("01", "quick")
    assert "warned" in job.executed.read_text("utf-8")
    batch.publish("quick", ["01"])
    outputs = nbformat.read(path, as_version=4).cells[-1].outputs
    assert [(output.name, output.text) for output in outputs] == [("stdout", "said\n")]


def test_what_is_printed_in_a_row_is_published_in_one_piece(project):
    path = project / "notebooks" / "01_first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    torn = "for i in range(3):\n    print(i, flush=True)\n    time.sleep(0.3)\nprint(3)"
    notebook.cells.append(nbformat.v4.new_code_cell(f"import time\n{torn}"))
    nbformat.write(notebook, path)
    job = batch.execute("01", "quick")
    assert len(nbformat.read(job.executed, as_version=4).cells[-1].outputs) > 1
    batch.publish("quick", ["01"])
    (output,) = nbformat.read(path, as_version=4).cells[-1].outputs
    assert output.text == "0\n1\n2\n3\n"


def run_again_publishes_the_same(notebook):
    published = notebook.read_bytes()
    batch.publish("quick", ["01"])
    return notebook.read_bytes() == published


def picture_in(notebook):
    outputs = nbformat.read(notebook, as_version=4).cells[-1].outputs
    return Image.open(io.BytesIO(base64.b64decode(outputs[-1].data["image/png"])))


def test_published_pictures_are_the_same_without_an_empty_alpha_channel(project):
    add_figures(project)
    job = batch.execute("01", "quick")
    notebook, _ = batch.publish("quick", ["01"])
    executed, published = picture_in(job.executed), picture_in(notebook)
    assert (executed.mode, published.mode) == ("RGBA", "RGB")
    assert executed.convert("RGB").tobytes() == published.tobytes()


def add_page(project, name="map.html"):
    path = project / "notebooks" / "01_first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [new_code_cell(f'results.attachment("{name}").write_text("<p>map</p>")')]
    nbformat.write(notebook, path)


def test_pages_of_a_notebook_are_published_and_old_ones_leave(project, monkeypatch):
    add_page(project)
    kept, shown = project / "build" / "quick", project / "book" / "attachments"
    for folder in (kept, shown):
        folder.mkdir(parents=True)
        (folder / "01_first-old.html").write_text("old")
        (folder / "02_second-map.html").write_text("of another notebook")
    batch.execute("01", "quick")
    *_, page = batch.publish("quick", ["01"])
    assert page == shown / "01_first-map.html"
    assert page.read_text() == "<p>map</p>"
    for folder in (kept, shown):
        pages = sorted(path.name for path in folder.glob("*.html"))
        assert pages == ["01_first-map.html", "02_second-map.html"]
    monkeypatch.setattr("embedood.batch.publishing.MAX_ATTACHMENT_BYTES", 5)
    with pytest.raises(batch.BatchError, match="has 10 bytes, at most 5 can be published"):
        batch.publish("quick", ["01"])


def test_pages_do_not_show_the_marks_of_nbval(tmp_path):
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "01_first.ipynb"
    write_notebook(path, "# NBVAL_CHECK_OUTPUT\nprint(1)", "print('# NBVAL_CHECK_OUTPUT')")
    _hide_marks(tmp_path)
    shown = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert shown[-2:] == ["print(1)", "print('# NBVAL_CHECK_OUTPUT')"]


def test_publish_refuses_stale_missing_and_large(project, monkeypatch):
    source = project / "notebooks" / "01_first.ipynb"
    with pytest.raises(batch.BatchError, match="first run 'embedood run 01_first"):
        batch.publish("quick", ["01"])
    batch.execute("01", "quick")
    monkeypatch.setattr("embedood.batch.publishing.MAX_BYTES", 1000)
    with pytest.raises(batch.BatchError, match="bytes with its outputs, at most 1,000"):
        batch.publish("quick", ["01"])
    monkeypatch.undo()
    monkeypatch.chdir(project)
    edit_cell(source, 4, "step")
    unpublished = source.read_bytes()
    with pytest.raises(batch.BatchError, match=r"the code of 01_first.ipynb changed"):
        batch.publish("quick", ["01"])
    assert source.read_bytes() == unpublished
    assert not (project / "book").exists()


def test_what_ran_with_other_parameters_says_so_and_is_not_published(project):
    job = batch.execute("01", "quick", {"step": "3"})
    assert json.loads(job.numbers.read_text())["parameters"]["step"] == 3
    with pytest.raises(
        batch.BatchError, match=r"was run with {'step': 3.0}, which is not what profile"
    ):
        batch.publish("quick", ["01"])
    assert not (project / "book").exists()


def add_book(project):
    (project / "_config.yml").write_text(
        "title: small\nonly_build_toc_files: true\nexecute: {execute_notebooks: 'off'}\n"
    )
    (project / "_toc.yml").write_text(
        "format: jb-book\nroot: intro\nchapters:\n- file: notebooks/01_first\n"
    )
    (project / "intro.md").write_text("# Start\n")


def test_book_shows_published_results_or_the_readers_own_and_executes_nothing(project):
    add_book(project)
    edit_cell(project / "notebooks" / "01_first.ipynb", 4, NUMBER.format(name="01_first") + " * 21")
    source = (project / "notebooks" / "01_first.ipynb").read_bytes()
    with pytest.raises(
        batch.BatchError, match=r"no executed notebook in .*quick: run 'make figures'"
    ):
        batch.build_book("quick")
    batch.execute("01", "quick")
    page = project / "build" / "book" / "html" / "notebooks" / "01_first.html"
    assert batch.build_book().name == "index.html"
    assert ">21.0" not in page.read_text()
    assert 'step</span> <span class="o">=</span> <span class="mf">0.5' in page.read_text()
    batch.build_book("quick")
    assert ">21.0" in page.read_text()
    made_with = 'step</span> <span class="o">=</span> <span class="mf">1.0'
    assert made_with in page.read_text(), "the parameters of the results, not the defaults"
    assert (project / "notebooks" / "01_first.ipynb").read_bytes() == source
    assert runs_of_both(project) == (1, 0)


def test_a_warning_keeps_the_last_good_book(project, capsys):
    add_book(project)
    start = batch.build_book()
    assert capsys.readouterr().out.splitlines() == ["reading sources …", "writing output …"]
    (project / "intro.md").write_text("# Start\n\n[nowhere](missing.md)\n")
    with pytest.raises(batch.BatchError, match="the book was not built"):
        batch.build_book()
    assert "missing.md" in capsys.readouterr().err
    assert start.is_file()


def test_a_build_tells_which_page_it_executes(capsys):
    lines = [
        "reading sources... [ 50%] a",
        "reading sources... [100%] own_a",
        "\x1b[2Kwithout news",
    ]
    lines += [
        "/x/own_a.md: Executing notebook using local CWD [mystnb]",
        "writing output... [ 5%] a",
    ]
    status, said = publishing._watched([sys.executable, "-c", f"print({chr(10).join(lines)!r})"])
    assert (status, said.splitlines()) == (0, lines)
    told = ["reading sources …", "executing own_a …", "writing output …"]
    assert capsys.readouterr().out.splitlines() == told


def test_a_build_ends_with_the_process_that_watches_it(monkeypatch, tmp_path):
    def interrupted(*said):
        raise SystemExit(143)

    monkeypatch.setattr(publishing, "_tell", interrupted)
    late = tmp_path / "late"
    code = (
        f"import pathlib, time; print('begun'); time.sleep(30); pathlib.Path({str(late)!r}).touch()"
    )
    started = time.monotonic()
    with pytest.raises(SystemExit):
        publishing._watched([sys.executable, "-c", code])
    assert time.monotonic() - started < 20
    assert not late.exists()


def test_a_training_is_one_job_for_equal_experiments(project):
    """Notebooks with the same presets share trainings, of every seed or of seed 0, and keep them."""
    small = "{seeds: 2, data_name: mnist-5k, width: 4, epochs: 1, train_limit: 128}"
    parameters = 'profile = ""\nseeds = 1\ndata_name = ""\nwidth = 1\nepochs = 1\ntrain_limit = 1'
    for name in ("01_first", "02_second"):
        edit_cell(project / "notebooks" / f"{name}.ipynb", 1, parameters)
        edit_cell(project / "notebooks" / f"{name}.ipynb", 4, "seeds")
    trains = "trains: [report], trains_once: [std_0]"
    entries = [f"{n}: {{{trains}, quick: {small}}}" for n in ("01_first", "02_second")]
    (project / "notebooks" / "profiles.yml").write_text("\n".join(entries))
    found = run_engine()
    assert found.returncode == 0, found.stdout + found.stderr
    markers = sorted((project / "build/quick/trained").iterdir())
    assert [path.name.split("-")[:2] for path in markers] == [
        ["report", "0"],
        ["report", "1"],
        ["std_0", "0"],
    ]
    keys = [json.loads(path.read_text())["key"] for path in markers]
    assert sorted(keys) == sorted(path.name for path in (project.parent / "runs").iterdir())
    written = [path.stat().st_mtime_ns for path in markers]
    assert run_engine('notebooks="02"').returncode == 0
    assert [path.stat().st_mtime_ns for path in markers] == written
    assert runs_of_both(project) == (1, 1)


def test_an_unknown_preset_is_refused(project):
    text = "01_first: {trains: [nonsense], quick: {}}"
    (project / "notebooks" / "profiles.yml").write_text(text)
    with pytest.raises(batch.BatchError, match="unknown preset 'nonsense'"):
        batch.validate("01", "quick")


def test_progress_counts_code_cells_and_names_the_stage(tmp_path):
    with (tmp_path / "out").open("w+") as stream:
        progress = Progress("01_a", "notebook 2 of 3", 4, stream)
        progress.cell_starts(new_markdown_cell("# A\ntext\n## Stage"))
        progress.cell_starts(new_code_cell("1"))
        progress.cell_ends(new_code_cell("1"))
        progress.cell_ends(new_code_cell("p = 1", metadata={"tags": ["injected-parameters"]}))
        progress._started -= 60
        line = progress.line()
        progress.end("done")
        stream.seek(0)
        written = stream.read().splitlines()
    assert line == "notebook 2 of 3 01_a · Stage · 1:00 elapsed · 3:00 left"
    assert len(written) == 2
    assert written[1].endswith("done · 1:00 elapsed")


def test_models_are_counted_by_the_markers_of_those_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_MODELS", "a b c")
    assert batch.place_among_models(tmp_path / "b.json") == "model 1 of 3 · "
    (tmp_path / "a.json").write_text('{"seconds": 30}')
    assert batch.place_among_models(tmp_path / "b.json") == "model 2 of 3 · about 1:00 left · "
    assert batch.place_among_models(None) == ""


def test_last_heading_is_none_without_one():
    assert last_heading(new_markdown_cell("plain\n\ntext")) is None
    assert last_heading(new_code_cell("# comment")) is None
