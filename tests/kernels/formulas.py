"""Solutions given by a formula, as surrogates that are differentiated literally, and the PDE's residual at them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.contracts import Jet, SemilinearPDE
from kernels.defect import residual
from kernels.streams import Stream


def equation(name: str, dim: int, **options: Any) -> SemilinearPDE:
    return getattr(importlib.import_module(f"kernels.equations.{name}"), name)(dim, **options)


def points(problem: SemilinearPDE, n: int = 12) -> tuple[Tensor, Tensor]:
    t, x = problem.sample_points(n, Stream(21, 0))
    return t.double(), x.double()


class Formula:
    """A surrogate given by a formula in (t, x), differentiated literally, along any directions of a law."""

    meets_terminal = False

    def __init__(self, u: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.u = u

    def value_and_gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        jet = self.jet(t, x, x[:, None, :])
        return jet.value, jet.gradient

    def jet(self, t: Tensor, x: Tensor, directions: Tensor | None) -> Jet:
        dim = x.shape[1]
        if directions is None or directions.ndim == 2:
            scale = torch.ones_like(x) if directions is None else directions
            directions = torch.diag_embed(scale)
        with torch.enable_grad():
            t, x = t.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
            value = self.u(t, x)
            options: dict = dict(create_graph=True, allow_unused=True, materialize_grads=True)
            dt, gradient = torch.autograd.grad(value.sum(), (t, x), **options)
            total = torch.zeros_like(value)
            for k in range(directions.shape[1]):
                along = (gradient * directions[:, k]).sum()
                if along.requires_grad:
                    (column,) = torch.autograd.grad(along, x, retain_graph=True, allow_unused=True, materialize_grads=True)
                    total = total + (column * directions[:, k]).sum(-1)
        assert gradient.shape[1] == dim
        return Jet(value.detach(), dt.detach(), gradient.detach(), total.detach())

    def flop(self, probes: int | None) -> tuple[float, float]:
        return 1.0, 1.0


def pde_error(problem: SemilinearPDE, u: Callable[[Tensor, Tensor], Tensor]) -> float:
    t, x = points(problem)
    return residual(problem, Formula(u), t, x).abs().max().item()


def truth(problem: SemilinearPDE) -> Callable[[Tensor, Tensor], Tensor]:
    assert problem.solution is not None
    return problem.solution.value
