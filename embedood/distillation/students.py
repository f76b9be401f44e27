"""Tasks: a data set by parity, a large teacher, a small student, and the ways to teach it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedood.config import Experiment, preset

PHOTOS = ("cifar100", "glyph-100")

# What a method changes of the student alone. What a method does not say, its task does.
METHODS: dict[str, dict[str, Any]] = {
    "student_alone": {},
    "kd": {},
    "embedding_regression": {"embedding_weight": 1.0},
    "kmeans": {"subclasses_by": "kmeans"},
    "random_partition": {"subclasses_by": "random_partition"},
    "shuffled_lelp": {"subclasses_by": "shuffled_lelp"},
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
    return alone.with_(objective="distillation", teacher=teacher, **METHODS[method] | settings)


@dataclass(frozen=True)
class Task:
    """A teacher, a student alone, and the settings that were chosen for each method."""

    teacher: Experiment
    alone: Experiment
    settings: Mapping[str, Mapping[str, Any]]

    def student(self, method: str, seed: int = 0, **changes: Any) -> Experiment:
        """Return the experiment of the student of a method; `changes` replace its settings."""
        settings = {**self.settings.get(method, {}), **changes}
        return student(self.alone.with_(seed=seed), self.teacher, method, **settings)


# Chosen on validation images, with seeds from 100 on; photographs with one seed (chapter 10).
_TAU = {"teacher_temperature": 4.0}
_OF_DIGITS: dict[str, dict[str, Any]] = {
    "kd": _TAU,
    "embedding_regression": _TAU,
    "kmeans": _TAU | {"subclasses": 10},
    "random_partition": _TAU | {"subclasses": 10},
    "shuffled_lelp": _TAU | {"subclasses": 10},
    "oracle": {"subclasses": 5},
    "lelp": _TAU | {"subclasses": 10},
}
_OF_PHOTOS: dict[str, dict[str, Any]] = {
    "kd": _TAU,
    "kmeans": {"subclasses": 25},
    "random_partition": {"subclasses": 25},
    "shuffled_lelp": {"subclasses": 25, "subclass_temperature": 0.3},
    "oracle": {"subclasses": 50},
    "lelp": {"subclasses": 25, "subclass_temperature": 0.3},
}


def task(
    data_name: str, teacher: Mapping[str, Any] | None = None, alone: Mapping[str, Any] | None = None
) -> Task:
    """Return the task of telling even from odd class numbers of a data set.

    Presets `parity_teacher` and `parity_student`, for photographs those of "…_photos"; `teacher` and
    `alone` are what to change of them.
    """
    kind = "_photos" if data_name in PHOTOS else ""
    return Task(
        preset(f"parity_teacher{kind}", data_name=data_name, **teacher or {}),
        preset(f"parity_student{kind}", data_name=data_name, **alone or {}),
        _OF_PHOTOS if kind else _OF_DIGITS,
    )
