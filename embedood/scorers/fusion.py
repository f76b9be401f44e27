"""Several scorers as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from embedood.outputs import Outputs
from embedood.scorers._base import Scorer, in_double

ROUNDING = 1e-9
"""Two scores tie where they differ by this share: one row's score is not exact to the last digit."""


def p_values(scores: np.ndarray, sorted_known: np.ndarray) -> np.ndarray:
    r"""Return conformal p-values $(1+\#\{s_i\ge s\})/(n+1)$, in $(0, 1]$; `sorted_known` rises.

    Under exchangeability a known image has $\Pr(p\le a)\le a$. Source: Vovk et al., 2005.
    """
    at_least = len(sorted_known) - np.searchsorted(sorted_known, scores, side="left")
    return (1 + at_least) / (len(sorted_known) + 1)


@dataclass
class Fusion(Scorer):
    r"""One score from several; `calibrate` takes known validation outputs and at most pseudo-OOD.

    how="rank": $-\sum_s\log p_s\ge0$, Fisher's combination of conformal p-values against validation.
    The scores are dependent, so the sum orders images but is no p-value itself; images beyond every
    validation row tie. how="logistic": the log-odds of a logistic regression of outliers against
    validation on the standardised scores, both sides with equal weight. C is scikit-learn's: the smaller,
    the less a single score may weigh, as is right for many that say nearly the same. With `weights`, one
    for each scorer, nothing is regressed: they are the `weights_` of a fusion that learned elsewhere, as
    in a rehearsal, whose network had some known classes kept from it, so that these could be outliers;
    the score is then the log-odds but for a constant.
    `ValueError` for no scorer, another `how`, C ≤ 0, and weights that are not as many, finite and
    logistic.

    The scorers work in float64, whatever the outputs' type: in float32 a score's last digits depend
    on the rows beside it, and a rank would jump with them. Scores equal to 1e-9 tie.

    Source: Fisher, 1925; logistic: Lee et al., 2018, there on real outliers.
    """

    scorers: tuple[Scorer, ...]
    how: str = "rank"
    weights: Sequence[float] = ()
    C: float = 1.0

    def __post_init__(self) -> None:
        self.weights = tuple(map(float, self.weights))

    @property
    def needs(self) -> tuple[str, ...]:
        own = {"validation"} | ({"outliers"} if self._regresses else set())
        return tuple(sorted(own.union(*(scorer.needs for scorer in self.scorers))))

    @property
    def _regresses(self) -> bool:
        return self.how == "logistic" and not self.weights

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(sorted(set().union(*(scorer.reads for scorer in self.scorers))))

    def _fit(self, train: Outputs) -> None:
        self._refuse_weights()
        train = in_double(train)
        for scorer in self.scorers:
            scorer.fit(train)

    def _calibrate(self, validation: Outputs, outliers: Outputs | None) -> None:
        if not self.scorers or self.how not in ("rank", "logistic") or not self.C > 0:
            raise ValueError(
                f'"rank" or "logistic" of at least one scorer and C > 0, not {self.how!r} of '
                f"{len(self.scorers)} and C = {self.C}"
            )
        self._refuse_weights()
        validation = in_double(validation)
        outliers = None if outliers is None else in_double(outliers)
        for scorer in self.scorers:
            scorer.calibrate(validation, outliers)
        known = self._members(validation)
        if self.how == "rank":
            self.sorted_known_ = np.sort(known, axis=1)
        else:
            self.means_ = known.mean(1, keepdims=True)
            self.deviations_ = np.maximum(known.std(1, keepdims=True), 1e-12)
            self.weights_, self.intercept_ = np.array(self.weights), np.float64(0)
        if self._regresses:
            assert outliers is not None  # `calibrate` has refused to go on without
            self._regress(known, self._members(outliers))

    def _refuse_weights(self) -> None:
        if self.weights and (
            self.how != "logistic"
            or len(self.weights) != len(self.scorers)
            or not np.isfinite(self.weights).all()
        ):
            raise ValueError(
                f'weights are finite, one for each of {len(self.scorers)} scorers, of how="logistic"; '
                f"got {self.weights} of {self.how!r}"
            )

    def _regress(self, known: np.ndarray, outliers: np.ndarray) -> None:
        both = (np.hstack([known, outliers]) - self.means_) / self.deviations_
        if not np.isfinite(both).all():
            raise ValueError(
                f"{self} overflows float64 at standardised scores; use smaller numbers"
            )
        is_outlier = np.arange(both.shape[1]) >= known.shape[1]
        model = LogisticRegression(C=self.C, class_weight="balanced", max_iter=1000)
        model.fit(both.T, is_outlier)
        self.weights_, self.intercept_ = model.coef_[0], model.intercept_[0]

    def standardised(self, outputs: Outputs) -> np.ndarray:
        """Return the scores S×N in standard deviations from the mean of the validation rows.

        Raises `NotFittedError` before `fit` and `calibrate`, and `ValueError` for how="rank".
        """
        self._refuse_unfitted()
        if self.how != "logistic":
            raise ValueError(f'only how="logistic" standardises scores, not {self.how!r}')
        return (self._members(in_double(outputs)) - self.means_) / self.deviations_

    def _score(self, outputs: Outputs) -> np.ndarray:
        if self.how == "logistic":
            return self.weights_ @ self.standardised(outputs) + self.intercept_
        members = self._members(in_double(outputs))
        pairs = zip(members - ROUNDING * np.abs(members), self.sorted_known_, strict=True)
        return -np.sum([np.log(p_values(s, known)) for s, known in pairs], axis=0)

    def _members(self, outputs: Outputs) -> np.ndarray:
        return np.stack([scorer.score(outputs) for scorer in self.scorers])
