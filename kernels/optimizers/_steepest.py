"""Steepest descent in a norm with momentum: the update, and the torch.optim shell around it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from kernels.optimizers._layers import by_output, by_role
from kernels.optimizers._norms import Norm


def step_of(norm: Norm, direction: Tensor) -> Tensor:
    """The step of unit learning rate: radius x dual map of a matrix, the signs of a vector.

    A vector is a bias: each entry moves one unit's input, and signs move all of them by 1.
    """
    if direction.ndim < 2:
        return direction.sign()
    return norm.radius(*direction.shape[-2:]) * norm.dual(direction)


class SteepestDescent(Optimizer):
    """W <- W - lr x step(M), M <- m M + (1 - m) G; Nesterov takes m M + (1 - m) G once more for M."""

    def __init__(self, groups: list[dict[str, Any]], norm: Norm, *, momentum: float, nesterov: bool) -> None:
        super().__init__(groups, {"momentum": momentum, "nesterov": nesterov})
        self.norm = norm

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            momentum = group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                mean = self.state[p].setdefault("momentum", torch.zeros_like(p))
                mean.lerp_(p.grad, 1.0 - momentum)
                direction = p.grad.lerp(mean, momentum) if group["nesterov"] else mean
                p.sub_(step_of(self.norm, direction), alpha=group["lr"])


def steepest(
    parameters: Iterable[Parameter], norm: Norm, *, learning_rate: float, momentum: float, nesterov: bool, **rates: float
) -> SteepestDescent:
    """The shell over parameter groups by role; ValueError where an option breaks its rule."""
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum = {momentum}: should lie in [0, 1), for example 0.95")
    return SteepestDescent(by_output(by_role(parameters, learning_rate, **rates)), norm, momentum=momentum, nesterov=nesterov)
