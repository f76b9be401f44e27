"""The one training loop, written out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import swa_utils
from tqdm import tqdm

from embedood import models, runtime
from embedood.config import Schedule
from embedood.convergence import Watch
from embedood.muon import Muon
from embedood.objectives import Objective
from embedood.samplers import Sampler
from embedood.samplers.base import Look

Rates = torch.optim.lr_scheduler.LRScheduler
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "muon": Muon,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}


@dataclass
class TrainingSet:
    """Images uint8 N×C×H×W and labels int64 N, both on the training device."""

    images: torch.Tensor
    labels: torch.Tensor


def train(
    model: nn.Module,
    objective: Objective,
    data: TrainingSet,
    schedule: Schedule,
    sampler: Sampler,
    checkpoint: Path | None = None,
    quiet: bool | None = None,
    watch: Watch | None = None,
) -> list[dict[str, float]]:
    """Train the model in place and return one row of means per epoch.

    The `sampler` says which images make a batch and how many batches an epoch, and its generator
    is that of all that is random. With a `checkpoint` path the state is kept there after each epoch,
    and a call that finds one goes on to the identical end. `quiet` hides the bar; `watch` measures.

    Raises `FloatingPointError` when the loss is no longer finite.
    """
    generator = sampler.generator
    optimizer, rates = _optimizer(model, schedule, len(sampler))
    average = _average(model, schedule.averaging)
    parts = {"model": model, "optimizer": optimizer, "schedule": rates, "average": average}
    state = _State(parts | {"sampler": sampler, "watch": watch}, generator)
    history = state.restore(checkpoint)
    model.train()
    for epoch in range(len(history), schedule.epochs):
        meter = _Meter(f"epoch {epoch + 1}/{schedule.epochs}", len(data.images), quiet)
        side = side_in(schedule, epoch, data.images.shape[-1])
        sampler.look = _look(model, data, side)
        for batch in sampler:
            images = _images(data, batch, side)
            with runtime.autocast(images.device):
                step = objective(model, images, data.labels[batch], generator, sampler.weights)
            _descend(step.terms["loss"], optimizer, rates)
            if average:
                average.update_parameters(model)
            sampler.observe(batch, step)
            meter.add(step.terms, len(batch))
            if watch:
                watch.after_step(average.module if average else model, len(batch))
        history.append(meter.close())
        state.save(checkpoint, history)
    if average:
        model.load_state_dict(average.module.state_dict())
    return history


def _descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer, rates: Rates) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    rates.step()


def _optimizer(
    model: nn.Module, schedule: Schedule, steps: int
) -> tuple[torch.optim.Optimizer, Rates]:
    """Return the optimizer and its learning rates over epochs of so many steps.

    Raises `ValueError` for an unknown name of an optimizer or of rates.
    """
    if schedule.optimizer not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise ValueError(f"unknown optimizer {schedule.optimizer!r}; the optimizers are {known}")
    optimizer = OPTIMIZERS[schedule.optimizer](
        model.parameters(),
        lr=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        fused=True,
    )
    total, rates = steps * schedule.epochs, torch.optim.lr_scheduler
    if schedule.rates == "one_cycle":
        peak = schedule.learning_rate
        return optimizer, rates.OneCycleLR(optimizer, peak, total_steps=total)
    if schedule.rates == "constant":
        rise = max(total // 20, 1)
        return optimizer, rates.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / rise))
    raise ValueError(f"rates are 'one_cycle' or 'constant', got {schedule.rates!r}")


def side_in(schedule: Schedule, epoch: int, side: int) -> int:
    """Return the side of the images in an epoch, counted from 0, in pixels.

    It grows evenly from `first_side` to the whole in the first two thirds of the epochs, in steps of 4
    pixels: coarse images cost less, and most is learned of them as well (Karras et al., 2018; Howard,
    2018, for classifiers).
    """
    if not schedule.first_side:
        return side
    share = min(1.0, epoch / max(2 / 3 * schedule.epochs, 1))
    grown = schedule.first_side + share * (side - schedule.first_side)
    return min(side, 4 * round(grown / 4))


def _images(data: TrainingSet, rows: torch.Tensor, side: int) -> torch.Tensor:
    """Return images of the data by their rows, in [0, 1], of a side."""
    images = data.images[rows].float().div_(255)
    if side == images.shape[-1]:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def _look(model: nn.Module, data: TrainingSet, side: int) -> Look:
    """Return what gives logits B×C of images by their rows: not augmented, in eval mode."""

    @torch.no_grad()
    def look(rows: torch.Tensor) -> torch.Tensor:
        images = _images(data, rows, side)
        model.eval()
        with runtime.autocast(images.device):
            answer = model(images.contiguous(memory_format=models.memory_format(model)))
        model.train()
        return answer.logits

    return look


def _average(model: nn.Module, decay: float) -> swa_utils.AveragedModel | None:
    """A moving average of weights and of what batch norm has counted, or None for a decay of 0."""
    if not decay:
        return None
    ema = swa_utils.get_ema_multi_avg_fn(decay)
    return swa_utils.AveragedModel(model, multi_avg_fn=ema, use_buffers=True)


class _State:
    """Everything that decides the rest of a training, saved and restored as one file."""

    def __init__(self, parts: Mapping[str, Any], generator: torch.Generator):
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.generator = generator

    def save(self, path: Path | None, history: list[dict[str, float]]) -> None:
        if path is None:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"generator": self.generator.get_state(), "history": history}
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def restore(self, path: Path | None) -> list[dict[str, float]]:
        if path is None or not path.exists():
            return []
        state = torch.load(path, weights_only=True)
        for name, part in self.parts.items():
            # Checkpoints from before samplers had a state go on: their samplers need none.
            part.load_state_dict(state.get(name, {}))
        self.generator.set_state(state["generator"])
        return state["history"]


class _Meter:
    """Means of an epoch, and a progress bar with loss, accuracy, images per second and time left."""

    def __init__(self, title: str, total: int, quiet: bool | None):
        hidden = not sys.stderr.isatty() if quiet is None else quiet
        self.bar = tqdm(total=total, desc=title, unit="image", disable=hidden, leave=False)
        self.sums: dict[str, torch.Tensor] = {}
        self.seen = 0
        self.started = time.perf_counter()

    def add(self, terms: dict[str, torch.Tensor], count: int) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value.detach() * count
        self.seen += count
        self.bar.update(count)
        if not self.bar.disable:
            self.bar.set_postfix({n: f"{s.item() / self.seen:.3f}" for n, s in self.sums.items()})

    def close(self) -> dict[str, float]:
        self.bar.close()
        means = {name: total.item() / self.seen for name, total in self.sums.items()}
        if not means["loss"] < float("inf"):
            raise FloatingPointError(
                f"the training loss became {means['loss']}; try a learning rate ten times smaller"
            )
        return means | {"seconds": time.perf_counter() - self.started}
