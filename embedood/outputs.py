"""One forward pass, kept as arrays: everything that a score can be computed from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from embedood import noise, runtime
from embedood.models import Classifier, Forward, memory_format
from embedood.splits import UNSEEN, Part

HEAD = ("head_weight", "head_bias")  # belong to the network, not to a row


@dataclass(frozen=True)
class Outputs:
    """What a trained network says of N images.

    logits N×C, embeddings N×D, labels N (−1 = unseen), head_weight C×D, head_bias C;
    mse N: the mean squared error of the reconstructed clean image; mse_noised N: of the image
    denoised after the training noise was put on, where that was asked for; perturbed_logits N×C: of
    the image pushed towards its predicted class, for ODIN. The head may be None for scores that do
    not read it. `outputs[rows]` picks rows.
    """

    logits: np.ndarray
    embeddings: np.ndarray
    labels: np.ndarray
    head_weight: np.ndarray
    head_bias: np.ndarray
    mse: np.ndarray | None = None
    mse_noised: np.ndarray | None = None
    perturbed_logits: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, rows: slice | np.ndarray) -> Outputs:
        """Return the outputs of some rows: a slice, a mask or indices; of one image, `[i : i + 1]`."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        of_rows = {n: a[rows] for n, a in arrays.items() if a is not None and n not in HEAD}
        return replace(self, **of_rows)

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


def compute(
    model: Classifier,
    part: Part,
    noise_seed: int | None = None,
    batch_size: int = 512,
    odin_epsilon: float | None = None,
    mixed_precision: bool = False,
) -> Outputs:
    """Return the network's outputs for a part, in eval mode and float32, whatever mode it was in.

    With a `noise_seed`, `mse_noised` is measured too, by a second pass over images whose noise is
    drawn for the whole part from that seed; with `odin_epsilon`, `perturbed_logits`, by two more
    passes of which one is differentiated. With `mixed_precision`, the embedding is computed as in
    training, in bfloat16 where the processor multiplies it natively, which is twice as fast there;
    the head stays in float32.
    """
    images = torch.from_numpy(part.images)
    rows = [
        _batch(model, batch.float() / 255, mixed_precision) for batch in images.split(batch_size)
    ]
    logits, embeddings, *errors = (np.concatenate(column) for column in zip(*rows, strict=True))
    mse = errors[0] if errors else None
    weight, bias = _linear_head(model)
    noised = None if noise_seed is None else _noised_errors(model, images, noise_seed, batch_size)
    perturbed = None
    if odin_epsilon is not None:
        batches = (batch.float() / 255 for batch in images.split(batch_size))
        perturbed = np.concatenate([_perturbed_logits(model, b, odin_epsilon) for b in batches])
    return Outputs(logits, embeddings, part.labels, weight, bias, mse, noised, perturbed)


def _linear_head(model: Classifier) -> tuple[Any, Any]:
    """Weight and bias of the head, or None and None where logits are not linear in the embedding."""
    weight, bias = model.head.weight, model.head.bias
    if weight is None or bias is None:
        return None, None
    return weight.detach().float().cpu().numpy(), bias.detach().float().cpu().numpy()


def compute_mirrored(model: Classifier, part: Part, shift: int = 0, **how: Any) -> Outputs:
    """Return the mean of `compute` over each image and its left-right mirror image, at twice the time.

    With a `shift`, in pixels and less than the side, over six views: both moved towards the upper left
    and the lower right as well, their rim filled by reflection. For networks that were trained on such
    images. $Wz+b$ still gives the logits, up to a number per row; unit embeddings become shorter than
    1. ODIN perturbs each view by itself. Raises `ValueError` for a shift that is negative or too large.

    Source: mean over mirror images and shifts after Jordan, 2024, "94 % on CIFAR-10 in 3.29 seconds…".
    """
    if not 0 <= shift < min(part.images.shape[-2:]):
        raise ValueError(f"shift is 0 or more pixels, less than the image's side, got {shift}")
    views = [_moved(part.images, by) for by in ((0, -shift, shift) if shift else (0,))]
    views += [np.ascontiguousarray(view[..., ::-1]) for view in views]
    said = [compute(model, replace(part, images=view), **how) for view in views]
    of_rows = [f.name for f in fields(Outputs) if f.name not in (*HEAD, "labels")]
    columns = {name: [getattr(each, name) for each in said] for name in of_rows}
    means = {n: sum(column) / len(views) for n, column in columns.items() if column[0] is not None}
    return replace(said[0], **means)


