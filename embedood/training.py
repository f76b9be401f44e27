"""The one training loop, written out, and the objective that classifiers minimise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from embedood import losses, models, noise, runtime
from embedood.config import Experiment, Schedule

Objective = Callable[
    [nn.Module, torch.Tensor, torch.Tensor, torch.Generator], dict[str, torch.Tensor]
]


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

    AdamW under OneCycle; each epoch visits every image once, in an order drawn from the seed. With a
    `checkpoint` path the whole state is kept there after each epoch, and a call that finds one goes on
    from it to the identical end. `quiet` hides the bar; by default it shows only on a terminal.

    Raises `FloatingPointError` when the loss is no longer finite.
    """
    device = data.images.device
    generator = runtime.generator(seed, "training", device=device)
    steps = -(-len(data.images) // schedule.batch_size)
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
        order = torch.randperm(len(data.images), generator=generator, device=device)
        meter = _Meter(f"epoch {epoch + 1}/{schedule.epochs}", len(order), quiet)
        for batch in order.split(schedule.batch_size):
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


def classification_objective(experiment: Experiment) -> Objective:
    """Return the report's objective: classify and denoise, part of each batch noised.

    loss = classification + `std_weight` · L_std + `denoising_weight` · L_den
    (+ `outlier_weight` · KL(U‖p) on pseudo-OOD made from the batch)
    (+ `turning_weight` · L_turn, half of the batch being shown turned as well). A network without a
    decoder is trained without L_den.
    """
    weights = experiment.losses
    weight_of = {
        "classification": 1.0,
        "std": weights.std_weight,
        "mse": weights.denoising_weight,
        "outlier": weights.outlier_weight,
        "turning": weights.turning_weight,
    }

    def objective(
        model: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        clean, shown, turns = _shown(experiment, images, generator)
        answer = model(shown.contiguous(memory_format=models.memory_format(model)))
        logits, known = answer.logits[: len(clean)], len(turns)
        terms = {
            "classification": losses.overconfidence(
                logits, labels, weights.overconfidence_weight, weights.label_smoothing
            ),
            "std": losses.std_of_wrong(logits, labels),
        }
        if answer.reconstruction is not None:
            terms["mse"] = losses.denoising(answer.reconstruction[: len(clean)], clean)
        if weights.outlier_weight:
            terms["outlier"] = losses.uniformity(answer.logits[known:])
        if weights.turning_weight:
            second_head = model.get_submodule("turned")
            of_turned = torch.cat([labels, labels[: known - len(labels)]])
            terms["turning"] = losses.turning(
                second_head(answer.embedding[:known]), of_turned, turns, weights.label_smoothing
            )
        loss = sum((weight_of[n] * term for n, term in terms.items()), start=torch.zeros(()))
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": loss, "accuracy": accuracy} | terms

    return objective


def _shown(
    experiment: Experiment, images: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the clean batch, what the network sees, and how the known ones in it are turned.

    The network sees the batch, some of it noised, then half of it turned, then pseudo-OOD.
    """
    noised, weights = experiment.noise, experiment.losses
    clean = noise.random_affine(images, generator, noised.affine)
    clean = noise.random_shift(clean, generator, noised.shift)
    count = round(noised.noised_share * len(clean))
    square = (noised.square_min, noised.square_max)
    spoiled = noise.denoising_noise(clean[:count], generator, noised.sigma, square)
    shown = torch.cat([spoiled, clean[count:]])
    turns = torch.zeros(len(clean), dtype=torch.long, device=clean.device)
    if weights.turning_weight:
        turned, how = noise.turn(clean[: len(clean) // 2], generator)
        shown, turns = torch.cat([shown, turned]), torch.cat([turns, how])
    if weights.outlier_weight:
        shown = torch.cat([shown, noise.spoil(clean, weights.outlier_recipe, generator)])
    return clean, shown, turns


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
