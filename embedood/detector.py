"""From scores to decisions: thresholds and p-values from known and pseudo-OOD images only."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.stats import false_discovery_control
from sklearn.metrics import roc_curve

from embedood.outputs import Outputs
from embedood.scorers import NotFittedError, Scorer, p_values
from embedood.scorers._base import check, check_known
from embedood.scorers._files import arrays_of, describe, rebuild
from embedood.splits import UNSEEN

FORMAT = "embedood detector 2"
"""What `save` writes; the number rises when a scorer learns arrays of other names."""


@dataclass(frozen=True)
class Decisions:
    """One row per image: class label or −1, score, p-value; rejected is what scores above threshold.

    A p-value is the chance, were the image of a known class, of a score at least as high.
    """

    labels: np.ndarray
    scores: np.ndarray
    threshold: float
    p_values: np.ndarray

    @property
    def is_unseen(self) -> np.ndarray:
        """Mask of the images decided unseen."""
        return self.labels == UNSEEN


@dataclass
class Detector:
    """A scorer with a threshold: `Detector(scorer).fit(train).calibrate(validation).decide(outputs)`.

    No image of an unseen class is needed, and none may be passed in. All arrays must be finite, also
    those that the scorer does not read. One that has been calibrated is saved to, and loaded from,
    one file.
    """

    scorer: Scorer

    def __post_init__(self) -> None:
        if not isinstance(self.scorer, Scorer):
            raise TypeError(
                f"a Detector takes a scorer, such as scorers.make('energy'), got {self.scorer!r}"
            )

    @property
    def is_calibrated(self) -> bool:
        """Whether it has a threshold."""
        return hasattr(self, "known_scores_")

    def fit(self, train: Outputs) -> Self:
        """Fit the scorer to training outputs; an earlier calibration is forgotten."""
        check_known(train, "train")
        self.scorer.fit(train)
        self.__dict__.pop("known_scores_", None)
        return self

    def calibrate(
        self,
        validation: Outputs,
        outliers: Outputs | None = None,
        rule: str = "false_alarm",
        false_alarm: float = 0.05,
        miss_cost: float = 1.0,
        seed: int = 0,
    ) -> Self:
        r"""Set the threshold, and what p-values compare with, from known validation outputs.

        rule="false_alarm": fresh known images are rejected with probability ≤ `false_alarm`, over the
        draw of validation set and image. The other rules weigh validation against pseudo-OOD
        `outliers`: "youden", "equal_error", and "cost", which minimises the false-alarm rate plus
        `miss_cost` times the rate of missed outliers.

        Where the scorer itself learns from validation or outliers, it gets one half of each, drawn
        with `seed`, and the threshold and the p-values the other: the scores of rows that a scorer
        has learned from are not exchangeable with fresh ones, and the guarantee would be lost.

        Raises `ValueError` for a rule without its outliers or with too few rows, and for validation
        rows of no known class.
        """
        check_known(validation, "validation")
        if outliers is not None:
            check(outliers, "outliers")
        if "validation" in self.scorer.needs:
            held_out, validation = halves(validation, seed)
            ours = None
            if outliers is not None:
                ours, outliers = halves(outliers, seed)
            self.scorer.calibrate(held_out, ours)
        known = self.scorer.score(validation)
        if rule == "false_alarm":
            threshold = false_alarm_threshold(known, false_alarm)
        else:
            threshold = self._threshold(rule, known, outliers, miss_cost)
        self.known_scores_, self.threshold_ = np.sort(known), threshold
        return self

    def _threshold(
        self, rule: str, known: np.ndarray, outliers: Outputs | None, miss_cost: float
    ) -> float:
        if rule not in ("youden", "equal_error", "cost"):
            raise ValueError(
                f'rule {rule!r} is none of "false_alarm", "youden", "equal_error", "cost"'
            )
        if outliers is None:
            raise ValueError(f"rule {rule!r} needs pseudo-OOD; calibrate(validation, outliers)")
        unusual = self.scorer.score(outliers)
        if rule == "equal_error":
            return equal_error_threshold(known, unusual)
        return cost_threshold(known, unusual, miss_cost if rule == "cost" else 1.0)

    def decide(self, outputs: Outputs, false_discovery: float | None = None) -> Decisions:
        r"""Return the predicted class where score ≤ threshold, else −1 (unseen).

        With `false_discovery` q, the batch sets its own threshold: of what it rejects, a share of at
        most q is known, in expectation (Benjamini & Hochberg, 1995; on conformal p-values Bates et
        al., 2023). One image is `outputs[i : i + 1]`.
        """
        if not self.is_calibrated:
            raise NotFittedError(f"{self} has no threshold; call calibrate(validation) first")
        check(outputs, "outputs")
        scores, logits = self.scorer.score(outputs), np.asarray(outputs.logits)
        return decisions(scores, logits, self.known_scores_, self.threshold_, false_discovery)

    def save(self, path: str | Path) -> None:
        """Write scorer, threshold and known scores to one `.npz` file, atomically, without pickle."""
        if not self.is_calibrated:
            raise NotFittedError(f"{self} has no threshold; call calibrate(validation) first")
        config = {"format": FORMAT, "scorer": describe(self.scorer), "threshold": self.threshold_}
        arrays: dict[str, Any] = arrays_of(self.scorer, "scorer")
        arrays |= {"known_scores": self.known_scores_, "config": json.dumps(config)}
        path = Path(path)
        partial = path.with_name(path.name + ".partial.npz")
        np.savez_compressed(partial, **arrays)
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; `ValueError`, naming the file, for another, older or broken one."""
        try:
            arrays, config = _read(path)
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} cannot be read, save the detector again: {error}") from error
        written = config.get("format")
        if written != FORMAT:
            told = f"; it is {written!r}, fit and save again" if written else ""
            raise ValueError(f"{path} is no {FORMAT!r} file{told}; it holds {sorted(arrays)}")
        detector = cls(rebuild(config["scorer"], arrays, "scorer"))
        detector.known_scores_, detector.threshold_ = arrays["known_scores"], config["threshold"]
        return detector


