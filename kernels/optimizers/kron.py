"""PSGD with Kronecker-factored preconditioners."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from kernels.optimizers._layers import by_role
from kernels.optimizers._matrices import as_matrices

RATE = 0.1
"""Step of the preconditioner's own descent, over its Lipschitz bound."""

LARGEST = 1.1
"""Root mean square of a step's entries, of which a white gradient has 1, that is not exceeded."""


def kron(
    parameters: Iterable[Parameter],
    *,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    first: float = 1.0,
    last: float = 1.0,
    biases: float = 1.0,
) -> Optimizer:
    """PSGD (Li, arXiv 1512.04202; Kronecker factors, arXiv 2402.11858): W <- W - lr A^2 M B^2, A and B symmetric, that whiten M.

    Preconditioned, M has E P P^T = in I and E P^T P = out I, P = A^2 M B^2: A and B descend towards this by the quadratic form
    A <- (1 - s E) A (1 - s E), E = P P^T - in I. It needs neither inverses nor random probes, which the better known
    triangular form draws from a global generator. A bias is a matrix of one column.

    :param learning_rate: peak of the schedule, > 0; the root mean square of a step's entries, as Adam's
    :param momentum: weight of the past in the mean gradient M, in [0, 1)
    :param first: learning rate of the first layer over learning_rate, > 0
    :param last: the same of the last layer
    :param biases: the same of the biases
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum = {momentum}: should lie in [0, 1), for example 0.9")
    return Kron(by_role(parameters, learning_rate, first=first, last=last, biases=biases), {"momentum": momentum})


class Kron(Optimizer):
    """The shell; every matrix has its factors A and B, and the bounds of their steps."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g, state = as_matrices(p.grad), self.state[p]
                if not state:
                    state["steps"], state["mean"] = 0, torch.zeros_like(g)
                    state["factors"] = _first(g)
                    state["bounds"] = [g.new_zeros(*g.shape[:-2], 1, 1) for _ in range(2)]
                state["steps"] += 1
                state["mean"].lerp_(g, 1.0 - group["momentum"])
                mean = state["mean"] / (1.0 - group["momentum"] ** state["steps"])
                whiten(state["factors"], state["bounds"], mean)
                step = white(state["factors"], mean)
                size = step.square().mean((-2, -1), keepdim=True).sqrt()
                step = step * (LARGEST / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(1.0)
                p.sub_(step.view_as(p), alpha=group["lr"])


def _first(g: Tensor) -> list[Tensor]:
    """Multiples of the identity that give the first gradient entries of about 1."""
    size = g.pow(2).mean((-2, -1), keepdim=True).sqrt().clamp_min(torch.finfo(g.dtype).tiny ** 0.5)
    return [torch.eye(n, dtype=g.dtype, device=g.device) * size.pow(-0.25) for n in g.shape[-2:]]


def white(factors: list[Tensor], g: Tensor) -> Tensor:
    """P = A^2 G B^2."""
    a, b = factors
    return a @ (a @ g @ b) @ b


def whiten(factors: list[Tensor], bounds: list[Tensor], g: Tensor) -> None:
    """One step of both factors towards E P P^T = in I and E P^T P = out I, in place."""
    p = white(factors, g)
    for factor, bound, gram, target in zip(factors, bounds, (p @ p.mT, p.mT @ p), reversed(g.shape[-2:]), strict=True):
        row = gram.gather(
            -2, gram.square().sum(-1, keepdim=True).argmax(-2, keepdim=True).expand(*gram.shape[:-2], 1, gram.shape[-1])
        )
        length = row.square().sum(-1, keepdim=True).sqrt().clamp_min(torch.finfo(g.dtype).tiny)
        largest = (row / length @ gram).square().sum(-1, keepdim=True).sqrt() + target
        torch.maximum(0.9 * bound + 0.1 * largest, largest, out=bound)
        s = 0.5 * RATE / bound
        left = factor - s * (gram @ factor - target * factor)
        left = left - s * (left @ gram - target * left)
        factor.copy_(0.5 * (left + left.mT))
