"""Energy after reshaping non-negative embeddings, or the weights that read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedood.outputs import Outputs
from embedood.scorers._base import Scorer, column_sums
from embedood.scorers.logits import energy


def non_negative(scorer: Scorer, outputs: Outputs) -> np.ndarray:
    """Return the embeddings N×D; `ValueError` if one is negative."""
    z = outputs.embeddings
    if z.min() < 0:
        raise ValueError(
            f"{scorer} needs embeddings ≥ 0, such as a ReLU's; of shape {z.shape}, "
            f"{(z < 0).sum()} values are negative"
        )
    return z


def share_of(percentile: float) -> float:
    """Return the percentile as a share in [0, 1); `ValueError` outside."""
    if not 0 <= percentile < 100:
        raise ValueError(f"the percentile must lie in [0, 100), got {percentile}")
    return percentile / 100


@dataclass
class ReAct(Scorer):
    r"""Energy of $W\min(z,t)+b$, t a percentile of all training activations; any real number.

    Raises `ValueError` for negative embeddings. Source: Sun et al., 2021.
    """

    percentile: float = 90.0
    needs = ("train",)
    reads = ("embeddings", "head_weight", "head_bias")

    def _fit(self, train: Outputs) -> None:
        self.limit_ = quantile(non_negative(self, train), share_of(self.percentile))

    def _score(self, outputs: Outputs) -> np.ndarray:
        z = non_negative(self, outputs)
        clipped = np.minimum(z, self.limit_.astype(z.dtype))
        return energy(clipped @ outputs.head_weight.T + outputs.head_bias)


@dataclass
class DICE(Scorer):
    r"""Energy of $(M\odot W)z+b$, any real number.

    M keeps the weights whose contribution to the training mean, $W_{cd}\bar z_d$, lies above a
    percentile of all C·D. Raises `ValueError` for negative embeddings. Source: Sun & Li, 2022.
    """

    percentile: float = 90.0
    needs = ("train",)
    reads = ("embeddings", "head_weight", "head_bias")

    def _fit(self, train: Outputs) -> None:
        contribution = train.head_weight * column_sums(non_negative(self, train)) / len(train)
        keep = contribution > np.quantile(contribution, share_of(self.percentile))
        self.weight_ = np.where(keep, train.head_weight, 0)

    def _score(self, outputs: Outputs) -> np.ndarray:
        z = non_negative(self, outputs)
        return energy(z @ self.weight_.T.astype(z.dtype) + outputs.head_bias)


@dataclass
class ASH(Scorer):
    r"""Energy after pruning an embedding to its largest activations; any real number.

    Below the percentile of its own row an activation becomes 0. With $s_1$ and $s_2$ the sums before
    and after, variant "s" multiplies what is left by $e^{s_1/s_2}$; "b" shares $s_1$ equally among it.
    Raises `ValueError` for negative embeddings.

    Source: Djurisic et al., 2023, who prune feature maps before pooling; we prune the embedding.
    """

    variant: str = "s"
    percentile: float = 90.0
    reads = ("embeddings", "head_weight", "head_bias")

    def _score(self, outputs: Outputs) -> np.ndarray:
        if self.variant not in ("s", "b"):
            raise ValueError(f'the variant must be "s" or "b", not {self.variant!r}')
        z = non_negative(self, outputs)
        kept = largest(z, self.percentile)
        if self.variant == "s":
            pruned, scale = z * kept, np.exp(sum_ratio(z, kept))
        else:
            level = z.sum(1, keepdims=True) / np.count_nonzero(kept, axis=1, keepdims=True)
            pruned, scale = kept.astype(z.dtype), level.astype(z.dtype)
        return energy(scale * (pruned @ outputs.head_weight.T) + outputs.head_bias)


@dataclass
class SCALE(Scorer):
    r"""Energy of $Wze^{s_1/s_2}+b$, any real number.

    $s_1$ is the sum of an embedding, $s_2$ that of its activations above a percentile; nothing is
    pruned. Raises `ValueError` for negative embeddings.

    Source: Xu et al., 2024, who scale feature maps before pooling; we scale the embedding.
    """

    percentile: float = 85.0
    reads = ("embeddings", "head_weight", "head_bias")

    def _score(self, outputs: Outputs) -> np.ndarray:
        z = non_negative(self, outputs)
        scale = np.exp(sum_ratio(z, largest(z, self.percentile)))
        return energy(scale * (z @ outputs.head_weight.T) + outputs.head_bias)


def quantile(values: np.ndarray, share: float) -> np.float64:
    """Return the quantile of all values, between two of them in proportion, as `np.quantile` does.

    Finding both by a partition of the flat array is several times as fast.
    """
    place = share * (values.size - 1)
    ordered = np.partition(values, int(place), axis=None)
    below, above = ordered[int(place)], ordered[int(place) + 1 :]
    step = above.min() - below if above.size else 0.0
    return np.float64(below) + (place - int(place)) * np.float64(step)


def largest(z: np.ndarray, percentile: float) -> np.ndarray:
    """Return a mask N×D of each row's largest values; of equal ones the first."""
    dimensions = z.shape[1]
    kept = max(dimensions - round(dimensions * share_of(percentile)), 1)
    least = np.partition(z, dimensions - kept, axis=1)[:, dimensions - kept, None]
    mask = z >= least
    crowded = np.flatnonzero(np.count_nonzero(mask, axis=1) > kept)
    ties = z[crowded] == least[crowded]
    too_many = np.count_nonzero(mask[crowded], axis=1) - kept
    from_the_end = ties[:, ::-1].cumsum(1)[:, ::-1]
    mask[crowded] &= ~(ties & (from_the_end <= too_many[:, None]))
    return mask


def sum_ratio(z: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return $s_1/s_2$, N×1; 1 for a row of zeros."""
    total, left = z.sum(1, keepdims=True), np.vecdot(z, kept)[:, None]
    return np.divide(total, left, out=np.ones_like(total), where=left > 0)
