"""The map as one HTML file: bokeh draws the points, `page.js` does the rest, nothing is fetched."""

from __future__ import annotations

import html
import json
import os
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from embedood.embedding_map.data import MapData
from embedood.embedding_map.sheet import Sheet, fitting
from embedood.figures import COLOURS, CYCLE

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource, Plot, Range1d

Style = dict[str, Any]

MAX_BYTES = 8_000_000
INK = COLOURS["threshold"]
SLIDER_STEPS, BINS = 400, 60
MARKERS = ("circle", "x")  # accepted, rejected
# Darker and lighter variants of a hue, for more classes than there are hues.
SHADES = (0.0, -0.45, 0.35)


def write(data: MapData, path: str | Path, max_bytes: int = MAX_BYTES) -> None:
    """Write a map as one HTML file of at most `max_bytes`, in one move: whole, or not at all.

    The images' JPEG quality falls as far as the size demands. Raises `ValueError` as
    `MapData.check` does, for a target that is not an `.html` file in a folder that exists, and for
    more images than fit; `ImportError` without bokeh.
    """
    path = Path(path)
    _refuse_bad_target(path)
    if find_spec("bokeh") is None:
        raise ImportError("a map needs bokeh: pip install 'embedood[maps]'")
    data.check()
    page = _page(data, max_bytes)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _refuse_bad_target(path: Path) -> None:
    if path.suffix != ".html":
        raise ValueError(f"{path} must end in .html")
    if path.is_dir():
        raise ValueError(f"{path} is a folder")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} of {path.name} does not exist")


