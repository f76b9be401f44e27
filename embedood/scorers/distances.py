"""Scores from distances in embedding space: to class means, boundaries and a subspace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from embedood.outputs import Outputs
from embedood.scorers._base import Scorer, class_means, unit

SINGLE = np.finfo(np.float32).eps
"""What comes from a network is exact to so much: a smaller singular value is noise."""


class CosinePrototype(Scorer):
    r"""$1-\max_c\cos(z,\mu_c)$ to the class means, in $[0, 2]$; a zero row has 1.

    Source: ours; related: Techapanurak et al., 2020, whose prototypes are the head's weights.
    """

    needs = ("train",)

    def _fit(self, train: Outputs) -> None:
        self.prototypes_ = unit(class_means(train)[0])

    def _score(self, outputs: Outputs) -> np.ndarray:
        return 1 - (unit(outputs.embeddings) @ self.prototypes_.T).max(1)


class SHE(Scorer):
    r"""$-\langle z,\bar z_{\hat y}\rangle$, any real number; $\bar z_c$ the mean of class c.

    The mean is over the training rows of c that are predicted right, or over all rows of c where
    none is. `fit` raises `ValueError` for a class of the head without a training row.

    Source: Zhang et al., 2023; they say nothing of a class that is never predicted right.
    """

    needs = ("train",)

    def _fit(self, train: Outputs) -> None:
        classes = train.logits.shape[1]
        missing = sorted(set(range(classes)) - set(train.labels.tolist()))
        if missing:
            raise ValueError(
                f"SHE needs training rows of all {classes} classes; of {len(train)} rows none is of "
                f"{missing}"
            )
        right = train.logits.argmax(1) == train.labels
        self.patterns_ = class_means(train)[0]
        for c in np.unique(train.labels[right]):
            self.patterns_[c] = train.embeddings[right & (train.labels == c)].mean(0)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return -(outputs.embeddings * self.patterns_[outputs.logits.argmax(1)]).sum(1)


class FDBD(Scorer):
    r"""$-\frac1{(C-1)\|z-\bar z\|}\sum_{c\ne\hat y}\frac{\ell_{\hat y}-\ell_c}{\|w_{\hat y}-w_c\|}\le0$.

    The mean distance to the decision boundaries, over the distance to the mean $\bar z$ of the
    training embeddings (at least $10^{-8}$). Raises `ValueError` where two classes have one weight.

    Source: Liu & Qin, 2024.
    """

    needs = ("train",)

    def _fit(self, train: Outputs) -> None:
        self.mean_ = train.embeddings.mean(0)

    def _score(self, outputs: Outputs) -> np.ndarray:
        weight, logits = outputs.head_weight, outputs.logits
        between = np.linalg.norm(weight[:, None] - weight, axis=2) + np.eye(len(weight))
        if not between.all():
            raise ValueError(f"two of the {len(weight)} classes have the same head_weight")
        margins = (logits.max(1, keepdims=True) - logits) / between[logits.argmax(1)]
        away = np.maximum(np.linalg.norm(outputs.embeddings - self.mean_, axis=1), 1e-8)
        return -margins.sum(1) / (len(weight) - 1) / away


@dataclass
class ViM(Scorer):
    r"""$\alpha\|P^\perp(z-o)\|-\log\sum_c e^{\ell_c}$, any real number.

    $o=-W^+b$; $P^\perp$ projects off the top d eigenvectors of $\overline{(z-o)(z-o)^\top}$; α makes
    the residual as large as the largest logit, on average over the training rows. By default
    $d=\min(256,r/2)$, r the rank of the training embeddings. `fit` raises `ValueError` for $d\ge r$,
    which leaves no residual.

    Source: Wang et al., 2022. With full rank r = D, as in the paper's code.
    """

    d: int | None = None
    needs = ("train",)

    def _fit(self, train: Outputs) -> None:
        noise = max(train.head_weight.shape) * SINGLE
        self.origin_ = -np.linalg.pinv(train.head_weight, rcond=noise) @ train.head_bias
        shifted = train.embeddings - self.origin_
        values, vectors = np.linalg.eigh(shifted.T @ shifted / len(train))
        d = self._kept(values)
        self.residual_ = vectors[:, : len(values) - d]
        lengths = np.linalg.norm(shifted @ self.residual_, axis=1)
        self.alpha_ = train.logits.max(1).mean() / lengths.mean()

    def _kept(self, values: np.ndarray) -> int:
        rank = int((values > (len(values) * SINGLE) ** 2 * values[-1]).sum())
        d = min(256, rank // 2) if self.d is None else self.d
        if not 0 <= d < rank:
            raise ValueError(
                f"d = {d} leaves no residual of D = {len(values)} dimensions with rank {rank}"
            )
        return d

    def _score(self, outputs: Outputs) -> np.ndarray:
        residual = (outputs.embeddings - self.origin_) @ self.residual_
        return self.alpha_ * np.linalg.norm(residual, axis=1) - logsumexp(outputs.logits, axis=1)
