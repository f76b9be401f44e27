"""The table of all scores, drawn from `embedood.scorers.TABLE`: page and code cannot differ.

    ```{scorer-table} 04_scorers
    What the numbers in the last column are.
    ```

has a row for every scorer, below the name of its family. The last column shows the numbers
`mean_auroc.<name>` that the notebook published; while it has published none, the column and the text
are left out. A source that is not in the bibliography is a warning, which fails the build.

    ```{scorer-formulas}
    ```

says how each of them is computed, in the words of its class.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from dataclasses import MISSING, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from embedood.scorers import TABLE, Entry, Scorer, table

HEADINGS = ("score", "class", "source", "asks for")
PREFIX = "mean_auroc."


def mean_aurocs(path: Path) -> dict[str, float]:
    """Return the published mean AUROC of each scorer by name, empty without the file."""
    if not path.is_file():
        return {}
    numbers = json.loads(path.read_text(encoding="utf-8"))["numbers"]
    measured = {name: number["value"] for name, number in numbers.items()}
    return {name[len(PREFIX) :]: v for name, v in measured.items() if name.startswith(PREFIX)}


def settings(scorer: Scorer) -> str:
    """Return the arguments that are not the defaults of its class, such as `variant='b'`."""
    usual = {f.name: f.default for f in fields(scorer) if f.default is not MISSING}
    given = {name: getattr(scorer, name) for name in usual}
    return ", ".join(f"{name}={value!r}" for name, value in given.items() if value != usual[name])


def source(entry: Entry) -> str:
    """Return the citations of an entry as MyST text."""
    if entry.source in ("", table.REPORT):
        return "the project report" if entry.source else "ours"
    return ", ".join(f"{{cite:t}}`{key}`" for key in entry.source.split(","))


def cells(entry: Entry, code: str, aurocs: dict[str, float]) -> list[str]:
    """Return an entry's row as MyST text; `code` is the address of the package, or empty."""
    scorer = entry.factory()
    made = f"`{type(scorer).__name__}`"
    if code:
        made = f"[{made}]({code}/{type(scorer).__module__.replace('.', '/')}.py)"
    if told := settings(scorer):
        made = f"{made} `{told}`"
    asked = ", ".join(entry.needs) or "nothing"
    row = [f"{entry.title} `{entry.name}`", made, source(entry), asked]
    if aurocs:
        row.append(f"{aurocs[entry.name]:.4f}" if entry.name in aurocs else "–")
    return row


def definition(kind: type[Scorer]) -> list[str]:
    """Return the paragraphs of a class's docstring as MyST text, but for its source."""
    paragraphs = (inspect.getdoc(kind) or "").split("\n\n")
    told = [" ".join(p.partition("Source: ")[0].split()) for p in paragraphs]
    return [text for text in told if text]


class MystText(SphinxDirective):
    """A directive that makes nodes of MyST text."""

    def _text(self, text: str) -> Iterable[nodes.Node]:
        parsed, _ = self.state.inline_text(text, self.lineno)
        return [nodes.paragraph("", "", *parsed)]


class ScorerFormulas(MystText):
    """Define the scores of `TABLE`, those of one class together; see the module."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(table.__file__))
        shown = nodes.definition_list(classes=["scorer-formulas"])
        for kind, entries in groupby(TABLE.values(), lambda entry: type(entry.factory())):
            names = ", ".join(f"{entry.title} `{entry.name}`" for entry in entries)
            (term,) = self._text(names)
            body = [node for text in definition(kind) for node in self._text(text)]
            item = nodes.definition_list_item()
            item += [nodes.term("", "", *term.children), nodes.definition("", *body)]
            shown += item
        return [shown]


class ScorerTable(MystText):
    """Show `TABLE` as one table with a heading row for each family; see the module."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        published = Path(self.env.srcdir, "book", "published", f"{self.arguments[0]}.json")
        for path in (published, Path(str(table.__file__))):
            self.env.note_dependency(str(path))
        aurocs = mean_aurocs(published)
        headings = [*HEADINGS, "mean AUROC"] if aurocs else HEADINGS
        body = nodes.tbody()
        for family, entries in groupby(TABLE.values(), lambda entry: entry.family):
            body += nodes.row("", self._cell(family, morecols=len(headings) - 1))
            body += [self._row(entry, aurocs) for entry in entries]
        group = nodes.tgroup(cols=len(headings))
        group += [nodes.colspec(colwidth=1, stub=int(n == 0)) for n in range(len(headings))]
        group += nodes.thead("", nodes.row("", *map(self._cell, headings)))
        group += body
        shown = nodes.table("", group, classes=["scorers"])
        return [*(self._text(" ".join(self.content)) if aurocs else []), shown]

    def _row(self, entry: Entry, aurocs: dict[str, float]) -> nodes.row:
        row = nodes.row("", *map(self._cell, cells(entry, self._code(), aurocs)))
        row["names"].append(f"score-{entry.name}")  # a chapter links to [](#score-energy)
        self.state.document.note_explicit_target(row)
        return row

    def _code(self) -> str:
        """The folder that holds the package, on the web."""
        options = self.config.html_theme_options
        if "repository_url" not in options:
            return ""
        return f"{options['repository_url']}/blob/{options.get('repository_branch', 'main')}"

    def _cell(self, text: str, **attributes: Any) -> nodes.entry:
        return nodes.entry("", *self._text(text), **attributes)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("scorer-table", ScorerTable)
    app.add_directive("scorer-formulas", ScorerFormulas)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
