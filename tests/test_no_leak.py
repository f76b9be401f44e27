"""Nothing of an unseen image may reach a threshold: chapter 03 with its zeros replaced by noise."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import yaml

from embedood import data

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def code_of(notebook):
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text())["cells"]
    return [
        (cell["metadata"].get("tags", []), "".join(cell["source"]))
        for cell in cells
        if cell["cell_type"] == "code" and "%pip" not in "".join(cell["source"])
    ]


def execute(notebook):
    """Run a chapter's code under its smoke parameters and return its variables."""
    mpl.use("Agg")
    names = {}
    smoke = yaml.safe_load((NOTEBOOKS / "profiles.yml").read_text())[notebook]["smoke"]
    for tags, code in code_of(notebook):
        exec(code, names)
        if "parameters" in tags:
            names |= {"profile": "smoke"} | smoke
    return names


def with_noise_for(image_set, unseen):
    images = image_set.images.copy()
    rows = image_set.is_test & (image_set.labels == unseen)
    images[rows] = np.random.default_rng(0).integers(0, 256, images[rows].shape, dtype=np.uint8)
    return replace(image_set, images=images)


@pytest.fixture
def thresholds(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_RUNS", str(tmp_path / "runs"))

    def found():
        monkeypatch.setenv("EMBEDOOD_RESULTS", str(tmp_path / "results"))
        chapter = execute("03_threshold")
        rows = chapter["compared"][0]
        chosen = {name: chapter[name] for name in ("thresholds", "best_recipe", "best_score")}
        chosen["best threshold"] = [known.threshold for known, _ in chapter["decided"]]
        chosen |= {name: row[-1] for name, row in rows.items()}
        return chosen, {name: row[1] for name, row in rows.items()}

    return found


def test_noise_in_place_of_the_unseen_moves_no_threshold(thresholds, monkeypatch):
    before, auroc_of_zeros = thresholds()
    load = data.load
    monkeypatch.setattr(data, "load", lambda name: with_noise_for(load(name), unseen=0))
    after, auroc_of_noise = thresholds()
    assert before == after
    assert auroc_of_zeros != auroc_of_noise, "the noise did not reach the test"
