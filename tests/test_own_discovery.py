"""The page that discovers classes in a reader's own outputs."""

import re
from pathlib import Path

import numpy as np
import pytest
from pages import cells, run

from embedood.discovery import median_estimate
from embedood.discovery.probes import NAMES

PAGE = Path(__file__).parents[1] / "book" / "own_discovery.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The variables of the page after it ran."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        return run(PAGE)


def test_the_main_example_has_twelve_lines_and_shows_every_field():
    source = PAGE.read_text(encoding="utf-8")
    (example,) = [cell for cell in cells(source) if "found = " in cell]
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 12
    for field in ("is_new", "k", "medoids", "counts", "labels", "confidence"):
        assert f"found.{field}" in example
    for field in ("labels", "counts", "k", "medoids", "confidence", "threshold", "estimates"):
        assert re.search(rf"^`found\.{field}`|`found\.{field}`$", source, re.M), field


def test_the_main_example_finds_mostly_new_rows(page):
    found, truth = page["found"], page["truth"]
    unseen = truth >= 6
    assert unseen[found.is_new].mean() > 0.9
    assert found.is_new[unseen].mean() > 0.7
    assert found.is_new[~unseen].mean() < 0.1


def test_the_example_over_counts_and_says_so(page):
    found = page["found"]
    assert set(found.estimates) == set(NAMES)
    assert found.k == median_estimate(found.estimates) > 4
    counts = [estimate.k for estimate in found.estimates.values()]
    assert max(counts) >= 2 * min(counts), "they disagree widely"


def test_every_digit_that_arrived_is_named_by_a_medoid(page):
    assert sorted(set(page["name_of"].values())) == [6, 7, 8, 9]
    assert np.mean(page["named"] == page["truth"][page["found"].is_new]) > 0.8


def test_given_the_number_each_digit_has_its_cluster(page):
    assert page["given"].k == 4
    assert page["right"] > 0.75


def test_the_whole_stream_finds_more_than_its_rows_alone(page):
    heard, alone, unseen = page["heard"], page["alone"], page["unseen"]
    assert heard.is_unseen[unseen].mean() > alone.is_unseen[unseen].mean() + 0.1
    assert heard.is_unseen[~unseen].mean() < 0.1
    alone_right = page["right"] * page["given"].is_new[unseen].mean()
    assert abs(page["right_of_all"] - alone_right) < 0.05, (
        "the page says that clusters gain nothing"
    )
