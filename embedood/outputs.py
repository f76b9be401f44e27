"""One forward pass, kept as arrays: everything that a score can be computed from."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from embedood import noise, runtime
from embedood.models import Classifier, Forward
from embedood.splits import UNSEEN, Part


@dataclass(frozen=True)
class Outputs:
    """What a trained network says of N images.

    logits N×C, embeddings N×D, labels N (−1 = unseen), head_weight C×D, head_bias C;
    mse N: the mean squared error of the reconstructed clean image; mse_noised N: of the image
    denoised after the training noise was put on, where that was asked for.
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
def compute(
    model: Classifier, part: Part, noise_seed: int | None = None, batch_size: int = 512
) -> Outputs:
    """Return the network's outputs for a part, in eval mode and float32, whatever mode it was in.

    With a `noise_seed`, `mse_noised` is measured too, by a second pass over images whose noise is
    drawn for the whole part from that seed.
    """
    images = torch.from_numpy(part.images)
    rows = [_batch(model, batch.float() / 255) for batch in images.split(batch_size)]
    logits, embeddings, *errors = (np.concatenate(column) for column in zip(*rows, strict=True))
    mse = errors[0] if errors else None
    weight, bias = (t.detach().float().cpu().numpy() for t in (model.head.weight, model.head.bias))
    noised = None if noise_seed is None else _noised_errors(model, images, noise_seed, batch_size)
    return Outputs(logits, embeddings, part.labels, weight, bias, mse, noised)


def reconstruct(model: Classifier, images: torch.Tensor) -> torch.Tensor:
    """Return the decoder's picture of images in [0, 1], B×C×H×W, in eval mode on the CPU.

    Raises `ValueError` for a network without a decoder.
    """
    with torch.inference_mode():
        picture = _forward(model, images).reconstruction
    if picture is None:
        raise ValueError(f"{type(model).__name__} has no decoder, so it redraws no image")
    return picture.cpu()


def _forward(model: Classifier, images: torch.Tensor) -> Forward:
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    answer = model(images.to(device).contiguous(memory_format=torch.channels_last))
    model.train(was_training)
    return answer


def _batch(model: Classifier, clean: torch.Tensor) -> list[np.ndarray]:
    answer = _forward(model, clean)
    found = [answer.logits, answer.embedding]
    if answer.reconstruction is not None:
        found.append((answer.reconstruction.cpu() - clean).square().mean((1, 2, 3)))
    return [t.cpu().numpy() for t in found]


def _noised_errors(
    model: Classifier, images: torch.Tensor, seed: int, batch_size: int
) -> np.ndarray:
    clean = images.float() / 255
    noised = noise.denoising_noise(clean, runtime.generator(seed, "evaluation"))
    pictures = torch.cat([reconstruct(model, batch) for batch in noised.split(batch_size)])
    return (pictures - clean).square().mean((1, 2, 3)).numpy()


def pseudo_ood(model: Classifier, part: Part, recipe: str, denoised: bool, seed: int = 0) -> Part:
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
