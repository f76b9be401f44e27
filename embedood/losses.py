"""Losses: a batch to one number to be made small. Logits are B×C, labels int64 in 0…C−1.

Where a loss takes `weights`, B numbers, each image's part is multiplied by its own before the mean:
with importance weights, the mean is right for images that were not drawn uniformly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from embedood.models import squared_distances

SURE = 1e-6  # p is kept this far below 1, where log(1 − p) has no bound


def denoising(
    reconstruction: torch.Tensor, clean: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    r"""Mean squared error against the clean image, $\frac1N\sum_{ij}(y_{ij}-\hat y_{ij})^2$.

    N counts pixels, so the value does not depend on the image size.
    """
    if weights is None:
        return F.mse_loss(reconstruction.float(), clean.float())
    squares = F.mse_loss(reconstruction.float(), clean.float(), reduction="none")
    return _mean(squares.flatten(1).mean(1), weights)


def _mean(of_images: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return of_images.mean() if weights is None else (weights * of_images).mean()


def overconfidence(
    logits: torch.Tensor,
    labels: torch.Tensor,
    k: float = 1.0,
    label_smoothing: float = 0.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Cross-entropy that punishes being wrong and sure.

    $L = -\log p_t - k\sum_{i\ne t} p_i\log(1-p_i)$, mean over the batch; $k=0$ is cross-entropy.
    Focal loss turned round: it adds weight where a wrong class is likely, not where the right one
    is not. $p_i$ is kept below $1-10^{-6}$ inside the second logarithm. With `label_smoothing` s, the
    first term is $-(1-s)\log p_t-\frac sC\sum_c\log p_c$.

    Source: the project report of chapter 02, with k ≈ 1; smoothing: Szegedy et al., 2016.
    """
    log_p = logits.float().log_softmax(1)
    p = log_p.exp()
    wrong = -p * torch.log1p(-p.clamp(max=1 - SURE))
    wrong = wrong.scatter(1, labels[:, None], 0.0)
    right = _cross_entropy(log_p, labels, label_smoothing, weights)
    return right + k * _mean(wrong.sum(1), weights)


def _cross_entropy(
    log_p: torch.Tensor, labels: torch.Tensor, smoothing: float, weights: torch.Tensor | None
) -> torch.Tensor:
    if weights is None:
        right, even = F.nll_loss(log_p, labels), log_p.mean()
    else:
        right = _mean(F.nll_loss(log_p, labels, reduction="none"), weights)
        even = _mean(log_p.mean(1), weights)
    return (1 - smoothing) * right - smoothing * even if smoothing else right


