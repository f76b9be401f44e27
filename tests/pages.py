"""The code of an executed page of the book, and what it says when it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

from embedood import figures


def cells(source: str) -> Iterator[str]:
    """The code of a page's cells, without their options."""
    for cell in re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", source, re.M | re.S):
        yield re.sub(r"\A(---\n.*?^---\n|(:[^\n]*\n)+)", "", cell, flags=re.M | re.S).strip("\n")


def run(page: Path) -> dict[str, Any]:
    """Run all cells of a page in the working directory and return its variables."""
    before = matplotlib.rcParams.copy()
    matplotlib.use("Agg")
    names: dict[str, Any] = {"__name__": "page"}
    for cell in cells(page.read_text(encoding="utf-8")):
        exec(compile(cell, str(page), "exec"), names)
    figures.plt.close("all")
    matplotlib.rcParams.update(before)
    return names