def _moved(images: np.ndarray, by: int) -> np.ndarray:
    """Return images, N×C×H×W, moved by so many pixels down and to the right."""
    width = abs(by)
    padded = np.pad(images, ((0, 0), (0, 0), (width,) * 2, (width,) * 2), mode="reflect")
    start, (height, across) = width - by, images.shape[-2:]
    return np.ascontiguousarray(padded[..., start : start + height, start : start + across])


def ensemble(members: Sequence[Outputs]) -> Outputs:
    r"""Return several networks' outputs for the same rows as those of one: an ensemble.

    Embeddings stand side by side, $z=[z_1,\dots,z_M]$, N×ΣD; the head is
    $W=\frac1M[W_1,\dots,W_M]$, $b=\frac1M\sum b_m$, so that $Wz+b$ is the mean of the logits; errors are
    averaged. Every scorer can read it. Raises `ValueError` for none, or for other rows or classes.

    Source: Lakshminarayanan et al., 2017, "Simple and scalable predictive uncertainty…", who average
    probabilities, not logits.
    """
    shapes = [m.logits.shape for m in members]
    if len(set(shapes)) != 1 or any(
        not np.array_equal(m.labels, members[0].labels) for m in members
    ):
        raise ValueError(f"an ensemble needs outputs of the same rows and classes, got {shapes}")

    def mean(name: str) -> Any:
        arrays = [getattr(m, name) for m in members]
        return None if any(a is None for a in arrays) else np.mean(arrays, 0)

    averaged = ("logits", "head_bias", "mse", "mse_noised", "perturbed_logits")
    weights: Any = [m.head_weight for m in members]
    linear = all(weight is not None for weight in weights)
    return Outputs(
        embeddings=np.concatenate([m.embeddings for m in members], 1),
        labels=members[0].labels,
        head_weight=np.concatenate(weights, 1) / len(members) if linear else None,  # type: ignore[arg-type]
        **{name: mean(name) for name in averaged},
    )


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
    answer = model(images.to(device).contiguous(memory_format=memory_format(model)))
    model.train(was_training)
    return answer


@torch.inference_mode()
def _batch(model: Classifier, clean: torch.Tensor, mixed_precision: bool) -> list[np.ndarray]:
    if mixed_precision:
        with runtime.autocast(next(model.parameters()).device):
            answer = _forward(model, clean)
        embedding = answer.embedding.float()
        answer = answer._replace(embedding=embedding, logits=model.head(embedding))
    else:
        answer = _forward(model, clean)
    found = [answer.logits, answer.embedding]
    if answer.reconstruction is not None:
        found.append((answer.reconstruction.cpu() - clean).square().mean((1, 2, 3)))
    return [t.cpu().numpy() for t in found]


def _perturbed_logits(
    model: Classifier, images: torch.Tensor, epsilon: float, temperature: float = 1000.0
) -> np.ndarray:
    r"""Logits of $x-\epsilon\,\mathrm{sign}\nabla_xCE(\ell/T,\hat y)$: Liang et al., 2018, who do not clamp."""
    images = images.clone().requires_grad_()
    logits = _forward(model, images).logits
    # Summed, not averaged: a gradient that a large batch had divided to zero would lose its sign.
    loss = F.cross_entropy(logits / temperature, logits.argmax(1), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    with torch.inference_mode():
        return _forward(model, images - epsilon * gradient.sign()).logits.cpu().numpy()


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
