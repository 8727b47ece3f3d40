"""Shampoo: steepest descent in a spectral norm with memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from kernels.optimizers._layers import by_output, by_role
from kernels.optimizers._matrices import as_matrices
from kernels.optimizers._norms import inverse_root

FLOOR = 1e-8
"""Share of the largest eigenvalue of a preconditioner that is added to all."""


def shampoo(
    parameters: Iterable[Parameter],
    *,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    memory: float = 0.95,
    every: int = 10,
    sides: Literal["both", "one"] = "both",
    first: float = 1.0,
    last: float = 1.0,
    biases: float = 0.3,
) -> Optimizer:
    """W <- W - lr sqrt(out/in) L^(-1/4) M R^(-1/4), L and R the means of G G^T and G^T G (Gupta et al., arXiv 1802.09568).

    One-sided: L^(-1/2) M with the smaller of L and R alone (arXiv 2503.20762). Without memory both are Muon's polar factor, so
    that a learning rate means here what it means there; with memory a step is cut to the polar factor's Frobenius norm. The
    means forget, as those of SOAP do; a bias is a matrix of one column.

    :param learning_rate: peak of the schedule, > 0
    :param momentum: weight of the past in the mean gradient M, in [0, 1)
    :param memory: weight of the past in L and R, in [0, 1)
    :param every: steps between two inverse roots, at least 1
    :param sides: both, or one
    :param first: learning rate of the first layer over learning_rate, > 0
    :param last: the same of the last layer
    :param biases: the same of the biases
    """
    for name, weight in (("momentum", momentum), ("memory", memory)):
        if not 0.0 <= weight < 1.0:
            raise ValueError(f"{name} = {weight}: should lie in [0, 1), for example 0.95")
    if every < 1:
        raise ValueError(f"every = {every}: should be at least 1, for example 10")
    groups = by_output(by_role(parameters, learning_rate, first=first, last=last, biases=biases))
    return Shampoo(groups, momentum=momentum, memory=memory, every=every, one_sided=sides == "one")


class Shampoo(Optimizer):
    """The shell; every matrix has its L and R, and their inverse roots as of the last update."""

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float, memory: float, every: int, one_sided: bool) -> None:
        super().__init__(groups, {"momentum": momentum, "memory": memory, "every": every, "one_sided": one_sided})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = as_matrices(p.grad)
                out, fan_in = g.shape[-2:]
                state = self.state[p]
                sides = [s for s in (0, 1) if not group["one_sided"] or s == int(out > fan_in)]
                if not state:
                    state["steps"], state["mean"] = 0, torch.zeros_like(g)
                    state["grams"] = [g.new_zeros(*g.shape[:-2], n, n) for n in (g.shape[-2 + s] for s in sides)]
                    state["roots"] = [torch.zeros_like(gram) for gram in state["grams"]]
                state["mean"].lerp_(g, 1.0 - group["momentum"])
                for side, gram in zip(sides, state["grams"], strict=True):
                    gram.lerp_(g.mT @ g if side else g @ g.mT, 1.0 - group["memory"])
                state["steps"] += 1
                # The first means are of few gradients and of low rank, and an old root of them would amplify what they lack.
                if state["steps"] <= group["every"] or state["steps"] % group["every"] == 0:
                    for root, gram in zip(state["roots"], state["grams"], strict=True):
                        root.copy_(inverse_root(gram / (1.0 - group["memory"] ** state["steps"]), 2 * len(sides), FLOOR))
                step = _between(sides, state["roots"], state["mean"] / (1.0 - group["momentum"] ** state["steps"]))
                size = step.square().sum((-2, -1), keepdim=True).sqrt().clamp_min(torch.finfo(step.dtype).tiny)
                step = step * (math.sqrt(min(out, fan_in)) / size).clamp_max(1.0)
                p.sub_((math.sqrt(out / fan_in) * step).view_as(p), alpha=group["lr"])


def _between(sides: list[int], roots: list[Tensor], m: Tensor) -> Tensor:
    """The matrix with its roots on their sides."""
    for side, root in zip(sides, roots, strict=True):
        m = m @ root if side else root @ m
    return m
