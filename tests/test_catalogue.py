"""The catalogue says what the package holds: scores from their table, all else by name."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from bs4 import BeautifulSoup, Tag
from building import build
from pybtex.database import parse_file

from embedood import compact_losses, geometry, losses, metrics, models, noise, scorers
from embedood.data import catalogue as data_sets
from embedood.scorers.table import REPORT

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "catalogue.md").read_text(encoding="utf-8")
REFERENCES = ROOT / "book" / "references.bib"
PHONE_WIDTH = 390

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from scorer_table import cells, mean_aurocs  # noqa: E402


def keys(entry: scorers.Entry) -> list[str]:
    return [] if entry.source in ("", REPORT) else entry.source.split(",")


def small_book(folder: Path, references: str, aurocs: dict[str, float]) -> Path:
    """The catalogue with the pages it links to, and a chapter 04 where that has published numbers."""
    shutil.copytree(ROOT / "book", folder / "book", ignore=shutil.ignore_patterns("published"))
    shutil.copy(ROOT / "_config.yml", folder)
    (folder / "book" / "references.bib").write_text(references, encoding="utf-8")
    (folder / "book" / "glyph_100.md").write_text("# A page that the catalogue links to\n")
    chapters = ["book/catalogue", "book/bibliography", "book/glyph_100"]
    if aurocs:
        numbers = {f"mean_auroc.{name}": {"value": value} for name, value in aurocs.items()}
        numbers |= {"best_mean_auroc": {"value": 0.5}}
        (folder / "book" / "published").mkdir()
        published = folder / "book" / "published" / "04_scorers.json"
        published.write_text(json.dumps({"numbers": numbers}), encoding="utf-8")
        (folder / "notebooks").mkdir()
        (folder / "notebooks" / "04_scorers.md").write_text("# Every way to score\n")
        chapters.append("notebooks/04_scorers")
    listed = "".join(f"- file: {chapter}\n" for chapter in chapters)
    (folder / "_toc.yml").write_text(f"format: jb-book\nroot: book/notation\nchapters:\n{listed}")
    return folder


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages where chapter 04 has published the AUROC of one score."""
    references = REFERENCES.read_text(encoding="utf-8")
    source = small_book(tmp_path_factory.mktemp("small"), references, {"energy": 0.98765})
    result = build(source)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return source / "_build" / "html" / "book"


