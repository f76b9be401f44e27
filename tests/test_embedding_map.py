"""The map of an embedding: its numbers and pictures against NumPy, its page in a browser offline."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from embedood.embedding_map import MapData, Neighbours, page, plot_map, sheet, write

ROOT = Path(__file__).parents[1]
PHONE_WIDTH = 375
NAMES = ("fox", '<b>&"', "</script>", "$x_y$", "wolf")
UNSEEN = (1, 4)
SIDE, TRAINING = 28, 24


def pictures(count: int, seed: int, side: int = SIDE) -> np.ndarray:
    """Smooth images in colour, each unlike every other."""
    corners = np.random.default_rng(seed).integers(0, 256, (count, 3, 2, 2)).astype(float)
    rise = np.linspace(0, 1, side)
    weights = np.stack([1 - rise, rise])
    return np.einsum("nckl,ki,lj->ncij", corners, weights, weights).round().astype(np.uint8)


def example(count: int = 49, **changes: Any) -> MapData:
    """Images on a square grid, moved a little, of five classes, two unseen, in two superclasses."""
    rng = np.random.default_rng(1)
    side = int(np.sqrt(count))
    grid = np.stack(np.meshgrid(range(side), range(side)), -1).reshape(-1, 2)
    labels = rng.integers(0, 5, count)
    known = np.setdiff1d(range(5), UNSEEN)
    right = np.where(
        np.isin(labels, UNSEEN) | (rng.random(count) < 0.3), rng.choice(known, count), labels
    )
    scores = rng.normal(size=count) + np.isin(labels, UNSEEN)
    near = Neighbours(
        2 * rng.integers(0, TRAINING // 2, (count, 3)),
        pictures(TRAINING, 7),
        rng.choice(known, TRAINING),
    )
    made = MapData(
        points=grid + rng.uniform(-0.2, 0.2, (count, 2)),
        images=pictures(count, 3), labels=labels, predicted=right,
        scores=scores, p_values=rng.random(count), class_names=NAMES, unseen_classes=UNSEEN,
        threshold=float(np.sort(scores)[30]), superclass_of=np.array([0, 0, 1, 1, 0]),
        superclass_names=("dogs", "strange_names"), neighbours=near, title='Dogs & "<i>others"',
    )  # fmt: skip
    return replace(made, **changes)


DATA = example()


# ---- The page in a browser ----


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: maps are not opened")
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("map") / "map.html"
    write(DATA, path)
    return path


def show(browser: Browser, file: Path, width: int = 1280) -> Browser:
    browser.open(file, width=width)
    browser.until("document.body.dataset.ready === ''")
    return browser


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Browser]:
    yield show(browser, file)
    assert browser.problems == []


PLOT = "Bokeh.documents.at(-1).get_model_by_name('plot')"
ROWS = "Bokeh.documents.at(-1).get_model_by_name('points').data_source.data"
KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "+": 187, "0": 48,
}  # fmt: skip


def press(browser: Browser, *keys: str) -> None:
    for key in keys:
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        about: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": KEYS[key]}
        browser.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        browser.call("Input.dispatchKeyEvent", type="keyUp", **about)


def click(browser: Browser, element: str) -> None:
    middle = (
        f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}});"
        " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    x, y = browser.evaluate(middle)
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def place(browser: Browser, row: int) -> tuple[float, float]:
    """Where an image lies in the window."""
    left, top, side = browser.evaluate(
        "(() => { const r = document.querySelector('#map > *').getBoundingClientRect();"
        " return [r.x, r.y, r.width]; })()"
    )
    bounds = f"[{PLOT}.x_range, {PLOT}.y_range].map((r) => [r.start, r.end])"
    (x_start, x_end), (_, y_end) = browser.evaluate(bounds)
    scale = side / (x_end - x_start)
    x, y = DATA.points[row]
    return left + (x - x_start) * scale, top + (y_end - y) * scale


def hover(browser: Browser, row: int) -> None:
    x, y = place(browser, row)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 2, y=y - 2)
    browser.until(f"document.getElementById('fact-image')?.textContent === '{row}'")


def fact(browser: Browser, name: str) -> str:
    return browser.evaluate(f"document.getElementById('fact-{name}').textContent")


def drawn(browser: Browser, canvas: str) -> np.ndarray:
    """The pixels of a canvas, channels×height×width."""
    code = (
        f"(() => {{ const c = {canvas}; return [c.height, c.width,"
        " [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]; })()"
    )
    height, width, pixels = browser.evaluate(code)
    return np.array(pixels).reshape(height, width, 4)[..., :3].transpose(2, 0, 1)


def most_like(seen: np.ndarray, images: np.ndarray) -> int:
    return int(np.abs(images.astype(int) - seen).mean((1, 2, 3)).argmin())


def test_the_image_pointed_at_is_shown_with_what_is_known_of_it(opened: Browser) -> None:
    kinds = {
        (bool(u), bool(s > DATA.threshold))
        for u, s in zip(DATA.is_unseen, DATA.scores, strict=True)
    }
    assert len(kinds) == 4, "the example has known and unseen, accepted and rejected"
    unusual = np.where(DATA.is_unseen, DATA.scores, -np.inf).argmax()
    assert fact(opened, "image") == str(unusual), "an example is shown from the start"
    for row in range(0, len(DATA), 6):
        hover(opened, row)
        seen = drawn(opened, "document.getElementById('image')")
        assert most_like(seen, DATA.images) == row
        assert np.abs(seen - DATA.images[row].astype(int)).mean() < 6
        name = NAMES[DATA.labels[row]].replace("_", " ")
        assert fact(opened, "true") == name + (" (unseen)" if DATA.is_unseen[row] else "")
        assert fact(opened, "predicted") == NAMES[DATA.predicted[row]].replace("_", " ")
        assert float(fact(opened, "score")) == pytest.approx(DATA.scores[row], rel=1e-3)
        assert float(fact(opened, "p-value")) == pytest.approx(DATA.p_values[row], rel=0.05)
        rejected = DATA.scores[row] > DATA.threshold
        wrong = DATA.labels[row] != DATA.predicted[row]
        assert fact(opened, "decision") == (
            "✕ rejected" if rejected else "● accepted, wrong" if wrong else "● accepted, right"
        )


def test_the_nearest_training_images_are_shown_nearest_first(opened: Browser) -> None:
    assert DATA.neighbours is not None
    for row in (0, 20, 48):
        hover(opened, row)
        canvases = "document.querySelectorAll('#near-list canvas')"
        seen = [drawn(opened, f"{canvases}[{i}]") for i in range(3)]
        found = [most_like(pixels, DATA.neighbours.images) for pixels in seen]
        assert found == DATA.neighbours.rows[row].tolist()
        told = opened.evaluate(
            "[...document.querySelectorAll('#near-list li')].map(e => e.textContent)"
        )
        assert told == [NAMES[DATA.neighbours.labels[i]].replace("_", " ") for i in found]


def counted(threshold: float) -> dict[str, int]:
    """The confusion numbers, by a slow and obvious loop."""
    cells = dict.fromkeys(
        ("known-right", "known-wrong", "known-rejected", "unseen-accepted", "unseen-rejected"), 0
    )
    for label, predicted, score in zip(DATA.labels, DATA.predicted, DATA.scores, strict=True):
        role = "unseen" if label in UNSEEN else "known"
        accepted = "accepted" if role == "unseen" else "right" if label == predicted else "wrong"
        cells[f"{role}-{'rejected' if score > threshold else accepted}"] += 1
    return cells


def slide(browser: Browser, step: int) -> None:
    browser.evaluate(
        f"(() => {{ const s = document.getElementById('threshold'); s.value = {step};"
        " s.dispatchEvent(new Event('input')); })()"
    )


def test_the_slider_moves_the_confusion_numbers(opened: Browser) -> None:
    thresholds = page._thresholds(DATA)
    calibrated = int(opened.evaluate("document.getElementById('threshold').value"))
    assert thresholds[calibrated] == DATA.threshold
    for step in (calibrated, 0, 90, 200, 310, len(thresholds) - 1):
        slide(opened, step)
        cells = counted(thresholds[step])
        for cell, count in cells.items():
            whole = sum(n for other, n in cells.items() if other[:5] == cell[:5])
            told = opened.evaluate(f"document.getElementById('{cell}').innerText").split("\n")
            assert told == [str(count), f"{100 * count / whole:.1f} %"], (step, cell)
    assert (cells["known-rejected"], cells["unseen-rejected"]) == (0, 0), "none, at the right end"


def test_the_slider_moves_the_marks_and_the_shares_of_the_classes(opened: Browser) -> None:
    for step in (60, 350):
        slide(opened, step)
        rejected = DATA.scores > page._thresholds(DATA)[step]
        rows, marks = opened.evaluate(f"[[...{ROWS}.row], [...{ROWS}.marker]]")
        assert [marks[rows.index(row)] for row in range(len(DATA))] == np.where(
            rejected, "x", "circle"
        ).tolist()
        wolves = rejected[DATA.labels == NAMES.index("wolf")].mean()
        assert f"{100 * wolves:.1f} %" in opened.evaluate(f"{button('wolf')}.textContent")
    click(opened, "document.getElementById('calibrated')")
    value = opened.evaluate("document.getElementById('threshold-value').textContent")
    assert float(value) == pytest.approx(DATA.threshold, rel=1e-3)


def button(name: str) -> str:
    return (
        "[...document.querySelectorAll('#class-list button')]"
        f".find((b) => b.innerText.startsWith({name!r}))"
    )


def bright(browser: Browser) -> set[int]:
    """The classes that stand out."""
    labels, colours = browser.evaluate(f"[[...{ROWS}.label], [...{ROWS}.colour]]")
    stand_out = np.array(colours).reshape(-1, 4)[:, 3] > 128
    found = set(np.array(labels)[stand_out].tolist())
    assert not found & set(np.array(labels)[~stand_out].tolist())
    return found


@pytest.mark.parametrize(
    ("name", "classes"),
    [("fox", {0}), ('<b>&"', {1}), ("strange names", {2, 3}), ("all unseen", set(UNSEEN))],
)
def test_a_click_on_a_class_or_a_group_highlights_it(
    opened: Browser, name: str, classes: set[int]
) -> None:
    assert bright(opened) == set(range(5))
    click(opened, button(name))
    assert bright(opened) == classes
    assert opened.evaluate("document.querySelectorAll('[aria-pressed=true]').length") == 1
    outside = next(row for row in range(len(DATA)) if DATA.labels[row] not in classes)
    inside = next(row for row in range(len(DATA)) if DATA.labels[row] in classes)
    hover(opened, inside)
    x, y = place(opened, outside)
    opened.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert fact(opened, "image") == str(inside), "faint images do not answer"
    click(opened, button(name))
    assert bright(opened) == set(range(5))


def test_colours_follow_the_choice(opened: Browser) -> None:
    colours = page._colours(DATA)
    order = np.lexsort((DATA.scores, DATA.is_unseen))
    labels, unseen = DATA.labels[order], DATA.is_unseen[order]
    groups = np.array([0, 0, 1, 1, 0])[labels]
    wanted = {
        "role": np.where(unseen, colours["unseen"], colours["known"]),
        "class": np.array(colours["class"])[labels],
        "superclass": np.where(unseen, colours["unseen"], np.array(colours["superclass"])[groups]),
    }
    for choice, expected in wanted.items():
        assert painted(opened, choice) == [colour.lower() for colour in expected], choice
    by_score = painted(opened, "score")
    scores = DATA.scores[order]
    assert by_score[scores.argmin()] == colours["score"][0]
    assert by_score[scores.argmax()] == colours["score"][-1]
    assert len(set(by_score)) > 20


def painted(browser: Browser, choice: str) -> list[str]:
    browser.evaluate(
        f"(() => {{ const s = document.getElementById('colour'); s.value = '{choice}';"
        " s.dispatchEvent(new Event('change')); })()"
    )
    bytes_of = np.array(browser.evaluate(f"[...{ROWS}.colour]")).reshape(-1, 4)[:, :3]
    return ["#" + "".join(f"{byte:02x}" for byte in row) for row in bytes_of]


def test_filter_leaves_the_classes_asked_for(opened: Browser) -> None:
    opened.evaluate("document.getElementById('filter').focus()")
    opened.call("Input.insertText", text="WOL")
    left = "[...document.querySelectorAll('#class-list button')].filter((b) => b.offsetParent)"
    assert opened.evaluate(f"{left}.map((b) => b.childNodes[1].textContent)") == ["wolf"]


def neighbour_in_direction(row: int, direction: tuple[int, int], scale: float) -> int:
    """Ahead plus aside is least, in the quarter of the plane around the direction."""
    costs = {}
    for other in range(len(DATA)):
        way = (DATA.points[other] - DATA.points[row]) * scale
        ahead = float(way @ direction)
        aside = float(np.abs(way).sum() - abs(ahead))
        if ahead >= 3 and aside <= ahead:
            costs[other] = ahead + aside
    return min(costs, key=lambda other: costs[other])


def test_everything_works_by_keyboard_alone(opened: Browser) -> None:
    visited = []
    for _ in range(9):
        press(opened, "Tab")
        visited.append(
            opened.evaluate("document.activeElement.id || document.activeElement.innerText")
        )
        outline = opened.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"the focus cannot be seen on {visited[-1]}"
        act_on(opened, visited[-1])
    assert visited[:8] == [
        "colour", "zoom-out", "zoom-in", "zoom-reset", "map", "calibrated", "threshold", "filter",
    ]  # fmt: skip
    assert visited[8].startswith("all known")


def act_on(browser: Browser, element: str) -> None:
    """Use, by keys, what has just been reached, and look at what it does."""
    if element == "colour":
        press(browser, "ArrowDown")
        assert browser.evaluate("document.getElementById('colour').value") == "class"
    elif element == "zoom-in":
        before = browser.evaluate(f"{PLOT}.x_range.end - {PLOT}.x_range.start")
        press(browser, "Enter")
        after = browser.evaluate(f"{PLOT}.x_range.end - {PLOT}.x_range.start")
        assert after == pytest.approx(before / 1.5)
    elif element == "map":
        walk_on_the_map(browser)
    elif element == "threshold":
        before = int(browser.evaluate("document.getElementById('threshold').value"))
        press(browser, "ArrowLeft", "ArrowLeft")
        cell = browser.evaluate("document.getElementById('known-rejected').firstChild.textContent")
        assert int(cell) == counted(page._thresholds(DATA)[before - 2])["known-rejected"]
        press(browser, "Home")
        assert "known rejected" in browser.evaluate("document.activeElement.ariaValueText")
        assert "100.0 %" in browser.evaluate("document.activeElement.ariaValueText")
    elif element.startswith("all known"):
        press(browser, "ArrowDown", "Enter")
        assert bright(browser) == set(UNSEEN)
        press(browser, "Escape")
        assert bright(browser) == set(range(5))


def walk_on_the_map(browser: Browser) -> None:
    press(browser, "0", "ArrowRight")
    row = int(fact(browser, "image"))
    scale = browser.evaluate(f"{PLOT}.inner_width / ({PLOT}.x_range.end - {PLOT}.x_range.start)")
    ways = {"ArrowRight": (1, 0), "ArrowUp": (0, 1), "ArrowLeft": (-1, 0), "ArrowDown": (0, -1)}
    for key, direction in (ways | {"ArrowRight": (1, 0)}).items():
        row = neighbour_in_direction(row, direction, scale)
        press(browser, key)
        assert fact(browser, "image") == str(row), key
    press(browser, "Enter")
    assert bright(browser) == {DATA.labels[row]}
    press(browser, "Escape")
    assert bright(browser) == set(range(5))
    press(browser, "+", "+", "+", *["ArrowUp"] * 8)
    x, y = DATA.points[int(fact(browser, "image"))]
    ends = browser.evaluate(f"[{PLOT}.x_range, {PLOT}.y_range].map((r) => [r.start, r.end])")
    assert ends[0][0] <= x <= ends[0][1]
    assert ends[1][0] <= y <= ends[1][1]


def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, file: Path) -> None:
    show(browser, file, PHONE_WIDTH)
    hover(browser, 24)
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE_WIDTH
    width, height, inner = browser.evaluate(
        "(() => { const r = document.getElementById('map').getBoundingClientRect();"
        f" return [r.width, r.height, {PLOT}.inner_width]; }})()"
    )
    assert width == pytest.approx(height, abs=1)
    assert PHONE_WIDTH * 0.85 < inner <= width
    assert browser.problems == []


def test_names_and_title_stay_text(opened: Browser) -> None:
    assert opened.evaluate("document.title") == DATA.title
    assert opened.evaluate("document.querySelector('h1').textContent") == DATA.title
    written = "[...document.querySelectorAll('#class-list button.class')].map((b) => b.childNodes[1].data)"
    assert set(opened.evaluate(written)) == {"fox", '<b>&"', "</script>", "$x y$", "wolf"}


def test_a_map_without_superclasses_neighbours_and_unseen_opens(
    browser: Browser, tmp_path: Path
) -> None:
    known = example(
        labels=DATA.predicted, unseen_classes=(), superclass_of=None, superclass_names=(),
        neighbours=None, threshold=-np.inf, images=DATA.images[:, :1],
    )  # fmt: skip
    write(known, tmp_path / "map.html")
    show(browser, tmp_path / "map.html")
    assert browser.problems == []
    assert browser.evaluate("document.getElementById('known-rejected').firstChild.data") == "49"
    options = "[...document.getElementById('colour').options].map((o) => o.value)"
    assert browser.evaluate(options) == ["role", "class", "score"]
    hover(browser, 10)
    assert most_like(drawn(browser, "document.getElementById('image')"), known.images) == 10


# ---- The file ----


def sheets_in(file: Path) -> list[Image.Image]:
    coded = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', file.read_text(encoding="utf-8"))
    return [Image.open(io.BytesIO(base64.b64decode(part))) for part in coded]


def test_all_images_lie_in_one_sheet_and_used_neighbours_in_another(file: Path) -> None:
    """Of 24 training images every other one is somebody's neighbour: 12 tiles, 4 a row."""
    assert [picture.size for picture in sheets_in(file)] == [(7 * 32, 7 * 32), (4 * 32, 3 * 32)]


