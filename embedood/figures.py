"""One style, one colour per role; each `plot_x(data, ax=None)` draws on one axes and returns it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

# Okabe and Ito's palette, distinct also to colour-blind eyes.
COLOURS = {
    "known": "#0072B2",
    "unseen": "#D55E00",
    "pseudo-OOD": "#CC79A7",
    "threshold": "#333333",
    "reference": "#999999",
}
# For what has no role: the rest of the palette, after the four roles' own.
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
STYLE: dict[str, Any] = {
    "axes.prop_cycle": cycler(color=CYCLE),
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "figure.constrained_layout.use": True,
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
}


def use_style() -> None:
    """Set the book's look for all figures of this process."""
    plt.style.use(STYLE)


def _axes(ax: Axes | None, width: float = 6.0, height: float = 3.6) -> Axes:
    return ax if ax is not None else plt.subplots(figsize=(width, height))[1]


def plot_images(images: np.ndarray, ax: Axes | None = None, columns: int = 10) -> Axes:
    """Draw images, N×C×H×W (uint8 or in [0, 1]), as one mosaic, row by row."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    top = 255 if images.dtype == np.uint8 else 1
    canvas = np.full((rows * (height + 2) - 2, columns * (width + 2) - 2, channels), top, float)
    for place, image in enumerate(images):
        y, x = place // columns * (height + 2), place % columns * (width + 2)
        canvas[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    ax = _axes(ax, columns * 0.7, rows * 0.7)
    ax.imshow(canvas.squeeze() / top, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def image_rows(rows: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Draw named rows of images below each other, each row N×C×H×W with the same N."""
    columns = max(len(images) for images in rows.values())
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(1.3 + 0.62 * columns, 0.66 * len(rows) + 0.3), squeeze=False
    )
    for ax, (name, images) in zip(axes[:, 0], rows.items(), strict=True):
        plot_images(images, ax, columns)
        ax.text(-0.01, 0.5, name, transform=ax.transAxes, ha="right", va="center")
    if title:
        figure.suptitle(title, x=0.02, ha="left", fontweight="bold", fontsize=11.5)
    return figure


def plot_learning_curves(
    histories: Sequence[Sequence[Mapping[str, float]]], key: str, ax: Axes | None = None
) -> Axes:
    """Draw one quantity of each epoch for every seed: thin lines, their mean thick."""
    ax = _axes(ax)
    curves = np.array([[row[key] for row in history] for history in histories])
    epochs = np.arange(1, curves.shape[1] + 1)
    ax.plot(epochs, curves.T, color=COLOURS["known"], alpha=0.35, linewidth=1)
    ax.plot(
        epochs, curves.mean(0), color=COLOURS["known"], marker="o" if len(epochs) <= 12 else None
    )
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    ax.set(xlabel="epoch", ylabel=key)
    return ax


def plot_scores(
    scores: Mapping[str, np.ndarray],
    ax: Axes | None = None,
    threshold: float | None = None,
    bins: np.ndarray | int = 40,
    log: bool = True,
) -> Axes:
    """Draw the distribution of 1-D scores by role (the keys of `COLOURS`), each of total area 1."""
    ax = _axes(ax)
    edges = np.histogram_bin_edges(np.concatenate(list(scores.values())), bins).tolist()
    for role, values in scores.items():
        weights = np.full(len(values), 1 / len(values))
        style: dict[str, Any] = {"color": COLOURS[role], "label": role, "weights": weights}
        ax.hist(values, edges, histtype="stepfilled", alpha=0.25, **(style | {"label": None}))
        ax.hist(values, edges, histtype="step", linewidth=1.8, **style)
    if threshold is not None:
        ax.axvline(threshold, color=COLOURS["threshold"], linestyle="--", label="threshold")
    if log:
        ax.set_yscale("log")
    ax.set(ylabel="share of images")
    ax.legend()
    return ax


def plot_curve(
    x: np.ndarray,
    y: np.ndarray,
    ax: Axes | None = None,
    role: str = "known",
    label: str | None = None,
    point: tuple[float, float] | None = None,
) -> Axes:
    """Draw one ROC-like curve, with an optional operating point on it."""
    ax = _axes(ax, 4.6, 4.2)
    ax.plot(x, y, color=COLOURS[role], label=label)
    if point is not None:
        ax.plot(*point, "o", color=COLOURS["threshold"], markersize=8, zorder=3)
    return ax