def read(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def rows(page: BeautifulSoup) -> dict[str, list[Tag]]:
    """The cells of every row of scores by its anchor, which has hyphens for underscores."""
    found = page.select("table.scorers tr[id]")
    return {str(row["id"]).removeprefix("score-"): row.select("th, td") for row in found}


def test_every_score_has_one_row_in_the_order_of_the_table(html: Path) -> None:
    shown = rows(read(html / "catalogue.html"))
    assert list(shown) == [name.replace("_", "-") for name in scorers.TABLE]
    for (title, made, _, asked, _), entry in zip(
        shown.values(), scorers.TABLE.values(), strict=True
    ):
        assert title.text == f"{entry.title} {entry.name}"
        assert made.text.split()[0] == type(entry.factory()).__name__
        assert asked.text == (", ".join(entry.needs) or "nothing")


def test_every_score_is_defined_with_its_formula(html: Path) -> None:
    page = read(html / "catalogue.html")
    terms = page.select("dl.scorer-formulas dt")
    told = " ".join(term.text for term in terms)
    for name, entry in scorers.TABLE.items():
        assert f"{entry.title} {name}" in told
    for term in terms:
        definition = term.find_next_sibling("dd")
        assert "Source:" not in definition.text
        assert "$" not in definition.text, "formulas are set, not shown as text"
        assert "`" not in definition.text
    assert len(page.select("dl.scorer-formulas dd .math")) >= len(terms)


def test_families_are_headings_between_the_rows(html: Path) -> None:
    headings = read(html / "catalogue.html").select("table.scorers th[colspan]")
    assert [h.text for h in headings] == list(
        dict.fromkeys(e.family for e in scorers.TABLE.values())
    )


def test_every_score_is_linked_to_its_source_in_the_bibliography(html: Path) -> None:
    known = parse_file(str(REFERENCES)).entries
    bibliography = read(html / "bibliography.html")
    shown = rows(read(html / "catalogue.html"))
    for name, entry in scorers.TABLE.items():
        cell = shown[name.replace("_", "-")][2]
        if not keys(entry):
            assert cell.text == ("the project report" if entry.source == REPORT else "ours")
        links = [str(link["href"]).partition("#") for link in cell.select("a")]
        assert [page for page, _, _ in links] == ["bibliography.html"] * len(keys(entry))
        for key, (_, _, anchor) in zip(keys(entry), links, strict=True):
            target = bibliography.find(id=anchor)
            assert target is not None
            described = target.find_next("p").text
            for part in (known[key].persons["author"][0].last_names[-1], known[key].fields["year"]):
                plain = re.sub(r"[{}\\]", "", part)
                assert plain in cell.text
                assert plain in described


def test_a_published_number_stands_in_its_row(html: Path) -> None:
    page = read(html / "catalogue.html")
    last = {name: cells[-1].text for name, cells in rows(page).items()}
    assert last.pop("energy") == "0.9877"
    assert set(last.values()) == {"–"}
    assert page.select("table.scorers thead th")[-1].text == "mean AUROC"
    assert "The last column is the mean AUROC of Every way to score" in page.text


def test_code_is_linked_to_its_file(html: Path) -> None:
    for name, (_, made, *_) in rows(read(html / "catalogue.html")).items():
        _, _, path = str(made.select_one("a")["href"]).partition("/blob/main/")
        assert f"class {made.text.split()[0]}" in (ROOT / path).read_text(), name


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: pages are not opened")
def test_scores_are_read_on_a_phone_without_scrolling_sideways(html: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.open(html / "catalogue.html", width=PHONE_WIDTH, height=844)
        assert browser.problems == []
        table = "document.querySelector('table.scorers')"
        assert browser.evaluate(f"{table}.scrollWidth") <= PHONE_WIDTH
        box = f"{table}.parentElement"
        assert browser.evaluate(f"{box}.scrollWidth <= {box}.clientWidth")


def test_a_source_missing_in_the_bibliography_stops_the_build(tmp_path: Path) -> None:
    """Nothing is published here either: the column and its explanation are left out."""
    references = REFERENCES.read_text(encoding="utf-8").replace("{djurisic2023,", "{other2023,")
    result = build(small_book(tmp_path, references, {}))
    assert result.returncode != 0
    assert 'could not find bibtex key "djurisic2023"' in result.stderr
    page = read(tmp_path / "_build" / "html" / "book" / "catalogue.html")
    assert [th.text for th in page.select("table.scorers thead th")][-1] == "asks for"
    assert {len(cells) for cells in rows(page).values()} == {4}
    assert "The last column" not in page.text


def test_the_bibliography_has_every_source_of_the_table() -> None:
    cited = {key for entry in scorers.TABLE.values() for key in keys(entry)}
    assert cited - set(parse_file(str(REFERENCES)).entries) == set()


def test_every_scorer_class_is_in_the_table() -> None:
    exported = (getattr(scorers, name) for name in scorers.__all__)
    classes = {c for c in exported if inspect.isclass(c) and issubclass(c, scorers.Scorer)}
    made = {type(entry.factory()) for entry in scorers.TABLE.values()}
    assert made == classes - {scorers.Scorer}


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("energy", "`Energy`"),
        ("ash_b", "`ASH` `variant='b'`"),
        ("relative_mahalanobis", "`Mahalanobis` `relative=True`"),
        ("fusion_logistic", "`Fusion` `how='logistic'`"),
    ],
)
def test_arguments_that_are_not_defaults_are_shown(name: str, made: str) -> None:
    assert cells(scorers.TABLE[name], "", {})[1] == made


def test_numbers_of_other_kinds_are_no_aurocs(tmp_path: Path) -> None:
    path = tmp_path / "04_scorers.json"
    assert mean_aurocs(path) == {}
    numbers = {"mean_auroc.vim": {"value": 0.9}, "best_mean_auroc": {"value": 0.8}}
    path.write_text(json.dumps({"numbers": numbers}))
    assert mean_aurocs(path) == {"vim": 0.9}


def own_functions(module: object) -> Iterator[str]:
    """The public functions that a module defines, as the page writes them."""
    short = module.__name__.removeprefix("embedood.")
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__ and not name.startswith("_"):
            yield f"`{short}.{name}`"


def test_losses_measures_outliers_networks_and_data_stand_on_the_page() -> None:
    recipes = {f"`noise.{part.__name__}`" for parts in noise.OUTLIERS.values() for part in parts}
    networks = {f"`models.{network.__name__}`" for network in models.ARCHITECTURES.values()}
    data = {f"| `{name}` |" for name in data_sets.SPECS}
    functions = {
        f for module in (losses, compact_losses, metrics, geometry) for f in own_functions(module)
    }
    wanted = functions | recipes | networks | data
    assert len(wanted) > 30
    assert [name for name in sorted(wanted) if name not in PAGE] == []


def test_every_name_on_the_page_exists() -> None:
    named = re.findall(r"`(\w+)\.(\w+)[(`]", PAGE)
    assert len(named) > 40
    for module, name in named:
        assert hasattr(importlib.import_module(f"embedood.{module}"), name), f"{module}.{name}"