@pytest.mark.parametrize("neighbours", [False, True])
def test_ten_thousand_textured_images_fit(tmp_path: Path, neighbours: bool) -> None:
    count, rng = 10_000, np.random.default_rng(0)
    noise = rng.normal(0, 20, (count, 3, 32, 32))
    textured = np.clip(pictures(count, 0, 32) + noise, 0, 255).astype(np.uint8)
    near = Neighbours(rng.integers(0, count, (count, 5)), textured, np.zeros(count, int))
    large = example(count, images=textured, neighbours=near if neighbours else None)
    write(large, tmp_path / "map.html")
    assert 3_000_000 < (tmp_path / "map.html").stat().st_size <= page.MAX_BYTES == 8_000_000


def test_a_map_that_cannot_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"49 images and 12 neighbours take .* show fewer"):
        write(DATA, tmp_path / "map.html", max_bytes=1_500_000)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "map.html"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(DATA, path)
    assert [p.name for p in tmp_path.iterdir()] == ["map.html"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("map.htm", "must end in .html"), ("no/map.html", "the folder .*no of map.html does not exist"),
     ("folder.html", "is a folder")],
)  # fmt: skip
def test_a_target_that_cannot_be_written_is_refused(
    tmp_path: Path, name: str, complaint: str
) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match=complaint):
        write(DATA, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.html"]


def test_without_bokeh_only_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'embedood\[maps\]'"):
        write(DATA, tmp_path / "map.html")
    code = "import sys, embedood.embedding_map; sys.exit('bokeh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_the_page_is_made_of_is_installed_with_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = settings["tool"]["setuptools"]["package-data"]["embedood.embedding_map"]
    folder = ROOT / "embedood" / "embedding_map"
    assert set(shipped) == {p.name for p in folder.iterdir() if p.is_file() and p.suffix != ".py"}


# ---- Sheets ----


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "count"), [(28, 10), (32, 9), (50, 1)])
def test_every_image_is_found_in_its_tile(channels: int, side: int, count: int) -> None:
    images = pictures(count, 5, side)[:, :channels]
    made = sheet.sheet(images, 92)
    pixels = np.asarray(Image.open(io.BytesIO(made.jpeg))).astype(int)
    pixels = pixels.reshape(*pixels.shape[:2], channels)
    for place, image in enumerate(images):
        y, x = place // made.columns * made.tile, place % made.columns * made.tile
        found = pixels[y : y + made.height, x : x + made.width].transpose(2, 0, 1)
        assert np.abs(found - image).max() < 25
        assert np.abs(found - image).mean() < 4


