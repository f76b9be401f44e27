"""Muon: convolutions step along the orthogonal part of their momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

# The quintic a·s + b·s³ + c·s⁵ pulls a singular value in (0, 1] to about one, in few steps.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal_part(matrix: torch.Tensor, steps: int = 3) -> torch.Tensor:
    r"""Return $UV^\top$ of a matrix $USV^\top$, roughly, by at least one step.

    Newton and Schulz's iteration from $X$, the matrix over its Frobenius norm: $X \leftarrow FX$,
    $F = aI + bA + cA^2$, $A = XX^\top$. No decomposition. All factors F are functions of the first A, so
    that the steps are taken on this, $A \leftarrow FAF$, and X is multiplied once, by their product: for
    the filters of a 3×3 convolution less than half of the work. The larger singular values end between
    0.7 and 1.2, small ones below; zeros stay zeros.

    Source: Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks".
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).float()
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    factor = product = _factor(gram)
    for _ in range(steps - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    x = product @ x
    return (x.T if tall else x).to(matrix.dtype)


def _factor(gram: torch.Tensor) -> torch.Tensor:
    a, b, c = QUINTIC
    factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor


class Muon(torch.optim.Optimizer):
    r"""Muon for the weights of convolutions, AdamW for all other parameters.

    A weight is read as a matrix W of outputs × everything else. With its momentum
    $M \leftarrow \beta_1 M + G$ and $O$ the orthogonal part of $G + \beta_1 M$ (Nesterov), a step is
    $W \leftarrow (1 - \eta\lambda) W - 0.2\,\eta \sqrt{\max(\text{sides of } W)}\,O$.
    The factor gives O the size of AdamW's usual step, so that all share the rate η and the decay λ.
    Where AdamW and SGD learn what is common first, this learns all directions at one pace.

    `settings` are those of `torch.optim.AdamW`. Raises `TypeError` for groups of parameters, and
    `ValueError` without a convolution, or with nothing else.

    Source: Jordan et al., 2024, where the head and all vectors go to AdamW as well; the factor is that
    of Liu et al., 2025, "Muon is scalable for LLM training".
    """

    def __init__(self, params: Iterable[nn.Parameter], **settings: Any):
        params = list(params)
        if any(isinstance(p, dict) for p in params):
            raise TypeError("Muon takes parameters and not groups: it makes its own two groups")
        filters = [p for p in params if p.ndim == 4]
        others = [p for p in params if p.ndim != 4]
        if not filters or not others:
            raise ValueError(
                f"Muon takes convolutions and other parameters, got {len(filters)} and {len(others)}: "
                "where one kind is missing, use torch.optim.AdamW or torch.optim.Muon"
            )
        self.adamw = torch.optim.AdamW(others, **settings)
        super().__init__([*self.adamw.param_groups, {"params": filters}], self.adamw.defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step; a closure is not asked."""
        # A restored state brings new groups and a new dictionary; both optimizers read the same.
        self.adamw.param_groups, self.adamw.state = self.param_groups[:1], self.state
        self.adamw.step()
        for weight in self.param_groups[1]["params"]:
            if weight.grad is not None:
                self._turn(weight, weight.grad, self.param_groups[1])

    def _turn(self, weight: torch.Tensor, grad: torch.Tensor, group: dict[str, Any]) -> None:
        state, beta, rate = self.state[weight], group["betas"][0], group["lr"]
        momentum = state.setdefault("momentum", torch.zeros_like(weight))
        momentum.mul_(beta).add_(grad)
        ahead = torch.add(grad, momentum, alpha=beta).flatten(1)
        size = 0.2 * rate * max(ahead.shape) ** 0.5
        weight.mul_(1 - rate * group["weight_decay"])
        weight.sub_(size * orthogonal_part(ahead).view(weight.shape))
