"""Losses: a batch to one number to be made small. Logits are B×C, labels int64 in 0…C−1."""

from __future__ import annotations

import torch
import torch.nn.functional as F

SURE = 1e-6  # p is kept this far below 1, where log(1 − p) has no bound


def denoising(reconstruction: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    r"""Mean squared error against the clean image, $\frac1N\sum_{ij}(y_{ij}-\hat y_{ij})^2$.

    N counts pixels, so the value does not depend on the image size.
    """
    return F.mse_loss(reconstruction.float(), clean.float())


def overconfidence(
    logits: torch.Tensor, labels: torch.Tensor, k: float = 1.0, label_smoothing: float = 0.0
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
    right = F.nll_loss(log_p, labels)
    if label_smoothing:
        right = (1 - label_smoothing) * right - label_smoothing * log_p.mean()
    return right + k * wrong.sum(1).mean()


def std_of_wrong(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
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
    return (is_wrong * spread).mean()


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
