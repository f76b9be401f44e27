"""Scores from distances in embedding space: to class means, boundaries and a subspace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedood.outputs import Outputs
from embedood.scorers._base import Scorer, chunked, class_means, column_sums, rows_of, unit
from embedood.scorers.logits import energy

SINGLE = np.finfo(np.float32).eps
"""What comes from a network is exact to so much: a smaller singular value is noise."""


def lengths(z: np.ndarray) -> np.ndarray:
    """Return the length of each row, N."""
    return np.sqrt(np.vecdot(z, z))


def distances_between(rows: np.ndarray) -> np.ndarray:
    r"""Return all distances between rows C×D, C×C in float64; of equal rows, 0.

    By $\|a\|^2+\|b\|^2-2ab$; by differences where that loses digits.
    """
    centred = np.float64(rows) - np.float64(rows).mean(0)
    products = centred @ centred.T
    both = np.diag(products)[:, None] + np.diag(products)
    found = np.sqrt(np.maximum(both - 2 * products, 0))
    for a, b in np.argwhere(found**2 <= 1e-6 * both):
        found[a, b] = np.linalg.norm(centred[a] - centred[b])
    return found


class CosinePrototype(Scorer):
    r"""$1-\max_c\cos(z,\mu_c)$ to the class means, in $[0, 2]$; a zero row has 1.

    Source: ours; related: Techapanurak et al., 2020, whose prototypes are the head's weights.
    """

    needs = ("train",)
    reads = ("embeddings",)

    def _fit(self, train: Outputs) -> None:
        self.prototypes_ = unit(class_means(train)[0])

    def _score(self, outputs: Outputs) -> np.ndarray:
        z = unit(outputs.embeddings)
        return 1 - (z @ self.prototypes_.T.astype(z.dtype)).max(1)


class SHE(Scorer):
    r"""$-\langle z,\bar z_{\hat y}\rangle$, any real number; $\bar z_c$ the mean of class c.

    The mean is over the training rows of c that are predicted right, or over all rows of c where
    none is. `fit` raises `ValueError` for a class of the head without a training row.

    Source: Zhang et al., 2023; they say nothing of a class that is never predicted right.
    """

    needs = ("train",)
    reads = ("logits", "embeddings")

    def _fit(self, train: Outputs) -> None:
        classes = train.logits.shape[1]
        missing = sorted(set(range(classes)) - set(train.labels.tolist()))
        if missing:
            raise ValueError(
                f"SHE needs training rows of all {classes} classes; of {len(train)} rows none is of "
                f"{missing}"
            )
        right = train.logits.argmax(1) == train.labels
        patterns = []
        for rows in rows_of(train.labels):
            good = rows[right[rows]] if right[rows].any() else rows
            patterns.append(column_sums(train.embeddings[good]) / len(good))
        self.patterns_ = np.stack(patterns)

    def _score(self, outputs: Outputs) -> np.ndarray:
        z = outputs.embeddings
        return -np.vecdot(z, self.patterns_.astype(z.dtype)[outputs.logits.argmax(1)])


class FDBD(Scorer):
    r"""$-\frac1{(C-1)\|z-\bar z\|}\sum_{c\ne\hat y}\frac{\ell_{\hat y}-\ell_c}{\|w_{\hat y}-w_c\|}\le0$.

    The mean distance to the decision boundaries, over the distance to the mean $\bar z$ of the
    training embeddings (at least $10^{-8}$). `fit` raises `ValueError` where two classes have one
    weight.

    Source: Liu & Qin, 2024.
    """

    needs = ("train",)
    reads = ("logits", "embeddings", "head_weight")

    def _fit(self, train: Outputs) -> None:
        between = distances_between(train.head_weight) + np.eye(len(train.head_weight))
        if not between.all():
            raise ValueError(f"two of the {len(between)} classes have the same head_weight")
        self.inverse_distances_ = 1 / between
        self.mean_ = column_sums(train.embeddings) / len(train)

    def _score(self, outputs: Outputs) -> np.ndarray:
        logits, z = outputs.logits, outputs.embeddings
        inverse = self.inverse_distances_.astype(logits.dtype)
        margins = logits.max(1, keepdims=True) - logits
        away = lengths(z - self.mean_.astype(z.dtype))
        summed = np.vecdot(margins, inverse[logits.argmax(1)])
        return -summed / (len(inverse) - 1) / np.maximum(away, 1e-8)


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
    reads = ("logits", "embeddings", "head_weight", "head_bias")

    def _fit(self, train: Outputs) -> None:
        noise = max(train.head_weight.shape) * SINGLE
        self.origin_ = -np.linalg.pinv(train.head_weight, rcond=noise) @ train.head_bias
        parts = [train.embeddings[rows] for rows in chunked(len(train), 1024)]
        products = sum(x.T @ x for x in (z - self.origin_ for z in parts))
        values, vectors = np.linalg.eigh(products / len(train))
        d = self._kept(values)
        self.residual_ = vectors[:, : len(values) - d]
        residuals = sum(self._residual(z).sum(dtype=np.float64) for z in parts)
        self.alpha_ = train.logits.max(1).sum(dtype=np.float64) / residuals

    def _kept(self, values: np.ndarray) -> int:
        rank = int((values > (len(values) * SINGLE) ** 2 * values[-1]).sum())
        d = min(256, rank // 2) if self.d is None else self.d
        if not 0 <= d < rank:
            raise ValueError(
                f"d = {d} leaves no residual of D = {len(values)} dimensions with rank {rank}"
            )
        return d

    def _score(self, outputs: Outputs) -> np.ndarray:
        return self.alpha_ * self._residual(outputs.embeddings) + energy(outputs.logits)

    def _residual(self, z: np.ndarray) -> np.ndarray:
        """Return the lengths N of what is left of the rows outside the principal subspace."""
        shifted = z - self.origin_.astype(z.dtype)
        return lengths(shifted @ self.residual_.astype(z.dtype))