def std_of_wrong(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    r"""Standard deviation of the probabilities of wrongly classified images.

    $L_{std} = \mathbb 1[t\ne\arg\max p]\,\mathrm{std}(p)$, mean over the batch, in $[0, 1/2)$; small when
    a wrong answer is an even one. std is over the C classes, divided by C; a tiny constant under the
    root keeps its gradient finite where p is uniform.

    Source: the project report of chapter 02, eq. (4). It prints a minus sign before this term, which
    would reward peaked wrong answers; its text asks for even ones.
    """
    p = logits.float().softmax(1)
    is_wrong = p.argmax(1) != labels
    spread = (p.var(1, correction=0) + 1e-12).sqrt()
    return _mean(is_wrong * spread, weights)


def uniformity(logits: torch.Tensor) -> torch.Tensor:
    r"""Distance of predictions from "no idea", $\mathrm{KL}(U\,\|\,p) = -\log C - \frac1C\sum_c\log p_c$.

    The mean over the batch, in nats, ≥ 0; the term that confidence-calibrated training and outlier
    exposure add on outliers.

    Source: Lee et al., 2018, "Training confidence-calibrated classifiers…"; Hendrycks et al., 2019.
    """
    log_p = logits.float().log_softmax(1)
    entropy_of_uniform = torch.log(torch.tensor(float(logits.shape[1])))
    return -log_p.mean() - entropy_of_uniform


def turning(
    logits: torch.Tensor, labels: torch.Tensor, turns: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    r"""Cross-entropy over class × quarter turn, logits B×3C, turns 0 (upright), 1 or 2.

    The target of class $y$ and turn $t$ is $y+tC$.

    Source: Lee et al., 2020, "Self-supervised label augmentation…", beside the class loss.
    """
    target = labels + turns * (logits.shape[1] // 3)
    return F.cross_entropy(logits.float(), target, label_smoothing=label_smoothing)


def pull(
    embedding: torch.Tensor,
    labels: torch.Tensor,
    prototypes: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Half the squared distance to the own prototype, $\frac12\|z-m_y\|^2$, mean over the batch.

    Embedding B×D, prototypes C×D. Beside distance-based cross-entropy it makes GCPL.

    Source: Yang et al., 2018, "Robust classification with convolutional prototype learning", whose
    code takes the same mean.
    """
    return _mean((embedding.float() - prototypes[labels]).square().sum(1), weights) / 2


def class_logits(logits: torch.Tensor, num_classes: int) -> torch.Tensor:
    r"""Logits of classes whose outputs are subclasses, $\log\sum_s e^{\ell_{cs}}$, B×C of B×(C·S).

    Their softmax is the sum of the subclasses' softmax; columns stand class after class.
    """
    return logits.float().unflatten(1, (num_classes, -1)).logsumexp(2)


def distillation(
    logits: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Cross-entropy to soft targets, $-T^2\sum_k q_k\log\mathrm{softmax}_k(\ell/T)$, mean over the batch.

    Targets q B×K are not negative and each row sums to 1; $T^2$ keeps the size of the gradient.

    Source: Hinton et al., 2015, "Distilling the knowledge in a neural network".
    """
    log_p = (logits.float() / temperature).log_softmax(1)
    return temperature**2 * _mean(-(targets * log_p).sum(1), weights)


def supervised_contrastive(
    embedding: torch.Tensor, labels: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    r"""Pull images of one class together on the sphere, away from all others of the batch.

    $L=-\frac1B\sum_i\frac1{|P(i)|}\sum_{p\in P(i)}\log\frac{e^{s_{ip}}}{\sum_{a\ne i}e^{s_{ia}}}$,
    $s_{ij}=z_i\cdot z_j/T$, unit embeddings B×D, P(i) the others of i's
    class. Images without another of their class do not count; a batch of only such gives 0.

    Source: Khosla et al., 2020, "Supervised contrastive learning", $L_{out}$.
    """
    z = F.normalize(embedding.float())
    myself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_p = (z @ z.T / temperature).masked_fill(myself, -torch.inf).log_softmax(1)
    positive = (labels[:, None] == labels) & ~myself
    count = positive.sum(1)
    per_image = log_p.masked_fill(~positive, 0).sum(1) / count.clamp_min(1)
    return -per_image.sum() / (count > 0).sum().clamp_min(1)


def episode_logits(
    embedding: torch.Tensor, ways: int, shots: int, temperature: float = 1.0
) -> torch.Tensor:
    r"""Logits of the queries of an episode, $-\|z-\bar z_c\|^2/T$, W·Q×W, for cross-entropy.

    Embedding W·(S+Q)×D, class by class, the `shots` S of its support first: their mean is the
    class's prototype. Raises `ValueError` for rows that do not divide so, or leave no query.

    Source: Snell et al., 2017, "Prototypical networks for few-shot learning".
    """
    each = len(embedding) // max(ways, 1)
    if ways < 2 or len(embedding) != ways * each or not 1 <= shots < each:
        raise ValueError(
            f"{len(embedding)} rows are not {ways} classes of {shots} shots and some queries each"
        )
    z = embedding.float().view(ways, each, -1)
    queries = z[:, shots:].flatten(0, 1)
    return -squared_distances(queries, z[:, :shots].mean(1)) / temperature
