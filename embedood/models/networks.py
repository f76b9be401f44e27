"""Networks: images in [0, 1], B×C×H×W, to an embedding, class logits and more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from embedood.models import heads
from embedood.models.heads import Head


class Forward(NamedTuple):
    """What a network says of a batch."""

    logits: torch.Tensor  # B×C
    embedding: torch.Tensor  # B×D
    reconstruction: torch.Tensor | None  # like the images; None without a decoder


class Classifier(nn.Module):
    """Base of all networks here: `forward` answers with `Forward`, `head` is the last layer.

    `dimensions` is D of the embedding.
    """

    head: Head
    dimensions: int


def memory_format(model: nn.Module) -> torch.memory_format:
    """Return channels-last, which is faster, or the default format where channels-last is not safe.

    oneDNN's AVX2 kernel for the gradient of a strided 1×1 convolution (torch 2.13) writes out of
    bounds in channels-last unless the input channels are a multiple of 8: it crashes or hangs.
    """
    narrow = (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.in_channels % 8)
    unsafe = any(m.kernel_size == (1, 1) and m.stride != (1, 1) for m in narrow)
    return torch.contiguous_format if unsafe else torch.channels_last


def convolution(channels_in: int, channels_out: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps the side, or divides it by the stride."""
    return nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    r"""ResNet's basic block, $\mathrm{relu}(s(x) + f_2(\mathrm{relu}(f_1(x))))$, s the shortcut.

    Batch norm follows each convolution. `stride=2` halves the side; `upsample=True` doubles it first
    (nearest neighbour), which makes the block the mirror of a strided one.

    Source: He et al., 2016, "Deep residual learning for image recognition".
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int = 1, upsample: bool = False
    ):
        super().__init__()
        self.upsample = upsample
        self.conv1 = convolution(channels_in, channels_out, stride=stride)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = convolution(channels_out, channels_out)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                convolution(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.upsample:
            x = F.interpolate(x, scale_factor=2)
        inner = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(inner)).add_(self.shortcut(x)), inplace=True)


class DenoisingClassifier(Classifier):
    """A classifier and a denoiser that share their first ten convolutions.

    ResNet-18 without its last stage: stem and stages 1–2 (widths w, w, 2w) are shared; the classifier
    goes on with stage 3 (4w), average pooling and a linear layer; the decoder mirrors the shared part.
    The embedding is the pooled output of stage 3, D = 4w, non-negative.

    Source: the project report of chapter 02. It gives "ResNet-18 blocks", "no last stage" and "the
    first ten layers shared"; the 3×3 stem and the widths are our reading.
    """

    def __init__(self, num_classes: int, width: int = 64, channels: int = 1):
        super().__init__()
        w = width
        self.shared = nn.Sequential(
            convolution(channels, w), nn.BatchNorm2d(w), nn.ReLU(inplace=True),
            BasicBlock(w, w), BasicBlock(w, w),
            BasicBlock(w, 2 * w, stride=2), BasicBlock(2 * w, 2 * w),
        )  # fmt: skip
        self.stage3 = nn.Sequential(BasicBlock(2 * w, 4 * w, stride=2), BasicBlock(4 * w, 4 * w))
        self.dimensions = 4 * w
        self.head = heads.LinearHead(4 * w, num_classes)
        self.decoder = nn.Sequential(
            BasicBlock(2 * w, 2 * w), BasicBlock(2 * w, w, upsample=True),
            BasicBlock(w, w), BasicBlock(w, w),
            nn.Conv2d(w, channels, 3, padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> Forward:
        features = self.shared(images)
        embedding = self.stage3(features).mean((2, 3))
        return Forward(self.head(embedding), embedding, self.decoder(features))


class EmbeddingClassifier(Classifier):
    """Pooled features, then a neck that makes the embedding of them, then a head (see `heads`)."""

    def __init__(
        self,
        features: nn.Module,
        channels: int,
        num_classes: int,
        head: str = "linear",
        dimensions: int = 0,
        temperature: float = 1.0,
        fixed_scale: bool = False,
    ):
        super().__init__()
        self.features = features
        self.dimensions = dimensions or channels
        self.neck, self.head = heads.make(
            head, channels, num_classes, dimensions, temperature, fixed_scale
        )

    def forward(self, images: torch.Tensor) -> Forward:
        embedding = self.neck(self.features(images).mean((2, 3)))
        return Forward(self.head(embedding), embedding, None)


class CompactClassifier(EmbeddingClassifier):
    """Three stages of two 3×3 convolutions, w, 2w and 4w channels wide, pooled by two in between.

    Batch norm and ReLU follow each convolution; 4w features are averaged over the image. On 28×28
    images it costs a fifth of `DenoisingClassifier`.

    Source: ours, after Simonyan & Zisserman, 2015, "Very deep convolutional networks…".
    """

    def __init__(self, num_classes: int, width: int = 32, channels: int = 1, **head: Any):
        w = width
        features = nn.Sequential(
            _layer(channels, w), _layer(w, w), nn.MaxPool2d(2),
            _layer(w, 2 * w), _layer(2 * w, 2 * w), nn.MaxPool2d(2),
            _layer(2 * w, 4 * w), _layer(4 * w, 4 * w),
        )  # fmt: skip
        super().__init__(features, 4 * w, num_classes, **head)


class ResidualClassifier(EmbeddingClassifier):
    """A stem of w channels, then three stages of 2w, 4w and 8w, each halving the side first.

    A stage is a 3×3 convolution and one `BasicBlock`; 8w features are averaged over the image. Made
    for 32×32 photographs: pooling before widening keeps most of the work on small images.

    Source: ours, after He et al., 2016, and the nine-layer residual networks of fast CIFAR training.
    """

    def __init__(self, num_classes: int, width: int = 16, channels: int = 3, **head: Any):
        super().__init__(_residual_features(width, channels), 8 * width, num_classes, **head)


class Residual13Classifier(EmbeddingClassifier):
    """`ResidualClassifier` with one more `BasicBlock` of w channels, before the first pooling.

    Thirteen layers with weights, the linear one included. The block sees the image at its full size.

    Source: ours, after He et al., 2016.
    """

    def __init__(self, num_classes: int, width: int = 16, channels: int = 3, **head: Any):
        features = _residual_features(width, channels, BasicBlock(width, width))
        super().__init__(features, 8 * width, num_classes, **head)


class Whitening(nn.Module):
    r"""Patches of 2×2 pixels, whitened: $\pm(v_k^\top(x - \mu))/\sqrt{\lambda_k + \epsilon}$, two for each k.

    $\lambda_k$ and $v_k$ are eigenvalues and eigenvectors of the patches' covariance, of which there are
    4C, $\mu$ their mean. `fit` computes them; nothing here is trained.

    Source: Page, 2019, "How to train your ResNet 8: bag of tricks"; both signs, so that ReLU loses
    nothing, after Jordan, 2024, "94 % on CIFAR-10 in 3.29 seconds on a single GPU".
    """

    EPSILON = 3e-5  # of the variance of pixels in [0, 1]: what is fainter is not made louder
    filters: torch.Tensor
    bias: torch.Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.channels = 8 * channels
        self.register_buffer("filters", torch.randn(self.channels, channels, 2, 2))
        self.register_buffer("bias", torch.zeros(self.channels))

    def fit(self, images: torch.Tensor) -> None:
        """Learn from images in [0, 1], N×C×H×W."""
        patches = F.unfold(images, 2, stride=2).transpose(1, 2).flatten(0, 1)
        variances, directions = torch.linalg.eigh(torch.cov(patches.T))
        filters = directions.T / (variances[:, None] + self.EPSILON).sqrt()
        filters = torch.cat([filters, -filters])
        self.filters.copy_(filters.view_as(self.filters))
        self.bias.copy_(-filters @ patches.mean(0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(images, self.filters, self.bias)


class WhitenedClassifier(EmbeddingClassifier):
    """Whitened patches, then three stages of w, 4w and 8w channels, for photographs and little time.

    A stage is a 3×3 convolution, pooled before its batch norm, and another one with a shortcut around it;
    8w features are averaged over the image. All convolutions begin as the identity, as far as they can.
    `whiten` must see training images before training does; `runs.fit` takes care of it.

    Source: ours, after Jordan, 2024, "94 % on CIFAR-10 in 3.29 seconds on a single GPU".
    """

    def __init__(self, num_classes: int, width: int = 32, channels: int = 3, **head: Any):
        w, whitening = width, Whitening(channels)
        features = nn.Sequential(
            whitening, nn.ReLU(inplace=True),
            PooledStage(whitening.channels, w), PooledStage(w, 4 * w), PooledStage(4 * w, 8 * w),
        )  # fmt: skip
        super().__init__(features, 8 * w, num_classes, **head)

    @torch.no_grad()
    def whiten(self, images: torch.Tensor) -> None:
        """Fit the first layer to training images, in [0, 1]."""
        for layer in self.modules():
            if isinstance(layer, Whitening):
                layer.fit(images)


class PooledStage(nn.Module):
    """A 3×3 convolution, halved by max pooling, and a second one with a shortcut around it."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv = convolution(channels_in, channels_out)
        self.norm = nn.BatchNorm2d(channels_out)
        self.inner = _layer(channels_out, channels_out)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.dirac_(conv.weight[: conv.in_channels])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(F.max_pool2d(self.conv(x), 2)), inplace=True)
        return x + self.inner(x)


