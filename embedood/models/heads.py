"""Last layers: an embedding, B×D, to one logit per class, B×C, and the embedding they want.

Each has `weight` C×D and `bias` C with $Wz+b$ equal to the logits, up to a number per row that no
softmax sees; scorers read them. `neck` makes the embedding of the network's pooled features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class LinearHead(nn.Linear):
    r"""$\ell = Wz + b$, on the pooled features as they are, or on a projection of them."""

    def __init__(self, dimensions: int, num_classes: int, temperature: float = 1.0):
        if temperature != 1:
            raise ValueError(f"a linear head has no temperature, got {temperature}; leave it at 1")
        super().__init__(dimensions, num_classes)


class CosineHead(nn.Module):
    r"""Normalised softmax, $\ell_c = \cos(z, w_c)/T$: unit embeddings, unit class directions, no bias.

    Source: Zhai & Wu, 2019, "Classification is a strong baseline for deep metric learning".
    """

    def __init__(self, dimensions: int, num_classes: int, temperature: float = 0.05):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(num_classes, dimensions))
        self.scale = 1 / temperature

    @property
    def weight(self) -> torch.Tensor:
        return self.scale * F.normalize(self.directions.float())

    @property
    def bias(self) -> torch.Tensor:
        return self.directions.new_zeros(len(self.directions))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return F.linear(embedding.float(), self.weight)

    def set_means(self, means: torch.Tensor) -> None:
        """Make the mean embedding of each class, C×D, its direction."""
        self.directions.data.copy_(means)


class PrototypeHead(nn.Module):
    r"""Distance-based cross-entropy, $\ell_c = -\|z-m_c\|^2/T$, one prototype a class, zero at first.

    $W_c=2m_c/T$ and $b_c=-\|m_c\|^2/T$ leave out $-\|z\|^2/T$, which is the same for all classes.

    Source: Yang et al., 2018, "Robust classification with convolutional prototype learning" (DCE).
    """

    def __init__(self, dimensions: int, num_classes: int, temperature: float = 1.0):
        super().__init__()
        self.prototypes = nn.Parameter(torch.zeros(num_classes, dimensions))
        self.temperature = temperature

    @property
    def weight(self) -> torch.Tensor:
        return 2 * self.prototypes / self.temperature

    @property
    def bias(self) -> torch.Tensor:
        return -self.prototypes.square().sum(1) / self.temperature

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return -squared_distances(embedding.float(), self.prototypes) / self.temperature

    def set_means(self, means: torch.Tensor) -> None:
        """Make the mean embedding of each class, C×D, its prototype."""
        self.prototypes.data.copy_(means)


def squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return ‖a_i − b_j‖², N×M, with a gradient that is finite everywhere.

    Centred first: expanded, the square of a small distance far from the origin would be lost.
    """
    centre = b.detach().mean(0)
    a, b = a - centre, b - centre
    return (a.square().sum(1)[:, None] - 2 * a @ b.T + b.square().sum(1)).clamp_min(0)


class UnitNorm(nn.Module):
    """Divide each row by its length."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return F.normalize(z.float())


Head = LinearHead | CosineHead | PrototypeHead
HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
    "cosine": CosineHead,
    "prototypes": PrototypeHead,
    "cosine_of_features": CosineHead,
}


def make(
    name: str, features: int, num_classes: int, dimensions: int = 0, temperature: float = 1.0
) -> tuple[nn.Module, Head]:
    """Return the neck, pooled features to embedding, and the head of a name of `HEADS`.

    `dimensions` is that of the embedding, 0 as many as there are features. A linear head with 0
    takes the features themselves, which are not negative; the others a linear map of them, so that
    an embedding can lie on any side of the origin; "cosine_of_features" instead the features less
    their mean over dimensions (a layer norm without weights). Raises `ValueError` for an unknown
    name, a temperature that is not positive, or dimensions where nothing maps the features.
    """
    if name not in HEADS:
        raise ValueError(f"unknown head {name!r}; the heads are {', '.join(HEADS)}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"the temperature of a head must be positive, got {temperature}")
    if name == "cosine_of_features" and dimensions not in (0, features):
        raise ValueError(f"{name} has the {features} dimensions of the features, not {dimensions}")
    d = dimensions or features
    steps: list[nn.Module] = []
    if name == "cosine_of_features":
        steps.append(nn.LayerNorm(features, elementwise_affine=False))
    elif name != "linear" or dimensions:
        steps.append(nn.Linear(features, d))
    if HEADS[name] is CosineHead:
        steps.append(UnitNorm())
    return nn.Sequential(*steps), HEADS[name](d, num_classes, temperature)


def least_scale(num_classes: int, posterior: float = 0.999) -> float:
    r"""Return the least scale $s=1/T$ at which a perfect normalised embedding reaches a posterior P.

    $s\ge\frac{C-1}C\ln\frac{(C-1)P}{1-P}$: 8.2 for ten classes, 11.4 for a hundred at P = 0.999.

    Source: Wang et al., 2017, "NormFace", proposition 2.
    """
    if num_classes < 2 or not 0 < posterior < 1:
        raise ValueError(f"needs two classes and 0 < P < 1, got C = {num_classes}, P = {posterior}")
    return (
        (num_classes - 1) / num_classes * math.log((num_classes - 1) * posterior / (1 - posterior))
    )
