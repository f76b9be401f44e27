"""Scores from logits, after a plain forward pass or (ODIN) one with perturbed images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import entr, logsumexp, softmax

from embedood.outputs import Outputs
from embedood.scorers._base import Scorer


def doubt(logits: np.ndarray) -> np.ndarray:
    r"""Return $1-\max_c p_c$ of N×C logits.

    Summed over the other classes: very sure images keep their order where $1-p$ would round to 0.
    """
    return np.sort(softmax(logits, axis=1), axis=1)[:, :-1].sum(1)


class MaxSoftmax(Scorer):
    r"""$1-\max_c p_c$, in $[0, 1-1/C]$. Source: Hendrycks & Gimpel, 2017."""

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

    def _calibrate(self, validation: Outputs, outliers: Outputs | None) -> None:
        rows = np.arange(len(validation))

        def loss(log_t: float) -> float:
            scaled = validation.logits / np.exp(log_t)
            return (logsumexp(scaled, axis=1) - scaled[rows, validation.labels]).mean()

        bounds = np.log([0.01, 100])
        best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
        self.temperature_ = np.exp(best.x)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return doubt(outputs.logits / self.temperature_)


class MaxLogit(Scorer):
    r"""$-\max_c\ell_c$, any real number. Source: Hendrycks et al., 2022; Vaze et al., 2022."""

    def _score(self, outputs: Outputs) -> np.ndarray:
        return -outputs.logits.max(1)


def energy(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    r"""Return $-T\log\sum_c e^{\ell_c/T}$ of N×C logits."""
    return -temperature * logsumexp(logits / temperature, axis=1)


@dataclass
class Energy(Scorer):
    r"""$-T\log\sum_c e^{\ell_c/T}$, any real number. Source: Liu et al., 2020."""

    temperature: float = 1.0

    def _score(self, outputs: Outputs) -> np.ndarray:
        return energy(outputs.logits, self.temperature)


class Entropy(Scorer):
    r"""$-\sum_c p_c\log p_c$ in nats, in $[0, \log C]$. Source: Chan et al., 2021."""

    def _score(self, outputs: Outputs) -> np.ndarray:
        return entr(softmax(outputs.logits, axis=1)).sum(1)


@dataclass
class GEN(Scorer):
    r"""Generalised entropy $\sum_{m\le M}p_{(m)}^\gamma(1-p_{(m)})^\gamma$ of the M likeliest classes.

    In $[0, M\,4^{-\gamma}]$; M is at most C. Source: Liu et al., 2023. pytorch-ood clamps p to
    $[10^{-7}, 1-10^{-7}]$, which moves the scores of sure networks; neither we nor the paper do.
    """

    gamma: float = 0.1
    largest: int = 100

    def _score(self, outputs: Outputs) -> np.ndarray:
        p = -np.sort(-softmax(outputs.logits, axis=1), axis=1)
        rest = 1 - p
        rest[:, 0] = p[:, 1:].sum(1)  # exact where p rounds to 1
        return ((p * rest) ** self.gamma)[:, : self.largest].sum(1)


class KLMatching(Scorer):
    r"""$\min_c\mathrm{KL}(p\,\|\,d_c)\ge0$, $d_c$ the mean softmax of validation rows predicted c.

    A class that is never predicted has no $d_c$. Source: Hendrycks et al., 2022.
    """

    needs = ("validation",)

    def _calibrate(self, validation: Outputs, outliers: Outputs | None) -> None:
        p = softmax(validation.logits, axis=1)
        predicted = p.argmax(1)
        means = np.stack([p[predicted == c].mean(0) for c in np.unique(predicted)])
        self.log_typical_ = np.log(np.maximum(means, np.finfo(float).tiny))

    def _score(self, outputs: Outputs) -> np.ndarray:
        p = softmax(outputs.logits, axis=1)
        cross = -(p @ self.log_typical_.T).max(1)
        return np.maximum(cross - entr(p).sum(1), 0)


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

    def _score(self, outputs: Outputs) -> np.ndarray:
        if outputs.perturbed_logits is None:
            raise ValueError("no perturbed_logits; use outputs.compute(…, odin_epsilon=0.0014)")
        return doubt(outputs.perturbed_logits / self.temperature)
