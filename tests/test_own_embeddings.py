"""`embedood score` on good and bad files, and the page that shows how to bring your own embeddings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pages import cells, run
from scorer_outputs import CLASSES, DIMENSIONS, made
from sklearn.metrics import roc_auc_score

from embedood import files, scorers
from embedood.cli import main
from embedood.detector import Detector
from embedood.outputs import HEAD, Outputs

PAGE = Path(__file__).parents[1] / "book" / "own_embeddings.md"
FIELDS = ("logits", "embeddings", "labels")
FROM_A_FILE = [n for n, e in scorers.TABLE.items() if not {"gradient", "decoder"} & {*e.needs}]
PARTS = {
    "train": made(seed=1),
    "validation": made(seed=2),
    "outliers": made(unseen=True, seed=2),
    "known": made(60, seed=3),
    "unseen": made(40, unseen=True, seed=3),
}


def joined(first: Outputs, second: Outputs) -> Outputs:
    rows = [np.concatenate([getattr(o, f) for o in (first, second)]) for f in FIELDS]
    return Outputs(*rows, first.head_weight, first.head_bias)


TEST = joined(PARTS["known"], PARTS["unseen"])


def arrays(**changes):
    """A good file's arrays; a change to None takes one away."""
    parts = {n: PARTS[n] for n in ("train", "validation", "outliers")} | {"test": TEST}
    found = {f"{n}_{f}": getattr(part, f) for n, part in parts.items() for f in FIELDS}
    found |= {field: getattr(TEST, field) for field in HEAD} | changes
    return {name: array for name, array in found.items() if array is not None}


def save(folder, **changes):
    np.savez(folder / "own.npz", **arrays(**changes))
    return folder / "own.npz"


def expected(scorer, false_alarm=0.05):
    judge = Detector(scorers.make(scorer)).fit(PARTS["train"])
    outliers = PARTS["outliers"] if "outliers" in judge.scorer.needs else None
    judge.calibrate(PARTS["validation"], outliers, false_alarm=false_alarm)
    return judge.decide(TEST)


def assert_same(table, decisions):
    assert list(table) == ["row", "class", "score", "threshold", "p_value"]
    np.testing.assert_array_equal(table["row"], np.arange(len(TEST)))
    np.testing.assert_array_equal(table["class"], decisions.labels)
    np.testing.assert_array_equal(table["score"], decisions.scores)
    np.testing.assert_array_equal(table["threshold"], decisions.threshold)
    np.testing.assert_array_equal(table["p_value"], decisions.p_values)


def read_csv(path):
    """Every digit kept, whatever pandas' own parser does."""
    return pd.read_csv(path, dtype=str).apply(lambda column: column.map(float))


# Good files


@pytest.mark.parametrize("name", FROM_A_FILE)
def test_a_table_is_what_the_detector_decides(tmp_path, name):
    table, summary = files.score_file(save(tmp_path), name, 0.1)
    assert_same(table, expected(name, 0.1))
    assert summary.startswith(f"{name}: threshold ")


@pytest.mark.parametrize("name", FROM_A_FILE)
def test_what_a_scorer_does_not_need_may_be_missing(tmp_path, name):
    """With the named arrays alone the scores are the same, and without any one of them it stops."""
    wanted = files.needed(name)
    assert len(wanted) < len(arrays()), "something may be missing"
    least = {n: None for n in arrays() if n not in wanted}
    table, _ = files.score_file(save(tmp_path, **least), name)
    decisions = expected(name)
    np.testing.assert_array_equal(table["score"], decisions.scores)
    np.testing.assert_array_equal(table["threshold"], decisions.threshold)
    for lost in wanted:
        with pytest.raises(ValueError, match=f"{name} needs {lost}; .* holds "):
            files.score_file(save(tmp_path, **least, **{lost: None}), name)


def test_without_logits_a_row_is_known_or_unseen_but_of_no_class(tmp_path):
    without = {f"{part}_logits": None for part in ("train", "validation", "outliers", "test")}
    table, summary = files.score_file(save(tmp_path, **without), "mahalanobis")
    is_unseen = expected("mahalanobis").is_unseen
    assert 0 < is_unseen.sum() < len(is_unseen)
    np.testing.assert_array_equal(table["class"].isna(), ~is_unseen)
    assert (table["class"][is_unseen] == -1).all()
    assert "known rejected" in summary
    assert "accepted and right" not in summary


