"""Characters as black-and-white masks, from the outlines in TrueType files.

Everything is computed in whole numbers from the outlines themselves. A font engine would round and
hint in its own way, each version differently, and no two machines would draw the same data set.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

MASK_SIDE = 128  # pixels
GLYPH_SIDE = 112  # of them for the longer side of a character
UNITS = 64  # of the grid that outlines are rounded to, in a pixel
CURVE_STEPS = 8  # straight pieces a curve becomes


def read_masks(font: Path, characters: Collection[str]) -> dict[str, np.ndarray]:
    """The characters of one font as masks, bool (128, 128), centred, the longer side 112 pixels.

    Raises KeyError for a character that the font does not have.
    """
    # Some of the fonts are dated 1904, which fontTools would warn of at every load.
    logging.getLogger("fontTools.ttLib.tables._h_e_a_d").setLevel(logging.ERROR)
    from fontTools.ttLib import TTFont

    with TTFont(font) as opened:
        glyphs, names = opened.getGlyphSet(), opened.getBestCmap()
        contours = {c: _contours(glyphs, names[ord(c)]) for c in characters}
    return {c: fill(_fitted(found), MASK_SIDE) for c, found in contours.items()}


def _contours(glyphs: Any, name: str) -> list[np.ndarray]:
    """The closed outlines of a character as polygons, each (K, 2) in the units of the font."""
    from fontTools.pens.basePen import BasePen

    class Polygons(BasePen):
        def __init__(self) -> None:
            super().__init__(glyphs)
            self.found: list[list[tuple[float, float]]] = []

        def _moveTo(self, point: tuple[float, float]) -> None:
            self.found.append([point])

        def _lineTo(self, point: tuple[float, float]) -> None:
            self.found[-1].append(point)

        def _qCurveToOne(self, control: tuple[float, float], end: tuple[float, float]) -> None:
            self.found[-1] += _curve(self.found[-1][-1], control, end)

    pen = Polygons()
    glyphs[name].draw(pen)
    return [np.array(points) for points in pen.found]


def _curve(
    start: tuple[float, float], control: tuple[float, float], end: tuple[float, float]
) -> list[tuple[float, float]]:
    """Points of a quadratic Bézier curve after its start; exact, as steps are a power of two."""
    weights = [
        ((1 - t) ** 2, 2 * t * (1 - t), t**2)
        for t in (i / CURVE_STEPS for i in range(1, CURVE_STEPS + 1))
    ]
    x, y = zip(start, control, end, strict=True)
    return [(a * x[0] + b * x[1] + c * x[2], a * y[0] + b * y[1] + c * y[2]) for a, b, c in weights]


def _fitted(contours: list[np.ndarray]) -> list[np.ndarray]:
    """Outlines scaled to the mask and centred in it, y downwards, in units of 1/64 pixel."""
    points = np.concatenate(contours)
    low, high = points.min(0), points.max(0)
    scale = GLYPH_SIDE * UNITS / (high - low).max()
    flipped = np.array([scale, -scale])
    middle = MASK_SIDE * UNITS // 2
    return [
        np.rint((contour - (low + high) / 2) * flipped).astype(np.int64) + middle
        for contour in contours
    ]


def fill(contours: list[np.ndarray], side: int) -> np.ndarray:
    """Fill closed polygons by the non-zero winding rule.

    Args:
        contours: integers, each (K, 2): x and y in units of 1/64 pixel, y downwards.
        side: of the mask, pixels.

    Returns:
        bool, shape (side, side): whether the centre of a pixel lies inside.
    """
    start = np.concatenate(contours)[:, None]
    end = np.concatenate([np.roll(c, -1, axis=0) for c in contours])[:, None]
    rows = np.arange(side) * UNITS + UNITS // 2
    edge, row = np.nonzero((start[..., 1] <= rows) != (end[..., 1] <= rows))
    (x, y), (dx, dy) = start[edge, 0].T, (end - start)[edge, 0].T
    crossing = x + (rows[row] - y) * dx // dy
    first = np.clip((crossing + UNITS // 2 - 1) // UNITS, 0, side)  # pixel right of the crossing
    winding = np.zeros((side, side + 1), np.int64)
    np.add.at(winding, (row, first), np.sign(dy))
    return winding.cumsum(1)[:, :side] != 0
