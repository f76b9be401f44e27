"""How much faster are the book's scorers than those of pytorch-ood 0.4.0, and with how much memory?

Every scorer that both have, with the same settings, on the same float32 arrays in one process with
one number of threads: made embeddings of ReLU type with a class structure, and the logits of a linear
head. What is timed is all that a user waits for: construct, fit, score. ODIN is left out, whose cost
is that of the network.

The two take turns, and the best of `--rounds` counts for both. Memory is the growth of the process at
its peak, known on Linux only. `bound` is the ratio of a scorer that would do nothing but what its
formula cannot do without, at the speeds measured here: products of matrices, reading, exponentials.
The last line is `ratio NUMBER`, the geometric mean of theirs / ours.

`--small` tries everything in seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from embedood import runtime, scorers
from embedood.outputs import Outputs

K, GUIDES, SUBSPACE = 50, 100, 2  # neighbours; the share of ViM's principal space is 1 / SUBSPACE


@dataclass(frozen=True)
class Sizes:
    """Rows to learn from and to score, embedding dimensions and classes."""

    train: int = 50_000
    test: int = 10_000
    dimensions: int = 512
    classes: int = 100


SMALL = Sizes(train=1_000, test=300, dimensions=16, classes=5)


@dataclass(frozen=True)
class Data:
    """The same outputs for both; theirs are tensors that share the memory of ours."""

    train: Outputs
    validation: Outputs
    test: Outputs

    def tensors(self, part: str, *names: str) -> list[torch.Tensor]:
        return [torch.from_numpy(getattr(getattr(self, part), name)) for name in names]

    def head(self) -> torch.nn.Linear:
        weight, bias = self.tensors("test", "head_weight", "head_bias")
        head = torch.nn.Linear(*weight.shape[::-1])
        head.weight.data, head.bias.data = weight, bias
        return head.requires_grad_(False)


def made(sizes: Sizes, seed: int = 0) -> Data:
    """Non-negative embeddings around class centres, and a head that reads most of them right."""
    rng = np.random.default_rng(seed)
    shape = sizes.classes, sizes.dimensions
    centres = rng.normal(size=shape).astype(np.float32)
    weight = (centres - centres.mean(0)) * np.float32(4 / math.sqrt(sizes.dimensions))
    bias = np.full(sizes.classes, 20, np.float32)

    def part(rows: int) -> Outputs:
        labels = rng.permutation(rows) % sizes.classes
        noise = rng.standard_normal((rows, sizes.dimensions), np.float32)
        z = np.maximum(centres[labels] + 1.5 * noise, 0, dtype=np.float32)
        return Outputs(z @ weight.T + bias, z, labels, weight, bias)

    return Data(part(sizes.train), part(sizes.test), part(sizes.test))


# Ours and theirs


def ours(name: str, data: Data, **settings: Any) -> Callable[[], np.ndarray]:
    """One call that makes a scorer of the table's class, lets it learn what it needs, and scores."""
    kind = type(scorers.make(name))
    settings = scorers.make(name).arguments() | settings

    def run() -> np.ndarray:
        scorer = kind(**settings)
        if "train" in scorer.needs:
            scorer.fit(data.train)
        if "validation" in scorer.needs:
            scorer.calibrate(data.validation)
        return scorer.score(data.test)

    return run


Theirs = Callable[[Any, Data], Callable[[], torch.Tensor]]


def logits_only(make: Callable[[Any], Any], fitted: bool = False) -> Theirs:
    def prepare(detector: Any, data: Data) -> Callable[[], torch.Tensor]:
        (at,) = data.tensors("test", "logits")

        def run() -> torch.Tensor:
            found = make(detector)
            if fitted:
                found.fit_logits(*data.tensors("validation", "logits", "labels"))
            return found.predict_logits(at)

        return run

    return prepare


def features(make: Callable[[Any, Data], Any]) -> Theirs:
    def prepare(detector: Any, data: Data) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            found = make(detector, data).fit_features(
                *data.tensors("train", "embeddings", "labels")
            )
            return found.predict_features(*data.tensors("test", "embeddings"))

        return run

    return prepare


def maps(make: Callable[[Any, torch.nn.Module], Any], fitted: bool = False) -> Theirs:
    def prepare(detector: Any, data: Data) -> Callable[[], torch.Tensor]:
        head = torch.nn.Sequential(torch.nn.Flatten(), data.head())

        def run() -> torch.Tensor:
            found = make(detector, head)
            if fitted:
                found.fit_feature_maps(*data.tensors("train", "embeddings", "labels"))
            (at,) = data.tensors("test", "embeddings")
            return found.predict_feature_maps(at[:, :, None, None])

        return run

    return prepare


