"""A small student learns from a large teacher what a few labels hide: the parts of each class.

`make(name, S)` with the table `SUBCLASSES` makes pseudo-subclasses of a teacher's outputs, `targets`
combines them with its probabilities; `task` names a teacher, a student and the methods of `METHODS`.
"""

from embedood.distillation.students import METHODS, Task, student, task
from embedood.distillation.subclasses import (
    LELP,
    SUBCLASSES,
    KMeansSubclasses,
    NoSubclasses,
    OracleSubclasses,
    RandomSubclasses,
    ShuffledLELP,
    Subclasses,
    make,
    principal_directions,
    random_rotation,
)
from embedood.distillation.targets import class_probabilities, lesson, targets, tempered

__all__ = [
    "LELP",
    "METHODS",
    "SUBCLASSES",
    "KMeansSubclasses",
    "NoSubclasses",
    "OracleSubclasses",
    "RandomSubclasses",
    "ShuffledLELP",
    "Subclasses",
    "Task",
    "class_probabilities",
    "lesson",
    "make",
    "principal_directions",
    "random_rotation",
    "student",
    "targets",
    "task",
    "tempered",
]
