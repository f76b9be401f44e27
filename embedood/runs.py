"""Train once, keep, load: a folder per experiment, named by the hash of its configuration.

<EMBEDOOD_RUNS or ~/.cache/embedood/runs>/<key>/
    config.json  weights.safetensors  history.json  provenance.json   (written last: the run is whole)
    curve.json                                                        (where it was watched)
    checkpoint.pt                                                     (while it trains)
    outputs_<rows>.npz                                                (where it was a teacher)
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import joblib
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from embedood import (
    data,
    distillation,
    losses,
    models,
    objectives,
    outputs,
    runtime,
    samplers,
    splits,
    training,
)
from embedood.config import Experiment
from embedood.convergence import Curve, Watch
from embedood.models import Classifier
from embedood.splits import Split

T = TypeVar("T")

_used: dict[str, dict[str, Any]] = {}  # the provenance of every run that this process has loaded


@dataclass(frozen=True)
class Run:
    """A trained network with its data, in eval mode on `runtime.device()`."""

    experiment: Experiment
    model: Classifier
    split: Split
    history: list[dict[str, float]]
    curve: Curve  # of the validation accuracy; empty unless the schedule asks to watch
    provenance: dict[str, Any]
    folder: Path


def root() -> Path:
    """Return the folder of all runs: `EMBEDOOD_RUNS`, else `~/.cache/embedood/runs`."""
    return Path(os.environ.get("EMBEDOOD_RUNS", "~/.cache/embedood/runs")).expanduser()


def fit(experiment: Experiment, quiet: bool | None = None) -> Run:
    """Return the run of an experiment: loaded if it is whole, resumed if cut off, else trained.

    Two processes that ask for the same experiment do not train it twice: the second waits.
    """
    folder = root() / experiment.key
    split = split_of(experiment)
    model = build(experiment, split)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if not (folder / "provenance.json").exists():
            _train(experiment, model, split, folder, quiet)
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    history, provenance = _read(folder / "history.json"), _read(folder / "provenance.json")
    curve = _read(folder / "curve.json") if experiment.schedule.watch_every else []
    model = model.to(runtime.device()).eval()
    _used[experiment.key] = provenance
    return Run(experiment, model, split, history, curve, provenance, folder)


def used() -> list[dict[str, Any]]:
    """Return where and how long the networks were trained that this process has loaded.

    One entry for each kind of device: `device` in words, `networks`, their number, and `seconds`.
    """
    devices = sorted({each["device"] for each in _used.values()})
    own = {d: [each["seconds"] for each in _used.values() if each["device"] == d] for d in devices}
    return [
        {"device": d, "networks": len(own[d]), "seconds": round(sum(own[d]), 1)} for d in devices
    ]


def for_each(
    experiments: Sequence[Experiment], read: Callable[[Run], T], workers: int = 0
) -> list[T]:
    """Return what `read` finds in the run of each experiment; runs that are not there yet are trained.

    For many small networks: on a CPU, `workers` processes (0 = one for each core) train side by side
    with one thread each, which is faster than one after the other with all threads. On a GPU one
    process does all. Only what `read` returns is kept in memory.
    """
    if runtime.device().type == "cuda":
        workers = 1
    jobs = (joblib.delayed(_read_run)(experiment, read) for experiment in experiments)
    found = joblib.Parallel(n_jobs=workers or joblib.cpu_count())(jobs)
    _used.update({e.key: provenance for e, (_, provenance) in zip(experiments, found, strict=True)})
    return [answer for answer, _ in found]


def _read_run(experiment: Experiment, read: Callable[[Run], T]) -> tuple[T, dict[str, Any]]:
    threads = torch.get_num_threads()
    if runtime.device().type == "cpu":
        torch.set_num_threads(1)
    try:
        run = fit(experiment, quiet=True)
        return read(run), run.provenance
    finally:
        torch.set_num_threads(threads)


def split_of(experiment: Experiment) -> Split:
    """Load the experiment's data and split it; the training part may be made imbalanced."""
    part, imbalance = experiment.split, experiment.data.imbalance
    whole = splits.split(
        images_of(experiment),
        unseen=part.unseen,
        validation=part.validation,
        seed=part.split_seed,
        train_limit=experiment.data.train_limit,
    )
    return whole if imbalance == 1 else replace(whole, train=whole.train.long_tailed(imbalance))


def images_of(experiment: Experiment) -> data.ImageSet:
    """Load the experiment's data with the labels that it asks for, its own or their parity.

    Raises `ValueError` for other labels.
    """
    labels = experiment.data.labels
    if labels not in ("classes", "parity"):
        raise ValueError(f"labels are 'classes' or 'parity', got {labels!r}")
    image_set = data.load(experiment.data.data_name)
    return data.parity(image_set) if labels == "parity" else image_set


def build(experiment: Experiment, split: Split) -> Classifier:
    """Return the experiment's network with the initial weights of its seed."""
    how = experiment.distillation
    with torch.random.fork_rng():
        torch.manual_seed(experiment.seed)
        model = models.build(
            experiment.network.architecture,
            len(split.known_classes) * how.subclasses,
            experiment.network.width,
            split.train.images.shape[1],
            head=experiment.network.head,
            dimensions=experiment.network.dimensions,
            temperature=experiment.network.temperature,
            fixed_scale=experiment.network.fixed_scale,
        )
        if how.embedding_weight and how.teacher:
            wanted = build(how.teacher, split).dimensions
            model.teacher_guess = nn.Linear(model.dimensions, wanted)
    if isinstance(model, models.WhitenedClassifier):
        model.whiten(torch.from_numpy(split.train.images[:5000]) / 255)
    return model.to(memory_format=models.memory_format(model))  # type: ignore[call-overload]