def weights(data: Data) -> dict[str, torch.Tensor]:
    return dict(zip("wb", data.tensors("test", "head_weight", "head_bias"), strict=True))


THEIRS: dict[str, Theirs] = {
    "max_softmax": logits_only(lambda d: d.MaxSoftmax(None)),
    "temperature_softmax": logits_only(lambda d: d.TemperatureScaling(None), fitted=True),
    "max_logit": logits_only(lambda d: d.MaxLogit(None)),
    "energy": logits_only(lambda d: d.EnergyBased(None)),
    "entropy": logits_only(lambda d: d.Entropy(None)),
    "gen": logits_only(lambda d: d.GEN(None, gamma=0.1, M=100)),
    "kl_matching": logits_only(lambda d: d.KLMatching(None), fitted=True),
    "mahalanobis": features(lambda d, _: d.Mahalanobis(None)),
    "relative_mahalanobis": features(lambda d, _: d.RMD(None)),
    "gaussians_full": features(lambda d, _: d.GMM(None)),
    "nearest_neighbour": features(lambda d, _: d.KNN(None, k=K)),
    "vim": features(lambda d, o: d.ViM(None, d=o.test.embeddings.shape[1] // SUBSPACE, **weights(o))),
    "she": features(lambda d, o: d.SHE(None, o.head())),
    "nnguide": features(lambda d, o: d.NNGuide(None, o.head(), k=GUIDES)),
    "fdbd": features(lambda d, o: d.fDBD(None, o.head())),
    "react": maps(lambda d, head: d.ReAct(None, head, percentile=0.9), fitted=True),
    "ash_s": maps(lambda d, head: d.ASH(None, head, "ash-s", 0.9)),
    "ash_b": maps(lambda d, head: d.ASH(None, head, "ash-b", 0.9)),
    "scale": maps(lambda d, head: d.SCALE(None, head, 0.85)),
    "dice": features(lambda d, o: d.DICE(None, **weights(o), p=0.9)),
}  # fmt: skip


def settings_of(name: str, sizes: Sizes) -> dict[str, Any]:
    """What ours is given so that both do the same; elsewhere our defaults are what theirs gets."""
    vim = {"d": sizes.dimensions // SUBSPACE}
    return {"vim": vim, "nearest_neighbour": {"k": K}, "nnguide": {"k": GUIDES}}.get(name, {})


# What cannot be done without


@dataclass(frozen=True)
class Work:
    """Multiply-adds in products of matrices, float32 values read, exponentials or logarithms.

    All of it in float32; where the time of two kinds can overlap, a bound counts the longer only.
    """

    products: float = 0
    read: float = 0
    exponentials: float = 0

    def seconds(self, speed: Work) -> float:
        """The least time, given how much of each is done in a second."""
        return max(
            self.products / speed.products,
            self.read / speed.read,
            self.exponentials / speed.exponentials,
        )


def least(name: str, sizes: Sizes) -> Work:
    """The work that the formula of a scorer asks for, however it is written."""
    n, m, d, c = sizes.train, sizes.test, sizes.dimensions, sizes.classes
    logits, seen, asked, head = m * c, n * d, m * d, m * c * d
    one_gaussian = d * d / 2  # a symmetric or a triangular matrix has so many numbers to multiply
    return {
        "max_softmax": Work(0, logits, logits),
        "temperature_softmax": Work(0, 2 * logits, 2 * logits),
        "max_logit": Work(0, logits),
        "energy": Work(0, logits, logits),
        "entropy": Work(0, logits, logits),
        "gen": Work(0, logits, 3 * logits),
        "kl_matching": Work(c * logits, 2 * logits, 2 * logits),
        "mahalanobis": Work((n + m) * one_gaussian + head, seen + asked),
        "relative_mahalanobis": Work((n + 2 * m) * one_gaussian + head, seen + asked),
        "gaussians_full": Work((n + c * m) * one_gaussian, seen + asked),
        "nearest_neighbour": Work(n * m * d, seen + asked),
        "vim": Work(n * one_gaussian + (n + m) * d * (d - d / SUBSPACE), seen + asked),
        "she": Work(0, seen + n * c + asked + logits),
        "nnguide": Work(n * m * d, seen + asked + (n + m) * c, (n + m) * c),
        "fdbd": Work(0, seen + asked + logits),
        "react": Work(head, seen + asked, logits),
        "ash_s": Work(head, asked, logits),
        "ash_b": Work(head, asked, logits),
        "scale": Work(head, asked, logits),
        "dice": Work(head, seen + asked, logits),
    }[name]  # fmt: skip


def speeds(data: Data) -> Work:
    """How much of each kind of work this machine does in a second, with arrays of this size."""
    z, logits = data.train.embeddings, data.test.logits[:1024].copy()
    few, out = z[:1024], np.empty_like(logits)
    exponentials = [
        lambda: np.exp(logits, out=out),
        lambda: torch.exp(torch.from_numpy(logits), out=torch.from_numpy(out)),
    ]
    flat = z.reshape(-1)
    return Work(
        products=few.size * len(z[:4096]) / best_of(lambda: few @ z[:4096].T),
        read=flat.size / best_of(lambda: flat @ flat),
        exponentials=logits.size / min(map(best_of, exponentials)),
    )


def best_of(call: Callable[[], Any], times: int = 5) -> float:
    """The least seconds of some calls, after one that does not count."""
    call()
    measured = Measured()
    for _ in range(times):
        measured.again(call)
    return measured.seconds


# Measuring


@dataclass
class Measured:
    """Best seconds and largest growth in MB so far; nan where the system does not tell."""

    seconds: float = math.inf
    megabytes: float = math.nan

    def again(self, call: Callable[[], Any]) -> None:
        before = memory_reset()
        started = time.perf_counter()
        call()
        self.seconds = min(self.seconds, time.perf_counter() - started)
        self.megabytes = np.fmax(self.megabytes, memory("VmHWM") - before)


def memory(field: str) -> float:
    """A field of /proc/self/status in MB, such as VmRSS; nan where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith(field)), math.nan)


def memory_reset() -> float:
    """Hand free memory back, forget the peak so far, and return what is in use, in MB."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return math.nan
    return memory("VmRSS")


def load_detectors() -> Any:
    """Return pytorch_ood.detector, or end with a word on how to get it."""
    runtime.import_torchvision()
    try:
        from pytorch_ood import detector
    except ImportError:
        raise SystemExit('pytorch-ood is not installed: pip install "pytorch-ood==0.4.0"') from None
    return detector


def compare(sizes: Sizes, names: list[str], rounds: int) -> float:
    """Print a line a scorer as it is measured; return the geometric mean of the ratios."""
    detector, data, ratios, bounds = load_detectors(), made(sizes), [], []
    speed = speeds(data)
    print(
        f"{2e-9 * speed.products:.0f} GFLOP/s in products, {4e-9 * speed.read:.0f} GB/s read, "
        f"{1e-9 * speed.exponentials:.2f} billion exponentials a second"
    )
    print(
        f"{'':20s} {'ours':>10s} {'theirs':>10s} {'ratio':>7s} {'bound':>7s} "
        f"{'ours':>10s} {'theirs':>10s}"
    )
    for name in names:
        calls = ours(name, data, **settings_of(name, sizes)), THEIRS[name](detector, data)
        both = Measured(), Measured()
        for _ in range(rounds):
            for measured, call in zip(both, calls, strict=True):
                measured.again(call)
        ratios.append(both[1].seconds / both[0].seconds)
        bounds.append(both[1].seconds / least(name, sizes).seconds(speed))
        print(line(name, *both, bounds[-1]), flush=True)
    print(f"a library at these speeds, with nothing else to do, would reach {mean(bounds):.2f}")
    return mean(ratios)


def mean(ratios: list[float]) -> float:
    """The geometric mean."""
    return math.exp(np.log(ratios).mean())


def line(name: str, mine: Measured, other: Measured, bound: float) -> str:
    times = f"{1e3 * mine.seconds:7.1f} ms {1e3 * other.seconds:7.1f} ms"
    sizes = f"{mine.megabytes:7.0f} MB {other.megabytes:7.0f} MB"
    return f"{name:20s} {times} {other.seconds / mine.seconds:7.2f} {bound:7.2f} {sizes}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a smoke test: tiny arrays")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each; the best counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=THEIRS, default=list(THEIRS), metavar="SCORER")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    sizes = SMALL if asked.small else Sizes()
    with threadpool_limits(asked.threads):
        print(f"{runtime.describe(runtime.device())}; threads {asked.threads}; {sizes}")
        print(f"ratio {compare(sizes, asked.only, asked.rounds):.2f}")


if __name__ == "__main__":
    main()
