"""The book is built once, strictly; its pages are read as HTML and opened in a browser offline."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from browser import CHROMIUM, Browser
from building import build

ROOT = Path(__file__).parents[1]
SOURCES = ("_config.yml", "_toc.yml", "book", "notebooks")
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"])]
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]
PHONE_WIDTH = 390

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from published import PublishedError, picture, render  # noqa: E402


def tracked_files() -> list[str]:
    """What a clone would have, so that a page forgotten in git is missed here."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        found = [f for s in SOURCES for f in [ROOT / s, *(ROOT / s).rglob("*")] if f.is_file()]
        return [str(f.relative_to(ROOT)) for f in found]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *SOURCES], cwd=ROOT, check=True, capture_output=True
    )
    return listed.stdout.decode().rstrip("\0").split("\0")


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("book")
    for name in tracked_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    result = build(source)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return source / "_build" / "html"


class Tags(HTMLParser):
    """All start tags of a page with their attributes."""

    def __init__(self, page: Path):
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def tags(html: Path, page: str) -> list[tuple[str, dict[str, str]]]:
    return Tags(html / f"{page}.html").found


def loaded(tag: str, attributes: dict[str, str]) -> str:
    """The address that a tag makes the browser load, or an empty text."""
    if tag == "link":
        passive = {"canonical", "index", "search", "next", "prev", "author"}
        return (
            "" if passive & set(attributes.get("rel", "").split()) else attributes.get("href", "")
        )
    return attributes.get("src") or attributes.get("data") or attributes.get("poster") or ""


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_the_contents_is_built(html: Path, page: str) -> None:
    assert (html / f"{page}.html").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_every_image_says_what_it_shows(html: Path, page: str) -> None:
    images = [a for tag, a in tags(html, page) if tag == "img"]
    silent = [a for a in images if not a.get("alt", "").strip() or "_images/" in a["alt"]]
    assert silent == []


@pytest.mark.parametrize("page", PAGES)
def test_pages_load_nothing_from_elsewhere(html: Path, page: str) -> None:
    addresses = [loaded(tag, attributes) for tag, attributes in tags(html, page)]
    assert [a for a in addresses if re.match(r"(https?:)?//", a)] == []


def test_style_sheets_load_nothing_from_elsewhere(html: Path) -> None:
    outside = re.compile(r"(?:url\(|@import)\s*['\"]?\s*(?:https?:)?//")
    sheets = list(html.rglob("*.css"))
    assert any(sheet.name == "custom.css" for sheet in sheets)
    assert [s.name for s in sheets if outside.search(s.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapters_open_on_colab(html: Path, chapter: str) -> None:
    address = (
        f"https://colab.research.google.com/github/embedood/embedood/blob/main/{chapter}.ipynb"
    )
    links = [a.get("href") for tag, a in tags(html, chapter) if tag == "a"]
    assert links.count(address) == 1


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: pages are not opened")
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.mark.parametrize("page", [*PAGES, "index", "search"])
def test_pages_open_offline_without_an_error(html: Path, browser: Browser, page: str) -> None:
    browser.open(html / f"{page}.html")
    assert browser.problems == []
    assert browser.evaluate("document.body.innerText.length") > 200


@pytest.mark.parametrize("page", PAGES)
def test_pages_fit_a_phone(html: Path, browser: Browser, page: str) -> None:
    browser.open(html / f"{page}.html", width=PHONE_WIDTH, height=844)
    assert browser.evaluate("innerWidth") == PHONE_WIDTH
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE_WIDTH


def test_search_works_offline(html: Path, browser: Browser) -> None:
    browser.open(html / "search.html")
    browser.evaluate("Search.performSearch('threshold')")
    browser.until("document.querySelectorAll('#search-results li a').length > 0")
    assert browser.problems == []


def test_the_browser_notices_what_is_wrong(tmp_path: Path, browser: Browser) -> None:
    """A page with each fault must be caught; without this the tests above could be vacuous."""
    faulty = tmp_path / "faulty.html"
    faulty.write_text(
        "<body style='width: 600px'>A page. <img src='https://example.org/x.png'>"
        "<script>console.error('told'); undefinedName()</script></body>"
    )
    browser.open(faulty, width=PHONE_WIDTH)
    told = "\n".join(browser.problems)
    assert "request to https://example.org/x.png" in told
    assert "told" in told.split("\n")
    assert "undefinedName is not defined" in told
    assert browser.evaluate("document.documentElement.scrollWidth") > PHONE_WIDTH


NUMBERS = {
    "found": {"value": 0.97891, "unit": "", "n": 3, "interval": [0.9711, 0.98672]},
    "images": {"value": 9020, "unit": "images", "n": None, "interval": None},
}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "book" / "published"
    folder.mkdir(parents=True)
    (folder / "03_threshold.json").write_text(json.dumps({"numbers": NUMBERS}))
    return folder


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("03_threshold:found:.1%", "97.9%"),
        ("03_threshold:found:.3f", "0.979"),
        ("03_threshold:images:,", "9,020"),
        ("03_threshold:found:.1%:interval", "97.9% (97.1%–98.7%)"),
    ],
)
def test_published_numbers_are_formatted(published: Path, text: str, shown: str) -> None:
    assert render(text, published) == shown


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("03_threshold:lost:.1%", "publishes no 'lost', only found, images"),
        ("04_scores:found:.1%", "nothing is published from 04_scores"),
        ("03_threshold:found", "is not notebook:name:format"),
        ("03_threshold:found:.1q", "'03_threshold:found:.1q': "),
        ("03_threshold:images:,:interval", "without an interval"),
    ],
)
def test_numbers_that_are_not_there_are_refused(published: Path, text: str, complaint: str) -> None:
    with pytest.raises(PublishedError, match=re.escape(complaint)):
        render(text, published)


@pytest.mark.parametrize(("name", "status"), [("found", 0), ("lost", 1)])
def test_a_missing_number_stops_the_build(published: Path, name: str, status: int) -> None:
    source = published.parents[1]
    shutil.copytree(ROOT / "book" / "_ext", source / "book" / "_ext")
    (source / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    (source / "_config.yml").write_text("sphinx: {local_extensions: {published: book/_ext}}\n")
    (source / "page.md").write_text(f"# Page\n\nWe find {{published}}`03_threshold:{name}:.1%`.\n")
    result = build(source)
    assert bool(result.returncode) == bool(status), result.stderr[-2000:]
    if status:
        assert "publishes no 'lost'" in result.stderr
    else:
        assert "We find 97.9%." in (source / "_build" / "html" / "page.html").read_text()


def notebook_with(folder: Path, outputs: list[dict[str, object]]) -> Path:
    about = {"image": {"alt": "A curve."}, "figure": {"name": "fig-curve"}}
    cell = {"cell_type": "code", "metadata": {"mystnb": about}, "outputs": outputs}
    (folder / "05_x.ipynb").write_text(json.dumps({"cells": [cell]}))
    return folder


def test_a_published_figure_brings_its_alternative_text(tmp_path: Path) -> None:
    outputs: list[dict[str, object]] = [{"data": {"image/png": "iVBORw=="}}]
    assert picture("05_x:fig-curve", notebook_with(tmp_path, outputs)) == (b"\x89PNG", "A curve.")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("05_x:fig-curve", "was not executed"),
        ("05_x:fig-lost", "no figure named 'fig-lost'"),
        ("06_y:fig-curve", "there is no notebook"),
    ],
)
def test_figures_that_are_not_there_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(PublishedError, match=re.escape(complaint)):
        picture(text, notebook_with(tmp_path, []))