def _page(data: MapData, max_bytes: int) -> str:
    from bokeh.resources import Resources

    bokeh = Resources(mode="inline", components=["bokeh", "bokeh-gl"]).render()
    parts = {"title": html.escape(data.title), "bokeh": bokeh, "data": _json(_content(data))}
    parts |= {name: _file(f"page.{name}") for name in ("css", "js")}
    template = Template(_file("page.html"))
    rest = len(template.substitute(parts, images="", neighbours="").encode())
    near = None if data.neighbours is None else data.neighbours.used().images
    room = max_bytes - rest - 500  # for the attributes of two <img>
    images, neighbours = fitting(_ordered(data, data.images), near, room * 3 // 4)
    return template.substitute(
        parts, images=_img("images", images), neighbours=_img("neighbours", neighbours)
    )


def _file(name: str) -> str:
    return files("embedood.embedding_map").joinpath(name).read_text(encoding="utf-8")


def _json(content: Any) -> str:
    """JSON that may stand in a <script>: no tag can begin in it."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")


def _img(name: str, sheet: Sheet | None) -> str:
    if sheet is None:
        return ""
    sizes = {n: getattr(sheet, n) for n in ("columns", "tile", "height", "width")}
    told = " ".join(f'data-{n}="{size}"' for n, size in sizes.items())
    return f'<img id="{name}" hidden alt="" {told} src="{sheet.address}">'


def _ordered(data: MapData, rows: np.ndarray) -> np.ndarray:
    """Rows in the order of the page: unseen images last, by score, so that the unusual lie on top."""
    return rows[np.lexsort((data.scores, data.is_unseen))]


def _content(data: MapData) -> dict[str, Any]:
    """What `page.js` reads: the plot, classes, superclasses, colours, and what the slider can choose."""
    from bokeh.embed import json_item

    near = None if data.neighbours is None else data.neighbours.used()
    low, high = _score_range(data)
    thresholds = _thresholds(data)
    shown = np.clip(data.scores, low, high)
    bins = {
        role: np.histogram(shown[rows], BINS, (low, high))[0].tolist()
        for role, rows in (("known", ~data.is_unseen), ("unseen", data.is_unseen))
    }
    return {
        "plot": json_item(_plot(data)),
        "markers": MARKERS,
        "classes": [_class(data, c) for c in range(len(data.class_names))],
        "superclasses": [str(name) for name in data.superclass_names],
        "neighbourLabels": [] if near is None else near.labels.tolist(),
        "neighboursEach": 0 if near is None else near.rows.shape[1],
        "thresholds": thresholds.tolist(),
        "calibrated": int(np.searchsorted(thresholds, _calibrated(data))),
        "scoreRange": [low, high],
        "bins": bins,
        "colours": _colours(data),
    }


def _class(data: MapData, label: int) -> dict[str, Any]:
    own = data.points[data.labels == label]
    return {
        "name": str(data.class_names[label]),
        "unseen": label in data.unseen_classes,
        "superclass": None if data.superclass_of is None else int(data.superclass_of[label]),
        "count": len(own),
        "median": np.median(own, axis=0).tolist() if len(own) else None,
    }


def _score_range(data: MapData) -> tuple[float, float]:
    """The scores between which histogram and colours run; a few extreme ones would squeeze the rest."""
    low, high = np.quantile(data.scores, [0.005, 0.995])
    return float(low), float(high)


def _thresholds(data: MapData) -> np.ndarray:
    """Where the slider can stand, rising: all rejected, evenly spaced, the calibrated, none rejected."""
    even = np.linspace(*_score_range(data), SLIDER_STEPS)
    return np.unique([_below_all(data), *even, _calibrated(data), data.scores.max()])


def _below_all(data: MapData) -> float:
    return float(np.nextafter(data.scores.min(), -np.inf))


def _calibrated(data: MapData) -> float:
    """The calibrated threshold, no further out than decisions can tell."""
    return float(np.clip(data.threshold, _below_all(data), data.scores.max()))


def _colours(data: MapData) -> dict[str, Any]:
    """Colours as #rrggbb: of roles, of each class and superclass, and from a usual to an unusual score."""
    ramp = colormaps["cividis_r"](np.linspace(0.12, 1, 64))
    of_class = _palette(len(data.class_names))
    for label in data.unseen_classes:
        of_class[label] = COLOURS["unseen"]
    return {
        "known": COLOURS["known"],
        "unseen": COLOURS["unseen"],
        "class": of_class,
        "superclass": _palette(len(data.superclass_names)),
        "score": [to_hex(colour) for colour in ramp],
    }


def _palette(count: int) -> list[str]:
    """Colours other than that of the unseen: hues in turn, then their shades, then from the start."""
    hues = [colour for colour in CYCLE if colour not in (COLOURS["unseen"], "#E69F00")]
    return [_shade(hues[i % len(hues)], SHADES[i // len(hues) % len(SHADES)]) for i in range(count)]


def _shade(colour: str, amount: float) -> str:
    """The colour, mixed with white (amount > 0) or black (amount < 0)."""
    mixed_with = 1.0 if amount > 0 else 0.0
    red, green, blue = (c + (mixed_with - c) * abs(amount) for c in to_rgb(colour))
    return to_hex((red, green, blue))


def _plot(data: MapData) -> Plot:
    """The points, a ring around the one in focus and the names of classes, with no axes around them."""
    from bokeh.plotting import figure

    x, y = _ranges(data.points)
    plot = figure(
        name="plot", x_range=x, y_range=y, tools="pan,wheel_zoom", active_scroll="wheel_zoom",
        toolbar_location=None, sizing_mode="stretch_both", min_border=0, outline_line_color=None,
        output_backend="webgl",
    )  # fmt: skip
    plot.axis.visible = plot.grid.visible = False
    size = float(np.clip(450 / np.sqrt(len(data)), 4.5, 9))
    points: Style = {"marker": "marker", "size": size, "color": "colour", "line_width": 1.4}
    ring: Style = {"size": 18, "fill_color": None, "line_color": INK, "line_width": 3}
    names: Style = {"text_color": INK, "text_font_style": "bold", "text_font_size": "14px"}
    names |= {"text_align": "center", "y_offset": -8, "padding": 3, "border_radius": 4}
    names |= {"background_fill_color": "white", "background_fill_alpha": 0.8}
    nothing: Style = {"x": [], "y": []}
    plot.scatter("x", "y", source=_source(data), name="points", **points)
    # What `page.js` moves about lies above the points, so that they are not drawn again for it.
    plot.scatter("x", "y", source=nothing, name="ring", level="overlay", **ring)
    names |= {"source": nothing | {"text": []}, "level": "overlay"}
    plot.text("x", "y", "text", name="names", **names)
    return plot


def _ranges(points: np.ndarray) -> tuple[Range1d, Range1d]:
    """Ranges of x and y, equally long, around all points: the map is square, its unit one."""
    from bokeh.models import Range1d

    low, high = points.min(0), points.max(0)
    half = max(float((high - low).max()), 1e-9) / 2 * 1.06
    x, y = (Range1d(start=m - half, end=m + half) for m in ((low + high) / 2).tolist())
    return x, y


def _source(data: MapData) -> ColumnDataSource:
    """One row an image; `colour` is filled in by the page, as N×4 bytes: red, green, blue, opacity."""
    from bokeh.models import ColumnDataSource

    columns: dict[str, np.ndarray] = {
        "x": data.points[:, 0].astype(np.float32),
        "y": data.points[:, 1].astype(np.float32),
        "row": np.arange(len(data), dtype=np.int32),
        "label": data.labels.astype(np.uint16),
        "predicted": data.predicted.astype(np.uint16),
        "score": data.scores.astype(np.float64),
        "p": data.p_values.astype(np.float32),
        "colour": np.zeros((len(data), 4), np.uint8),
        "marker": np.take(MARKERS, data.scores > data.threshold),
    }
    if data.neighbours is not None:
        columns["neighbours"] = data.neighbours.used().rows.astype(np.int32)
    return ColumnDataSource({name: _ordered(data, column) for name, column in columns.items()})
