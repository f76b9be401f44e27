"""Numbers with provenance: what is written, when, and what is refused."""

import hashlib
import json

import numpy as np
import pytest
from scipy import stats

from embedood import results
from embedood.results import Results, ResultsError, code_hash, summarise


def test_summarise_equals_the_printed_t_table():
    mean, (low, high) = summarise([1.0, 2.0, 3.0])
    half = 4.302653 / np.sqrt(3)  # t(0.975, 2 degrees of freedom), standard deviation 1
    assert mean == 2.0
    assert (low, high) == pytest.approx((2 - half, 2 + half), abs=1e-6)


def test_summarise_equals_scipy_on_many_samples():
    for seed in range(20):
        sample = np.random.default_rng(seed).normal(size=seed + 2)
        mean, interval = summarise(sample)
        assert mean == pytest.approx(sample.mean())
        assert interval == pytest.approx(
            stats.t.interval(0.95, len(sample) - 1, sample.mean(), stats.sem(sample))
        )


def test_summarise_of_one_seed_has_no_interval():
    assert summarise([0.5]) == (0.5, None)


def test_summarise_cuts_the_interval_of_a_proportion():
    mean, (low, high) = summarise([0.9, 1.0], within=(0, 1))
    assert (mean, high) == (pytest.approx(0.95), 1.0)
    assert low == pytest.approx(max(0, 0.95 - 12.7062 * 0.05), abs=1e-4)
    with pytest.raises(ResultsError, match=r"lie within 0 and 1; got \[2.0"):
        summarise([2.0, 0.5], within=(0, 1))


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_summarise_refuses(values):
    with pytest.raises(ResultsError, match="all finite"):
        summarise(values)


def test_record_returns_the_number_and_writes_it_with_its_conditions(tmp_path):
    kept = Results("01_a", "smoke", range(3), folder=tmp_path)
    assert kept.record("report.auroc", np.float32(0.5), "fraction", 10, (0.4, 0.6)) == 0.5
    written = json.loads((tmp_path / "01_a.json").read_text())
    assert written["seeds"] == [0, 1, 2]
    assert written["numbers"] == {
        "report.auroc": {"value": 0.5, "unit": "fraction", "n": 10, "interval": [0.4, 0.6]}
    }
    assert {"python", "torch", "numpy"} <= set(written["versions"])
    assert written["device"] in ("cpu", "cuda")
    assert written["processor"]


def test_each_record_leaves_one_whole_file(tmp_path):
    kept = Results("01_a", "smoke", [0], folder=tmp_path)
    for number in range(3):
        kept.record(f"n{number}", number)
        assert len(json.loads(kept.path.read_text())["numbers"]) == number + 1
        assert [path.name for path in tmp_path.iterdir()] == ["01_a.json"]


@pytest.mark.parametrize(
    ("name", "value", "interval", "message"),
    [
        ("", 1.0, None, "a name of its own"),
        ("taken", 1.0, None, "a name of its own"),
        ("x", float("nan"), None, "must be finite"),
        ("x", "0.5", None, "must be a number"),
        ("x", True, None, "must be a number"),
        ("x", 1.0, (2.0, 3.0), "around it"),
        ("x", 1.0, (1.5, 0.5), "around it"),
        ("x", 1.0, (0.5,), "around it"),
        ("x", 1.0, (0.5, float("nan")), "must be finite"),
    ],
)
def test_record_refuses(tmp_path, name, value, interval, message):
    kept = Results("01_a", "smoke", [0], folder=tmp_path)
    kept.record("taken", 1)
    with pytest.raises(ResultsError, match=message):
        kept.record(name, value, interval=interval)
    assert list(json.loads(kept.path.read_text())["numbers"]) == ["taken"]


def test_folder_is_the_variable_then_the_build_of_the_project(tmp_path, monkeypatch):
    (tmp_path / "notebooks" / "deep").mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles.yml").write_text("{}")
    monkeypatch.chdir(tmp_path / "notebooks" / "deep")
    monkeypatch.delenv("EMBEDOOD_RESULTS", raising=False)
    assert Results("01_a", "smoke", [0]).folder == tmp_path / "build" / "smoke"
    monkeypatch.setenv("EMBEDOOD_RESULTS", str(tmp_path / "other"))
    assert Results("01_a", "smoke", [0]).folder == tmp_path / "other"


def _cell(kind, source, **metadata):
    return {"cell_type": kind, "source": source, "metadata": metadata}


def test_code_hash_is_the_digest_of_the_code_alone():
    cells = [
        _cell("markdown", "# prose"),
        _cell("code", ["a = 1\n", "b = 2"]),
        _cell("code", "a = 9", tags=["injected-parameters"]),
        _cell("code", "a + b") | {"outputs": ["3"], "execution_count": 3},
    ]
    expected = hashlib.sha256(b"a = 1\nb = 2\0a + b\0").hexdigest()
    assert code_hash({"cells": cells}) == expected
    changed = [*cells[:3], _cell("code", "a - b")]
    assert code_hash({"cells": changed}) != expected


def test_published_reads_the_book_and_names_what_there_is(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "profiles.yml").write_text("{}")
    results.write_json(tmp_path / "book" / "published" / "01_a.json", {"numbers": {"x": 1}})
    monkeypatch.chdir(tmp_path)
    assert results.published("01_a")["numbers"] == {"x": 1}
    with pytest.raises(ResultsError, match=r"nothing is published for '02_b'; there is \['01_a'\]"):
        results.published("02_b")


def test_an_attachment_lies_beside_the_numbers(tmp_path):
    kept = Results("01_a", "smoke", [0], folder=tmp_path / "new")
    assert kept.attachment("map.html") == tmp_path / "new" / "01_a-map.html"
    assert kept.folder.is_dir()
    for name in ("map.png", "../map.html"):
        with pytest.raises(ResultsError, match=r"such as 'map.html', got"):
            kept.attachment(name)
