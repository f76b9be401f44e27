"""What all samplers share, and what a training step tells them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.utils.data

Look = Callable[[torch.Tensor], torch.Tensor]
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Step(NamedTuple):
    """What a training step made small, and what it computed on the way.

    `logits` are M×K: of all B images over all C classes, or, where `answered` and `classes` are given,
    of M images, rows of the batch, over K classes.
    """

    terms: dict[str, torch.Tensor]  # "loss" and its parts, each one number
    embedding: torch.Tensor  # B×D
    logits: torch.Tensor | None  # None where the objective has none
    classes: torch.Tensor | None = None  # the labels of the K columns
    answered: torch.Tensor | None = None  # the M rows of the batch


class Answers(NamedTuple):
    """Whom a step asked, and what the network said: M images, K classes."""

    rows: torch.Tensor  # M, rows of the batch
    labels: torch.Tensor  # M
    column: torch.Tensor  # the column of each class that has one
    log_p: torch.Tensor  # M×K, float64

    @property
    def losses(self) -> torch.Tensor:
        """The cross-entropy of each image, in nats, M."""
        return -self.log_p.gather(1, self.column[self.labels, None])[:, 0]

    @property
    def gradient_norms(self) -> torch.Tensor:
        r"""$\|p-e_y\|$ of each image, the gradient of its loss by its logits, M, in $[0,\sqrt2]$."""
        p = self.log_p.exp()
        right = p.gather(1, self.column[self.labels, None])
        return (p.square().sum(1) + 1 - 2 * right[:, 0]).clamp_min(0).sqrt()


@torch.no_grad()
def answers(step: Step, labels: torch.Tensor) -> Answers:
    """Return the answers of a step to a batch with labels B.

    Raises `ValueError` for a step without logits, and for logits that are not those of M images, are not
    finite or have no column for a label.
    """
    if step.logits is None:
        raise ValueError("this sampler reads logits, and the objective of this training has none")
    rows = torch.arange(len(labels), device=labels.device)
    rows = rows if step.answered is None else step.answered
    logits, asked = step.logits.detach().double(), labels[rows]
    if logits.ndim != 2 or len(logits) != len(rows):
        raise ValueError(
            f"logits must be M×K with a row for each of M = {len(rows)} images, got "
            f"{tuple(logits.shape)}"
        )
    # A sum tells faster than a look at each: it is finite for any finite numbers below float64.
    if not logits.sum().isfinite() and (bad := int((~logits.isfinite().all(1)).sum())):
        raise ValueError(f"{bad} of {len(logits)} rows of logits hold NaN or infinite values")
    column = _columns(logits.shape[1], step.classes, asked)
    return Answers(rows, asked, column, logits.log_softmax(1))


def _columns(count: int, classes: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor:
    """Return the column of each class, −1 where there is none; refuse labels without one."""
    column = torch.arange(count, device=labels.device)
    if classes is None:
        without = labels >= count
    else:
        order, most = column, int(torch.cat([classes, labels]).max())
        column = order.new_full((most + 1,), -1)
        column[classes] = order
        without = column[labels] < 0
    if without.any():
        absent = labels[without].unique().tolist()
        raise ValueError(f"logits have {count} columns, and none for the labels {absent}")
    return column


def check_whole(**numbers: Any) -> None:
    """Raise `TypeError`, naming it, for a number that is not whole."""
    for name, number in numbers.items():
        try:
            operator.index(number)
        except TypeError:
            raise TypeError(f"{name} must be a whole number, got {number!r}") from None


def check_generator(generator: Any) -> None:
    """Raise `TypeError` for what is no generator."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"the generator must be a torch.Generator, got {generator!r}")


def check_state(state: Any, own: Mapping[str, Any], unless: str = "") -> None:
    """Refuse a state that is not made like one's own; that of the name `unless` may have any form.

    Raises `TypeError` for no dict, `KeyError` for other keys and `ValueError` for other shapes.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"a state must be a dict, got {type(state).__name__}")
    if state.keys() != own.keys():
        found, wanted = (sorted(map(str, keys)) or "nothing" for keys in (state, own))
        raise KeyError(f"this is the state of another sampler: it holds {found}, not {wanted}")
    for name, value in own.items():
        found, wanted = _form(state[name]), _form(value)
        if name != unless and found != wanted:
            raise ValueError(f"{name!r} of the state is {found}, but this sampler needs {wanted}")


def _form(value: Any) -> str:
    if torch.is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)}"
    return "a number" if isinstance(value, int | float) else type(value).__name__


class Sampler(torch.utils.data.Sampler[torch.Tensor]):
    """Base of all samplers: an iterable of batches, each a tensor of row numbers; an epoch long.

    `labels` are N whole numbers; a `DataLoader` takes a sampler as its `batch_sampler`. Every draw comes from
    `generator`, which lives on the device of the labels. Whoever trains may call `observe` after each
    step, which is what the samplers that follow the training live on, set `look`, which returns the
    logits B×C of images by their rows, and multiply each image's loss by `weights`, where there are
    any. These belong to the batch that was yielded last, so batches must not be fetched ahead.

    Raises `ValueError` for no labels, labels that are not whole numbers ≥ 0, or another device, and
    `TypeError` where labels are no tensor or the generator is none.
    """

    weights: torch.Tensor | None = None
    look: Look | None = None

    def __init__(self, labels: torch.Tensor, generator: torch.Generator):
        if not torch.is_tensor(labels):
            kind = type(labels).__name__
            raise TypeError(f"labels must be a tensor, got {kind}: use torch.as_tensor(labels)")
        check_generator(generator)
        whole = labels.dtype in WHOLE
        if labels.ndim != 1 or not len(labels) or not whole or labels.min() < 0:
            raise ValueError(
                f"labels must be N ≥ 1 whole numbers from 0 on, got {tuple(labels.shape)}, "
                f"{labels.dtype}"
            )
        if torch.empty(0, device=generator.device).device != labels.device:  # "cuda" is "cuda:0"
            raise ValueError(f"the generator is on {generator.device}, labels on {labels.device}")
        # As int64: bytes would be taken for a mask wherever they index.
        self.labels, self.generator = labels.long(), generator

    def __iter__(self) -> Iterator[torch.Tensor]:
        raise NotImplementedError

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        raise NotImplementedError

    def observe(self, batch: torch.Tensor, step: Step) -> None:
        """Learn from what a training step computed on a batch of rows; most learn nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides the next epochs, but for the generator's state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state between two epochs.

        Raises, leaving all as it was, `KeyError` for a state with other contents and `ValueError` for that
        of other classes or images. Two samplers that keep the same things take each other's states.
        """
        check_state(state, self.state_dict())