def test_energy_takes_a_file_of_logits_with_the_head(tmp_path):
    """The head's shape is that of embeddings which the file does not have."""
    without = {n: None for n in arrays() if n.endswith("embeddings")}
    table, _ = files.score_file(save(tmp_path, **without))
    assert_same(table, expected("energy"))


def test_the_summary_judges_by_the_labels_of_the_test(tmp_path):
    decisions, is_unseen = expected("energy"), TEST.labels == -1
    told = dict(
        line.rsplit(maxsplit=1)
        for line in files.score_file(save(tmp_path))[1].splitlines()
        if line.split()[0] in ("AUROC,", "unseen", "known")
    )
    right = (decisions.labels == TEST.labels)[~is_unseen].mean()
    found_95 = np.sort(decisions.scores[is_unseen])[2]  # 38 of the 40 unseen lie at or above it
    assert told == {
        "AUROC, unseen positive": f"{roc_auc_score(is_unseen, decisions.scores):.4f}",
        "known rejected, were 95 % found": f"{(decisions.scores[~is_unseen] >= found_95).mean():.1%}",
        "unseen found": f"{(decisions.labels == -1)[is_unseen].mean():.1%}",
        "known rejected": f"{(decisions.labels == -1)[~is_unseen].mean():.1%}",
        "known accepted and right": f"{right:.1%}",
    }


@pytest.mark.parametrize(
    ("labels", "told", "untold"),
    [
        (None, "test: 100 rows, ", "known rejected"),
        (np.zeros(100, int), "test: 100 known rows, 0 unseen", "unseen found"),
        (np.full(100, -1), "test: 0 known rows, 100 unseen", "known rejected"),
    ],
)
def test_the_summary_says_no_more_than_the_labels_allow(tmp_path, labels, told, untold):
    _, summary = files.score_file(save(tmp_path, test_labels=labels))
    assert told in summary
    assert untold not in summary
    assert "AUROC" not in summary


def test_parts_are_read_as_the_network_gave_them(tmp_path):
    parts = files.read(save(tmp_path))
    assert list(parts) == ["train", "validation", "outliers", "test"]
    for field in (*FIELDS, *HEAD):
        np.testing.assert_array_equal(getattr(parts["test"], field), getattr(TEST, field))


