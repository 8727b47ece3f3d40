"""Poisson problems with their truth, and surrogates of them by formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from oracles import factory, literal_jet, room
from torch import Tensor

from kernels.contracts import Poisson
from kernels.streams import Stream

PROBLEMS = room("elliptic")


def elliptic(name: str, dim: int, **options: Any) -> Poisson:
    return factory("elliptic", name)(dim, **options)


def truth(problem: Poisson, x: Tensor) -> Tensor:
    assert problem.solution is not None
    return problem.solution.value(torch.zeros_like(x[:, 0]), x)


@dataclass
class Known:
    """A surrogate by a formula of x, differentiated literally."""

    u: Callable[[Tensor], Tensor]
    meets_boundary: bool = False

    def value(self, x: Tensor) -> Tensor:
        return self.u(x)

    def laplacian(self, x: Tensor) -> Tensor:
        return literal_jet(lambda t, y: self.u(y), torch.zeros_like(x[:, 0]), x).laplacian

    def plug_in(self, t: Tensor, x: Tensor) -> Tensor:
        return self.u(x.double())

    def flop(self) -> tuple[float, float]:
        return 1.0, 1.0


def garbage(x: Tensor) -> Tensor:
    """Nothing to do with any solution."""
    return torch.sin(2.0 * x[:, 0] + 1.0) - x.square().sum(1) + x[:, -1]


def off_by(problem: Poisson, size: float) -> Known:
    """The solution plus ``size`` times a wave under the domain's bump, so that the boundary values are met."""

    def u(x: Tensor) -> Tensor:
        return truth(problem, x) + size * problem.domain.bump(x).value * torch.cos(2.0 * x[:, 0] + 0.5)

    return Known(u, meets_boundary=True)


def at(*values: float, dim: int) -> tuple[Tensor, Tensor]:
    x = torch.zeros(1, dim, dtype=torch.float64)
    x[0, : min(dim, len(values))] = torch.tensor(values[:dim], dtype=torch.float64)
    return torch.zeros(1, dtype=torch.float64), x


def found(method: Any, problem: Poisson, x: Tensor, draws: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sum of the terms' means and its standard error, point by point."""
    t = torch.zeros(len(x), dtype=torch.float64)
    parts = [method.sample(problem, t, x, term, draws, Stream(seed, i)) for i, term in enumerate(method.terms)]
    return sum(p.mean(1) for p in parts), sum(p.var(1) / draws for p in parts).sqrt()
