"""Style, types and spelling as `make lint` asks, functions of one screen, and a word on each name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "embedood").rglob("*.py"))
SCREEN = 45  # lines
Function = ast.FunctionDef | ast.AsyncFunctionDef


def check(*command: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, text=True, capture_output=True, check=False
    )
    if found.returncode:
        pytest.fail(f"{' '.join(command)}\n{found.stdout}{found.stderr}", pytrace=False)


def test_ruff_finds_nothing():
    check("ruff", "check", ".")


def test_ruff_would_format_nothing():
    check("ruff", "format", "--check", ".")


def test_mypy_finds_nothing():
    check("mypy", "embedood")


def test_codespell_finds_nothing():
    check("codespell_lib")


def long_functions(source: str, most: int = SCREEN) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > most:
                yield f"{node.name}: {length} lines"


def undocumented(source: str) -> Iterator[str]:
    """The module, and its public functions and classes, that have no docstring."""
    module = ast.parse(source)
    if not ast.get_docstring(module):
        yield "the module"
    for node in module.body:
        public = isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
        if public and not ast.get_docstring(node):
            yield node.name


def in_the_package(complaints) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {complaint}"
        for path in SOURCES
        for complaint in complaints(path.read_text(encoding="utf-8"))
    ]


def test_functions_are_seen_without_scrolling():
    assert in_the_package(long_functions) == []


def test_public_names_say_what_they_are():
    assert in_the_package(undocumented) == []


EXAMPLE = '''
class A:
    def short(self):
        return 1

    async def long(self):
        """Two."""
        return 1

def b():
    """Say it."""

def _c(): ...
'''


def test_what_is_long_or_silent_is_noticed():
    assert list(long_functions(EXAMPLE, most=2)) == ["long: 3 lines"]
    assert list(undocumented(EXAMPLE)) == ["the module", "A"]


def test_nothing_published_tells_a_path_of_a_machine():
    """What a reader gets names the project's folders, never those of the machine that ran it."""
    published = [*ROOT.glob("book/published/*.json"), *ROOT.glob("notebooks/*.ipynb")]
    assert published
    leaks = [
        f"{path.name}: {found[0]}"
        for path in published
        for found in re.finditer(r"/(?:home|root|work|Users|tmp)/[\w./-]+", path.read_text("utf-8"))
    ]
    assert leaks == []
