"""An experiment in one frozen value: data, split, network, losses, schedule … and seed.

Every field name is unique across the sections, so an override is flat: `experiment.with_(width=32)`.
The hash of all fields, `Experiment.key`, names the folder that keeps the trained weights.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

# Raise it when the training code, or a default below, changes what a given experiment learns.
TRAINING_REVISION = 1


class ConfigError(ValueError):
    """An experiment was asked for that does not exist or cannot be."""


@dataclass(frozen=True)
class Data:
    """Which images, and how many of them are trained on."""

    data_name: str = "mnist"
    train_limit: int = 0  # 0 = all training images
    imbalance: float = 1.0  # the first class has so many times as many as the last, by powers
    labels: str = "classes"  # or "parity": whether the class's number is even (0) or odd (1)


@dataclass(frozen=True)
class Split:
    """Which classes are left out, and how many training images are kept for validation."""

    unseen: tuple[int, ...] = (0,)
    validation: int = 5000
    split_seed: int = 0


@dataclass(frozen=True)
class Network:
    """Which network, and how wide."""

    architecture: str = "denoising"  # a name of models.ARCHITECTURES
    width: int = 64  # channels of the first stage; later stages have 2× and 4×
    head: str = "linear"  # a name of models.HEADS
    dimensions: int = 0  # of the embedding; 0 = as many as the network has features
    temperature: float = 1.0  # of the head; a cosine is divided by it, a squared distance too
    fixed_scale: bool = False  # of the head "gaussians": σ = √(temperature / 2) throughout


@dataclass(frozen=True)
class Noise:
    """What happens to a training image before the network sees it."""

    sigma: float = 0.3  # of the Gaussian, on images in [0, 1]
    square_min: int = 10  # side of the occluding square, pixels
    square_max: int = 14
    noised_share: float = 0.5  # of each training batch; the rest stays clean
    shift: int = 0  # augmentation: random translation by up to this many pixels
    affine: float = 0.0  # augmentation: strength of random rotation, scale and shear, usually 1
    flip: float = 0.0  # augmentation: probability of a left-right mirror image


@dataclass(frozen=True)
class Losses:
    """What is made small, and how the parts of it are weighed."""

    objective: str = "classification"  # a name of objectives.OBJECTIVES
    denoising_weight: float = 4.0
    overconfidence_weight: float = 1.0  # k of the classification loss
    label_smoothing: float = 0.0  # share of the target that is spread over all classes
    std_weight: float = 1.0  # of L_std; negative gives the sign that the report prints
    outlier_weight: float = 0.0  # KL(uniform || p) on pseudo-OOD made from the batch
    outlier_recipe: str = "report"  # a name of noise.OUTLIERS
    blending_weight: float = 0.0  # of the loss on blends of two images, half of the batch again
    turning_weight: float = 0.0  # class × quarter turn on a second head, half of the batch turned
    pull_weight: float = 0.0  # of the squared distance to the own class's prototype
    distance_weight: float = 0.0  # β, of the distance to the own class's Gaussian
    separation_weight: float = 0.0  # γ, of how much the classes' Gaussians overlap
    margin_weight: float = 0.0  # η, of other Gaussians that are not farther by the margin
    margin: float = 1.0  # in nats
    pair_margin: float = 0.2  # of the objectives that compare pairs or triples, on unit embeddings


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the network learns."""

    epochs: int = 3
    batch_size: int = 128
    learning_rate: float = 3e-3  # the highest
    optimizer: str = "adamw"  # or "muon", or "sgd" with Nesterov's momentum of 0.9
    rates: str = (
        "one_cycle"  # or "constant", after a linear rise in the first twentieth of the steps
    )
    steps: int = 0  # of an epoch with `ways`; 0 = as many as visit every image once
    watch_every: int = 0  # steps between two measurements of the validation accuracy; 0 = none
    weight_decay: float = 0.02
    averaging: float = 0.0  # decay, per step, of a moving average of the weights; 0 = the last ones
    first_side: int = 0  # pixels of the images in the first epoch, growing to all; 0 = all at once
    ways: int = 0  # classes of an episode, which has `batch_size` images; 0 = shuffled batches
    shots: int = 5  # of each class of an episode, its support; the others are the queries


