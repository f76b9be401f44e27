"""A scorer as a description for JSON and named arrays, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedood.scorers._base import Scorer


def describe(scorer: Scorer) -> dict[str, Any]:
    """Return class and arguments; the members of a fusion are described in turn."""
    arguments = scorer.arguments()
    if "scorers" in arguments:
        arguments["scorers"] = [describe(member) for member in arguments["scorers"]]
    return {"class": type(scorer).__name__, "arguments": arguments}


def arrays_of(scorer: Scorer, prefix: str) -> dict[str, np.ndarray]:
    """Return everything learned, named prefix/attribute; of member i, prefix/i/attribute."""
    found = {f"{prefix}/{name}": np.asarray(value) for name, value in scorer.learned().items()}
    for i, member in enumerate(getattr(scorer, "scorers", ())):
        found |= arrays_of(member, f"{prefix}/{i}")
    return found


def rebuild(description: dict[str, Any], arrays: dict[str, np.ndarray], prefix: str) -> Scorer:
    """Return the scorer that `describe` and `arrays_of` were given; `ValueError` for no such class."""
    classes = {cls.__name__: cls for cls in Scorer.__subclasses__()}
    if description["class"] not in classes:
        raise ValueError(f"no scorer has the class {description['class']!r}")
    arguments = dict(description["arguments"])
    if "scorers" in arguments:
        members = enumerate(arguments["scorers"])
        arguments["scorers"] = tuple(rebuild(m, arrays, f"{prefix}/{i}") for i, m in members)
    scorer = classes[description["class"]](**arguments)
    for name, value in arrays.items():
        folder, _, attribute = name.rpartition("/")
        if folder == prefix:
            setattr(scorer, attribute, value)
    return scorer
