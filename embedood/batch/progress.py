"""Where a running notebook stands: its place among the others, stage, time spent, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from embedood.results import is_injected


def last_heading(cell: Mapping[str, Any]) -> str | None:
    """Return the text of the last Markdown heading in a cell."""
    if cell["cell_type"] != "markdown":
        return None
    lines = "".join(cell["source"]).splitlines()
    headings = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
    return headings[-1] if headings else None


def clock(seconds: float) -> str:
    """Return seconds as ``m:ss``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """Prints ``notebook i of n · stage · elapsed · left``.

    On a terminal one line is rewritten after each cell; elsewhere, and where jobs share the
    terminal (``live=False``), each new stage gets a line. The time left assumes that the cells
    to come take as long as those done.
    """

    def __init__(
        self, notebook: str, place: str, cells: int, stream: TextIO | None = None, live: bool = True
    ) -> None:
        self.notebook, self.place, self.cells = notebook, place, cells
        self.stream = stream or sys.stdout
        self.live = live and self.stream.isatty()
        self.stage, self.done = "starting", 0
        self._started = time.monotonic()

    def cell_starts(self, cell: Mapping[str, Any]) -> None:
        """Take note of the stage that a Markdown cell opens."""
        stage = last_heading(cell)
        if stage:
            self.stage = stage
            self.show()

    def cell_ends(self, cell: Mapping[str, Any]) -> None:
        """Count a finished code cell."""
        self.done += cell["cell_type"] == "code" and not is_injected(cell)
        if self.live:
            self.show()

    def line(self) -> str:
        """Return the present state as text."""
        elapsed = time.monotonic() - self._started
        left = clock(elapsed / self.done * (self.cells - self.done)) if self.done else "?"
        return (
            f"{self.place} {self.notebook} · {self.stage} · {clock(elapsed)} elapsed · {left} left"
        )

    def show(self) -> None:
        """Print the present state."""
        text = f"\r\x1b[K{self.line()}" if self.live else f"{self.line()}\n"
        self.stream.write(text)
        self.stream.flush()

    def end(self, text: str) -> None:
        """Print how it ended, on a line of its own."""
        self.stage = text
        elapsed = clock(time.monotonic() - self._started)
        start = "\r\x1b[K" if self.live else ""
        self.stream.write(f"{start}{self.place} {self.notebook} · {text} · {elapsed} elapsed\n")
        self.stream.flush()