@dataclass(frozen=True)
class Sampling:
    """Which images make a batch; what a sampler does not use changes nothing but the key."""

    sampler: str = "uniform"  # of samplers.CLASS_SAMPLERS where there are ways, else IMAGE_SAMPLERS
    per_class: int = 0  # images of each class drawn; 0 = batch_size // ways
    divergence: str = "bhattacharyya"  # of samplers.DIVERGENCES, or a control: "random", "shuffled"
    overlap: str = "inverse"  # by the divergence D: 1/D, "exponential" e^-D, "relative" e^-D/median
    covariance: str = "diagonal"  # of the classes: a name of gaussians.ClassGaussians
    sampling_temperature: float = 1.0  # of the weights: ∞ = uniform, towards 0 the largest wins
    uniform_floor: float = 0.1  # share of the uniform distribution in each draw
    context_share: float = 0.0  # of the classes of a batch, drawn uniformly from the rest
    candidates: int = 4  # of a tournament
    refresh_every: int = 20  # steps between two matrices of divergences, or two sorts
    statistics_decay: float = 0.9  # of a class's statistics at each batch that has the class
    pair_strength: float = 1.0  # α of the class-pair potential
    pair_memory: float = 0.5  # τ of the class-pair potential
    selection_pressure: float = 100.0  # of the image of largest loss against that of the least
    presample: int = 3  # batches forwarded to draw one by gradient norm
    least_gain: float = 0.0  # τ above which gradient norms are used; 0 = where they pay


