"""Numbers that judge scores and decisions, all in [0, 1], and their error bars.

Which images are unseen is always passed in; a name says which side is positive where that matters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata, studentized_range
from sklearn.metrics import (
    adjusted_rand_score,
    average_precision_score,
    normalized_mutual_info_score,
    roc_auc_score,
    roc_curve,
)
from sklearn.metrics.cluster import contingency_matrix

from embedood.splits import UNSEEN


def auroc_unseen(scores: np.ndarray, is_unseen: np.ndarray) -> float:
    """Return P(score of an unseen image > score of a known one), ties counted half; in [0, 1]."""
    _check(scores, is_unseen)
    return float(roc_auc_score(is_unseen, scores))


def aupr_unseen(scores: np.ndarray, is_unseen: np.ndarray) -> float:
    r"""Return $\sum_t(R_t-R_{t-1})P_t$ over all thresholds t, the average precision of "unseen"."""
    _check(scores, is_unseen)
    return float(average_precision_score(is_unseen, scores))


def aupr_known(scores: np.ndarray, is_unseen: np.ndarray) -> float:
    """Return the average precision of "known", for which a low score speaks."""
    return aupr_unseen(*_turned(scores, is_unseen))


def fpr_at_95_tpr_unseen(scores: np.ndarray, is_unseen: np.ndarray) -> float:
    """Return the share of known images rejected when at least 95 % of the unseen are: unseen positive.

    With the highest threshold that does so; images of equal score are rejected together.
    """
    _check(scores, is_unseen)
    alarms, found, _ = roc_curve(is_unseen, scores, drop_intermediate=False)
    return float(alarms[np.argmax(found >= 0.95)])


def fpr_at_95_tpr_known(scores: np.ndarray, is_unseen: np.ndarray) -> float:
    """Return the share of unseen images accepted when at least 95 % of the known are: known positive.

    One minus it is the TNR at 95 % TPR.
    """
    return fpr_at_95_tpr_unseen(*_turned(scores, is_unseen))


def detection_error(scores: np.ndarray, is_unseen: np.ndarray) -> float:
    r"""Return $\min_t\frac12(a_t+m_t)$ over thresholds: the best mean of the two rates of error.

    $a_t$ is the share of known images rejected, $m_t$ of unseen ones missed; in [0, ½], the same for
    either positive side.

    Source: Liang et al., 2018, who fix TPR = 95 %; the minimum is that of Lee et al., 2018.
    """
    _check(scores, is_unseen)
    alarms, found, _ = roc_curve(is_unseen, scores)
    return float((alarms + 1 - found).min() / 2)


def oscr(scores: np.ndarray, is_unseen: np.ndarray, is_right: np.ndarray) -> float:
    r"""Return the area under correct classification of known against acceptance of unseen.

    $P(s_K<s_U,\;\hat y_K=y_K)$ of a random known and a random unseen image, ties counted half: the
    accuracy times the AUROC of the rightly classified. is_right N is ignored for unseen images.

    Source: Dhamija et al., 2018, for the curve; Vaze et al., 2022, for its area.
    """
    _check(scores, is_unseen)
    if len(is_right) != len(scores):
        raise ValueError(f"is_right must have {len(scores)} entries, got {len(is_right)}")
    compared = is_unseen | is_right
    accuracy = is_right[~is_unseen].mean()
    return (
        float(accuracy * auroc_unseen(scores[compared], is_unseen[compared])) if accuracy else 0.0
    )


def detection_rate(decided: np.ndarray, is_unseen: np.ndarray) -> float:
    """Return the share of unseen images that were decided −1."""
    return float((decided[is_unseen] == UNSEEN).mean())


def accepted_accuracy(decided: np.ndarray, labels: np.ndarray, is_unseen: np.ndarray) -> float:
    """Return the share of known images given their right class, hence also accepted."""
    return float((decided == labels)[~is_unseen].mean())


def rejection_accuracy(decided: np.ndarray, labels: np.ndarray, is_unseen: np.ndarray) -> float:
    """Return the share of all images answered right: known by their class, unseen by −1."""
    return float((decided == np.where(is_unseen, UNSEEN, labels)).mean())


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


def cluster_accuracy(true: np.ndarray, found: np.ndarray) -> float:
    r"""Return $\frac1N\max_\pi\#\{i:\pi(\hat y_i)=y_i\}$ over one-to-one matchings π of clusters to classes.

    true N, found N: any numbers as names; there may be more clusters than classes or fewer, and rows
    of an unmatched cluster are wrong. In (0, 1]. The matching is the Hungarian one.

    Source: Xie et al., 2016.
    """
    _check_partitions(true, found)
    table = contingency_matrix(true, found)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(true))


def normalized_mutual_information(true: np.ndarray, found: np.ndarray) -> float:
    r"""Return $2I(y;\hat y)/(H(y)+H(\hat y))$, in [0, 1], not corrected for chance."""
    _check_partitions(true, found)
    return float(normalized_mutual_info_score(true, found))


def adjusted_rand_index(true: np.ndarray, found: np.ndarray) -> float:
    """Return the share of pairs treated alike, corrected so that chance gives 0; in [−½, 1].

    Source: Hubert & Arabie, 1985.
    """
    _check_partitions(true, found)
    return float(adjusted_rand_score(true, found))


def discovery_accuracy(
    true: np.ndarray, found: np.ndarray, is_unseen: np.ndarray, num_known: int
) -> float:
    """Return the share of all rows answered right: known by its class, unseen by its class's cluster.

    true N: the class of every row, also of the unseen; found N: a known class below `num_known` or
    a discovered one. Clusters are matched one-to-one to unseen classes, to the most rows; a known
    row called new, or an unseen one called known, is wrong. In [0, 1].
    """
    _check_partitions(true, found, is_unseen)
    right = np.count_nonzero((found == true)[~is_unseen])
    new = is_unseen & (found >= num_known)
    if new.any():
        right += round(cluster_accuracy(true[new], found[new]) * np.count_nonzero(new))
    return right / len(true)


def _check_partitions(*arrays: np.ndarray) -> None:
    shapes = [np.shape(array) for array in arrays]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1 or not shapes[0][0]:
        raise ValueError(
            f"classes and clusters must be 1-D, of one length, not empty; got {shapes}"
        )


class Interval(NamedTuple):
    """An estimate between the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float


