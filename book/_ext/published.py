"""What the book publishes, shown elsewhere: a number in prose, a chapter's figure on another page.

    {published}`03_threshold:report.zero_detection:.1%`            97.9%
    {published}`03_threshold:report.zero_detection:.1%:interval`   97.9% (97.1%–98.7%)

The parts are the notebook, the number's name, a format specification, and optionally `interval`.

    ```{published-figure} 03_threshold:fig-trade-off
    A caption.
    ```

takes the picture and its alternative text from the cell of the notebook that bears the figure's name.
What is not published is a warning, which fails the build.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

LOGGER = logging.getLogger(__name__)
TEXT = re.compile(r"(?P<notebook>\w+):(?P<name>[^:]+):(?P<spec>[^:]+)(?P<interval>:interval)?")


class PublishedError(ValueError):
    """A role asks for something that is not published, or asks in the wrong form."""


def render(text: str, folder: Path) -> str:
    """Return the formatted number that the role's text asks for.

    Raises PublishedError where the text, the file, the name or the format is wrong.
    """
    match = TEXT.fullmatch(text)
    if not match:
        raise PublishedError(
            f"{text!r} is not notebook:name:format or notebook:name:format:interval"
        )
    number = _find(folder / f"{match['notebook']}.json", match["name"])
    try:
        shown = format(number["value"], match["spec"])
        if not match["interval"]:
            return shown
        if number["interval"] is None:
            raise PublishedError(f"{match['name']} was published without an interval")
        low, high = (format(end, match["spec"]) for end in number["interval"])
    except (TypeError, ValueError) as error:
        raise PublishedError(f"{text!r}: {error}") from error
    return f"{shown} ({low}–{high})"


def _find(path: Path, name: str) -> dict[str, Any]:
    if not path.is_file():
        raise PublishedError(f"nothing is published from {path.stem}: {path} does not exist")
    numbers = json.loads(path.read_text(encoding="utf-8"))["numbers"]
    if name not in numbers:
        raise PublishedError(
            f"{path.stem} publishes no {name!r}, only {', '.join(sorted(numbers))}"
        )
    return numbers[name]


class Published(SphinxRole):
    """Set the number as plain text and let the page depend on the file that it comes from."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        folder = Path(self.env.srcdir) / "book" / "published"
        self.env.note_dependency(str(folder / f"{self.text.partition(':')[0]}.json"))
        try:
            return [nodes.Text(render(self.text, folder))], []
        except PublishedError as error:
            LOGGER.warning("%s", error, location=self.get_location(), type="published")
            return [nodes.problematic(self.rawtext, self.text)], []


def picture(text: str, folder: Path) -> tuple[bytes, str]:
    """Return the PNG and the alternative text of a figure, `notebook:name`.

    Raises PublishedError where the notebook, the figure or its picture is missing.
    """
    notebook, _, name = text.partition(":")
    path = folder / f"{notebook}.ipynb"
    if not path.is_file():
        raise PublishedError(f"there is no notebook {path}")
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        about = cell["metadata"].get("mystnb", {})
        if about.get("figure", {}).get("name") != name:
            continue
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output["data"]["image/png"]), about["image"]["alt"]
        raise PublishedError(f"{name} in {path.name} has no picture: the notebook was not executed")
    raise PublishedError(f"{path.name} has no figure named {name!r}")


class PublishedFigure(SphinxDirective):
    """Show a chapter's figure on another page, with a caption of its own."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        notebook, _, name = self.arguments[0].partition(":")
        root = Path(self.env.srcdir)
        self.env.note_dependency(str(root / "notebooks" / f"{notebook}.ipynb"))
        try:
            png, alternative = picture(self.arguments[0], root / "notebooks")
        except PublishedError as error:
            LOGGER.warning("%s", error, location=self.get_location(), type="published")
            return [nodes.problematic(self.block_text, self.arguments[0])]
        target = Path("book", "_figures", f"{name}.png")
        (root / target).parent.mkdir(exist_ok=True)
        (root / target).write_bytes(png)
        caption, _ = self.state.inline_text(" ".join(self.content), self.lineno)
        figure = nodes.figure(align="center")
        figure += nodes.image(uri=f"/{target.as_posix()}", alt=alternative)
        figure += nodes.caption("", "", *caption)
        return [figure]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("published", Published())
    app.add_directive("published-figure", PublishedFigure)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
