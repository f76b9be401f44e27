"""glyph-100, a stand-in for CIFAR-100 that needs no download: characters, drawn with jitter.

A hundred characters in twenty families of look-alikes, five in each, in the fonts that come with
matplotlib. An image depends on its character and its number alone: all that varies is drawn from a
hash of the two, and drawn in whole numbers, so every machine makes the same 24,000 images.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from embedood.data.image_set import Arrays
from embedood.data.outlines import GLYPH_SIDE, MASK_SIDE, read_masks

RECIPE = 1  # raise it when the same character and number should give another image
TRAIN, TEST = 200, 40  # images a class
SIDE = 32  # pixels of an image
SAMPLES = 3  # in a pixel, along each axis
OPAQUE = 256  # coverage of a pixel that is all ink

SANS = ("", "-Bold", "-Oblique", "-BoldOblique")
SERIF = ("", "-Bold", "-Italic", "-BoldItalic")
DEJAVU = (
    *(f"DejaVuSans{style}" for style in SANS),
    *(f"DejaVuSansMono{style}" for style in SANS),
    *(f"DejaVuSerif{style}" for style in SERIF),
)
SIGNS = (*DEJAVU, "STIXGeneral", "STIXGeneralBol")
TEXT = (*SIGNS, "STIXGeneralItalic", "STIXGeneralBolIta")
LATIN = (*TEXT, "cmb10", "cmr10", "cmss10", "cmtt10")
PICTURES = (*DEJAVU[:4], "DejaVuSansMono", "DejaVuSansMono-Bold")

FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "round_capitals": ("CDGOQ", LATIN),
    "straight_capitals": ("EFHLT", LATIN),
    "slanted_capitals": ("AKVXZ", LATIN),
    "bowl_letters": ("bdgpq", LATIN),
    "arch_letters": ("hmnru", LATIN),
    "thin_letters": ("fijlt", LATIN),
    "digits": ("35689", LATIN),
    "accented_letters": ("àâãäå", TEXT),
    "greek_capitals": ("ΔΞΣΨΩ", TEXT),
    "greek_letters": ("βδζθξ", TEXT),
    "cyrillic_capitals": ("ИЦЧШЩ", TEXT),
    "georgian_letters": ("ადთლრ", DEJAVU),
    "currencies": ("$€£¥¢", TEXT),
    "fractions": ("½¼¾⅓⅔", SIGNS),
    "arrows": ("←↑→↓↔", SIGNS),
    "relations": ("≠≈≡≤≥", SIGNS),
    "circled_signs": ("⊕⊖⊗⊘⊙", SIGNS),
    "set_signs": ("∈∩∪⊂⊃", SIGNS),
    "solid_shapes": ("■●▲◆★", PICTURES),
    "chess_pieces": ("♚♛♜♝♞", PICTURES),
}
"""Family → its characters, and the fonts that have them all."""

SUPERCLASSES = {family: tuple(characters) for family, (characters, _) in FAMILIES.items()}


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


CLASS_NAMES = tuple(sorted(sum(SUPERCLASSES.values(), ()), key=_hash))
"""The characters, families mixed: the last 20 are of many kinds, as they are in CIFAR-100."""


def read_glyphs(fonts: Path) -> Arrays:
    """Draw the data set: 100 × (200 + 40) images, uint8 (24000, 3, 32, 32).

    Args:
        fonts: the folder with the TrueType files.

    Raises:
        OSError: a font is not there. KeyError: it lacks a character.
    """
    masks = _masks(fonts)
    each = TRAIN + TEST
    images = [
        draw(masks[c], f"glyph-100 {RECIPE} {c} {i}") for c in CLASS_NAMES for i in range(each)
    ]
    numbers = np.arange(len(images))
    return np.stack(images), numbers // each, numbers % each >= TRAIN


def _masks(fonts: Path) -> dict[str, np.ndarray]:
    """Character → its masks, bool (fonts, 128, 128)."""
    wanted: dict[str, str] = {}
    for characters, names in FAMILIES.values():
        for name in names:
            wanted[name] = wanted.get(name, "") + characters
    read = {name: read_masks(fonts / f"{name}.ttf", wanted[name]) for name in wanted}
    return {
        c: np.stack([read[name][c] for name in names])
        for characters, names in FAMILIES.values()
        for c in characters
    }


class Draws:
    """Whole numbers from SHAKE-256 of a text, the same for good on every machine."""

    def __init__(self, text: str):
        self._stream = np.frombuffer(hashlib.shake_256(text.encode()).digest(1 << 12), np.uint8)
        self._at = 0

    def bytes(self, *shape: int) -> np.ndarray:
        """An array of 0 … 255, int64."""
        self._at += math.prod(shape)
        return self._stream[self._at - math.prod(shape) : self._at].reshape(shape).astype(np.int64)

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        first, second = self.bytes(2).tolist()
        return low + ((256 * first + second) * (high - low + 1) >> 16)


class Placement(NamedTuple):
    """Where a character lies: longer side (pixels), turn (degrees), shift (sixths of a pixel)."""

    side: int
    turn: int
    right: int
    down: int


def draw(masks: np.ndarray | Sequence[np.ndarray], text: str) -> np.ndarray:
    """Draw a character in one of its masks, each bool (128, 128), with all that varies.

    `text` decides font, place, colours, texture and blur. Returns uint8 (3, 32, 32).
    """
    draws = Draws(text)
    mask = masks[draws.between(0, len(masks) - 1)]
    coverage = cover(mask, _placement(draws))
    for _ in range(draws.between(0, 2)):
        coverage = _BLUR @ coverage @ _BLUR.T // 16
    background, ink = _colours(draws)
    canvas = background + _texture(draws)
    image = canvas + (ink - canvas) * coverage // OPAQUE + _grain(draws)
    return np.clip(image, 0, 255).astype(np.uint8)


def _placement(draws: Draws) -> Placement:
    side = draws.between(15, 27)
    free = 3 * (SIDE - side)  # half of what is left, in sixths of a pixel
    return Placement(
        side, draws.between(-18, 18), draws.between(-free, free), draws.between(-free, free)
    )


def cover(mask: np.ndarray, place: Placement) -> np.ndarray:
    """How much of each pixel a character covers, 0 … 256, shape (32, 32): 3 × 3 samples a pixel."""
    steps = 2 * np.arange(SIDE * SAMPLES) + 1 - SIDE * SAMPLES  # from the middle, in sixths
    x, y = (steps - place.right)[None], (steps - place.down)[:, None]
    scale = GLYPH_SIDE * 65536 / (2 * SAMPLES * place.side)
    cosine, sine = (round(scale * f(math.radians(place.turn))) for f in (math.cos, math.sin))
    column, row = cosine * x + sine * y >> 16, cosine * y - sine * x >> 16
    half = MASK_SIDE // 2
    column, row = (np.clip(i, -half, half - 1) + half for i in (column, row))
    inside = mask[row, column].reshape(SIDE, SAMPLES, SIDE, SAMPLES).sum((1, 3))
    return inside * OPAQUE // SAMPLES**2


_BLUR = np.eye(SIDE, dtype=np.int64)  # weights 1 2 1, the edge pixels repeated
_BLUR = np.pad(_BLUR, ((0, 0), (1, 1)), "edge")
_BLUR = _BLUR[:, :-2] + 2 * _BLUR[:, 1:-1] + _BLUR[:, 2:]


def _colours(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Background and ink, each (3, 1, 1): either may be the darker; tints are drawn apart."""
    dark = draws.between(20, 120)
    levels = [dark, dark + draws.between(60, 130)]
    if draws.between(0, 1):
        levels.reverse()
    tints = draws.bytes(2, 3, 1, 1) * 80 // 255 - 40
    return levels[0] + tints[0], levels[1] + tints[1]


_CELL = 8  # pixels between the knots of the texture
_KNOTS = SIDE // _CELL + 1
_WEIGHTS = np.zeros((SIDE, _KNOTS), np.int64)  # of the knots in each pixel, sixteenths
for _pixel in range(SIDE):
    _part = 2 * (_pixel % _CELL) + 1
    _WEIGHTS[_pixel, _pixel // _CELL : _pixel // _CELL + 2] = 16 - _part, _part


def _texture(draws: Draws) -> np.ndarray:
    """Clouds of any strength up to 40 grey values either way, (3, 32, 32)."""
    knots = (draws.bytes(3, _KNOTS, _KNOTS) - 128) * draws.between(0, 40) // 128
    return _WEIGHTS @ knots @ _WEIGHTS.T // 256


def _grain(draws: Draws) -> np.ndarray:
    """Noise in each pixel of any strength up to 24 grey values either way, (3, 32, 32)."""
    return (draws.bytes(3, SIDE, SIDE) - 128) * draws.between(0, 24) // 128
