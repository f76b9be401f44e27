"""From subclasses to what a student learns: targets over C·S outputs, class after class."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import softmax

from embedood.config import Distillation
from embedood.distillation.subclasses import make
from embedood.objectives import Lesson
from embedood.outputs import Outputs


def tempered(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    r"""Return $\mathrm{softmax}_c(\ell/\tau)$, N×C; `ValueError` for τ ≤ 0."""
    if not temperature > 0:
        raise ValueError(f"a temperature must be positive, got {temperature}")
    return softmax(logits.astype(np.float64) / temperature, axis=1)


def targets(of_class: np.ndarray, share: np.ndarray) -> np.ndarray:
    r"""Return $p(c,s\mid x)=p(c\mid x)\,p(s\mid c,x)$, N×(C·S), column $cS+s$.

    From probabilities of classes N×C and the shares N×C×S of a maker. Raises `ValueError` for shapes
    that do not fit.

    Source: Loo et al., 2024.
    """
    if share.ndim != 3 or share.shape[:2] != of_class.shape:
        raise ValueError(
            f"probabilities N×C and shares N×C×S are needed, got {of_class.shape} and {share.shape}"
        )
    return (of_class[:, :, None] * share).reshape(len(share), -1).astype(np.float32)


def class_probabilities(probabilities: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the probabilities of classes, N×C: the sums over their subclasses, of N×(C·S).

    Raises `ValueError` where the columns do not divide so.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] % num_classes:
        raise ValueError(f"{probabilities.shape} columns are not those of {num_classes} classes")
    return probabilities.reshape(len(probabilities), num_classes, -1).sum(2)


def lesson(
    how: Distillation, teacher: Outputs, fine: np.ndarray | None = None, seed: int = 0
) -> Lesson:
    """Return what a student learns from a teacher's outputs for its training images, on the CPU.

    Classes have the teacher's tempered probabilities, or the label's 0 and 1 where the maker knows
    labels. `seed` is that of the subclasses. The embedding is centred and scaled to a mean variance
    of 1.
    """
    maker = make(how.subclasses_by, how.subclasses, how.subclass_temperature, seed)
    share = maker.fit(teacher, fine).transform(teacher, fine)
    of_class = tempered(teacher.logits, how.teacher_temperature)
    if maker.knows_labels:
        of_class = np.eye(of_class.shape[1])[teacher.labels]
    z = teacher.embeddings - teacher.embeddings.mean(0)
    return Lesson(
        torch.from_numpy(teacher.labels),
        torch.from_numpy(targets(of_class, share)),
        torch.from_numpy((z / np.sqrt(z.var(0).mean())).astype(np.float32)),
    )
