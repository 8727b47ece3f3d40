"""Surrogates with known errors, and literal derivatives, for the tests of kernels."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import kernels.equations
import kernels.estimators
from kernels.contracts import Jet, SemilinearPDE

EQUATIONS = sorted(m.name for m in pkgutil.iter_modules(kernels.equations.__path__))
ESTIMATORS = sorted(m.name for m in pkgutil.iter_modules(kernels.estimators.__path__))


def equation(name: str, dim: int, **options: Any) -> SemilinearPDE:
    return getattr(importlib.import_module(f"kernels.equations.{name}"), name)(dim, **options)


def estimator(name: str, **options: Any) -> Any:
    return getattr(importlib.import_module(f"kernels.estimators.{name}"), name)(**options)


def literal_jet(u: Callable[[Tensor, Tensor], Tensor], t: Tensor, x: Tensor) -> Jet:
    """Value, u_t, gradient and Laplacian by nested automatic differentiation, one coordinate at a time."""
    with torch.enable_grad():
        t, x = t.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
        value = u(t, x)
        dt, gradient = torch.autograd.grad(value.sum(), (t, x), create_graph=True, allow_unused=True, materialize_grads=True)
        laplacian = torch.zeros_like(value)
        for i in range(x.shape[1]):
            if gradient.requires_grad:
                (column,) = torch.autograd.grad(
                    gradient[:, i].sum(), x, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                laplacian = laplacian + column[:, i]
    return Jet(value.detach(), dt.detach(), gradient.detach(), laplacian.detach())


class Known:
    """A surrogate given by a formula in (t, x), differentiated literally in float64."""

    meets_terminal = False

    def __init__(self, u: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.u = u

    def value_and_gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x.detach().double().requires_grad_()
            value = self.u(t.double(), leaf)
            (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True, materialize_grads=True)
        return value.detach().to(x), gradient.to(x)

    def jet(self, t: Tensor, x: Tensor, probes: Tensor | None) -> Jet:
        jet = literal_jet(self.u, t.double(), x.double())
        return Jet(jet.value.to(x), jet.dt.to(x), jet.gradient.to(x), jet.laplacian.to(x))

    def flop(self, probes: int | None) -> tuple[float, float]:
        return 1.0, 1.0


class Zero:
    """No surrogate: every derivative 0."""

    meets_terminal = False

    def value_and_gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.zeros_like(x)

    def jet(self, t: Tensor, x: Tensor, probes: Tensor | None) -> Jet:
        return Jet(torch.zeros_like(t), torch.zeros_like(t), torch.zeros_like(x), torch.zeros_like(t))

    def flop(self, probes: int | None) -> tuple[float, float]:
        return 1.0, 1.0


class Radial:
    """The Allen-Cahn reference as a surrogate: radial derivatives by central differences in s = |x|^2."""

    meets_terminal = False

    def __init__(self, problem: SemilinearPDE) -> None:
        self.problem = problem

    def _v(self, t: Tensor, s: Tensor) -> Tensor:
        assert self.problem.solution is not None
        x = torch.zeros(t.shape[0], self.problem.dim, dtype=torch.float64)
        x[:, 0] = s.clamp_min(0.0).sqrt()
        return self.problem.solution.value(t, x)

    def value_and_gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        jet = self.jet(t, x, None)
        return jet.value, jet.gradient

    def jet(self, t: Tensor, x: Tensor, probes: Tensor | None) -> Jet:
        wide, s = t.double().clamp(2e-4, self.problem.horizon - 2e-4), x.double().square().sum(-1).clamp_min(0.02)
        h, k = 1e-2, 1e-4
        up, mid, down = self._v(wide, s + h), self._v(wide, s), self._v(wide, s - h)
        v_s, v_ss = (up - down) / (2 * h), (up - 2 * mid + down) / h**2
        dt = (self._v(wide + k, s) - self._v(wide - k, s)) / (2 * k)
        laplacian = 4.0 * s * v_ss + 2.0 * self.problem.dim * v_s
        value = self._v(t.double().clamp_max(self.problem.horizon), x.double().square().sum(-1))
        return Jet(value.to(x), dt.to(x), (2.0 * v_s[:, None] * x.double()).to(x), laplacian.to(x))

    def flop(self, probes: int | None) -> tuple[float, float]:
        return 1.0, 1.0


def exact_surrogate(problem: SemilinearPDE) -> Any:
    """The exact solution as a surrogate."""
    assert problem.solution is not None
    return Radial(problem) if problem.name == "allen_cahn" else Known(problem.solution.value)


def perturbed(problem: SemilinearPDE, size: float) -> Known:
    """The exact solution plus size (T-t) sin(sum x/sqrt d + 1): a surrogate with a known smooth error."""
    solution = problem.solution
    assert solution is not None

    def u(t: Tensor, x: Tensor) -> Tensor:
        bump = (problem.horizon - t) * torch.sin(x.sum(-1) / problem.dim**0.5 + 1.0)
        return solution.value(t, x) + size * bump

    return Known(u)
