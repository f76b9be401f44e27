"""The one training loop, written out."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from embedood import runtime, samplers
from embedood.config import Schedule
from embedood.objectives import Objective


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
    seed: int,
    checkpoint: Path | None = None,
    quiet: bool | None = None,
) -> list[dict[str, float]]:
    """Train the model in place and return one row of means per epoch.

    AdamW under OneCycle; each epoch visits every image once, in an order drawn from the seed, or
    draws as many batches of episodes. With a `checkpoint` path the whole state is kept there after
    each epoch, and a call that finds one goes on from it to the identical end. `quiet` hides the bar;
    by default it shows only on a terminal.

    Raises `FloatingPointError` when the loss is no longer finite.
    """
    device = data.images.device
    generator = runtime.generator(seed, "training", device=device)
    steps = -(-len(data.images) // schedule.batch_size)
    batches = samplers.of(schedule)
    optimizer = torch.optim.AdamW(
        model.parameters(), weight_decay=schedule.weight_decay, fused=True
    )
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=steps * schedule.epochs
    )
    state = _State(model, optimizer, one_cycle, generator)
    history = state.restore(checkpoint)
    model.train()
    for epoch in range(len(history), schedule.epochs):
        meter = _Meter(f"epoch {epoch + 1}/{schedule.epochs}", len(data.images), quiet)
        for batch in batches(data.labels, generator):
            images = data.images[batch].float().div_(255)
            with runtime.autocast(device):
                terms = objective(model, images, data.labels[batch], generator)
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            optimizer.step()
            one_cycle.step()
            meter.add(terms, len(batch))
        history.append(meter.close())
        state.save(checkpoint, history)
    return history


class _State:
    """Everything that decides the rest of a training, saved and restored as one file."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        generator: torch.Generator,
    ):
        self.parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
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
            part.load_state_dict(state[name])
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
