"""Nothing of an unseen image may reach a decision: chapters with their unseen replaced by noise."""

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
    rows = image_set.is_test & np.isin(image_set.labels, unseen)
    images[rows] = np.random.default_rng(0).integers(0, 256, images[rows].shape, dtype=np.uint8)
    return replace(image_set, images=images)


def of_03(chapter):
    """What chapter 03 decides, and its AUROCs on zeros."""
    rows = chapter["compared"][0]
    decided = {name: chapter[name] for name in ("thresholds", "best_recipe", "best_score")}
    decided["best threshold"] = [known.threshold for known, _ in chapter["decided"]]
    decided |= {name: row[-1] for name, row in rows.items()}
    return decided, {name: row[1] for name, row in rows.items()}


def of_04(chapter):
    """What chapter 04 chooses for each digit, the votes, and its AUROCs on the digits."""
    return (chapter["chosen"], chapter["rehearsed"]), chapter["near"].tolist()


def of_05(chapter):
    """What chapter 05 chooses, the votes, and its AUROCs on the last twenty classes."""
    decided = [chapter[name] for name in ("chosen", "votes", "best", "team_votes")]
    return decided, chapter["found"]


def of_06(chapter):
    """What chapter 06 chooses, the votes and its thresholds; and what it finds of the last twenty."""
    decided = {name: chapter[name] for name in ("score", "estimator", "picks")}
    votes = [chapter[name] for name in ("score_votes", "octaves", "all_votes")]
    thresholds = [found.threshold for found in chapter["ends"]]
    return (decided, votes, thresholds), chapter["shares"]


def of_11(chapter):
    """What chapter 11 rehearses and chooses, and its AUROCs on the last twenty classes.

    Scores in the crowd are left out of the first: to look at the stream is what the chapter is about.
    """
    decided = ("rehearsed", "votes", "chosen", "in_space", "chosen_space", "estimator")
    decided += ("in_rehearsal", "way")
    return [chapter[name] for name in decided], chapter["table"]


CHAPTERS = {
    "03_threshold": ([0], of_03),
    "04_scorers": ([0, 1], of_04),
    "05_cifar_embedding": (list(range(80, 100)), of_05),
    "06_discovery": (list(range(80, 100)), of_06),
    "11_stream": (list(range(80, 100)), of_11),
}


@pytest.mark.parametrize("notebook", CHAPTERS)
def test_noise_in_place_of_the_unseen_moves_no_decision(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("EMBEDOOD_RESULTS", str(tmp_path / "results"))
    unseen, read = CHAPTERS[notebook]
    before, measured = read(execute(notebook))
    load = data.load
    monkeypatch.setattr(data, "load", lambda name: with_noise_for(load(name), unseen))
    after, measured_on_noise = read(execute(notebook))
    assert before == after
    assert measured != measured_on_noise, "the noise did not reach the test"
