"""Last layers: an embedding, B×D, to one logit per class, B×C, and the embedding they want.

Each but the Gaussian one has `weight` C×D and `bias` C with $Wz+b$ equal to the logits, up to a number
per row that no softmax sees; scorers read them. `neck` makes the embedding of the pooled features.
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


class GaussianHead(nn.Module):
    r"""A spherical Gaussian a class: $\ell_c=\log\pi_c-D_c$ with the distance
    $D_c=\frac{\|z-\mu_c\|^2}{2\sigma_c^2}+D\log\sigma_c$.

    $\sigma_c\ge\sqrt{T/2}$, where it begins and, if `fixed_scale`, stays; so T = 2 gives $\log\sigma\ge0$.
    Without a floor, $D_y$ would fall for ever as $z\to\mu_y$ and $\sigma\to0$. Means begin at random, so
    far out ($\|\mu\|^2\approx\sigma^2\log999(C-1)$) that embeddings at the means would have a posterior of
    0.999. Priors π are even until they are set. As each class has its own σ, the logits are not linear
    in z: `weight` and `bias` are None.

    Source: Lee et al., 2020, "Multi-class data description…" (Deep-MCDD), who learn $\log\pi_c$, start
    means nearer to 0, and keep $\log\sigma\ge0$ by a ReLU from 0, where it passes no gradient; here
    each training step is projected.
    """

    weight: None = None
    bias: None = None
    log_priors: torch.Tensor

    def __init__(
        self,
        dimensions: int,
        num_classes: int,
        temperature: float = 2.0,
        fixed_scale: bool = False,
    ):
        super().__init__()
        radius = math.sqrt(temperature / 2 * math.log(999 * max(num_classes - 1, 1)))
        directions = torch.randn(num_classes, dimensions) / math.sqrt(dimensions)
        self.means = nn.Parameter(radius * directions)
        self.growth = nn.Parameter(torch.zeros(num_classes), requires_grad=not fixed_scale)
        self.least_log_scale = math.log(temperature / 2) / 2
        self.register_buffer("log_priors", torch.full((num_classes,), -math.log(num_classes)))

    @property
    def log_scales(self) -> torch.Tensor:
        """log σ, C."""
        return self.least_log_scale + self.growth.clamp(min=0)

    def distances(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return D_c of each class, B×C."""
        if self.training:
            self.growth.data.clamp_(min=0)
        with torch.autocast(embedding.device.type, enabled=False):
            return gaussian_distances(embedding.float(), self.means, self.log_scales)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.log_priors - self.distances(embedding)

    def set_means(self, means: torch.Tensor) -> None:
        """Make the mean embedding of each class, C×D, that of its Gaussian."""
        self.means.data.copy_(means)

    def set_priors(self, priors: torch.Tensor) -> None:
        """Set how frequent each class is, C positive numbers, of any sum."""
        if priors.shape != self.log_priors.shape or not (priors > 0).all():
            raise ValueError(
                f"priors must be {len(self.log_priors)} positive numbers, got {priors}"
            )
        self.log_priors.copy_((priors / priors.sum()).log())


def gaussian_distances(
    embedding: torch.Tensor, means: torch.Tensor, log_scales: torch.Tensor
) -> torch.Tensor:
    r"""Return $\frac{\|z-\mu_c\|^2}{2\sigma_c^2}+D\log\sigma_c$, B×C, in nats; log_scales C.

    It is $-\log N(z;\mu_c,\sigma_c^2I)$ without its $\frac D2\log2\pi$.
    """
    squares = squared_distances(embedding, means) / (2 * (2 * log_scales).exp())
    return squares + means.shape[1] * log_scales


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


Head = LinearHead | CosineHead | PrototypeHead | GaussianHead
HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
    "cosine": CosineHead,
    "prototypes": PrototypeHead,
    "gaussians": GaussianHead,
    "cosine_of_features": CosineHead,
}


def make(
    name: str,
    features: int,
    num_classes: int,
    dimensions: int = 0,
    temperature: float = 1.0,
    fixed_scale: bool = False,
) -> tuple[nn.Module, Head]:
    """Return the neck, pooled features to embedding, and the head of a name of `HEADS`.

    `dimensions` is that of the embedding, 0 as many as there are features. A linear head with 0
    takes the features themselves, which are not negative; the others a linear map of them, so that
    an embedding can lie on any side of the origin; "cosine_of_features" instead the features less
    their mean over dimensions (a layer norm without weights). `fixed_scale` is for Gaussians. Raises
    `ValueError` for an unknown name, a temperature that is not positive, dimensions where nothing maps
    the features, or a scale to be fixed that is not there.
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
    if fixed_scale and name != "gaussians":
        raise ValueError(f"only the head 'gaussians' has a scale that could be fixed, got {name!r}")
    scale = {"fixed_scale": True} if fixed_scale else {}
    return nn.Sequential(*steps), HEADS[name](d, num_classes, temperature, **scale)


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
