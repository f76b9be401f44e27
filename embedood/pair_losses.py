"""Losses that compare pairs or triples of a batch, from the optional package pytorch-metric-learning.

Both take embeddings B×D and labels B, and compare Euclidean distances of unit vectors, in [0, 2].
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

INSTALL = "pip install 'embedood[pairs]'"


def triplet(embedding: torch.Tensor, labels: torch.Tensor, margin: float = 0.2) -> torch.Tensor:
    r"""Semi-hard triplet loss, the mean of $\max(0, d^2_{ap}-d^2_{an}+m)$ over the triples it keeps.

    a and p are of one class, n is of another. Semi-hard: n is farther from a than p is, by less
    than the margin m. A batch without such triples gives 0.

    Source: Schroff et al., 2015, "FaceNet". It takes for each pair one semi-hard n; here all count.
    """
    library = _library()
    squared = library.distances.LpDistance(power=2)
    miner = library.miners.TripletMarginMiner(margin, "semihard", distance=squared)
    loss = library.losses.TripletMarginLoss(margin, distance=squared)
    with torch.autocast(embedding.device.type, enabled=False):
        z = embedding.float()
        return loss(z, labels, miner(z, labels))


def pair_contrastive(
    embedding: torch.Tensor, labels: torch.Tensor, margin: float = 1.0
) -> torch.Tensor:
    r"""Contrastive loss: the mean of $d$ over pairs of a class plus that of $\max(0, m-d)$ over others.

    Over all pairs of the batch; those that lose nothing do not count in their mean.

    Source: Hadsell et al., 2006, "Dimensionality reduction by learning an invariant mapping", who
    square both terms and halve them; the library does not.
    """
    library = _library()
    loss = library.losses.ContrastiveLoss(pos_margin=0, neg_margin=margin)
    with torch.autocast(embedding.device.type, enabled=False):
        return loss(embedding.float(), labels)


def _library() -> Any:
    try:
        from pytorch_metric_learning import distances, losses, miners
    except ImportError as missing:
        raise ImportError(f"pair losses need pytorch-metric-learning: {INSTALL}") from missing
    return SimpleNamespace(distances=distances, losses=losses, miners=miners)
