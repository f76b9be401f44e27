"""Scores from logits, after a plain forward pass or (ODIN) one with perturbed images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from embedood.outputs import Outputs
from embedood.scorers._base import Scorer, chunked, column_sums, rows_of

FAINT = 1e-30
"""Sums of exponentials below this are near the end of float32; they are done again in float64."""


@dataclass(frozen=True)
class Exponentials:
    r"""What $\mathrm{softmax}(\ell)$ is made of, for N×C logits; C of them a row, never 1 − p.

    shifted: $\ell_c-\max\ell\le0$; powers: $e^{\ell_c-\max\ell}$, but 0 for the likeliest class;
    top: that class, N; others: the sum of the powers, N in float64. The likeliest p is
    1 / (1 + others): its distance from 1 has all digits however sure an image is.
    """

    shifted: np.ndarray
    powers: np.ndarray
    top: np.ndarray
    others: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray) -> Self:
        rows, top = np.arange(len(logits)), logits.argmax(1)
        shifted = logits - logits[rows, top][:, None]
        powers = np.exp(shifted)
        powers[rows, top] = 0
        return cls(shifted, powers, top, powers.sum(1).astype(np.float64))

    @property
    def log_total(self) -> np.ndarray:
        r"""$\log\sum_ce^{\ell_c}-\max\ell\ge0$, N."""
        return np.log1p(self.others)


def of_logits(formula: Callable[[Exponentials], np.ndarray], logits: np.ndarray) -> np.ndarray:
    """Return a formula of each row's exponentials, N in float64; very sure rows in float64."""
    found = Exponentials.of(logits)
    scores = formula(found).astype(np.float64, copy=False)
    faint = found.others < FAINT
    if logits.dtype == np.float32 and faint.any():
        scores[faint] = formula(Exponentials.of(logits[faint].astype(np.float64)))
    return scores


def doubt(logits: np.ndarray) -> np.ndarray:
    r"""Return $1-\max_c p_c$ of N×C logits.

    Summed over the other classes: very sure images keep their order where $1-p$ would round to 0.
    """
    rows, top = np.arange(len(logits)), logits.argmax(1)
    powers = logits - logits[rows, top][:, None]
    np.exp(powers, out=powers)  # in place: a second array of that size costs more than the sum
    powers[rows, top] = 0
    others = powers.sum(1).astype(np.float64)
    faint = others < FAINT
    if faint.any():
        others[faint] = faint_others(logits[faint], top[faint])
    return others / (1 + others)


def faint_others(logits: np.ndarray, top: np.ndarray) -> np.ndarray:
    r"""Return $\sum_{c\ne top}e^{\ell_c-\max\ell}$, N in float64, of very sure rows.

    The sum is over $e^{\ell_c-s}$, s the second largest logit, which fits any number type; only its
    factor $e^{s-\max\ell}$ needs float64.
    """
    rows, rest = np.arange(len(logits)), logits.copy()
    rest[rows, top] = -np.inf
    second = rest.max(1)
    rest -= second[:, None]
    below = second.astype(np.float64) - logits[rows, top]
    return np.exp(below) * np.exp(rest, out=rest).sum(1)


def entropy(e: Exponentials) -> np.ndarray:
    r"""Return $-\sum_cp_c\log p_c=\log\sum_ce^{x_c}-\sum_cp_cx_c$, N, x the shifted logits."""
    return e.log_total - np.vecdot(e.powers, e.shifted) / (1 + e.others)


class MaxSoftmax(Scorer):
    r"""$1-\max_c p_c$, in $[0, 1-1/C]$. Source: Hendrycks & Gimpel, 2017."""

    reads = ("logits",)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return doubt(outputs.logits)


class TemperatureSoftmax(Scorer):
    r"""$1-\max_c\mathrm{softmax}(\ell/T)_c$, in $[0, 1-1/C]$.

    T minimises the negative log-likelihood of the validation labels, within 0.01…100: where all of
    them are predicted right, the likelihood alone would sharpen without end.

    Source: Guo et al., 2017, who calibrate probabilities with it. Our T is exact (a bounded search
    over log T) where toolkits take a few gradient steps.
    """

    needs = ("validation",)
    reads = ("logits",)

    def _calibrate(self, validation: Outputs, outliers: Outputs | None) -> None:
        with np.errstate(over="ignore"):
            below = validation.logits - validation.logits.max(1, keepdims=True)
            np.maximum(below, np.finfo(below.dtype).min, out=below)  # −∞ times 0 would be NaN
            self.temperature_ = best_temperature(below, validation.labels)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return doubt(outputs.logits / float(self.temperature_))


def best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    r"""Return the T in 0.01…100 with the least negative log-likelihood of N labels, N×C logits ≤ 0.

    In $\beta=1/T$ that is convex, with the derivative $\frac1N\sum_n\mathrm E_p\ell_n-\ell_{ny_n}$,
    whose zero is sought between the two ends, or around the zero of every tenth row.
    """
    of_label = logits[np.arange(len(logits)), labels]

    @cache  # the search asks again at the ends of its bracket
    def slope(log_beta: float, step: int = 1) -> float:
        beta, above = logits.dtype.type(np.exp(log_beta)), []
        for chunk in chunked(len(logits), 1024 * step):
            rows = logits[chunk][::step]
            powers = rows * beta
            np.exp(powers, out=powers)
            above.append(np.vecdot(powers, rows) / powers.sum(1) - of_label[chunk][::step])
        return float(np.concatenate(above).mean(dtype=np.float64))

    ends = np.log([0.01, 100])
    near = _zero(lambda b: slope(b, 10), *ends)
    low, high = max(near - 0.1, ends[0]), min(near + 0.1, ends[1])
    if not slope(low) < 0 < slope(high):
        low, high = ends
    return float(np.exp(-_zero(slope, low, high)))


