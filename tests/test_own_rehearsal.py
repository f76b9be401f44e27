"""The page on which known classes play the unseen, to choose a score for a reader's own network."""

from pathlib import Path

import numpy as np
import pytest
from pages import cells, run

PAGE = Path(__file__).parents[1] / "book" / "own_rehearsal.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The variables of the page after it ran."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        return run(PAGE)


def test_the_main_example_has_ten_lines():
    (example,) = [cell for cell in cells(PAGE.read_text(encoding="utf-8")) if "found = " in cell]
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 10


def test_no_real_unseen_digit_is_looked_at(page):
    held, digits = page["held"], page["digits"]
    looked_at = page["rehearsed"](3)[0].asked
    assert len(looked_at) == (digits[held] != 3).sum()


def test_what_the_page_says_of_the_choice_is_so(page):
    mean = {title: np.mean(values) for title, values in page["columns"].items()}
    habit, chosen, weighted, hindsight = mean.values()
    assert chosen > habit + 0.05, "worth much"
    assert chosen > hindsight - 0.01, "nearly as well as hindsight"
    assert abs(weighted - chosen) < 0.01, "weights bring nothing more"
    assert page["span"][0] > 0
    assert len({name for name, _ in page["forecast"]}) == 1, "the same for every digit"
    assert np.mean([auroc for _, auroc in page["forecast"]]) == pytest.approx(chosen, abs=0.02)