@dataclass(frozen=True)
class Distillation:
    """Of a student: whom it learns from, and what; see `distillation`."""

    teacher: Experiment | None = None
    subclasses_by: str = "none"  # a name of distillation.SUBCLASSES
    subclasses: int = 1  # S of each class; the student's head has S·C outputs
    teacher_temperature: float = 1.0  # τ that the teacher's logits are divided by
    subclass_temperature: float = 1.0  # β that coordinates are divided by, for soft subclasses
    student_temperature: float = 1.0  # that the student's logits are divided by while it learns
    hard_share: float = 0.0  # of the loss, for the true labels
    embedding_weight: float = 0.0  # of the squared error of the teacher's embedding, guessed


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what a trained network is; equal experiments share one run."""

    data: Data = field(default_factory=Data)
    split: Split = field(default_factory=Split)
    network: Network = field(default_factory=Network)
    noise: Noise = field(default_factory=Noise)
    losses: Losses = field(default_factory=Losses)
    schedule: Schedule = field(default_factory=Schedule)
    sampling: Sampling = field(default_factory=Sampling)
    distillation: Distillation = field(default_factory=Distillation)
    seed: int = 0

    def with_(self, **overrides: Any) -> Experiment:
        """Return a copy with flat overrides, such as `with_(width=32, epochs=2)`.

        Raises `ConfigError` for an unknown name (the known ones are listed) or a value of another type.
        """
        changed = self
        for name, value in overrides.items():
            changed = _replace_one(changed, name, value)
        return changed

    def to_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits, equal exactly when all fields are equal.

        Only what differs from the defaults is hashed, so that a new field leaves old runs valid; of a
        teacher, its key.
        """
        mine, usual = self.to_dict(), Experiment().to_dict()
        if self.distillation.teacher:
            mine["distillation"]["teacher"] = self.distillation.teacher.key
        changed = {s: _difference(mine[s], usual[s]) for s in mine}
        for section in ("sampling", "distillation"):  # they came after the first keys
            if not changed[section]:
                del changed[section]
        text = json.dumps([TRAINING_REVISION, changed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _difference(mine: Any, usual: Any) -> Any:
    """The entries of a section that are not as usual; a plain value as it is."""
    if not isinstance(mine, dict):
        return mine
    return {name: value for name, value in mine.items() if value != usual[name]}


SECTIONS = (
    "data", "split", "network", "noise", "losses", "schedule", "sampling", "distillation",
)  # fmt: skip


def field_names() -> dict[str, str]:
    """Map each flat field name to the section that owns it (`seed` belongs to none)."""
    owner = {f.name: s for s in SECTIONS for f in fields(getattr(Experiment(), s))}
    return owner | {"seed": ""}


AT_LEAST_ONE = ("width", "epochs", "batch_size", "shots", "subclasses")


def _replace_one(experiment: Experiment, name: str, value: Any) -> Experiment:
    owners = field_names()
    if name not in owners:
        raise ConfigError(f"unknown setting {name!r}; the settings are {', '.join(owners)}")
    section = getattr(experiment, owners[name]) if owners[name] else experiment
    value = _checked(name, value, get_type_hints(type(section))[name])
    if not owners[name]:
        return replace(experiment, **{name: value})
    changed: dict[str, Any] = {owners[name]: replace(section, **{name: value})}
    return replace(experiment, **changed)


def _checked(name: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        if not all(type(v) is get_args(kind)[0] for v in value):
            raise ConfigError(
                f"{name} takes a tuple of {get_args(kind)[0].__name__}, got {value!r}"
            )
        return tuple(value)
    if isinstance(kind, UnionType):
        if not isinstance(value, kind):
            raise ConfigError(f"{name} takes an Experiment or None, got {value!r}")
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{name} takes {kind.__name__}, got {value!r} ({type(value).__name__})")
    if kind is int and value < (least := name in AT_LEAST_ONE):
        raise ConfigError(f"{name} must be at least {int(least)}, got {value}")
    return value


# A plain classifier, a fifth of the cost of the report's: shifted images, cross-entropy, more epochs.
_COMPACT = {
    "architecture": "compact",
    "width": 16,
    "noised_share": 0.0,
    "shift": 2,
    "overconfidence_weight": 0.0,
    "std_weight": 0.0,
    "epochs": 8,
    "learning_rate": 0.01,
}

# A network for photographs of many classes; the data's own settings are those of `BY_DATA`.
_EMBEDDING = {
    "data_name": "cifar100",
    "architecture": "residual",
    "width": 16,
    "noised_share": 0.0,
    "shift": 4,
    "overconfidence_weight": 0.0,
    "std_weight": 0.0,
    "epochs": 15,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 1e-3,
}
_COSINE = {"head": "cosine", "temperature": 0.0625}

# Short trainings in episodes over all classes, to be watched; rates are constant, weights averaged.
_PRACTICE = {
    "unseen": (),
    "width": 8,
    "rates": "constant",
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": 0.02,
    "averaging": 0.98,
    "epochs": 6,
    "overlap": "relative",
    "sampling_temperature": 0.5,
}

_SMOOTHED = {"affine": 1.0, "label_smoothing": 0.1}

# A Gaussian for each class, of a standard deviation of 1 or more.
_GAUSSIANS = {"objective": "information", "head": "gaussians", "temperature": 2.0}
_DEEP_MCDD = _GAUSSIANS | {"distance_weight": 0.1}
_INFORMATION = _GAUSSIANS | {"distance_weight": 0.1, "separation_weight": 1.0}
_DCE = {"head": "prototypes", "temperature": 0.5}
_GCPL = {"head": "prototypes", "pull_weight": 0.001}
# A second head must say how an image was turned, which asks for more than the label does.
_TURNING = {"architecture": "residual13_turning", "turning_weight": 1.0}
# Blends of two images ask for both of their classes, each as much as there is of it.
_BLENDED = {"architecture": "residual13", "blending_weight": 1.0}
# For two minutes of two cores: what helped most in short trainings, found on validation images.
_SWIFT = {
    "architecture": "whitened",
    "width": 32,
    "optimizer": "muon",
    "learning_rate": 0.025,
    "weight_decay": 0.1,
    "averaging": 0.99,
    "batch_size": 100,
    "shift": 2,
    "first_side": 20,
    "epochs": 6,
}
# Even or odd, from labels that do not say which classes there are: a teacher and its small student.
_PARITY = {"unseen": (), "labels": "parity"}
_PARITY_PRESETS = {
    "parity_teacher": _COMPACT | _PARITY | {"epochs": 4},
    "parity_student": _COMPACT | _PARITY | {"width": 4, "epochs": 40, "train_limit": 500},
    "parity_teacher_photos": _EMBEDDING | _PARITY | _TURNING | {"epochs": 30},
    "parity_student_photos": _EMBEDDING | _PARITY | {"width": 8, "epochs": 8},
}

# What a preset changes against the defaults above, which are the report's recipe.
PRESETS: dict[str, dict[str, Any]] = {
    "report": {},
    "std_0": {"std_weight": 0.0},
    "std_5": {"std_weight": 5.0},
    "printed_sign": {"std_weight": -1.0},
    "compact": _COMPACT,
    "compact_smoothed": _COMPACT | _SMOOTHED,
    "compact_turning": _COMPACT | _SMOOTHED | {"architecture": "turning", "turning_weight": 1.0},
    "compact_outliers": _COMPACT | {"outlier_weight": 0.5, "outlier_recipe": "shapes"},
    "compact_exposed": _COMPACT | {"outlier_weight": 0.5, "outlier_recipe": "photos"},
    "cross_entropy": _EMBEDDING,
    "swift": _EMBEDDING | _SWIFT,
    "smoothed": _EMBEDDING | {"label_smoothing": 0.1},
    "turning": _EMBEDDING | _TURNING,
    "blended": _EMBEDDING | _BLENDED,
    "blended_turning": _EMBEDDING | _BLENDED | _TURNING,
    "dce": _EMBEDDING | _DCE,
    "gcpl": _EMBEDDING | _GCPL,
    "deep_mcdd": _EMBEDDING | _DEEP_MCDD,
    "information": _EMBEDDING | _INFORMATION,
    "compact_dce": _COMPACT | _DCE,
    "compact_gcpl": _COMPACT | _GCPL,
    "compact_deep_mcdd": _COMPACT | _DEEP_MCDD,
    "compact_information": _COMPACT | _INFORMATION,
    "episodes": _EMBEDDING
    | {"objective": "episodes", "head": "prototypes", "ways": 20, "batch_size": 200},
    "cosine": _EMBEDDING | _COSINE,
    "episodes_softmax": _EMBEDDING
    | _COSINE
    | {"objective": "episodes_softmax", "ways": 20, "batch_size": 200},
    "practice": _COMPACT
    | {"shift": 0, "objective": "episodes", "head": "prototypes", "dimensions": 16}
    | {"ways": 3, "batch_size": 48, "steps": 200, "watch_every": 50}
    | _PRACTICE,
    "practice_photos": _EMBEDDING
    | _COSINE
    | {"objective": "episodes_softmax", "dimensions": 64}
    | {"ways": 10, "batch_size": 100, "steps": 250, "watch_every": 75, "context_share": 0.3}
    | _PRACTICE,
    "contrastive": _EMBEDDING
    | {"objective": "contrastive", "head": "cosine", "temperature": 0.1, "batch_size": 256},
    **_PARITY_PRESETS,
}

# What follows the data unless it is given. Letters have no mirror images of the same class.
BY_DATA: dict[str, dict[str, Any]] = {
    "mnist-5k": {"validation": 500},
    "cifar100": {"validation": 4000, "flip": 0.5},
    "glyph-100": {"validation": 800},
}


def preset(name: str, **overrides: Any) -> Experiment:
    """Return a named experiment with flat overrides.

    What `BY_DATA` says of the data set follows it unless it is given: the number of validation images,
    5,000 otherwise, and mirror images.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; the presets are {', '.join(PRESETS)}")
    settings = PRESETS[name] | overrides
    of_data = BY_DATA.get(settings.get("data_name", ""), {})
    return Experiment().with_(**(of_data | settings))


def from_dict(stored: dict[str, Any]) -> Experiment:
    """Rebuild an experiment from `Experiment.to_dict()`."""
    flat: dict[str, Any] = {}
    for name, value in stored.items():
        flat |= value if isinstance(value, dict) else {name: value}
    flat["unseen"] = tuple(flat["unseen"])
    if flat.get("teacher"):
        flat["teacher"] = from_dict(flat["teacher"])
    return Experiment().with_(**flat)
