"""Figures by what stands on their axes."""

import base64
import io
from itertools import combinations, pairwise, product

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image, ImageSequence

from embedood import figures


@pytest.fixture
def axes():
    ax = plt.figure().add_subplot()
    yield ax
    plt.close(ax.figure)


def test_a_waterfall_has_a_bar_for_each_level_and_one_for_each_loss(axes):
    levels = {"all": 1.0, "half": 0.5, "more": 0.6, "little": 0.02, "less": 0.01}
    assert figures.plot_waterfall(levels, axes) is axes
    bars = [(bar.get_x() + 0.33, bar.get_y(), bar.get_height()) for bar in axes.patches]
    left = [(0, 0, 1.0), (1, 0, 0.5), (2, 0, 0.6), (3, 0, 0.02), (4, 0, 0.01)]
    taken = [(1, 0.5, 0.5), (2, 0.6, 0), (3, 0.02, 0.58), (4, 0.01, 0.01)]
    assert [pytest.approx(bar, abs=1e-9) for bar in left + taken] == bars
    said = [text.get_text() for text in axes.texts]
    assert said[:5] == ["1.000", "0.500", "0.600", "0.020", "0.010"]
    assert said[5:] == ["−0.500", "+0.100", "−0.580", "−0.010"]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(levels)


def test_no_text_of_a_waterfall_covers_another(axes):
    figures.plot_waterfall({"all": 1.0, "some": 0.3, "little": 0.016, "less": 0.014}, axes)
    axes.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


def test_no_line_of_a_waterfall_crosses_a_text(axes):
    levels = [1.0, 0.632, 0.065, 0.049, 0.048, 0.2, 0.03]
    figures.plot_waterfall({str(level): level for level in levels}, axes)
    axes.figure.draw_without_rendering()
    boxes = [t.get_window_extent().transformed(axes.transData.inverted()) for t in axes.texts]
    ends = [line.get_segments()[0] for line in axes.collections]
    crossed = [
        (box, end)
        for box, end in product(boxes, ends)
        if box.y0 + 0.2 * box.height < end[0, 1] < box.y1  # what is below is the room of a "g"
        and end[0, 0] < box.x1
        and box.x0 < end[1, 0]
    ]
    assert len(ends) == len(levels) - 1
    assert crossed == []


def test_a_grid_frames_the_largest_number_and_draws_a_dash_where_there_is_none(axes):
    values = np.array([[0.5, np.nan, 0.75], [0.25, 0.625, np.nan]])
    figures.plot_grid(values, ["above", "below"], ["a", "b", "c"], axes)
    assert [t.get_text() for t in axes.texts] == ["0.500", "–", "0.750", "0.250", "0.625", "–"]
    (frame,) = axes.patches
    assert frame.get_xy() == (1.5, -0.5)


def test_an_animation_is_one_image_with_all_its_frames_and_its_text():
    def draw(figure, frame):
        figure.add_subplot().plot([0, frame], [0, 1])

    open_before = plt.get_fignums()
    found = figures.animated(draw, 4, 'a line & its "slope"', size=(1, 1))
    assert plt.get_fignums() == open_before
    assert found.startswith(
        '<img alt="a line &amp; its &quot;slope&quot;" src="data:image/gif;base64,'
    )
    gif = Image.open(io.BytesIO(base64.b64decode(found.split("base64,")[1].removesuffix('">'))))
    assert gif.n_frames == 4
    frames = [np.asarray(frame.convert("L")).copy() for frame in ImageSequence.Iterator(gif)]
    assert all((a != b).any() for a, b in combinations(frames, 2))
    with pytest.raises(ValueError, match="needs one frame or more, got 0"):
        figures.animated(draw, 0, "nothing")


def test_groups_have_a_colour_and_a_name_each(axes):
    points = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    figures.plot_groups(points, np.array([1, 0, 1]), ["a", "b"], axes)
    assert [cloud.get_offsets().tolist() for cloud in axes.collections] == [
        [[2.0, 3.0]],
        [[0.0, 1.0], [4.0, 5.0]],
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert not np.array_equal(*(cloud.get_facecolor()[0] for cloud in axes.collections))


def test_means_are_drawn_as_a_line_and_seeds_as_dots(axes):
    figures.plot_means([1, 10], np.array([[0.2, 0.4], [0.4, 0.8]]), "two seeds", axes)
    mean, *seeds = axes.lines
    assert mean.get_ydata().tolist() == pytest.approx([0.3, 0.6])
    assert sorted(tuple(line.get_ydata()) for line in seeds) == [(0.2, 0.4), (0.4, 0.8)]


@pytest.mark.parametrize("epochs", [1, 3, 8, 32])
def test_epochs_are_whole_numbers_that_do_not_touch(axes, epochs):
    histories = [[{"loss": 1 / (1 + epoch)} for epoch in range(epochs)]] * 2
    figures.plot_learning_curves(histories, "loss", axes)
    axes.figure.set_size_inches(4.2, 3.0)
    axes.figure.canvas.draw()
    labels = [t for t in axes.get_xticklabels() if 1 <= t.get_position()[0] <= epochs]
    assert labels
    assert all(float(t.get_position()[0]).is_integer() for t in labels)
    boxes = [t.get_window_extent() for t in labels]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
