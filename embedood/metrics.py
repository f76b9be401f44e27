"""Numbers that judge scores and decisions. The positive side is "unseen" and is always passed in."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from embedood.splits import UNSEEN


def auroc_unseen(scores: np.ndarray, is_unseen: np.ndarray) -> float:
    """Return P(score of an unseen image > score of a known one), ties counted half; in [0, 1]."""
    return float(roc_auc_score(is_unseen, scores))


def detection_rate(decided: np.ndarray, is_unseen: np.ndarray) -> float:
    """Return the share of unseen images that were decided −1."""
    return float((decided[is_unseen] == UNSEEN).mean())


def accepted_accuracy(decided: np.ndarray, labels: np.ndarray, is_unseen: np.ndarray) -> float:
    """Return the share of known images given their right class, hence also accepted."""
    return float((decided == labels)[~is_unseen].mean())


def trade_off(
    scores: np.ndarray, is_right: np.ndarray, is_unseen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return detection rate, accepted accuracy and threshold, for every threshold.

    scores N, is_right N (the predicted class is the true one; ignored for unseen), is_unseen N.
    An image is rejected where its score ≥ the returned threshold.
    """
    _, detected, thresholds = roc_curve(is_unseen, scores, drop_intermediate=False)
    right = np.sort(scores[~is_unseen & is_right])
    kept = np.searchsorted(right, thresholds, side="left") / (~is_unseen).sum()
    return detected, kept, thresholds


def confusion(decided: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return counts (C+1)×(C+1), rows true and columns decided, the last of each for unseen."""
    table = np.zeros((num_classes + 1, num_classes + 1), dtype=int)
    np.add.at(table, (labels, decided), 1)  # −1 indexes the last row and column
    return table
