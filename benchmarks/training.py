"""How much faster is the book's training loop than the one that most people would write?

Same machine, network, batch size, noise, losses and optimiser; random digits-sized images.

- usual: fp32, a `DataLoader` (with and without workers; the faster counts), torchvision transforms
  on PIL images one by one, default memory format;
- ours: `embedood.training.train`: images on the device as uint8, noise by the batch, bf16 autocast
  where the processor has the units, channels-last.

The two take turns, and the best of `--rounds` counts for both. The last line is `ratio NUMBER`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from embedood import config, losses, models, objectives, runtime, samplers, training

runtime.import_torchvision()
from torchvision import transforms  # noqa: E402

CLASSES, SIDE = 9, 28


class NoisedDigits(Dataset):
    """The usual way: one PIL image at a time, half of them noised and covered by a square."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images = [Image.fromarray(image[0]) for image in images]
        self.labels = labels
        self.to_tensor = transforms.ToTensor()
        self.cover = transforms.RandomErasing(1.0, (0.13, 0.25), (1.0, 1.0), value="random")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        clean = self.to_tensor(self.images[index])
        shown = clean
        if index % 2 == 0:
            shown = self.cover((clean + 0.3 * torch.randn_like(clean)).clamp(0, 1))
        return shown, clean, int(self.labels[index])


def usual(
    experiment: config.Experiment, images: np.ndarray, labels: np.ndarray, workers: int
) -> float:
    """Seconds of one epoch."""
    model = models.DenoisingClassifier(CLASSES, experiment.network.width)
    loader = DataLoader(
        NoisedDigits(images, labels),
        experiment.schedule.batch_size,
        shuffle=True,
        num_workers=workers,
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=len(loader))
    model.train()
    started = time.perf_counter()
    for shown, clean, label in loader:
        logits, _, picture = model(shown)
        loss = losses.overconfidence(logits, label) + losses.std_of_wrong(logits, label)
        loss = loss + 4 * losses.denoising(picture, clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        one_cycle.step()
        loss.item()  # for the progress bar
    return time.perf_counter() - started


def ours(experiment: config.Experiment, images: np.ndarray, labels: np.ndarray) -> float:
    """Seconds of one epoch."""
    model = models.DenoisingClassifier(CLASSES, experiment.network.width)
    model = model.to(memory_format=torch.channels_last)
    data = training.TrainingSet(torch.from_numpy(images), torch.from_numpy(labels))
    objective = objectives.classification(experiment)
    sampler = samplers.of(experiment, data.labels, runtime.generator(0))
    started = time.perf_counter()
    training.train(model, objective, data, experiment.schedule, sampler, quiet=True)
    return time.perf_counter() - started


def flops_per_image(width: int) -> float:
    """Floating-point operations of a forward and a backward pass, two for a multiply-add."""
    model = models.DenoisingClassifier(CLASSES, width)
    with FlopCounterMode(display=False) as counter:
        answer = model(torch.rand(2, 1, SIDE, SIDE))
        (answer.logits.sum() + answer.reconstruction.sum()).backward()
    return counter.get_total_flops() / 2


def matmul_peak(dtype: torch.dtype, size: int = 2048) -> float:
    """The best measured operations per second of a square matrix product."""
    a, b = torch.rand(size, size).to(dtype), torch.rand(size, size).to(dtype)
    return max(2 * size**3 / seconds for seconds in _times(lambda: a @ b, 5))


def _times(call, count: int) -> Iterator[float]:
    call()
    for _ in range(count):
        started = time.perf_counter()
        call()
        yield time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (asked.images, 1, SIDE, SIDE), dtype=np.uint8)
    labels = random.integers(0, CLASSES, asked.images)
    experiment = config.preset(
        "report", width=asked.width, epochs=1, batch_size=asked.batch_size, learning_rate=3e-3
    )
    ways = {
        "usual, no workers": lambda: usual(experiment, images, labels, 0),
        "usual, 2 workers": lambda: usual(experiment, images, labels, 2),
        "ours": lambda: ours(experiment, images, labels),
    }
    ours(experiment, images[:256], labels[:256])  # the first call compiles kernels
    rates = dict.fromkeys(ways, 0.0)
    for _ in range(asked.rounds):
        for name, way in ways.items():
            rates[name] = max(rates[name], asked.images / way())
    report(rates, asked.width)


def report(rates: dict[str, float], width: int) -> None:
    cost = flops_per_image(width)
    peaks = {"fp32": matmul_peak(torch.float32), "bf16": matmul_peak(torch.bfloat16)}
    print(f"{runtime.describe(runtime.device())}; width {width}, {cost / 1e9:.2f} GFLOP an image")
    for kind, peak in peaks.items():
        print(f"matmul peak {kind} {peak / 1e12:.2f} TFLOP/s")
    for name, rate in rates.items():
        kind = "bf16" if name == "ours" else "fp32"
        print(
            f"{name:18s} {rate:7.0f} images/s   {rate * cost / peaks[kind]:.0%} of the {kind} peak"
        )
    usual = max(rate for name, rate in rates.items() if name != "ours")
    print(f"a loop at the whole bf16 peak would reach {peaks['bf16'] / cost / usual:.2f}")
    print(f"ratio {rates['ours'] / usual:.2f}")


if __name__ == "__main__":
    main()
