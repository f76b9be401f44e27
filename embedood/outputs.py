"""One forward pass, kept as arrays: everything that a score can be computed from."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import nn

from embedood import noise, runtime
from embedood.splits import UNSEEN, Part


@dataclass(frozen=True)
class Outputs:
    """What a trained network says of N images.

    logits N×C, embeddings N×D, labels N (−1 = unseen), head_weight C×D, head_bias C;
    mse N: the mean squared error of the reconstructed clean image; mse_noised N: of the image
    denoised after the training noise was put on; both None where there is no decoder.
    """

    logits: np.ndarray
    embeddings: np.ndarray
    labels: np.ndarray
    head_weight: np.ndarray
    head_bias: np.ndarray
    mse: np.ndarray | None = None
    mse_noised: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, N×C."""
        shifted = np.exp(self.logits - self.logits.max(1, keepdims=True))
        return shifted / shifted.sum(1, keepdims=True)

    def save(self, path: str | Path) -> None:
        """Write one compressed `.npz` file, atomically."""
        path = Path(path)
        partial = path.with_name(path.name + ".partial.npz")
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        np.savez_compressed(partial, **{n: a for n, a in arrays.items() if a is not None})
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> Outputs:
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})


@torch.inference_mode()
def compute(model: nn.Module, part: Part, noise_seed: int = 0, batch_size: int = 512) -> Outputs:
    """Return the network's outputs for a part, in eval mode and float32, whatever mode it was in.

    The noise for `mse_noised` is drawn once for the whole part from `noise_seed`.
    """
    images = torch.from_numpy(part.images)
    noised = _noised(images, noise_seed)
    rows = [
        _batch(model, clean, spoiled)
        for clean, spoiled in zip(images.split(batch_size), noised.split(batch_size), strict=True)
    ]
    logits, embeddings, mse, mse_noised = (np.concatenate(column) for column in zip(*rows, strict=True))
    weight, bias = (t.detach().float().cpu().numpy() for t in (model.head.weight, model.head.bias))
    return Outputs(logits, embeddings, part.labels, weight, bias, mse, mse_noised)


def reconstruct(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the decoder's picture of images in [0, 1], B×C×H×W, in eval mode on the CPU."""
    with torch.inference_mode():
        return _forward(model, images).reconstruction.cpu()


def _forward(model: nn.Module, images: torch.Tensor):
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    answer = model(images.to(device).contiguous(memory_format=torch.channels_last))
    model.train(was_training)
    return answer


def _batch(model: nn.Module, images: torch.Tensor, noised: torch.Tensor) -> list[np.ndarray]:
    clean = images.float() / 255
    answer = _forward(model, clean)
    errors = [
        (picture.cpu() - clean).square().mean((1, 2, 3))
        for picture in (answer.reconstruction, _forward(model, noised).reconstruction)
    ]
    return [t.cpu().numpy() for t in (answer.logits, answer.embedding, *errors)]


def _noised(images: torch.Tensor, seed: int) -> torch.Tensor:
    return noise.denoising_noise(images.float() / 255, runtime.generator(seed, "evaluation"))


def pseudo_ood(model: nn.Module, part: Part, recipe: str, denoised: bool, seed: int = 0) -> Part:
    """Return one pseudo-OOD image, labelled −1, for each image of a part of known classes.

    The images are spoiled by a recipe of `noise.PSEUDO_OOD`; with `denoised=True` they then pass the
    network's denoiser, as in the report, which makes them look like digits again.
    """
    clean = torch.from_numpy(part.images).float() / 255
    spoiled = noise.spoil(clean, recipe, runtime.generator(seed, "pseudo-ood", recipe))
    if denoised:
        spoiled = torch.cat([reconstruct(model, batch) for batch in spoiled.split(512)])
    images = (spoiled * 255).round().to(torch.uint8).numpy()
    return Part(images, np.full(len(images), UNSEEN), part.source_index)