Metric = Callable[..., float]


def bootstrap_interval(
    metric: Metric,
    scores: np.ndarray,
    is_unseen: np.ndarray,
    *more: np.ndarray,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return `metric(scores, is_unseen, *more)` with its percentile bootstrap interval.

    Known and unseen images are drawn again separately, so that every resample has as many of each.
    The interval is about the images; the spread of training needs several seeds. `scores` may be
    decisions, for a metric of those; `more` are further arrays of N, such as `is_right` of `oscr`.

    Source: Efron, 1979.
    """
    _check(scores, is_unseen)
    return _bootstrap(metric, (scores, is_unseen, *more), level, resamples, seed)


def paired_difference(
    metric: Metric,
    first: np.ndarray,
    second: np.ndarray,
    is_unseen: np.ndarray,
    *more: np.ndarray,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return `metric` of the first scores minus that of the second, with its bootstrap interval.

    Both are measured on the same resampled images, which cancels what they share; the scorers differ
    at this level where the interval leaves out 0. Resampling is that of `bootstrap_interval`.
    """
    _check(first, is_unseen)
    _check(second, is_unseen)

    def difference(both: np.ndarray, is_unseen: np.ndarray, *more: np.ndarray) -> float:
        return metric(both[:, 0], is_unseen, *more) - metric(both[:, 1], is_unseen, *more)

    both = np.column_stack([first, second])
    return _bootstrap(difference, (both, is_unseen, *more), level, resamples, seed)


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Return the mean rank of each method, K, over data sets: values K×N, larger is better, 1 = best.

    Ties share the mean of their ranks.
    """
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"values must be finite, methods × data sets; got shape {values.shape}")
    return rankdata(-values, axis=0).mean(1)


def critical_difference(methods: int, data_sets: int, level: float = 0.05) -> float:
    r"""Return how far two mean ranks must lie apart to differ at the level: Nemenyi's test.

    $q_\alpha\sqrt{K(K+1)/6N}$, $q_\alpha$ the studentised range over $\sqrt2$, for K methods on N data
    sets. It takes the data sets as independent.

    Source: Demšar, 2006, "Statistical comparisons of classifiers over multiple data sets".
    """
    if methods < 2 or data_sets < 1:
        raise ValueError(f"two methods on one data set at least, got {methods} on {data_sets}")
    q = studentized_range.ppf(1 - level, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * data_sets)))


def _bootstrap(
    metric: Metric, arrays: tuple[np.ndarray, ...], level: float, resamples: int, seed: int
) -> Interval:
    """The metric of (scores, is_unseen, …) with its percentile interval, either side redrawn alone."""
    rng = np.random.default_rng(seed)
    sides = [np.flatnonzero(~arrays[1]), np.flatnonzero(arrays[1])]
    values = []
    for _ in range(resamples):
        rows = np.concatenate([rng.choice(side, len(side)) for side in sides])
        values.append(metric(*(array[rows] for array in arrays)))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(metric(*arrays), float(low), float(high))


def _turned(scores: np.ndarray, is_unseen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and mask with the sides exchanged: how usual an image is, and which are known."""
    _check(scores, is_unseen)
    return -scores, ~is_unseen


def _check(scores: np.ndarray, is_unseen: np.ndarray) -> None:
    for name, values in (("scores", scores), ("is_unseen", is_unseen)):
        if not hasattr(values, "dtype"):
            raise TypeError(f"{name} must be a NumPy array, got {type(values).__name__}")
    if is_unseen.dtype != bool or scores.shape != is_unseen.shape or scores.ndim != 1:
        raise ValueError(
            "scores and the mask is_unseen must be 1-D and of one length, got "
            f"{scores.dtype} {scores.shape} and {is_unseen.dtype} {is_unseen.shape}"
        )
    if not np.isfinite(scores).all():
        bad = np.count_nonzero(~np.isfinite(scores))
        raise ValueError(f"{bad} of {len(scores)} scores are NaN or infinite")
    if is_unseen.all() or not is_unseen.any():
        unseen = np.count_nonzero(is_unseen)
        raise ValueError(
            f"both sides are needed, got {len(is_unseen) - unseen} known and {unseen} unseen images"
        )
