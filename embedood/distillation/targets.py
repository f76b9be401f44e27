"""From subclasses to what a student learns: targets over C·S outputs, class after class."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import softmax

from embedood.config import Distillation
from embedood.distillation.subclasses import make
from embedood.objectives import Lesson
from embedood.outputs import Outputs


def targets(logits: np.ndarray, share: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    r"""Return $p(c,s\mid x)=\mathrm{softmax}_c(\ell/\tau)\,p(s\mid c,x)$, N×(C·S), column $cS+s$.

    From a teacher's logits N×C and the shares N×C×S of a maker. Raises `ValueError` for shapes that do
    not fit or τ ≤ 0.

    Source: Loo et al., 2024.
    """
    if share.ndim != 3 or share.shape[:2] != logits.shape or not temperature > 0:
        raise ValueError(
            f"logits N×C, shares N×C×S and τ > 0 are needed, got {logits.shape}, {share.shape} "
            f"and {temperature}"
        )
    of_class = softmax(logits.astype(np.float64) / temperature, axis=1)
    return (of_class[:, :, None] * share).reshape(len(logits), -1).astype(np.float32)


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

    `seed` is that of the subclasses. The embedding is centred and scaled to a mean variance of 1.
    """
    maker = make(how.subclasses_by, how.subclasses, how.subclass_temperature, seed)
    share = maker.fit(teacher, fine).transform(teacher, fine)
    z = teacher.embeddings - teacher.embeddings.mean(0)
    return Lesson(
        torch.from_numpy(teacher.labels),
        torch.from_numpy(targets(teacher.logits, share, how.teacher_temperature)),
        torch.from_numpy((z / np.sqrt(z.var(0).mean())).astype(np.float32)),
    )
