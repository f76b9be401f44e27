"""Which share of a training step does a sampler cost, and how does that grow with the classes?

The network is a small one, the book's residual network of width 16 with a 128-dimensional embedding,
on random images of 32 × 32 in batches of 20 classes × 10 images. All samplers train it in turns in one
process with one number of threads. The time of a step is split in two: the network's (images,
augmentation, forward, backward, optimiser), the same for all samplers, and the sampler's own (drawing
the batch, observing the step, and its share of a new matrix every 20 steps). The best of `--rounds`
counts for both; on a CPU, seconds are those that the process itself ran, so that other processes on
the machine disturb little. The growth is measured on made embeddings, without a network.

The last line is `ratio NUMBER`: a step with the dearest sampler of overlaps in closed form ÷ a step
with uniform classes. `--small` tries everything in seconds.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from embedood import config, models, objectives, runtime, samplers
from embedood.samplers import Sampler, Step

WAYS, EACH, DIMENSIONS = 20, 10, 128
UNIFORM: dict[str, Any] = {"sampler": "uniform"}
OVERLAPS: list[dict[str, Any]] = [
    {"sampler": "class_overlap", "divergence": "kl"},
    {"sampler": "class_overlap", "divergence": "bhattacharyya"},
    {"sampler": "tournament", "divergence": "bhattacharyya"},
    {"sampler": "relationship_overlap", "divergence": "geometric_jsd"},
    {"sampler": "relationship_overlap", "divergence": "bhattacharyya"},
]
OTHERS: list[dict[str, Any]] = [
    {"sampler": "relationship_overlap", "divergence": "jsd"},
    {"sampler": "class_pair"},
    {"sampler": "class_loss"},
]


@dataclass
class Costs:
    """Best seconds a step so far of drawing, of observing and of the network."""

    draw: float = math.inf
    observe: float = math.inf
    network: float = math.inf

    def again(self, other: Costs) -> None:
        self.draw = min(self.draw, other.draw)
        self.observe = min(self.observe, other.observe)
        self.network = min(self.network, other.network)

    @property
    def own(self) -> float:
        return self.draw + self.observe


def now() -> float:
    """Seconds of this process on a CPU; of the clock, once the work is done, on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def labels_of(classes: int) -> torch.Tensor:
    return torch.arange(2 * EACH * classes, device=runtime.device()) % classes


def made(classes: int, settings: dict[str, Any]) -> Sampler:
    """A sampler that has seen every class, so that its matrices are whole."""
    experiment = config.preset("cosine", ways=WAYS, batch_size=WAYS * EACH, **settings)
    generator = runtime.generator(0, device=runtime.device())
    sampler = samplers.of(experiment, labels_of(classes), generator)
    each_class = torch.arange(4 * classes, device=runtime.device())
    sampler.observe(each_class, MadeSteps(classes).step(each_class))
    return sampler


class Network:
    """One training step of the small network on a batch of rows."""

    def __init__(self, classes: int, width: int):
        device, experiment = runtime.device(), config.preset("cosine")
        model: nn.Module = models.build(
            "residual", classes, width, 3, head="cosine", dimensions=DIMENSIONS, temperature=0.0625
        )
        self.model = model.to(device).to(memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        self.objective = objectives.of(experiment)
        self.labels = labels_of(classes)
        shape = (len(self.labels), 3, 32, 32)
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8).to(device)
        self.generator = runtime.generator(0, device=device)

    def step(self, rows: torch.Tensor) -> Step:
        images = self.images[rows].float().div_(255)
        with runtime.autocast(images.device):
            step = self.objective(self.model, images, self.labels[rows], self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        step.terms["loss"].backward()
        self.optimizer.step()
        return step


class MadeSteps:
    """Embeddings around class means, and logits; nothing is trained."""

    def __init__(self, classes: int):
        self.labels = labels_of(classes)
        self.means = 0.3 * torch.randn(classes, DIMENSIONS, device=self.labels.device)

    def step(self, rows: torch.Tensor) -> Step:
        z = self.means[self.labels[rows]]
        z = z + torch.randn_like(z)
        return Step({}, z, z @ self.means.mT)


def block(sampler: Sampler, network: Network | MadeSteps, steps: int) -> Costs:
    """Mean seconds a step of `steps` steps, epoch after epoch."""
    batches = itertools.chain.from_iterable(itertools.repeat(sampler))
    costs = Costs(0.0, 0.0, 0.0)
    for _ in range(steps):
        started = now()
        batch = next(batches)
        drawn = now()
        step = network.step(batch)
        trained = now()
        sampler.observe(batch, step)
        costs.draw += (drawn - started) / steps
        costs.network += (trained - drawn) / steps
        costs.observe += (now() - trained) / steps
    return costs


def measure(
    classes: int, network: Network | MadeSteps, cases: list[dict[str, Any]], rounds: int, steps: int
) -> list[Costs]:
    """The costs of each case, all in turns."""
    ready = [(made(classes, settings), Costs()) for settings in cases]
    for _ in range(rounds):
        for sampler, costs in ready:
            costs.again(block(sampler, network, steps))
    return [costs for _, costs in ready]


def name_of(settings: dict[str, Any]) -> str:
    return " ".join(settings.values())


def share_of_a_step(width: int, rounds: int, steps: int) -> float:
    """Print the share of a step for each sampler at 100 classes; return the ratio of the last line."""
    cases = [UNIFORM, *OVERLAPS, *OTHERS]
    found = measure(100, Network(100, width), cases, rounds, steps)
    network = min(costs.network for costs in found)
    print(f"100 classes; the network takes {1e3 * network:.1f} ms a step of {WAYS * EACH} images")
    print(f"{'':36s} {'draw':>9s} {'observe':>9s} {'share':>7s}")
    for settings, costs in zip(cases, found, strict=True):
        times = f"{1e3 * costs.draw:6.2f} ms {1e3 * costs.observe:6.2f} ms"
        print(f"{name_of(settings):36s} {times} {costs.own / (network + costs.own):7.1%}")
    dearest = max(costs.own for costs in found[1 : 1 + len(OVERLAPS)])
    return (network + dearest) / (network + found[0].own)


def growth(sizes: list[int], rounds: int, steps: int) -> None:
    """Print the milliseconds a step of each sampler for each number of classes."""
    cases = [UNIFORM, *OVERLAPS, *OTHERS[1:]]
    columns = [measure(size, MadeSteps(size), cases, rounds, steps) for size in sizes]
    print(f"ms a step of the sampler alone{'':7s}" + "".join(f"{size:>9d}" for size in sizes))
    for settings, *costs in zip(cases, *columns, strict=True):
        print(f"{name_of(settings):36s} " + "".join(f"{1e3 * c.own:9.2f}" for c in costs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--small", action="store_true", help="a smoke test: a tiny network, few steps"
    )
    parser.add_argument("--rounds", type=int, default=2, help="turns of each; the best counts")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    width, rounds, steps = (2, 1, 2) if asked.small else (16, asked.rounds, 20)
    print(f"{runtime.describe(runtime.device())}; D = {DIMENSIONS}; a matrix every 20 steps")
    ratio = share_of_a_step(width, rounds, steps)
    growth([50, 100] if asked.small else [100, 300, 1000], rounds=rounds, steps=steps)
    print(f"ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