def _zero(rising: Callable[[float], float], low: float, high: float) -> float:
    """Return where a rising function is zero; the nearer end where it is not in between."""
    if rising(low) >= 0:
        return low
    if rising(high) <= 0:
        return high
    return float(brentq(rising, low, high, xtol=1e-10))


class MaxLogit(Scorer):
    r"""$-\max_c\ell_c$, any real number. Source: Hendrycks et al., 2022; Vaze et al., 2022."""

    reads = ("logits",)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return -outputs.logits.max(1)


def energy(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    r"""Return $-T\log\sum_c e^{\ell_c/T}$ of N×C logits."""
    if temperature != 1:
        logits = logits / temperature
    top = logits.max(1)
    powers = logits - top[:, None]
    total = np.exp(powers, out=powers).sum(1)
    return -temperature * (np.log(total, dtype=np.float64) + top)


@dataclass
class Energy(Scorer):
    r"""$-T\log\sum_c e^{\ell_c/T}$, any real number. Source: Liu et al., 2020."""

    temperature: float = 1.0
    reads = ("logits",)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return energy(outputs.logits, self.temperature)


class Entropy(Scorer):
    r"""$-\sum_c p_c\log p_c$ in nats, in $[0, \log C]$. Source: Chan et al., 2021."""

    reads = ("logits",)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return of_logits(entropy, outputs.logits)


@dataclass
class GEN(Scorer):
    r"""Generalised entropy $\sum_{m\le M}p_{(m)}^\gamma(1-p_{(m)})^\gamma$ of the M likeliest classes.

    In $[0, M\,4^{-\gamma}]$; M is at most C. Source: Liu et al., 2023. pytorch-ood clamps p to
    $[10^{-7}, 1-10^{-7}]$, which moves the scores of sure networks; neither we nor the paper do.
    """

    gamma: float = 0.1
    largest: int = 100
    reads = ("logits",)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return of_logits(self._of_likeliest, outputs.logits)

    def _of_likeliest(self, e: Exponentials) -> np.ndarray:
        r"""With $S=\sum e^{x_c}$, $p(1-p)=e^{x}(S-e^x)/S^2$: to the power γ by its logarithm, N×M."""
        rest = (1 + e.others[:, None]).astype(e.powers.dtype) - e.powers
        rest[np.arange(len(rest)), e.top] = np.maximum(e.others, np.finfo(rest.dtype).tiny)
        terms = np.log(rest, out=rest)
        terms += e.shifted
        if self.largest < terms.shape[1]:
            least_likely = np.argpartition(e.shifted, -self.largest, axis=1)[:, : -self.largest]
            np.put_along_axis(terms, least_likely, -np.inf, axis=1)
        terms -= 2 * e.log_total[:, None].astype(terms.dtype)
        return np.exp(self.gamma * terms).sum(1)


class KLMatching(Scorer):
    r"""$\min_c\mathrm{KL}(p\,\|\,d_c)\ge0$, $d_c$ the mean softmax of validation rows predicted c.

    A class that is never predicted has no $d_c$. Source: Hendrycks et al., 2022.
    """

    needs = ("validation",)
    reads = ("logits",)

    def _calibrate(self, validation: Outputs, outliers: Outputs | None) -> None:
        p = softmax(validation.logits, axis=1)
        _, places = np.unique(p.argmax(1), return_inverse=True)
        means = np.stack([column_sums(p[rows]) / len(rows) for rows in rows_of(places)])
        self.log_typical_ = np.log(np.maximum(means, np.finfo(p.dtype).tiny))

    def _score(self, outputs: Outputs) -> np.ndarray:
        return of_logits(self._divergence, outputs.logits)

    def _divergence(self, e: Exponentials) -> np.ndarray:
        p = e.powers / (1 + e.others)[:, None].astype(e.powers.dtype)
        p[np.arange(len(p)), e.top] = 1 / (1 + e.others)
        cross = -(p @ self.log_typical_.T.astype(p.dtype)).max(1)
        return np.maximum(cross - entropy(e), 0)


@dataclass
class ODIN(Scorer):
    r"""$1-\max_c\mathrm{softmax}(\ell(\tilde x)/T)_c$ of images pushed towards their predicted class.

    $\tilde x=x-\epsilon\,\mathrm{sign}\nabla_x CE(\ell(x)/T,\hat y)$; `outputs.compute(…,
    odin_epsilon=0.0014)` measures $\ell(\tilde x)$. In $[0, 1-1/C]$. Raises `ValueError` for outputs
    computed without it.

    Source: Liang et al., 2018, who choose ε on outliers; their ε is in units of a normalised image,
    ours of grey values in [0, 1].
    """

    temperature: float = 1000.0
    needs = ("gradient",)
    reads = ("perturbed_logits",)

    def _score(self, outputs: Outputs) -> np.ndarray:
        if outputs.perturbed_logits is None:
            raise ValueError("no perturbed_logits; use outputs.compute(…, odin_epsilon=0.0014)")
        return doubt(outputs.perturbed_logits / self.temperature)