def _train(
    experiment: Experiment,
    model: Classifier,
    split: Split,
    folder: Path,
    quiet: bool | None,
) -> None:
    device = runtime.device()
    _write(folder / "config.json", experiment.to_dict())
    images = torch.from_numpy(split.train.images).to(device)
    labels = torch.from_numpy(split.train.labels).to(device)
    generator = runtime.generator(experiment.seed, "training", device=device)
    watch = watch_of(experiment, split, training.TrainingSet(images, labels))
    taught = experiment.distillation.teacher is not None
    lesson = _lesson(experiment, split, device, quiet) if taught else None
    # A student's images have a target each: what stands for their labels are rows of the lesson.
    told = labels if lesson is None else torch.arange(len(labels), device=device)
    history = training.train(
        model.to(device),
        objectives.of(experiment, lesson),
        training.TrainingSet(images, told),
        experiment.schedule,
        samplers.of(experiment, labels, generator),
        folder / "checkpoint.pt",
        quiet,
        watch,
    )
    if experiment.losses.objective in objectives.LEAVE_THE_HEAD:
        _set_head(model.eval(), images, labels)
    weights = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
    save_file(weights, folder / "weights.partial")
    (folder / "weights.partial").replace(folder / "weights.safetensors")
    _write(folder / "history.json", history)
    if watch:
        _write(folder / "curve.json", watch.rows)
    _write(folder / "provenance.json", _provenance(history, device))
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def _lesson(
    experiment: Experiment, split: Split, device: torch.device, quiet: bool | None
) -> objectives.Lesson:
    """What the experiment's teacher says of the training images, on the device."""
    how, teacher = experiment.distillation, experiment.distillation.teacher
    assert teacher is not None
    mine, its = ((e.data.data_name, e.data.labels, e.split) for e in (experiment, teacher))
    if mine != its:
        raise ValueError(f"a teacher must have seen the same split; it saw {its}, not {mine}")
    said = teacher_outputs(fit(teacher, quiet), split.train)
    fine = data.load(experiment.data.data_name).labels[split.train.source_index]
    lesson = distillation.lesson(how, said, fine, experiment.seed)
    return objectives.Lesson(*(part.to(device) for part in lesson))


def teacher_outputs(run: Run, part: splits.Part) -> outputs.Outputs:
    """Return a run's outputs for a part of its data, kept in its folder for the next student."""
    rows = hashlib.sha256(part.source_index.tobytes()).hexdigest()[:12]
    path = run.folder / f"outputs_{rows}.npz"
    with _locked(run.folder):
        if not path.exists():
            outputs.compute(run.model, part).save(path)
    return outputs.Outputs.load(path)


MEANS_OF = 20  # training images of each class whose mean stands for it while a training is watched


def watch_of(experiment: Experiment, split: Split, data: training.TrainingSet) -> Watch | None:
    """Return what measures the accuracy on all validation images, among all classes, or None.

    A head that is not trained along is set from the means of the first training images of each class.
    """
    if not experiment.schedule.watch_every:
        return None
    images = torch.from_numpy(split.validation.images).to(data.images.device)
    labels = torch.from_numpy(split.validation.labels).to(data.labels.device)
    classes = len(split.known_classes)
    own_head = experiment.losses.objective not in objectives.LEAVE_THE_HEAD
    some = torch.cat([(data.labels == c).nonzero()[:MEANS_OF, 0] for c in data.labels.unique()])

    def measure(model: Classifier) -> dict[str, float]:
        if not own_head:
            _set_head(model, data.images[some], data.labels[some])
        form = models.memory_format(model)
        batches = (b.float().div_(255).contiguous(memory_format=form) for b in images.split(512))
        logits = (losses.class_logits(model(batch).logits, classes) for batch in batches)
        found = torch.cat([each.argmax(1) for each in logits])
        return {"accuracy": (found == labels).float().mean().item()}

    return Watch(experiment.schedule.watch_every, measure)


def _set_head(model: Classifier, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Set a head that was not trained along from the class means of images."""
    assert not isinstance(model.head, models.LinearHead), "objectives.of refuses it"
    model.head.set_means(class_means(model, images, labels))


@torch.inference_mode()
def class_means(
    model: Classifier, images: torch.Tensor, labels: torch.Tensor, batch_size: int = 512
) -> torch.Tensor:
    """Return the mean embedding of each class, C×D, of uint8 images on the model's device."""
    form = models.memory_format(model)
    z = torch.cat(
        [
            model(batch.float().div_(255).contiguous(memory_format=form)).embedding.float()
            for batch in images.split(batch_size)
        ]
    )
    sums = z.new_zeros(int(labels.max()) + 1, z.shape[1]).index_add_(0, labels, z)
    return sums / labels.bincount()[:, None]


def _provenance(history: list[dict[str, float]], device: torch.device) -> dict[str, Any]:
    return {
        "device": runtime.describe(device),
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": runtime.versions(),
    }


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _write(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1))
    partial.replace(path)
