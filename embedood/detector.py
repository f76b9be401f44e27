"""From scores to decisions: thresholds found on known and pseudo-OOD images only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_curve

from embedood.scorers import p_values
from embedood.splits import UNSEEN


def youden_threshold(known: np.ndarray, outliers: np.ndarray) -> float:
    r"""Return the threshold whose true- and false-positive rates differ most: reject above it.

    `known` and `outliers` are 1-D scores. The threshold lies half-way between the two neighbouring
    scores, so that it does not sit on an image. Source: Youden, 1950.
    """
    _refuse_bad_scores(known=known, outliers=outliers)
    scores = np.concatenate([known, outliers])
    is_outlier = np.arange(len(scores)) >= len(known)
    false_positive, true_positive, thresholds = roc_curve(is_outlier, scores)
    reject_from = thresholds[np.argmax(true_positive - false_positive)]
    below = scores[scores < reject_from]
    return float((reject_from + below.max()) / 2) if len(below) else float(reject_from)


def false_alarm_threshold(known: np.ndarray, false_alarm: float) -> float:
    r"""Return the smallest threshold that fresh known images exceed with probability ≤ `false_alarm`.

    The $\lceil(n+1)(1-\alpha)\rceil$-th smallest known score: the finite-sample guarantee of split
    conformal prediction, for exchangeable images. Raises `ValueError` when n is too small for α.
    """
    _refuse_bad_scores(known=known)
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm must lie between 0 and 1, got {false_alarm}")
    rank = int(np.ceil((len(known) + 1) * (1 - false_alarm)))
    if rank > len(known):
        raise ValueError(
            f"{len(known)} known scores cannot hold a false-alarm rate of {false_alarm}; "
            f"at least {int(np.ceil(1 / false_alarm)) - 1} are needed"
        )
    return float(np.sort(known)[rank - 1])


@dataclass(frozen=True)
class Decisions:
    """One row per image: class label or −1, score, p-value against known validation images."""

    labels: np.ndarray
    scores: np.ndarray
    p_values: np.ndarray


def decide(
    predicted: np.ndarray, scores: np.ndarray, threshold: float, known: np.ndarray
) -> Decisions:
    """Keep the predicted label where score ≤ threshold, else −1 (unseen)."""
    labels = np.where(scores > threshold, UNSEEN, predicted)
    return Decisions(labels, scores, p_values(scores, np.sort(known)))


def _refuse_bad_scores(**named: np.ndarray) -> None:
    for name, scores in named.items():
        if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
            raise ValueError(
                f"{name} must be a non-empty 1-D array of finite scores, got shape {scores.shape}"
            )
