"""The book's builder, as strict as the command that publishes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def build(source: Path) -> subprocess.CompletedProcess[str]:
    """Build the book of a folder; pages are kept even where warnings make it fail."""
    command = "from jupyter_book.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", command, "build", "-W", "-n", "--keep-going", str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
