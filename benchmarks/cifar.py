"""How soon does the book's recipe for photographs know as much as a plain one knows at its end?

CIFAR-100 without its last twenty classes; accuracy on validation images after every epoch, against the
clock, in which measuring does not count. Both run in the same loop and precision, with images shifted and
mirrored, and one cycle of the learning rate.

- plain: four stages of two 3×3 convolutions, 32 to 256 channels, pooled in between; twelve epochs of SGD
  on batches of 128, shifted by up to four pixels;
- chosen: the preset `swift`: whitened patches, early pooling, Muon, averaged weights, images that grow; the
  mean over both mirror images is measured.

The last line is `ratio NUMBER`: the chosen recipe's seconds to the plain one's last accuracy, in the plain
one's seconds. It is `inf` where the chosen one never gets there.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

from embedood import (
    config,
    convergence,
    models,
    objectives,
    runs,
    runtime,
    samplers,
    splits,
    training,
)


class Plain(models.Classifier):
    """Four stages of two convolutions, pooled in between; the embedding is the mean of the last."""

    def __init__(self, num_classes: int, channels: int = 3):
        super().__init__()
        stages, before = [], channels
        for width in (32, 64, 128, 256):
            for i in (before, width):
                stages += [
                    nn.Conv2d(i, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
            stages.append(nn.MaxPool2d(2))
            before = width
        self.dimensions = before
        self.features = nn.Sequential(*stages[:-1])
        self.head = models.LinearHead(before, num_classes)

    def forward(self, images: torch.Tensor) -> models.Forward:
        embedding = self.features(images).mean((2, 3))
        return models.Forward(self.head(embedding), embedding, None)


class Clock:
    """Accuracy on a part, and the seconds up to there without those of measuring."""

    def __init__(self, part: splits.Part, mirrored: bool):
        self.images = torch.from_numpy(part.images).to(runtime.device())
        self.labels = torch.from_numpy(part.labels).to(runtime.device())
        self.mirrored, self.started, self.paused = mirrored, time.perf_counter(), 0.0

    def __call__(self, model: models.Classifier) -> dict[str, float]:
        asked = time.perf_counter()
        right = sum(self._right(model, *some) for some in self._batches())
        row = {"accuracy": right / len(self.labels), "clock": asked - self.started - self.paused}
        self.paused += time.perf_counter() - asked
        return row

    def _batches(self):
        return zip(self.images.split(512), self.labels.split(512), strict=True)

    def _right(self, model: models.Classifier, images: torch.Tensor, labels: torch.Tensor) -> int:
        images = images.float().div_(255).contiguous(memory_format=models.memory_format(model))
        with runtime.autocast(images.device):
            logits = model(images).logits
            if self.mirrored:
                logits = logits + model(images.flip(3)).logits
        return int((logits.argmax(1) == labels).sum())


def curve(
    model: models.Classifier, experiment: config.Experiment, split: splits.Split, mirrored: bool
) -> convergence.Curve:
    """Train; one row of `accuracy` and `clock`, in seconds, for each epoch."""
    device = runtime.device()
    model = model.to(device, memory_format=models.memory_format(model))  # type: ignore[call-overload]
    images, labels = (
        torch.from_numpy(a).to(device) for a in (split.train.images, split.train.labels)
    )
    sampler = samplers.of(experiment, labels, runtime.generator(0, device=device))
    watch = convergence.Watch(len(sampler), Clock(split.validation, mirrored))
    data = training.TrainingSet(images, labels)
    objective = objectives.of(experiment)
    training.train(model, objective, data, experiment.schedule, sampler, quiet=True, watch=watch)
    return watch.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar100", help="or glyph-100, which needs no download")
    parser.add_argument("--images", type=int, default=0, help="to train on; 0 = all")
    parser.add_argument("--plain-epochs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=6, help="of the chosen recipe")
    asked = parser.parse_args()
    torch.manual_seed(0)
    shared = {"data_name": asked.data, "train_limit": asked.images, "unseen": tuple(range(80, 100))}
    plain = config.preset("cross_entropy", **shared, epochs=asked.plain_epochs)
    chosen = config.preset("swift", **shared, epochs=asked.epochs)
    split = runs.split_of(plain)
    classes, mirrored = len(split.known_classes), plain.noise.flip > 0
    print(f"{runtime.describe(runtime.device())}; {len(split.train)} images of {classes} classes")
    curves = {
        "plain": curve(Plain(classes), plain, split, False),
        "chosen": curve(runs.build(chosen, split), chosen, split, mirrored),
    }
    report(curves)


def report(curves: dict[str, convergence.Curve]) -> None:
    for name, rows in curves.items():
        for epoch, row in enumerate(rows, 1):
            print(f"{name:7s} epoch {epoch:3d}   {row['clock']:7.1f} s   {row['accuracy']:.3f}")
    last = curves["plain"][-1]
    seconds = convergence.cost_to_reach(curves["chosen"], last["accuracy"], "clock")
    print(f"ratio {seconds / last['clock']:.2f}")


if __name__ == "__main__":
    main()
