"""Modules import only from those above them; what is light stays light; torchvision in any build."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "embedood"
# In the order in which data flows.
ORDER = [
    "config",
    "runtime",
    "data",
    "splits",
    "noise",
    "models",
    "gaussians",
    "losses",
    "compact_losses",
    "pair_losses",
    "samplers",
    "objectives",
    "convergence",
    "muon",
    "training",
    "outputs",
    "distillation",
    "runs",
    "scorers",
    "detector",
    "metrics",
    "rehearsal",
    "geometry",
    "files",
    "discovery",
    "novel",
    "figures",
    "embedding_map",
    "results",
    "batch",
    "cli",
]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path: Path) -> str:
    """The module, or the package, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def when_run(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, without what stands under `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from when_run(child)


def imported(source: str) -> list[str]:
    """The full names that a source imports, also inside its functions."""
    names = []
    for node in when_run(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            names += [f"{start}.{alias.name}" for alias in node.names]
    return names


def out_of_order(module: str, source: str) -> list[str]:
    """The imports of a module that reach a module which is not above it."""
    allowed = {*ORDER[: ORDER.index(module)], module}
    wrong = [name for name in imported(source) if name.startswith(".")]
    for name in imported(source):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if package == "embedood" and other and other not in allowed:
            wrong.append(name)
    return wrong


def test_every_module_has_its_place_in_the_order():
    assert {module_of(path) for path in FILES} <= set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_from_those_above(path):
    assert out_of_order(module_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from embedood import config, losses", ["embedood.losses"]),
        ("import embedood.cli", ["embedood.cli"]),
        ("from embedood.batch.jobs import Job", ["embedood.batch.jobs.Job"]),
        ("def f():\n    from embedood import cli", ["embedood.cli"]),
        ("from . import cli", ["..cli"]),
        ("from embedood.models.resnet import block", []),
        ("import embedood, torch", []),
        ("if TYPE_CHECKING:\n    from embedood import cli", []),
        ("if TYPE_CHECKING:\n    import ast\nelse:\n    from embedood import cli", []),
    ],
)
def test_an_import_out_of_order_is_noticed(source, wrong):
    assert out_of_order("models", source) == wrong


def run(code: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh Python; modules in the folder come before those installed."""
    environment = os.environ | ({"PYTHONPATH": str(folder)} if folder else {})
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=False
    )


def test_settings_and_commands_start_without_torch():
    code = "import sys, embedood.{0}; sys.exit('torch came along' if 'torch' in sys.modules else 0)"
    for module in ("config", "results", "batch", "cli"):
        found = run(code.format(module))
        assert found.returncode == 0, f"{module}: {found.stderr}"
    assert "torch came along" in run(code.format("runtime")).stderr


def test_scores_can_be_imported_alone():
    found = run("import embedood.scorers")
    assert found.returncode == 0, found.stderr


def test_only_one_function_imports_torchvision():
    """Elsewhere it would fail where torchvision is built for CUDA and torch is not."""
    importing = [
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(name.split(".")[0] == "torchvision" for name in imported(path.read_text()))
    ]
    assert importing == ["runtime.py"]


IMPORT = "from embedood import runtime; print(runtime.import_torchvision().__name__)"


def test_torchvision_is_imported_beside_the_torch_that_is_here():
    found = run(IMPORT + "; from torchvision import datasets, models; models.resnet18()")
    assert found.stdout == "torchvision\n", found.stderr


@pytest.mark.parametrize(
    ("fails_with", "told"),
    [
        # torchvision's own check of the operators that its compiled part should have brought.
        ("torch.library.register_fake('torchvision::{}')(print)", ""),
        ("raise RuntimeError('no disk')", "no disk"),
    ],
)
def test_missing_operators_are_declared_and_other_errors_are_kept(tmp_path, fails_with, told):
    checks = [fails_with.format(operator) for operator in ("nms", "qnms")]
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("\n".join(["import torch", *checks]))
    plain = run("import torchvision", tmp_path)
    assert "RuntimeError: " + (told or "operator torchvision::nms does not exist") in plain.stderr
    found = run(IMPORT, tmp_path)
    assert (found.stdout == "torchvision\n") is not bool(told), found.stderr
    assert told in found.stderr
