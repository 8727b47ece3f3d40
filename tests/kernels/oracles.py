"""Rooms of kernels collected by themselves, literal derivatives, and surrogates with known errors."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.contracts import BrownianMotion, Jet, SemilinearPDE, Solution, uniform_box
from kernels.streams import Stream

Field = Callable[[Tensor, Tensor], Tensor]
"""A function of (t, x), or of (t, feature), row by row."""


def room(name: str) -> list[str]:
    """Catalogue entries of a room of kernels; modules with a leading underscore are none."""
    package = importlib.import_module(f"kernels.{name}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def factory(of: str, name: str) -> Any:
    return getattr(importlib.import_module(f"kernels.{of}.{name}"), name)


EQUATIONS = room("equations")
ESTIMATORS = [n for n in room("estimators") if getattr(factory("estimators", n)(), "solves", SemilinearPDE) is SemilinearPDE]


def equation(name: str, dim: int, **options: Any) -> SemilinearPDE:
    return factory("equations", name)(dim, **options)


def estimator(name: str, **options: Any) -> Any:
    return factory("estimators", name)(**options)


def small(name: str) -> Any:
    """The estimator with the options that make it cheap, as far as it has them."""
    options = {"levels": 2, "samples": 2, "times": 1, "nodes": 2}
    offered = inspect.signature(factory("estimators", name)).parameters
    return estimator(name, **{key: value for key, value in options.items() if key in offered})


def solution_of(problem: SemilinearPDE) -> Solution:
    """What is known about the truth; a test that needs it is skipped where nothing is."""
    if problem.solution is None:
        pytest.skip(f"{problem.name} has no solution in closed form")
    return problem.solution


def linear(problem: SemilinearPDE) -> bool:
    """Whether the driver is 0 whatever it is given: what an estimator that drops it solves."""
    t, x = some_points(problem, 20)
    y, z = torch.linspace(-2.0, 3.0, 20, dtype=t.dtype), torch.sin(7.0 * torch.arange(x.numel(), dtype=t.dtype)).reshape(x.shape)
    return not problem.driver(t, x, y, z).any()


def some_points(problem: SemilinearPDE, n: int) -> tuple[Tensor, Tensor]:
    """Evaluation points in float64, the same at every call."""
    t, x = problem.sample_points(n, Stream(7, 0))
    return t.double(), x.double()


def written(
    driver: Callable[..., Tensor],
    *,
    terminal: Callable[[Tensor], Tensor] | None = None,
    dim: int = 2,
    horizon: float = 1.0,
    sigma: float = 1.0,
) -> SemilinearPDE:
    """A problem written by hand on Brownian paths; g = 0 where none is given."""
    return SemilinearPDE(
        name="written",
        dim=dim,
        horizon=horizon,
        law=BrownianMotion(sigma=sigma),
        driver=driver,
        terminal=terminal or (lambda x: torch.zeros_like(x[:, 0])),
        zero_terminal=terminal is None,
        sample_points=uniform_box(dim, horizon, 0.5),
    )


def at_zero(dim: int = 2) -> tuple[Tensor, Tensor]:
    """The point (0, 0)."""
    return torch.zeros(1, dtype=torch.float64), torch.zeros(1, dim, dtype=torch.float64)


def vectors(directions: Tensor | None, x: Tensor) -> Tensor:
    """All three kinds of directions as (paths, vectors, dim)."""
    if directions is None:
        return torch.eye(x.shape[1], dtype=x.dtype).expand(len(x), -1, -1)
    return torch.diag_embed(directions.to(x)) if directions.ndim == 2 else directions.to(x)


def literal_jet(u: Field, t: Tensor, x: Tensor, directions: Tensor | None = None) -> Jet:
    """Value, u_t, gradient and sum_k d_k.Hess d_k by nested automatic differentiation, one row of the Hessian at a time."""
    with torch.enable_grad():
        t, x = t.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
        value = u(t, x)
        dt, gradient = torch.autograd.grad(value.sum(), (t, x), create_graph=True, allow_unused=True, materialize_grads=True)
        hessian = x.new_zeros(*x.shape, x.shape[1])
        for i in range(x.shape[1]):
            if gradient.requires_grad:
                (row,) = torch.autograd.grad(
                    gradient[:, i].sum(), x, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                hessian[:, i] = row
    d = vectors(directions, x.detach())
    curvature = torch.einsum("pki,pij,pkj->p", d, hessian.detach(), d)
    return Jet(value.detach(), dt.detach(), gradient.detach(), curvature)


def narrowed(jet: Jet, x: Tensor) -> Jet:
    """The jet in the precision of x."""
    return Jet(jet.value.to(x), jet.dt.to(x), jet.gradient.to(x), jet.laplacian.to(x))


class Formula:
    """A surrogate given by a formula in (t, x), differentiated literally in float64."""

    meets_terminal = False

    def __init__(self, u: Field) -> None:
        self.u = u

    def value_and_gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x.detach().double().requires_grad_()
            value = self.u(t.double(), leaf)
            (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True, materialize_grads=True)
        return value.detach().to(x), gradient.to(x)

    def jet(self, t: Tensor, x: Tensor, directions: Tensor | None) -> Jet:
        return narrowed(literal_jet(self.u, t.double(), x.double(), directions), x)

    def flop(self, probes: int | None) -> tuple[float, float]:
        return 1.0, 1.0


class Zero:
    """No surrogate: every derivative 0."""

    meets_terminal = False

    def value_and_gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.zeros_like(x)

    def jet(self, t: Tensor, x: Tensor, directions: Tensor | None) -> Jet:
        return Jet(torch.zeros_like(t), torch.zeros_like(t), torch.zeros_like(x), torch.zeros_like(t))

    def flop(self, probes: int | None) -> tuple[float, float]:
        return 1.0, 1.0


def difference(along: Callable[[float], Tensor], stencil: tuple[tuple[int, float], ...], step: float) -> Tensor:
    """sum_k weight_k along(k step)/step."""
    return torch.stack([weight * along(k * step) for k, weight in stencil]).sum(0) / step


class Differenced:
    """A solution that cannot be differentiated automatically, by fourth-order central differences of its value or gradient."""

    meets_terminal = False
    STEP = 5e-3
    FIRST = ((-2, 1.0 / 12.0), (-1, -2.0 / 3.0), (1, 2.0 / 3.0), (2, -1.0 / 12.0))
    SECOND = ((-2, -1.0 / 12.0), (-1, 4.0 / 3.0), (0, -2.5), (1, 4.0 / 3.0), (2, -1.0 / 12.0))

    def __init__(self, solution: Solution, horizon: float) -> None:
        self.solution, self.horizon = solution, horizon

    def _gradient(self, t: Tensor, x: Tensor) -> Tensor:
        if self.solution.gradient is not None:
            return self.solution.gradient(t, x)
        unit = torch.eye(x.shape[1], dtype=x.dtype)
        return torch.stack([difference(lambda h, e=e: self.solution.value(t, x + h * e), self.FIRST, self.STEP) for e in unit], 1)

    def _curvature(self, t: Tensor, x: Tensor, d: Tensor) -> Tensor:
        """d.Hess d, the directions d (paths, dim)."""
        if self.solution.gradient is not None:
            return difference(lambda h: (self._gradient(t, x + h * d) * d).sum(-1), self.FIRST, self.STEP)
        return difference(lambda h: self.solution.value(t, x + h * d), self.SECOND, self.STEP) / self.STEP

    def value_and_gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = t.double().clamp_max(self.horizon), x.double()
        return self.solution.value(*wide).to(x), self._gradient(*wide).to(x)

    def jet(self, t: Tensor, x: Tensor, directions: Tensor | None) -> Jet:
        value, gradient = self.value_and_gradient(t, x)
        step = 2e-4 * self.horizon
        inside, wide = t.double().clamp(2.0 * step, self.horizon - 2.0 * step), x.double()
        dt = difference(lambda h: self.solution.value(inside + h, wide), self.FIRST, step)
        curvature = torch.stack([self._curvature(inside, wide, d) for d in vectors(directions, wide).unbind(1)]).sum(0)
        return Jet(value, dt.to(x), gradient, curvature.to(x))

    def flop(self, probes: int | None) -> tuple[float, float]:
        return 1.0, 1.0


class OneFeature:
    """A surrogate u(t, w) of one feature w = c.(x - m) or |x|^2, exact in float64 at a few sweeps whatever the dimension."""

    def __init__(
        self, u: Field, *, c: Tensor | None = None, m: float = 0.0, radial: bool = False, meets_terminal: bool = True
    ) -> None:
        self.u, self.c, self.m, self.radial, self.meets_terminal = u, c, m, radial, meets_terminal

    def feature(self, x: Tensor) -> Tensor:
        if self.radial:
            return x.double().square().sum(-1)
        return (x.double() - self.m).sum(-1) if self.c is None else ((x.double() - self.m) * self.c).sum(-1)

    def gradient_of_feature(self, x: Tensor) -> Tensor:
        if self.radial:
            return 2.0 * x
        return torch.ones_like(x) if self.c is None else self.c.expand_as(x)

    def value(self, t: Tensor, x: Tensor) -> Tensor:
        return self.u(t.double(), self.feature(x))

    def jet(self, t: Tensor, x: Tensor, directions: Tensor | None) -> Jet:
        wide = x.double()
        with torch.enable_grad():
            time, w = t.detach().double().requires_grad_(), self.feature(wide).requires_grad_()
            value = self.u(time, w)
            dt, slope = torch.autograd.grad(value.sum(), (time, w), create_graph=True, allow_unused=True, materialize_grads=True)
            (bend,) = torch.autograd.grad(slope.sum(), w, allow_unused=True, materialize_grads=True)
        slope = slope.detach()
        of_feature = self.gradient_of_feature(wide)
        # Hess u = u_ww grad w grad w^T + u_w Hess w, and Hess |x|^2 = 2.
        if directions is None:
            along, size = of_feature.square().sum(-1), float(wide.shape[1])
        elif directions.ndim == 2:
            along, size = (directions * of_feature).square().sum(-1), directions.double().square().sum(-1)
        else:
            d = directions.double()
            along, size = torch.einsum("pkd,pd->pk", d, of_feature).square().sum(-1), d.square().sum((-2, -1))
        curvature = bend * along + (2.0 * slope * size if self.radial else 0.0)
        return narrowed(Jet(value.detach(), dt, slope[:, None] * of_feature, curvature), x)

    def value_and_gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = x.double()
        with torch.enable_grad():
            w = self.feature(wide).requires_grad_()
            value = self.u(t.double(), w)
            (slope,) = torch.autograd.grad(value.sum(), w, allow_unused=True, materialize_grads=True)
        return value.detach().to(x), (slope[:, None] * self.gradient_of_feature(wide)).to(x)

    def flop(self, probes: int | None) -> tuple[float, float]:
        return 1.0, 1.0


def exact_surrogate(problem: SemilinearPDE) -> Formula | Differenced:
    """The exact solution as a surrogate, by automatic differentiation where its formula allows it."""
    solution = solution_of(problem)
    t, x = some_points(problem, 1)
    try:
        differentiable = solution.value(t, x.requires_grad_()).requires_grad
    except RuntimeError:
        differentiable = False
    return Formula(solution.value) if differentiable else Differenced(solution, problem.horizon)


def perturbed(problem: SemilinearPDE, size: float) -> Formula:
    """The exact solution plus size (T-t) sin(sum x/sqrt d + 1): a surrogate with a known smooth error."""
    solution = solution_of(problem)

    def u(t: Tensor, x: Tensor) -> Tensor:
        bump = (problem.horizon - t) * torch.sin(x.sum(-1) / problem.dim**0.5 + 1.0)
        return solution.value(t, x) + size * bump

    return Formula(u)


@dataclass(frozen=True)
class Manufactured:
    """A problem with the law and the nonlinearity of another, solved by a wave that is known in closed form."""

    problem: SemilinearPDE
    u: Field
    """The solution as a function of time and of the feature w."""
    c: Tensor
    m: float
    size: float
    """Height of the wave: a spread of g."""

    def surrogate(self, error: Field, *, meets_terminal: bool) -> OneFeature:
        """The solution plus ``error(t, w)`` times the height of the wave."""
        return OneFeature(lambda t, w: self.u(t, w) + self.size * error(t, w), c=self.c, m=self.m, meets_terminal=meets_terminal)

    def truth(self, t: Tensor, x: Tensor) -> Tensor:
        return OneFeature(self.u, c=self.c, m=self.m).value(t, x)


def manufactured(problem: SemilinearPDE) -> Manufactured:
    """u* = mean g + spread g sin(w + t/T), w = sum_i (x_i - mean x)/(spread x sqrt d), over ends of the problem's own paths.

    The driver gains a source h(t, x) that makes u* the solution, so that every equation, also one without a known truth,
    has an exact surrogate and surrogates with known errors.
    """
    t, x = problem.sample_points(2000, Stream(8, 0))
    x, _ = problem.law.travel(t, x, problem.horizon - t, Stream(8, 1))
    g = problem.terminal(x).double()
    m, spread = float(x.mean()), float(x.double().std())
    level, size = float(g.mean()), float(g.std())
    c = torch.full((problem.dim,), 1.0 / (spread * math.sqrt(problem.dim)), dtype=torch.float64)
    law = problem.law

    def u(t: Tensor, w: Tensor) -> Tensor:
        return level + size * torch.sin(w + t / problem.horizon)

    exact = OneFeature(u, c=c, m=m)
    last: list[Tensor] = []

    @torch.no_grad()
    def source(t: Tensor, x: Tensor) -> Tensor:
        # A driver is asked again and again at one batch of (t, x).
        if not last or last[0] is not t or last[1] is not x:
            directions, factor = law.directions(t, x, None)
            jet = exact.jet(t, x, directions)
            operator = jet.dt + law.advect(t, x, jet.gradient) + 0.5 * factor * jet.laplacian
            last[:] = t, x, -operator - problem.driver(t, x, jet.value, law.pull(t, x, jet.gradient))
        return last[2]

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return problem.driver(t, x, y, z) + source(t, x)

    made = replace(
        problem,
        name=f"manufactured {problem.name}",
        driver=driver,
        terminal=lambda x: exact.value(torch.full_like(x[:, 0], problem.horizon), x).to(x),
        profile=None,
        profile_jet=None,
        hessian_form=None,
        solution=Solution(value=exact.value, source="manufactured"),
    )
    return Manufactured(made, u, c, m, size)
