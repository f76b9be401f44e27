"""The map as a still picture, for paper and for notebooks."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from embedood.embedding_map.data import MapData
from embedood.figures import COLOURS

MOST_NAMES = 25


def plot_map(data: MapData, ax: Axes | None = None) -> Axes:
    """Draw a map: dots are accepted, crosses rejected; known in shades of blue, unseen in orange.

    A shade is a superclass, or a class where there are none; up to 25 of them are named at the
    median of their known images. Raises `ValueError` as `MapData.check` does.
    """
    data.check()
    ax = ax if ax is not None else plt.subplots(figsize=(6.4, 6.0))[1]
    known, rejected = ~data.is_unseen, data.scores > data.threshold
    groups, names = _groups(data)
    shades = plt.get_cmap("Blues")(np.linspace(0.4, 0.95, len(names)))
    for role, rows, colours in (
        ("known", known, shades[groups]),
        ("unseen", ~known, np.full(len(data), COLOURS["unseen"])),
    ):
        for decided, chosen, mark in (("accepted", ~rejected, "."), ("rejected", rejected, "x")):
            own = rows & chosen
            label, (x, y) = f"{role}, {decided} ({own.sum():,})", data.points[own].T
            ax.scatter(x, y, s=14, c=colours[own], marker=mark, linewidth=0.8)
            ax.scatter([], [], s=30, c=COLOURS[role], marker=mark, label=label)
    if len(names) <= MOST_NAMES:
        for group in np.unique(groups[known]):
            _name(ax, names[group], data.points[known & (groups == group)])
    ax.set(xticks=[], yticks=[], aspect="equal", title=data.title)
    ax.spines[:].set_visible(False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2)
    return ax


def _groups(data: MapData) -> tuple[np.ndarray, list[str]]:
    """The group of each image, and the groups' names."""
    if data.superclass_of is None:
        return data.labels, list(data.class_names)
    return np.asarray(data.superclass_of)[data.labels], list(data.superclass_names)


def _name(ax: Axes, name: str, points: np.ndarray) -> None:
    x, y = np.median(points, axis=0)
    text = ax.text(x, y, name.replace("_", " "), fontsize=8.5, ha="center", va="center")
    text.set_parse_math(False)  # a name is no formula, whatever its dollars
    text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