def plot_bars(
    means: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float] | None] | None = None,
    ax: Axes | None = None,
    roles: Mapping[str, str] | None = None,
) -> Axes:
    """Draw horizontal bars with 95 % intervals, in the order given, the first on top."""
    ax = _axes(ax, 6.0, 0.38 * len(means) + 0.9)
    for place, (name, mean) in enumerate(means.items()):
        ax.barh(place, mean, color=COLOURS[(roles or {}).get(name, "known")], height=0.7)
        bounds = (intervals or {}).get(name)
        if bounds is not None:
            ax.plot(bounds, (place, place), color=COLOURS["threshold"], linewidth=1.6)
    ax.set_yticks(range(len(means)), list(means))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return ax


def animated(
    draw: Callable[[Figure, int], None],
    frames: int,
    alt: str,
    size: tuple[float, float] = (6.0, 3.0),
    per_second: float = 4,
) -> str:
    """Return an HTML image that moves: a GIF within, which `draw` made, frame by frame, on one figure.

    `draw` gets a cleared figure and the number of the frame, from 0; the last frame stays for two
    seconds, then it begins again. `alt` says what is to be seen. Raises `ValueError` for no frames.
    """
    if frames < 1:
        raise ValueError(f"an animation needs one frame or more, got {frames}")
    figure, pictures = plt.figure(figsize=size, dpi=90), []
    for frame in range(frames):
        figure.clear()
        draw(figure, frame)
        figure.canvas.draw()
        picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba()))  # type: ignore[attr-defined]
        pictures.append(picture.convert("RGB").quantize(64))
    plt.close(figure)
    pause = [round(1000 / per_second)] * (frames - 1) + [2000]
    gif = io.BytesIO()
    pictures[0].save(gif, "GIF", save_all=True, append_images=pictures[1:], duration=pause, loop=0)
    data = base64.b64encode(gif.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/gif;base64,{data}">'


def plot_waterfall(levels: Mapping[str, float], ax: Axes | None = None) -> Axes:
    """Draw what is left after each named stage, orange, and in grey what the stage took from it.

    The change from the stage before stands above each bar but the first.
    """
    ax = _axes(ax, 1.2 + 1.35 * len(levels), 3.6)
    values = list(levels.values())
    line = 0.08 * max(values)  # of text
    # Text on a low bar stands on the line of the bar before, where that would cross it.
    foot = [
        before if value < before < value + 1.2 * line else value
        for before, value in pairwise([values[0], *values])
    ]
    ax.bar(range(len(values)), values, width=0.66, color=COLOURS["unseen"])
    for place, value in enumerate(values):
        inside = value > 2 * line
        ink, side = ("white", "top") if inside else (COLOURS["threshold"], "bottom")
        height = value - line / 3 if inside else foot[place]
        ax.text(place, height, f"{value:.3f}", ha="center", va=side, color=ink)
    for place, (before, after) in enumerate(pairwise(values), start=1):
        ax.hlines(before, place - 0.67, place + 0.33, COLOURS["threshold"], linewidth=0.9)
        ax.bar(place, max(before - after, 0), width=0.66, bottom=after, color="#d9d9d9")
        top = max(before, after, foot[place] + line if after <= 2 * line else 0)
        change = f"{after - before:+.3f}".replace("-", "−")
        ax.text(place, top + line / 5, change, ha="center", va="bottom")
    ax.set_xticks(range(len(values)), list(levels))
    ax.grid(axis="x", visible=False)
    return ax


def plot_confusion(table: np.ndarray, names: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draw counts (rows true, columns decided) with the share of each row as shade."""
    ax = _axes(ax, 5.4, 5.0)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    ax.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1.15)
    for (row, column), count in np.ndenumerate(table):
        if count:
            ink = "white" if share[row, column] > 0.4 else "#333333"
            ax.text(column, row, count, ha="center", va="center", color=ink, fontsize=8.5)
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="decided", ylabel="true")
    ax.grid(visible=False)
    return ax


def plot_grid(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    ax: Axes | None = None,
    spread: np.ndarray | None = None,
    lowest: float | None = None,
) -> Axes:
    """Draw a table of numbers in [0, 1], rows×columns, as a heat map; the largest is framed.

    Numbers up to `lowest` share the lightest shade, NaN is a dash. A `spread` of the same shape stands
    below each number in thousandths.
    """
    tall = 0.38 if spread is None else 0.44
    ax = _axes(ax, 1.6 + 0.85 * len(columns), 0.8 + tall * len(rows))
    bottom, top = np.nanmin(values) if lowest is None else lowest, np.nanmax(values)
    ax.imshow(values, cmap="Blues", aspect="auto", vmin=bottom)
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if value > (bottom + top) / 2 else COLOURS["threshold"]
        told = "–" if np.isnan(value) else f"{value:.3f}"
        text = told if spread is None else f"{told}\n"
        ax.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)
        if spread is not None:
            small = f"±{1000 * spread[row, column]:.0f}"
            ax.text(column, row + 0.22, small, ha="center", va="center", color=ink, fontsize=6.5)
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=2.5)
    frame.set(edgecolor=COLOURS["unseen"], clip_on=False)
    if spread is None:
        ax.add_patch(frame)
    ax.set_yticks(range(len(rows)), list(rows))
    turned = 30 if max(map(len, columns)) > 5 else 0
    ax.set_xticks(
        range(len(columns)), list(columns), rotation=turned, ha="right" if turned else "center"
    )
    ax.grid(visible=False)
    return ax


def plot_ranks(ranks: Mapping[str, float], difference: float, ax: Axes | None = None) -> Axes:
    """Draw mean ranks, best first, as a ladder; those within `difference` of the best are grey.

    Source: the critical-difference diagram of Demšar, 2006.
    """
    ax = _axes(ax, 6.4, 0.24 * len(ranks) + 1.1)
    best = min(ranks.values())
    for place, (name, rank) in enumerate(ranks.items()):
        close = rank <= best + difference
        colour = COLOURS["reference" if close else "known"]
        ax.plot([0, rank], [place, place], color="#e6e6e6", linewidth=1, zorder=1)
        ax.plot(rank, place, "o", color=COLOURS["unseen"] if place == 0 else colour, zorder=2)
        ax.text(rank + 0.35, place, name, va="center", fontsize=9)
    ax.plot([best, best + difference], [-1.2, -1.2], color=COLOURS["threshold"], linewidth=3)
    ax.text(best, -1.6, f"critical difference {difference:.1f}", va="bottom", fontsize=9)
    ax.set(
        yticks=[], xlabel="mean rank", xlim=(0, max(ranks.values()) * 1.3), ylim=(len(ranks), -3)
    )
    ax.grid(axis="y", visible=False)
    return ax


def plot_points(
    points: np.ndarray, labels: np.ndarray, names: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Draw a 2-D embedding, N×2: known classes as shades of blue, unseen (−1) in orange on top."""
    ax = _axes(ax, 5.2, 4.4)
    shades = plt.get_cmap("Blues")(np.linspace(0.45, 0.95, len(names)))
    for label, name in enumerate(names):
        own = points[labels == label]
        ax.scatter(own[:, 0], own[:, 1], s=7, color=shades[label], alpha=0.6, linewidth=0)
        x, y = np.median(own, axis=0)
        ax.text(x, y, name, fontweight="bold", fontsize=13, ha="center",
                bbox={"boxstyle": "circle,pad=0.2", "color": "white", "alpha": 0.85})  # fmt: skip
    unseen = points[labels == -1]
    ax.scatter(
        unseen[:, 0],
        unseen[:, 1],
        s=9,
        color=COLOURS["unseen"],
        alpha=0.8,
        linewidth=0,
        label="unseen",
    )
    ax.set(xticks=[], yticks=[])
    ax.legend(loc="best")
    return ax


def plot_dots(
    means: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float] | None] | None = None,
    ax: Axes | None = None,
    roles: Mapping[str, str] | None = None,
) -> Axes:
    """Draw a dot and its 95 % interval for each name, the first on top; the axis need not start at 0."""
    ax = _axes(ax, 6.0, 0.27 * len(means) + 0.9)
    for place, (name, mean) in enumerate(means.items()):
        colour = COLOURS[(roles or {}).get(name, "known")]
        bounds = (intervals or {}).get(name) or (mean, mean)
        ax.plot(bounds, (place, place), color=colour, linewidth=1.6)
        ax.plot(mean, place, "o", color=colour, markersize=6)
    ax.set_yticks(range(len(means)), list(means))
    ax.set_ylim(len(means) - 0.4, -0.6)
    return ax


def plot_groups(
    points: np.ndarray, labels: np.ndarray, names: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Draw points, N×2, coloured by group, labels 0…G−1; the colours repeat after seven groups."""
    ax = _axes(ax, 4.6, 4.0)
    for label, name in enumerate(names):
        own, colour = points[labels == label], CYCLE[label % len(CYCLE)]
        ax.scatter(own[:, 0], own[:, 1], s=6, color=colour, alpha=0.6, linewidth=0, label=name)
    ax.legend(markerscale=3, loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.1)
    ax.set(xticks=[], yticks=[])
    return ax


def plot_means(
    places: Sequence[float],
    values: np.ndarray,
    label: str,
    ax: Axes | None = None,
    colour: str = COLOURS["known"],
) -> Axes:
    """Draw the mean over seeds at each place, values seeds×places, and every seed as a faint dot."""
    ax = _axes(ax, 4.6, 3.2)
    values = np.atleast_2d(values)
    ax.plot(places, values.mean(0), marker="o", color=colour, label=label)
    ax.plot(places, values.T, ".", color=colour, alpha=0.35)
    return ax