class TurningClassifier(CompactClassifier):
    """A compact classifier with a second head, `turned`, for class × quarter turn, 3C logits.

    Only training asks the second head. It keeps the embedding from forgetting what tells nothing of
    the class, which is what an unseen class may differ in.

    Source: after Hendrycks et al., 2019, "Using self-supervised learning…", and the joint labels of
    Lee et al., 2020, "Self-supervised label augmentation…"; no half turns, which confuse 6 and 9.
    """

    def __init__(self, num_classes: int, width: int = 32, channels: int = 1, **head: Any):
        super().__init__(num_classes, width, channels, **head)
        self.turned = nn.Linear(self.dimensions, 3 * num_classes)


class TurningResidual13Classifier(Residual13Classifier):
    """`Residual13Classifier` with the second head of `TurningClassifier`."""

    def __init__(self, num_classes: int, width: int = 16, channels: int = 3, **head: Any):
        super().__init__(num_classes, width, channels, **head)
        self.turned = nn.Linear(self.dimensions, 3 * num_classes)


def _layer(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(channels_in, channels_out), nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)
    )


def _residual_features(width: int, channels: int, *first: nn.Module) -> nn.Sequential:
    """A stem, `first` blocks at full size, and three stages that pool, widen and add a block."""
    w = width
    stages = [(w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w)]
    return nn.Sequential(
        _layer(channels, w),
        *first,
        *(nn.Sequential(nn.MaxPool2d(2), _layer(i, o), BasicBlock(o, o)) for i, o in stages),
    )


ARCHITECTURES: dict[str, Callable[..., Classifier]] = {
    "denoising": DenoisingClassifier,
    "compact": CompactClassifier,
    "turning": TurningClassifier,
    "residual": ResidualClassifier,
    "residual13": Residual13Classifier,
    "residual13_turning": TurningResidual13Classifier,
    "whitened": WhitenedClassifier,
}


def build(
    architecture: str, num_classes: int, width: int, channels: int, **head: Any
) -> Classifier:
    """Return a network of `ARCHITECTURES` with random weights.

    `head`, `dimensions`, `temperature` and `fixed_scale` are those of `heads.make`; the denoising
    classifier has none but the linear one. Raises `ValueError` for an unknown name.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"unknown architecture {architecture!r}; the architectures are {known}")
    if architecture == "denoising":
        if head.get("head", "linear") != "linear" or head.get("dimensions"):
            raise ValueError(f"the denoising classifier has a linear head of its own, got {head}")
        head = {}
    return ARCHITECTURES[architecture](num_classes, width, channels, **head)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable scalars."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
