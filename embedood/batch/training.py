"""Train one model ahead of the notebooks that use it."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedood.batch.jobs import BatchError
from embedood.batch.progress import clock


def trained(
    preset: str, parameters: Mapping[str, Any], seed: int, log: Path | None = None, place: str = ""
) -> dict[str, Any]:
    """Train a preset with these parameters and this seed, or find it in the run cache.

    Returns what identifies the run. Raises BatchError for a preset or parameter that does not
    exist, and for a training that failed; ``log`` then holds the traceback. ``place`` precedes
    the lines printed.
    """
    from embedood import config

    try:
        experiment = config.preset(preset, **parameters, seed=seed)
    except config.ConfigError as error:
        raise BatchError(str(error)) from None
    started = time.monotonic()
    _fit(experiment, f"{place}training {preset}, seed {seed}", log)
    return {
        "key": experiment.key,
        "preset": preset,
        "seed": seed,
        "parameters": dict(parameters),
        "seconds": round(time.monotonic() - started, 2),
    }


def _fit(experiment: Any, what: str, log: Path | None) -> None:
    """Fit with a line before and after; a live bar in between is the training's own."""
    from embedood import runs

    started = time.monotonic()
    print(what, flush=True)
    try:
        runs.fit(experiment)
    except Exception as error:
        _write(log, f"{experiment}\n{traceback.format_exc()}")
        kept = f"; traceback in {log}" if log else ""
        raise BatchError(f"{what} failed: {type(error).__name__}: {error}{kept}") from error
    line = f"{what} · done · {clock(time.monotonic() - started)} elapsed"
    print(line, flush=True)
    _write(log, f"{experiment}\n{line}\n")


def _write(log: Path | None, text: str) -> None:
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text, encoding="utf-8")


def place_among_models(marker: Path | None) -> str:
    """Return ``model i of n · about m:ss left · `` from the markers of those already trained.

    The engine names all models in a variable; without it there is nothing to count.
    """
    names = os.environ.get("EMBEDOOD_MODELS", "").split()
    if not marker or marker.stem not in names:
        return ""
    markers = [marker.with_name(f"{name}.json") for name in names]
    seconds = [json.loads(path.read_text())["seconds"] for path in markers if path.exists()]
    left = (len(names) - len(seconds)) * sum(seconds) / max(len(seconds), 1)
    estimate = f"about {clock(left)} left · " if seconds else ""
    return f"model {len(seconds) + 1} of {len(names)} · {estimate}"