def _read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of an `.npz` file and its description, {} where it has none."""
    with open(path, "rb") as opened:
        if not zipfile.is_zipfile(opened):
            raise ValueError("it is no .npz file, or only a part of one")
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    config = json.loads(str(arrays.get("config", "{}")))
    return arrays, config if isinstance(config, dict) else {}


def decisions(
    scores: np.ndarray,
    logits: np.ndarray,
    known: np.ndarray,
    threshold: float,
    false_discovery: float | None = None,
) -> Decisions:
    """Return what scores N and logits N×C say, against known scores; see `Detector.decide`."""
    p = p_values(scores, np.sort(known))
    if false_discovery is not None:
        reject = benjamini_hochberg(p, false_discovery)
        # p falls as the score rises, so the rejected rows are those above the best kept one.
        threshold = float(scores[~reject].max(initial=-np.inf))
    labels = np.where(scores > threshold, UNSEEN, logits.argmax(1))
    return Decisions(labels, scores, threshold, p)


def halves(outputs: Outputs, seed: int) -> tuple[Outputs, Outputs]:
    """Split the rows in two: every other one of a seeded permutation. `ValueError` for one row."""
    if len(outputs) < 2:
        raise ValueError(f"one half for the scorer, one for the threshold: {len(outputs)} rows")
    order = np.random.default_rng(seed).permutation(len(outputs))
    return outputs[order[::2]], outputs[order[1::2]]


def false_alarm_threshold(known: np.ndarray, false_alarm: float) -> float:
    r"""Return the smallest threshold that fresh known images exceed with probability ≤ `false_alarm`.

    The $(n+1-\lfloor\alpha(n+1)\rfloor)$-th smallest known score, above which lie the p-values ≤ α: the
    finite-sample guarantee of split conformal prediction (Vovk et al., 2005), for exchangeable
    images. Raises `ValueError` when n is too small for α.
    """
    _refuse_bad_scores(known=known)
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm must lie between 0 and 1, got {false_alarm}")
    rounding = 1e-9  # 0.29 · 100 is 28.999999999999996
    rejected = int(np.floor(false_alarm * (len(known) + 1) + rounding))
    if rejected == 0:
        raise ValueError(
            f"{len(known)} known scores cannot hold a false-alarm rate of {false_alarm}; "
            f"at least {int(np.ceil(1 / false_alarm - rounding)) - 1} are needed"
        )
    return float(np.sort(known)[-rejected])


def youden_threshold(known: np.ndarray, outliers: np.ndarray) -> float:
    r"""Return the threshold whose true- and false-positive rates differ most: reject above it.

    `known` and `outliers` are 1-D scores. The threshold lies half-way between the two neighbouring
    scores, so that it does not sit on an image; of equally good ones the highest is taken.

    Source: Youden, 1950.
    """
    return cost_threshold(known, outliers, 1.0)


def cost_threshold(known: np.ndarray, outliers: np.ndarray, miss_cost: float) -> float:
    r"""Return the threshold with the least false-alarm rate + `miss_cost` · rate of missed outliers."""
    if not miss_cost > 0:
        raise ValueError(f"miss_cost must be positive, got {miss_cost}")
    return _best_threshold(known, outliers, lambda alarms, misses: alarms + miss_cost * misses)


def equal_error_threshold(known: np.ndarray, outliers: np.ndarray) -> float:
    """Return the threshold at which false-alarm rate and rate of missed outliers differ least."""
    return _best_threshold(known, outliers, lambda alarms, misses: np.abs(alarms - misses))


def _best_threshold(
    known: np.ndarray,
    outliers: np.ndarray,
    loss: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> float:
    _refuse_bad_scores(known=known, outliers=outliers)
    scores = np.concatenate([known, outliers])
    is_outlier = np.arange(len(scores)) >= len(known)
    alarms, found, reject_from = roc_curve(is_outlier, scores, drop_intermediate=False)
    best = np.argmin(loss(alarms, 1 - found))
    if best == 0:  # nothing is rejected
        return float(scores.max())
    above = reject_from[best]
    below = scores[scores < above].max(initial=np.nextafter(above, -np.inf))
    between = below + (above - below) / 2
    return float(between if between < above else below)


def benjamini_hochberg(p: np.ndarray, false_discovery: float) -> np.ndarray:
    """Return the mask of p-values rejected at a false-discovery rate over the whole batch."""
    if not 0 < false_discovery < 1:
        raise ValueError(f"false_discovery must lie between 0 and 1, got {false_discovery}")
    return false_discovery_control(p, method="bh") <= false_discovery


def _refuse_bad_scores(**named: np.ndarray) -> None:
    for name, scores in named.items():
        if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
            raise ValueError(
                f"{name} must be a non-empty 1-D array of finite scores, got shape {scores.shape}"
            )
