"""The role `{published}`: a number in prose, read from the results that the book publishes.

    {published}`03_threshold:report.zero_detection:.1%`            97.9%
    {published}`03_threshold:report.zero_detection:.1%:interval`   97.9% (97.1%–98.7%)

The parts are the notebook, the number's name, a format specification, and optionally `interval`.
A name that is not published is a warning, which fails the build.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

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


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("published", Published())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
