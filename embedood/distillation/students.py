"""Experiments of students: the same small network, taught in one way or another."""

from __future__ import annotations

from typing import Any

from embedood.config import Experiment

# What a method changes of the student alone; where it says S = 0, S is given.
METHODS: dict[str, dict[str, Any]] = {
    "student_alone": {},
    "kd": {},
    "embedding_regression": {"embedding_weight": 1.0},
    "kmeans": {"subclasses_by": "kmeans"},
    "random_partition": {"subclasses_by": "random_partition"},
    "oracle": {"subclasses_by": "oracle"},
    "lelp": {"subclasses_by": "lelp"},
}


def student(alone: Experiment, teacher: Experiment, method: str, **settings: Any) -> Experiment:
    """Return the experiment of the student `alone` taught by a method of `METHODS`.

    `settings` are those of the section `Distillation`; the student alone has none. Raises `ValueError`
    for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; the methods are {', '.join(METHODS)}")
    if method == "student_alone":
        return alone
    return alone.with_(objective="distillation", teacher=teacher, **METHODS[method], **settings)
