"""Spoiled images: the denoiser's noise, pseudo-OOD made from known images, batched augmentation.

All functions take images in [0, 1] of shape B×C×H×W on any device, draw from the given generator
only, and return new images of the same shape and range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

Generator = torch.Generator
Images = torch.Tensor


def denoising_noise(
    images: Images, generator: Generator, sigma: float = 0.3, square: tuple[int, int] = (10, 14)
) -> Images:
    r"""Add Gaussian noise and one random grey square to each image.

    $\tilde x = \mathrm{clamp}_{[0,1]}(m\,g + (1-m)(x + \sigma\varepsilon))$, $m$ the mask of a square
    of side `square[0]`…`square[1]` pixels that lies wholly inside the image, $g\sim U(0,1)$.

    Source: the project report of chapter 02; σ, the grey and the clamping are our choice.
    """
    noisy = images + sigma * _normal(images.shape, images, generator)
    mask = square_mask(images, generator, *square)
    grey = _uniform((len(images), 1, 1, 1), images, generator)
    return torch.where(mask, grey, noisy).clamp_(0, 1)


def square_mask(images: Images, generator: Generator, smallest: int, largest: int) -> torch.Tensor:
    """Return a boolean mask B×1×H×W of one random square per image, sides in pixels, both included."""
    count, _, height, width = images.shape
    if not 1 <= smallest <= largest <= min(height, width):
        raise ValueError(
            f"a square of {smallest} to {largest} pixels does not fit images of {height}×{width}; "
            f"its sides must satisfy 1 ≤ smallest ≤ largest ≤ {min(height, width)}"
        )
    side = torch.randint(smallest, largest + 1, (count,), generator=generator, device=images.device)
    rows = _span(height, side, images, generator)
    columns = _span(width, side, images, generator)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _span(length: int, side: torch.Tensor, images: Images, generator: Generator) -> torch.Tensor:
    """Mark `side` consecutive positions of `length`, the first one uniform over all that fit."""
    start = (_uniform(side.shape, images, generator) * (length - side + 1)).long()
    position = torch.arange(length, device=images.device)
    return (position >= start[:, None]) & (position < (start + side)[:, None])


def quarter_turns(images: Images, generator: Generator) -> Images:
    """Rotate each image by 90° or 270°; never by 180°, which maps 6 to 9 and leaves 8 alone."""
    return turn(images, generator)[0]


def turn(images: Images, generator: Generator) -> tuple[Images, torch.Tensor]:
    """Rotate as `quarter_turns` does, and say how: 1 is to the left (90°), 2 to the right (270°)."""
    left = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    turned = torch.where(left, images.rot90(1, (2, 3)), images.rot90(3, (2, 3)))
    return turned, 2 - left.flatten().long()


def occlude(images: Images, generator: Generator, smallest: int = 24, largest: int = 28) -> Images:
    """Cover each image heavily, by one square, black to white, wider than any seen in training.

    The sides suit 28×28 digits: they are the smallest at which a network reads what is left no better
    than quarter turns (chapter 03); under 14 to 18 pixels it still reads four digits in five.
    """
    mask = square_mask(images, generator, smallest, largest)
    grey = _uniform((len(images), 1, 1, 1), images, generator)
    return torch.where(mask, grey, images)


def overlay(images: Images, generator: Generator) -> Images:
    """Lay another image of the batch over each one, pixel by pixel the brighter of the two."""
    return torch.maximum(images, images[_partners(images, generator)])


def splice(images: Images, generator: Generator) -> Images:
    """Join the top half of each image with the bottom half of another, or left with right."""
    partner = images[_partners(images, generator)]
    height, width = images.shape[-2:]
    flat = torch.zeros(height, width, dtype=torch.bool, device=images.device)
    top, left = flat.clone(), flat.clone()
    top[: height // 2], left[:, : width // 2] = True, True
    upright = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(torch.where(upright, top, left), images, partner)


def mirror(images: Images, generator: Generator) -> Images:
    """Close each image upon itself: the brighter of it and its left-right or upside-down mirror."""
    upright = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.maximum(images, torch.where(upright, images.flip(2), images.flip(3)))


def warp(images: Images, generator: Generator, strength: float = 0.35, grid: int = 4) -> Images:
    """Bend each image by a smooth random displacement field.

    A `grid`×`grid` field of uniform displacements in ±`strength` (1 = half the image side) is
    interpolated to every pixel.
    """
    coarse = _uniform((len(images), 2, grid, grid), images, generator) * 2 - 1
    shift = F.interpolate(coarse * strength, images.shape[-2:], mode="bicubic", align_corners=True)
    identity = torch.eye(2, 3, device=images.device, dtype=images.dtype).expand(len(images), 2, 3)
    field = F.affine_grid(identity, list(images.shape), align_corners=False)
    return F.grid_sample(
        images, field + shift.permute(0, 2, 3, 1), align_corners=False, padding_mode="zeros"
    ).clamp_(0, 1)


def photo_crops(
    images: Images, generator: Generator, photo: str = "china.jpg", side: int = 224
) -> Images:
    """Return grey pieces of a photograph, none of what is in the images: a data set of another kind.

    Squares of `side` pixels of scikit-learn's "china.jpg" or "flower.jpg", shrunk to the images' size.
    """
    whole = _photo(photo).to(images.device, images.dtype)
    top, left = (
        (_uniform((len(images),), images, generator) * (length - side + 1)).long()
        for length in whole.shape
    )
    size = images.shape[-2:]
    pieces = [
        F.interpolate(whole[None, None, y : y + side, x : x + side], size, mode="area")
        for y, x in zip(top.tolist(), left.tolist(), strict=True)
    ]
    return torch.cat(pieces).expand(images.shape).clone()


@cache
def _photo(name: str) -> torch.Tensor:
    from sklearn.datasets import load_sample_image

    return torch.from_numpy(load_sample_image(name).mean(2) / 255).float()


def _partners(images: Images, generator: Generator) -> torch.Tensor:
    """Pick another image for each one: a shift of the batch by 1 … B−1 places."""
    count = len(images)
    step = torch.randint(1, max(count, 2), (1,), generator=generator, device=images.device)
    return (torch.arange(count, device=images.device) + step) % count


Recipe = Callable[[Images, Generator], Images]

# "report" is completed by the denoiser's own output: see `pseudo_ood`.
PSEUDO_OOD: dict[str, tuple[Recipe, ...]] = {
    "rotated": (quarter_turns,),
    "occluded": (occlude,),
    "report": (quarter_turns, occlude),
    "overlay": (overlay,),
    "splice": (splice,),
    "mirror": (mirror,),
    "warp": (warp,),
    "shapes": (quarter_turns, overlay, splice, mirror, warp),
}

# What a training may be shown as outliers: the above, or pictures that were never digits.
OUTLIERS: dict[str, tuple[Recipe, ...]] = PSEUDO_OOD | {"photos": (photo_crops,)}


def spoil(images: Images, recipe: str, generator: Generator) -> Images:
    """Turn known images into images of no class by a recipe of `OUTLIERS`.

    A recipe of several parts gives each part a share of the batch, image i the part i mod n.
    """
    if recipe not in OUTLIERS:
        raise ValueError(f"unknown pseudo-OOD {recipe!r}; the recipes are {', '.join(OUTLIERS)}")
    parts = OUTLIERS[recipe]
    spoiled = images.clone()
    for number, part in enumerate(parts):
        spoiled[number :: len(parts)] = part(images[number :: len(parts)], generator)
    return spoiled


def random_shift(images: Images, generator: Generator, most: int) -> Images:
    """Translate each image by −`most`…`most` whole pixels in both directions, filling with zeros."""
    if most == 0:
        return images
    count, _, height, width = images.shape
    padded = F.pad(images, (most,) * 4)
    offset = torch.randint(
        0, 2 * most + 1, (2, count, 1), generator=generator, device=images.device
    )
    rows = offset[0] + torch.arange(height, device=images.device)
    columns = offset[1] + torch.arange(width, device=images.device)
    index = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def random_affine(images: Images, generator: Generator, strength: float) -> Images:
    """Rotate, scale and shear each image about its centre, bilinearly, filling with zeros.

    `strength` 1 draws angles in ±15°, factors of size in 1 ± 0.15, shears in ±0.2; 0 draws nothing.
    """
    if strength == 0:
        return images
    angle, size, shear = strength * (
        (_uniform((3, len(images)), images, generator) * 2 - 1)
        * torch.tensor([[math.radians(15)], [0.15], [0.2]], device=images.device)
    )
    cos, sin = angle.cos() / (1 + size), angle.sin() / (1 + size)
    zero = torch.zeros_like(angle)
    maps = torch.stack([cos, shear - sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def random_flip(images: Images, generator: Generator, probability: float) -> Images:
    """Mirror each image left to right with the given probability; 0 draws nothing."""
    if probability == 0:
        return images
    flipped = _uniform((len(images), 1, 1, 1), images, generator) < probability
    return torch.where(flipped, images.flip(3), images)


class Blends(NamedTuple):
    """Blended images B×C×H×W, and of what: image i is a `share` B of itself, the rest its `partner` B."""

    images: Images
    partner: torch.Tensor
    share: torch.Tensor


def blend(images: Images, generator: Generator, concentration: int = 10) -> Blends:
    r"""Blend each image with another one of the batch, $\lambda x_i+(1-\lambda)x_j$.

    $\lambda\sim\mathrm{Beta}(a,a)$ with a the `concentration`, a whole number: the median of $2a-1$
    uniform numbers. At 10, nine of ten blends are between 0.3 and 0.7. Raises `ValueError` below 1.

    Source: Zhang et al., 2018, "mixup…"; a = 10: Pinto et al., 2022, "RegMixup".
    """
    if concentration < 1:
        raise ValueError(f"the concentration is a whole number from 1 on, got {concentration}")
    partner = _partners(images, generator)
    share = _uniform((len(images), 2 * concentration - 1), images, generator).median(1).values
    own = share[:, None, None, None]
    return Blends(own * images + (1 - own) * images[partner], partner, share)


def _uniform(shape: tuple[int, ...], like: Images, generator: Generator) -> torch.Tensor:
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)


def _normal(shape: tuple[int, ...], like: Images, generator: Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
