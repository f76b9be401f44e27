"""A benchmark ends with its ratio."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_recipes_for_photographs_are_compared_by_the_clock():
    few = [
        "--data",
        "glyph-100",
        "--images",
        "1000",
        "--plain-epochs",
        "2",
        "--epochs",
        "1",
    ]
    printed = subprocess.run(
        [sys.executable, BENCHMARKS / "cifar.py", *few], text=True, capture_output=True, check=True
    ).stdout.splitlines()
    assert [line.split()[:3] for line in printed[1:-1]] == [
        ["plain", "epoch", "1"], ["plain", "epoch", "2"], ["chosen", "epoch", "1"],
    ]  # fmt: skip
    name, ratio = printed[-1].split()
    assert name == "ratio"
    assert float(ratio) > 0
