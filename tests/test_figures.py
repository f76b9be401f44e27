"""Figures by what stands on their axes."""

import matplotlib.pyplot as plt
import pytest

from embedood import figures


@pytest.fixture
def axes():
    ax = plt.figure().add_subplot()
    yield ax
    plt.close(ax.figure)


def test_a_waterfall_has_a_bar_for_each_level_and_one_for_each_change(axes):
    levels = {"all": 1.0, "half": 0.5, "more": 0.6, "little": 0.02}
    assert figures.plot_waterfall(levels, axes) is axes
    bars = [(bar.get_x() + 0.33, bar.get_y(), bar.get_height()) for bar in axes.patches]
    left = [(0, 0, 1.0), (1, 0, 0.5), (2, 0, 0.6), (3, 0, 0.02)]
    taken = [(1, 0.5, 0.5), (2, 0.6, -0.1), (3, 0.02, 0.58)]
    assert [pytest.approx(bar, abs=1e-9) for bar in left + taken] == bars
    said = [text.get_text() for text in axes.texts]
    assert said == ["−0.500", "+0.100", "−0.580", "1.000", "0.500", "0.600", "0.020"]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(levels)
