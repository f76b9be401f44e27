"""The stand-in for CIFAR-100: right characters, the same on every machine, and what jitter does."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from embedood import data, splits
from embedood.data import catalogue, formats, glyphs, outlines, prepared
from embedood.data.glyphs import Draws, Placement

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
SPEC = catalogue.SPECS["glyph-100"]
USED = sorted({name for _, names in glyphs.FAMILIES.values() for name in names})


@pytest.fixture(scope="module")
def masks():
    return glyphs._masks(FONTS)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The whole set, drawn once into a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDOOD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield data.load("glyph-100")


# Outlines


def mask_of(*contours, side=6):
    return (
        outlines.fill([np.array(c) * outlines.UNITS for c in contours], side).astype(int).tolist()
    )


def square(low, high):
    return [(low, low), (high, low), (high, high), (low, high)]


def test_a_square_is_filled_and_a_hole_is_not():
    full, empty = [0, 1, 1, 1, 1, 0], [0] * 6
    assert mask_of(square(1, 5)) == [empty, full, full, full, full, empty]
    ring = [0, 1, 0, 0, 1, 0]
    hole = square(2, 4)[::-1]
    assert mask_of(square(1, 5), hole) == [empty, full, ring, ring, full, empty]
    assert mask_of(square(1, 5), square(2, 4)) == mask_of(square(1, 5)), (
        "wound the same way: no hole"
    )


def test_a_pixel_belongs_to_a_triangle_when_its_centre_does():
    triangle = np.array([(0, 0), (6, 0), (0, 6)])
    expected = [[int(x + 0.5 + y + 0.5 < 6) for x in range(6)] for y in range(6)]
    found = np.array(mask_of(triangle))
    on_the_edge = np.add.outer(np.arange(6), np.arange(6)) == 5
    assert np.array_equal(found[~on_the_edge], np.array(expected)[~on_the_edge])


def test_what_hangs_over_the_mask_is_cut():
    assert mask_of(square(-2, 3)) == [[1, 1, 1, 0, 0, 0]] * 3 + [[0] * 6] * 3
    assert mask_of(square(7, 9)) == [[0] * 6] * 6


def test_a_curve_follows_its_formula():
    points = outlines._curve((0, 0), (8, 16), (16, 0))
    for step, point in enumerate(points, 1):
        t = step / outlines.CURVE_STEPS
        assert point == (16 * t, 32 * t * (1 - t))
    assert points[-1] == (16, 0)


def by_font_engine(font, character):
    """The same character drawn by FreeType, cut out, scaled and centred."""
    engine = ImageFont.truetype(FONTS / f"{font}.ttf", 800, layout_engine=ImageFont.Layout.BASIC)
    box = engine.getbbox(character)
    canvas = Image.new("L", (box[2] - box[0] + 40, box[3] - box[1] + 40))
    ImageDraw.Draw(canvas).text((20 - box[0], 20 - box[1]), character, 255, engine)
    cut = canvas.crop(canvas.getbbox())
    scale = outlines.GLYPH_SIDE / max(cut.size)
    width, height = (max(1, round(scale * n)) for n in cut.size)
    middle = outlines.MASK_SIDE // 2
    mask = Image.new("L", (outlines.MASK_SIDE, outlines.MASK_SIDE))
    mask.paste(
        cut.resize((width, height), Image.Resampling.BOX),
        (round(middle - width / 2), round(middle - height / 2)),
    )
    return np.asarray(mask) > 127


@pytest.mark.parametrize("family", glyphs.FAMILIES)
def test_masks_are_the_characters_that_a_font_engine_draws(family, masks):
    """The engine hints and rounds in its own way, at another size: compare areas, not pixels."""
    characters, names = glyphs.FAMILIES[family]
    for character in characters:
        for place in range(0, len(names), 3):
            mask, expected = masks[character][place], by_font_engine(names[place], character)
            shared = (mask & expected).sum() / (mask | expected).sum()
            assert shared > 0.8, (character, names[place], shared)


# Classes


def test_a_hundred_classes_in_twenty_families_of_five():
    assert len(set(SPEC.class_names)) == 100
    assert len(SPEC.superclasses) == 20
    assert {len(members) for members in SPEC.superclasses.values()} == {5}
    assert {len(set(names)) == len(names) for _, names in glyphs.FAMILIES.values()} == {True}


def test_no_two_classes_look_the_same_in_a_font(masks):
    """The nearest are ã and ä in bold."""
    nearest = {}
    for font in USED:
        here = {
            c: masks[c][names.index(font)].ravel()
            for characters, names in glyphs.FAMILIES.values()
            if font in names
            for c in characters
        }
        stack = np.stack(list(here.values())).astype(np.float32)
        shared = stack @ stack.T
        ratio = shared / (stack.sum(1)[:, None] + stack.sum(1) - shared)
        np.fill_diagonal(ratio, 0)
        first, second = np.unravel_index(ratio.argmax(), ratio.shape)
        nearest[font] = (ratio.max(), [*here][first], [*here][second])
    assert max(nearest.values())[0] < 0.95, nearest


def test_the_last_twenty_classes_are_of_many_families():
    order = [f for c in SPEC.class_names for f, g in SPEC.superclasses.items() if c in g]
    assert len(set(order[-20:])) > 10


# Jitter


def test_draws_are_the_bytes_of_shake_256():
    stream = hashlib.shake_256(b"a text").digest(40)
    draws = Draws("a text")
    assert draws.bytes(2, 3).tolist() == [list(stream[:3]), list(stream[3:6])]
    value = 256 * stream[6] + stream[7]
    assert draws.between(10, 19) == 10 + value * 10 // 65536
    values = [Draws(str(i)).between(-1, 1) for i in range(300)]
    assert {v: values.count(v) > 70 for v in (-1, 0, 1)} == {-1: True, 0: True, 1: True}


FULL = np.zeros((outlines.MASK_SIDE, outlines.MASK_SIDE), bool)
FULL[8:-8, 8:-8] = True  # a square as large as a character may be


def box_of(coverage):
    rows, columns = (np.flatnonzero(coverage.any(axis)) for axis in (1, 0))
    return rows[0], rows[-1], columns[0], columns[-1]


def test_size_shift_and_turn_are_what_they_say():
    coverage = glyphs.cover(FULL, Placement(20, 0, 0, 0))
    assert box_of(coverage) == (6, 25, 6, 25)
    assert coverage[6:26, 6:26].min() == glyphs.OPAQUE
    moved = glyphs.cover(FULL, Placement(20, 0, 6 * 3, -6 * 2))
    assert np.array_equal(moved, np.roll(coverage, (-2, 3), (0, 1)))
    half = glyphs.cover(FULL, Placement(20, 45, 0, 0))
    low, high, _, _ = box_of(half)
    assert high - low + 1 == pytest.approx(20 * 2**0.5, abs=2)
    assert half.sum() / glyphs.OPAQUE == pytest.approx(400, rel=0.02)


def test_a_quarter_turn_is_one():
    mask = np.zeros_like(FULL)
    mask[8:60, 8:-8] = True
    upright = glyphs.cover(mask, Placement(20, 0, 0, 0))
    turned = glyphs.cover(mask, Placement(20, 90, 0, 0))
    difference = np.abs(np.rot90(upright, -1) - turned)
    assert min(difference.mean(), np.abs(np.rot90(upright) - turned).mean()) < glyphs.OPAQUE / 50


def test_blur_spreads_a_pixel_and_keeps_a_flat_image():
    spot = np.zeros((32, 32), np.int64)
    spot[5, 5] = 160
    blurred = glyphs._BLUR @ spot @ glyphs._BLUR.T // 16
    assert blurred[4:7, 4:7].tolist() == [[10, 20, 10], [20, 40, 20], [10, 20, 10]]
    assert blurred.sum() == 160
    flat = np.full((32, 32), 160)
    assert np.array_equal(glyphs._BLUR @ flat @ glyphs._BLUR.T // 16, flat)


def test_ink_and_background_always_differ():
    for i in range(300):
        background, ink = glyphs._colours(Draws(str(i)))
        assert abs(int((background - ink).mean())) >= 60 - 54, i  # levels 60 apart, tints of ±40


# The set


def test_the_set_is_balanced_and_the_same_on_every_machine(drawn):
    """Its fingerprint is fixed in the catalogue: another result would not have been accepted."""
    assert drawn.images.shape == (24_000, 3, 32, 32)
    assert np.bincount(drawn.labels[~drawn.is_test]).tolist() == [200] * 100
    assert np.bincount(drawn.labels[drawn.is_test]).tolist() == [40] * 100
    assert drawn.fingerprint == SPEC.fingerprint
    assert len({image.tobytes() for image in drawn.images}) == 24_000
    assert drawn.source == "package matplotlib"
    again = prepared.read("glyph-100", SPEC.fingerprint)
    assert again is not None
    assert np.array_equal(again[0][0], drawn.images)


def test_an_image_depends_on_its_character_and_number_alone(drawn, masks):
    """In another process, with another order and another seed of Python's own hash."""
    code = (
        "import sys, pathlib, hashlib; from embedood.data import glyphs\n"
        "m = glyphs.read_masks(pathlib.Path(sys.argv[1]) / 'DejaVuSans.ttf', 'Щ♞')\n"
        "print([hashlib.sha256(glyphs.draw([m[c]], c + ' 7')).hexdigest() for c in '♞Щ'])"
    )
    environment = os.environ | {
        "PYTHONPATH": str(Path(data.__file__).parents[2]),
        "PYTHONHASHSEED": "7",
    }
    command = [sys.executable, "-c", code, str(FONTS)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    here = outlines.read_masks(FONTS / "DejaVuSans.ttf", "Щ♞")
    mine = [hashlib.sha256(glyphs.draw([here[c]], f"{c} 7")).hexdigest() for c in "♞Щ"]
    assert told.stdout.strip() == str(mine)
    assert told.stderr == "", "fonts of 1904 are no news"
    own = glyphs.draw(masks["Q"], f"glyph-100 {glyphs.RECIPE} Q 205")
    of_class = drawn.labels == SPEC.class_names.index("Q")
    (found,) = np.flatnonzero((drawn.images == own).all((1, 2, 3)))
    assert of_class[found]
    assert drawn.is_test[found]


def test_near_and_far_splits(drawn):
    far = splits.whole_superclasses(drawn, ["arrows", "relations", "circled_signs", "set_signs"])
    assert {drawn.class_names[c] for c in far} == set("←↑→↓↔≠≈≡≤≥⊕⊖⊗⊘⊙∈∩∪⊂⊃")
    near = splits.one_of_each_superclass(drawn, seed=0)
    assert sorted(drawn.superclass_of[list(near)]) == list(range(20))
    split = splits.split(drawn, near, validation=2000)
    sizes = [len(p) for p in (split.train, split.validation, split.test_known, split.test_unseen)]
    assert sizes == [14_000, 2_000, 3_200, 800]


def fonts_in(folder):
    place = folder / "mpl-data" / "fonts" / "ttf"
    place.mkdir(parents=True)
    for name in USED:
        (place / f"{name}.ttf").symlink_to(FONTS / f"{name}.ttf")
    return place


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "truncated", "another font"])
def test_a_damaged_font_is_rejected(tmp_path, damage):
    path = fonts_in(tmp_path) / "DejaVuSans.ttf"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {
                "empty": b"",
                "garbage": b"no font" * 1000,
                "truncated": content[: len(content) // 2],
                "another font": (FONTS / "cmr10.ttf").read_bytes(),
            }[damage]
        )
    with pytest.raises(formats.Rejected, match=r"the fonts in .* cannot be drawn"):
        formats.read_packaged_glyphs(tmp_path)


def test_a_matplotlib_without_fonts_is_named(tmp_path):
    with pytest.raises(formats.Absent, match=r"ttf is not there; `pip install matplotlib`"):
        formats.read_packaged_glyphs(tmp_path)


def test_other_fonts_do_not_pass_for_these(monkeypatch, tmp_path):
    """One image changed is another data set, and says so."""
    monkeypatch.setenv("EMBEDOOD_CACHE", str(tmp_path))
    images = np.zeros((100, 3, 32, 32), np.uint8)
    made = images, np.arange(100), np.zeros(100, bool)
    monkeypatch.setattr(glyphs, "read_glyphs", lambda fonts: made)
    with pytest.raises(
        data.DataError, match="its 100 images are not those of glyph-100"
    ) as failure:
        data.load("glyph-100")
    assert "matplotlib" in str(failure.value).splitlines()[-1]
