"""A small student learns from a large teacher what a few labels hide: the parts of each class.

`make(name, S)` with the table `SUBCLASSES` makes pseudo-subclasses of a teacher's outputs, `targets`
combines them with its probabilities; `student` is the experiment of a method of `METHODS`.
"""

from embedood.distillation.students import METHODS, student
from embedood.distillation.subclasses import (
    LELP,
    SUBCLASSES,
    KMeansSubclasses,
    NoSubclasses,
    OracleSubclasses,
    RandomSubclasses,
    Subclasses,
    make,
    principal_directions,
    random_rotation,
)
from embedood.distillation.targets import class_probabilities, lesson, targets

__all__ = [
    "LELP",
    "METHODS",
    "SUBCLASSES",
    "KMeansSubclasses",
    "NoSubclasses",
    "OracleSubclasses",
    "RandomSubclasses",
    "Subclasses",
    "class_probabilities",
    "lesson",
    "make",
    "principal_directions",
    "random_rotation",
    "student",
    "targets",
]
