"""Scores from how well the denoiser redraws an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedood.outputs import Outputs
from embedood.scorers._base import Scorer


def error_name(noised: bool) -> str:
    """Return the name of the errors among the outputs."""
    return "mse_noised" if noised else "mse"


def errors(outputs: Outputs, noised: bool) -> np.ndarray:
    """Return the mean squared errors N; `ValueError` where they were not measured."""
    found: np.ndarray | None = getattr(outputs, error_name(noised))
    if found is None:
        cure = "outputs.compute(…, noise_seed=0)" if noised else "a network with a decoder"
        raise ValueError(f"the outputs hold no reconstruction errors of that kind; use {cure}")
    return found


@dataclass
class ReconstructionError(Scorer):
    r"""$\frac1P\|x-\hat x\|^2$ over P pixels, in $[0, 1]$, of the clean image, or of the noised one.

    With `noised=True` the denoiser is given the image with training noise; the error is still against
    the clean one. Raises `ValueError` for outputs without these errors.

    Source: the project report of chapter 02.
    """

    noised: bool = False
    needs = ("decoder",)

    @property
    def reads(self) -> tuple[str, ...]:
        return (error_name(self.noised),)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return errors(outputs, self.noised)


@dataclass
class ClassReconstructionError(Scorer):
    r"""$(e-m_{\hat y})/s_{\hat y}$: the error against those usual for the predicted class.

    m and s are mean and standard deviation over validation rows predicted $\hat y$, or over all rows
    where fewer than two are, or all have one error. Any real number; raises `ValueError` for outputs
    without reconstruction errors, and where all validation rows have one error.

    Source: ours, since a '1' is always redrawn better than an '8'.
    """

    noised: bool = False
    needs = ("decoder", "validation")

    @property
    def reads(self) -> tuple[str, ...]:
        return ("logits", error_name(self.noised))

    def _calibrate(self, validation: Outputs, outliers: Outputs | None) -> None:
        error, predicted = errors(validation, self.noised), validation.logits.argmax(1)
        if np.ptp(error) == 0:
            raise ValueError(f"all {len(error)} validation rows have the error {error[0]}")
        groups = [error[predicted == c] for c in range(validation.logits.shape[1])]
        groups = [g if len(g) > 1 and np.ptp(g) > 0 else error for g in groups]
        self.means_ = np.array([g.mean() for g in groups])
        self.deviations_ = np.array([g.std(ddof=1) for g in groups])

    def _score(self, outputs: Outputs) -> np.ndarray:
        predicted = outputs.logits.argmax(1)
        error = errors(outputs, self.noised)
        return (error - self.means_[predicted]) / self.deviations_[predicted]