def test_images_do_not_colour_each_other() -> None:
    images = np.zeros((9, 3, 28, 28), np.uint8)
    images[::2, 0] = 255
    made = sheet.sheet(images, 60)
    red = np.asarray(Image.open(io.BytesIO(made.jpeg)))[..., 0].astype(int)
    tiles = red.reshape(3, 32, 3, 32).transpose(0, 2, 1, 3).reshape(9, 32, 32)
    assert np.ptp(tiles, axis=(1, 2)).max() <= 2


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (3, 3, 5, 7)])
def test_a_halved_pixel_is_the_mean_of_four(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    small = sheet.halved(images)
    assert small.shape == (*shape[:2], -(-shape[2] // 2), -(-shape[3] // 2))
    for (n, c, y, x), value in np.ndenumerate(small):
        ys, xs = (
            np.minimum([2 * i, 2 * i + 1], s - 1) for i, s in zip((y, x), shape[2:], strict=True)
        )
        assert abs(value - images[n, c][np.ix_(ys, xs)].mean()) <= 0.5


def test_quality_falls_only_as_far_as_the_room_demands() -> None:
    images, near = pictures(100, 0), pictures(100, 1)
    best = sum(len(sheet.sheet(i, 92).jpeg) for i in (images, near))
    first, second = sheet.fitting(images, near, best)
    assert second is not None
    assert len(first.jpeg) + len(second.jpeg) == best
    assert second.width == SIDE
    less, small = sheet.fitting(images, near, best // 2)
    assert small is not None
    assert len(less.jpeg) + len(small.jpeg) <= best // 2
    assert (less.width, small.width) == (SIDE, SIDE // 2)


# ---- What is refused ----


def spoiled(name: str, row: int, value: float) -> dict[str, np.ndarray]:
    array = np.array(getattr(DATA, name))
    array[row] = value
    return {name: array}


def near(**changes: np.ndarray) -> dict[str, Neighbours]:
    assert DATA.neighbours is not None
    return {"neighbours": replace(DATA.neighbours, **changes)}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"scores": np.zeros(48)}, "points has 49, images has 49, .* scores has 48"),
        (near(rows=np.zeros((50, 3), int)), "neighbours.rows has 50"),
        ({"points": np.zeros((49, 3))}, r"points must have shape \(49, 2\), got \(49, 3\)"),
        ({"scores": np.zeros((49, 1))}, r"scores must have shape \(49,\), got \(49, 1\)"),
        (spoiled("points", 3, np.nan), "points must be finite, 2 of 98 values are not"),
        (spoiled("scores", 3, np.inf), "scores must be finite, 1 of 49"),
        ({"threshold": np.nan}, "threshold must be finite"),
        (spoiled("p_values", 0, 1.5), r"p_values must lie in \[0, 1\]"),
        (spoiled("p_values", 0, np.nan), "p_values must be finite"),
        (spoiled("labels", 0, 5), "labels must be 0 … 4, got 5"),
        (spoiled("labels", 0, -1), "got -1; an unseen class has a name of its own"),
        ({"labels": np.zeros(49)}, "labels must hold integers, got float64"),
        (spoiled("predicted", 0, 4), "predicted holds unseen classes.*: wolf"),
        ({"unseen_classes": (7,)}, "unseen_classes must be 0 … 4, got 7"),
        ({"images": DATA.images / 255}, r"images must be uint8, .* got float64 of shape \(49, 3, 28"),
        ({"images": DATA.images[:, :2]}, "with 1 or 3 channels"),
        ({"superclass_of": np.zeros(4, int)}, "class_names has 5, superclass_of has 4"),
        ({"superclass_names": ("one",)}, "superclass_of must be 0 … 0, got 1"),
        (near(rows=np.full((49, 3), TRAINING)), "neighbours.rows must be 0 … 23, got 24"),
        (near(rows=np.zeros(49, int)), r"neighbours.rows must be N×k, got shape \(49,\)"),
        (near(labels=np.zeros(3, int)), "neighbours.images has 24, neighbours.labels has 3"),
        (near(labels=np.full(TRAINING, 9)), "neighbours.labels must be 0 … 4, got 9"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        write(example(**changes), tmp_path / "map.html")
    assert list(tmp_path.iterdir()) == []


def test_no_images_are_refused() -> None:
    names = ("points", "images", "labels", "predicted", "scores", "p_values")
    empty = example(**{name: getattr(DATA, name)[:0] for name in names}, neighbours=None)
    with pytest.raises(ValueError, match="must be equal and not 0: points has 0"):
        empty.check()


# ---- The still picture ----


def test_the_still_picture_counts_what_it_shows() -> None:
    ax = plot_map(DATA)
    ax.figure.canvas.draw()  # a name that was read as a formula would fail here
    cells = counted(DATA.threshold)
    accepted = cells["known-right"] + cells["known-wrong"]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        f"known, accepted ({accepted})",
        f"known, rejected ({cells['known-rejected']})",
        f"unseen, accepted ({cells['unseen-accepted']})",
        f"unseen, rejected ({cells['unseen-rejected']})",
    ]
    shown = np.concatenate([c.get_offsets() for c in ax.collections])
    assert sorted(map(tuple, np.asarray(shown))) == sorted(map(tuple, DATA.points))
    assert {text.get_text() for text in ax.texts} == {"dogs", "strange names"}


def test_the_still_picture_names_classes_where_there_are_no_superclasses() -> None:
    ax = plot_map(example(superclass_of=None, class_names=("a", "b", "$x^$", "d", "e")))
    ax.figure.canvas.draw()
    assert {text.get_text() for text in ax.texts} == {"a", "$x^$", "d"}, "the known ones"
    with pytest.raises(ValueError, match="threshold"):
        plot_map(example(threshold=np.nan))
