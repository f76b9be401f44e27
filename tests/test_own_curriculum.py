"""The page that puts a sampler into somebody else's loop."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from pages import cells, run

from embedood import samplers

PAGE = Path(__file__).parents[1] / "book" / "own_curriculum.md"
SOURCE = PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The variables of the page after it ran."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        return run(PAGE)


def test_the_loop_has_twenty_lines_and_no_more():
    (example,) = [cell for cell in cells(SOURCE) if "sampler.observe(" in cell]
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 20
    assert example.count("sampler") - example.count("samplers") <= 6, "the rest is plain PyTorch"


def test_the_sampler_has_followed_the_training(page):
    overlaps = page["overlaps"]
    assert overlaps.steps == 150
    assert int(overlaps.statistics.counts_.sum()) == 150 * 32
    assert (overlaps.statistics.counts_ > 0).all()
    assert overlaps.divergences.isfinite().all()


def test_what_overlaps_is_what_is_confused_later(page):
    assert 0.3 < page["correlation"] < 1


def test_it_is_compared_over_ten_seeds_by_the_same_loop(page):
    assert page["uniform"].shape == page["curriculum"].shape == (10,)
    assert page["low"] < page["mean"] < page["high"]
    assert page["uniform"].min() > 0.7
    assert len(set(page["curriculum"])) > 1


def test_the_knobs_are_those_of_the_sampler():
    knobs = re.findall(r"^`(\w+)`$", SOURCE.split("## Turn the knobs")[1], re.M)
    known = {
        name
        for kind in (*samplers.RelationshipOverlapSampler.__mro__, samplers.GaussianOverlaps)
        if kind.__module__.startswith("embedood")
        for name in inspect.signature(kind).parameters
    }
    assert len(knobs) == 4
    assert set(knobs) <= known
    listed = SOURCE.split("`divergence`")[1].split("\n\n")[0]
    assert set(re.findall(r'`"(\w+)"`', listed)) == set(samplers.DIVERGENCES)


def test_a_state_goes_on_with_the_identical_sequence(page):
    sampler, labels = page["sampler"], page["labels"]
    generator = torch.Generator().manual_seed(5)
    fresh = samplers.GaussianOverlaps(10, overlap="relative", refresh_every=10)
    other = samplers.RelationshipOverlapSampler(
        labels, generator, overlaps=fresh, **page["settings"]
    )
    other.load_state_dict(sampler.state_dict())
    generator.set_state(sampler.generator.get_state())
    for mine, theirs in zip(sampler, other, strict=True):
        assert torch.equal(mine, theirs)