def test_the_table_is_shown_and_the_summary_stands_apart(tmp_path, capsys):
    assert main(["score", str(save(tmp_path))]) == 0
    told = capsys.readouterr()
    (tmp_path / "shown.csv").write_text(told.out)
    assert_same(read_csv(tmp_path / "shown.csv"), expected("energy"))
    assert told.err == files.score_file(tmp_path / "own.npz")[1] + "\n"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_read_back_is_what_the_detector_decides(tmp_path, capsys, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"scores.{suffix}"
    out.write_text("an older answer")
    request = ["score", str(save(tmp_path)), "--scorer", "vim", "--false-alarm", "0.2"]
    assert main([*request, "--out", str(out)]) == 0
    table = pd.read_parquet(out) if suffix == "parquet" else read_csv(out)
    assert_same(table, expected("vim", 0.2))
    assert capsys.readouterr().out == ""
    assert {p.name for p in tmp_path.iterdir()} == {"own.npz", out.name}


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path):
    """As in `embedood score own.npz | head -1`: the other end of the pipe is closed."""
    many = made(20_000, seed=3)
    path = save(tmp_path, **{f"test_{f}": getattr(many, f) for f in FIELDS})
    command = [sys.executable, "-m", "embedood.cli", "score", str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout.readline() == "row,class,score,threshold,p_value\n"
        run.stdout.close()
        assert (run.stderr.read(), run.wait()) == ("", 0)


def test_help_names_every_array(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["score", "--help"])
    told = capsys.readouterr().out
    assert [n for n in arrays() if n not in told] == ["outliers_labels"], "which nothing looks at"


# Bad files and requests


def spoiled(name, row=0, value=np.nan):
    array = arrays()[name].copy()
    array[row] = value
    return {name: array}


BAD = {
    "no array at all": (
        dict.fromkeys(arrays()), [], "energy needs validation_logits, test_logits; own.npz holds nothing",
    ),
    "no logits": (
        {"test_logits": None, "validation_logits": None, **dict.fromkeys(HEAD)}, [],
        "energy needs validation_logits, test_logits; own.npz holds train_logits, train_embeddings",
    ),
    "no embeddings": (
        {"train_embeddings": None}, ["--scorer", "mahalanobis"], "mahalanobis needs train_embeddings;",
    ),
    "no labels": ({"train_labels": None}, ["--scorer", "she"], "she needs train_labels; own.npz"),
    "no head": ({"head_bias": None}, ["--scorer", "vim"], "vim needs head_bias; own.npz holds"),
    "no outliers": (
        {"outliers_logits": None}, ["--scorer", "fusion_logistic"],
        "fusion_logistic needs outliers_logits;",
    ),
    "Python objects": (
        {"test_logits": np.array([[1.0], "x"], object)}, [],
        "test_logits cannot be read, save it as plain numbers: Object arrays cannot be loaded when",
    ),
    "text": ({"test_logits": np.array([["a"]])}, [], "test_logits must hold real numbers, got <U1"),
    "complex": ({"head_bias": np.zeros(5, complex)}, [], "head_bias must hold real numbers, got complex"),
    "fractional labels": (
        {"train_labels": np.zeros(400)}, [], "train_labels must hold integers, got float64",
    ),
    "axes": (
        {"test_logits": np.zeros(100)}, [], "test_logits must have 2 axes, got shape (100,)",
    ),
    "a lone number": ({"test_labels": np.int64(1)}, [], "test_labels must have 1 axes, got shape ()"),
    "no rows": (
        {"test_logits": np.zeros((0, CLASSES))}, [], "test_logits is empty, its shape is (0, 5)",
    ),
    "no columns": (
        {"test_logits": np.zeros((100, 0))}, [], "test_logits is empty, its shape is (100, 0)",
    ),
    "rows": (
        {"test_labels": np.zeros(99, int)}, [],
        "the numbers of rows must be equal: test_logits has 100, test_embeddings has 100, test_labels "
        "has 99",
    ),
    "columns": (
        {"test_logits": np.zeros((100, 4))}, [],
        "the numbers of columns must be equal: train_logits has 5, validation_logits has 5, "
        "outliers_logits has 5, test_logits has 4",
    ),
    "head": (
        {"head_weight": np.zeros((CLASSES, DIMENSIONS + 1))}, [],
        "head_weight must have the shape (5, 16), as logits and embeddings have, got (5, 17)",
    ),
    "a head on its side": (
        {"head_weight": np.zeros((DIMENSIONS, CLASSES))}, [],
        "got (16, 5); its transpose would be right",
    ),
    "a bias too long": (
        {"head_bias": np.zeros(CLASSES + 1)}, [], "head_bias must have the shape (5,), as logits",
    ),
    "one class": (
        {f"{p}_logits": np.zeros((n, 1)) for p, n in
         (("train", 400), ("validation", 400), ("outliers", 400), ("test", 100))}
        | {"test_labels": None, **dict.fromkeys(HEAD)}, [], "at least one row and two classes",
    ),
    "NaN": (spoiled("test_logits", (3, 2)), [], "logits of outputs, shape (100, 5), hold 1 NaN"),
    "NaN where energy does not look": (
        spoiled("test_embeddings", (3, 2)), [], "embeddings of outputs, shape (100, 16), hold 1 NaN",
    ),
    "infinite where energy does not look": (
        spoiled("validation_embeddings", (3, 2), np.inf), [],
        "embeddings of validation, shape (400, 16), hold 1 NaN",
    ),
    "NaN in the head": (spoiled("head_bias"), [], "head_bias of validation, shape (5,), hold 1 NaN"),
    "infinite": (
        spoiled("validation_logits", (3, 2), np.inf), [], "logits of validation, shape (400, 5), hold 1",
    ),
    "unseen in validation": (
        spoiled("validation_labels", 7, -1), [], "validation must hold known classes only, 0 … 4; 1 of 400",
    ),
    "unseen in train": (
        spoiled("train_labels", 7, -1), ["--scorer", "mahalanobis"],
        "train must hold known classes only, 0 … 4; 1 of 400 rows have the labels [-1], the first is row 7",
    ),
    "an unknown test label": (
        spoiled("test_labels", 7, 5), [],
        "test_labels must be −1 (unseen) or 0 … 4, got [-1, 0, 1, 2, 3, 4, 5]",
    ),
    "too few for the rate": (
        {f"validation_{f}": getattr(PARTS["validation"][:18], f) for f in FIELDS}, [],
        "18 known scores cannot hold a false-alarm rate of 0.05; at least 19 are needed",
    ),
    "a rate of 1": ({}, ["--false-alarm", "1"], "false_alarm must lie between 0 and 1, got 1.0"),
    "no rate": ({}, ["--false-alarm", "nan"], "false_alarm must lie between 0 and 1, got nan"),
    "an unknown scorer": ({}, ["--scorer", "best"], "unknown scorer 'best'; the scorers are max_soft"),
    "gradient": ({}, ["--scorer", "odin"], "odin needs a gradient with respect to the image, which"),
    "decoder": ({}, ["--scorer", "reconstruction"], "reconstruction needs reconstructions, which"),
    "suffix": ({}, ["--out", "scores.txt"], "scores.txt must end in .csv or .parquet"),
    "no folder": ({}, ["--out", "no/s.csv"], "the folder no of s.csv does not exist"),
    "a folder in the way": ({}, ["--out", "taken.csv"], "taken.csv"),
}  # fmt: skip


def refused(capsys, *request):
    """The one line that a request is refused with; nothing is shown or left behind."""
    before = sorted(os.listdir())
    assert main(["score", *request]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", told.err)
    assert sorted(os.listdir()) == before
    return told.err


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("out", ["shown", "written"])
def test_bad_files_and_requests_are_refused_in_one_line(tmp_path, monkeypatch, capsys, name, out):
    changes, options, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    save(Path(), **changes)
    Path("taken.csv").mkdir()
    if out == "written" and "--out" not in options:
        options = [*options, "--out", "scores.csv"]
    assert message in refused(capsys, "own.npz", *options)


def whole(folder):
    return save(folder).read_bytes()


NO_NPZ = {
    "missing": (lambda folder: None, "own.npz does not exist"),
    "empty": (lambda folder: b"", "own.npz is no .npz file, or only a part of one"),
    "text": (lambda folder: b"a,b\n1,2\n", "own.npz is no .npz file"),
    "cut": (lambda folder: whole(folder)[:-200], "own.npz is no .npz file, or only a part of one"),
    "a bit turned": (
        lambda folder: (b := whole(folder))[: len(b) // 40] + b"\xff" * 8 + b[len(b) // 40 + 8 :],
        "cannot be read, save it as plain numbers: Bad CRC-32",
    ),
}


@pytest.mark.parametrize("name", NO_NPZ)
def test_what_is_no_whole_npz_is_refused_in_one_line(tmp_path, monkeypatch, capsys, name):
    content, message = NO_NPZ[name]
    monkeypatch.chdir(tmp_path)
    spoilt = content(Path())
    Path("own.npz").unlink(missing_ok=True)
    if spoilt is not None:
        Path("own.npz").write_bytes(spoilt)
    assert message in refused(capsys, "own.npz", "--out", "scores.csv")


def test_nothing_is_unpickled(tmp_path, monkeypatch, capsys):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, ("sprung",))

    monkeypatch.chdir(tmp_path)
    for name in ("test_logits", "a_name_that_is_not_ours"):
        save(Path(), **{name: np.array([Trap()], object)})
        main(["score", "own.npz"])
        assert not Path("sprung").exists()


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    save(Path())
    told = refused(capsys, "own.npz", "--out", "scores.parquet")
    assert "pip install pyarrow, or choose a name in .csv" in told


def test_an_answer_that_cannot_be_written_whole_leaves_the_older_one(tmp_path, monkeypatch, capsys):
    def fail(self, path, **_):
        Path(path).write_text("half")
        raise OSError("no space left")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    save(Path())
    Path("scores.csv").write_text("an older answer")
    assert "no space left" in refused(capsys, "own.npz", "--out", "scores.csv")
    assert Path("scores.csv").read_text() == "an older answer"


# The page


@pytest.fixture(scope="module")
def page():
    return list(cells(PAGE.read_text(encoding="utf-8")))


def test_cells_are_told_from_their_options():
    source = "```{code-cell} ipython3\n---\na: b\n---\nx = 1\n```\ntext\n```{code-cell}\n:tags: [t]\n\ny\n```\n"
    assert list(cells(source)) == ["x = 1", "y"]


def test_the_main_example_has_fifteen_lines(page):
    (example,) = [cell for cell in page if "plot_curve" in cell]
    lines = [line for line in example.splitlines() if line.strip()]
    assert len(lines) <= 15
    for used in ("files.read", "roc_curve", "threshold", "p_values", "decide"):
        assert used in example


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(PAGE)
    told = capsys.readouterr().out
    aurocs = [float(value) for value in re.findall(r"^.*AUROC\D* ([01]\.\d+)", told, re.M)]
    assert len(aurocs) == 4
    digits, command, energy, distance = aurocs
    assert digits == pytest.approx(command, abs=1e-4), "page and command line agree"
    assert min(digits, energy) > 0.8
    assert distance < 0.5, "the page explains why"
    assert float(re.search(r"below ([\d.]+)% of the known", told)[1]) > 95, "so is this"
