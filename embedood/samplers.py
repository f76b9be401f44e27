"""Which images make a batch: index tensors over labels on the device, drawn from one generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from embedood.config import Schedule

Batches = Callable[[torch.Tensor, torch.Generator], Iterator[torch.Tensor]]


def shuffled(batch_size: int) -> Batches:
    """Return a sampler that visits every image once an epoch, in batches of `batch_size`."""

    def batches(labels: torch.Tensor, generator: torch.Generator) -> Iterator[torch.Tensor]:
        order = torch.randperm(len(labels), generator=generator, device=labels.device)
        yield from order.split(batch_size)

    return batches


def episodes(batch_size: int, ways: int) -> Batches:
    """Return a sampler of episodes: `ways` classes, `batch_size` // `ways` images of each.

    The rows of an episode are grouped by class. An epoch has as many batches as `shuffled` has. The
    classes are drawn without replacement, and so are the images of each within an episode.

    Raises `ValueError`, when it draws, for more ways than classes, or more images than the smallest
    class has.
    """
    each = batch_size // max(ways, 1)

    def batches(labels: torch.Tensor, generator: torch.Generator) -> Iterator[torch.Tensor]:
        rows = [torch.where(labels == c)[0] for c in labels.unique()]
        if not 2 <= ways <= len(rows) or not 2 <= each <= min(map(len, rows)):
            raise ValueError(
                f"an episode of {ways} classes with {each} images each cannot be drawn from "
                f"{len(rows)} classes of {min(map(len, rows))} images or more"
            )
        for _ in range(-(-len(labels) // batch_size)):
            drawn = torch.randperm(len(rows), generator=generator, device=labels.device)[:ways]
            yield torch.cat([_some(rows[c], each, generator) for c in drawn.tolist()])

    return batches


def _some(rows: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    order = torch.randperm(len(rows), generator=generator, device=rows.device)
    return rows[order[:count]]


def of(schedule: Schedule) -> Batches:
    """Return the sampler that a schedule asks for."""
    if schedule.ways:
        return episodes(schedule.batch_size, schedule.ways)
    return shuffled(schedule.batch_size)
