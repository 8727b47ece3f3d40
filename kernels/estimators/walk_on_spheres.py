"""Poisson's equation by walks from sphere to sphere, in any domain whose distance is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kernels.contracts import NORMAL_FLOP, Draws, Poisson, Positions, Times, uniform_directions
from kernels.streams import Stream

SHELL = "epsilon shell"


def green_radii(n: int, dim: int, stream: Stream) -> Tensor:
    """|Y| in the unit ball, Y of density proportional to Green's function at its centre, (n,), float64.

    sqrt(U) V^(1/dim), U and V uniform: from density r^(d-1) (r^(2-d) - 1) = r - r^(d-1), d = 2 included; without rejection.
    """
    first, second = stream.uniform(n).double(), stream.uniform(n).double()
    return first.sqrt() * second ** (1.0 / dim)


@dataclass(frozen=True)
class WalkOnSpheres:
    """u(x) = E [g(X_N) - sum_k R_k^2/(2d) f(Y_k)], walked to within ``eps`` of the boundary (Muller, Ann. Math. Stat. 1956).

    X_{k+1} is uniform on the sphere of radius R_k = distance(X_k) around X_k, Y_k in its ball of density proportional to
    Green's function, whose integral is R_k^2/(2d) for the generator Laplacian. g is read at the nearest point of the boundary.

    That is the bias "epsilon shell", O(eps): twice what the same walks gain on from eps to eps/2, to first order.
    """

    eps: float = 1e-4
    solves: ClassVar[type] = Poisson
    terms: tuple[str, ...] = ("walk",)
    biases: tuple[str, ...] = (SHELL,)
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @torch.no_grad()
    def sample(self, problem: Poisson, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        start = problem.inside(x).repeat_interleave(draws, 0)
        end, total = _walk(problem, start, self.eps, stream)
        reached = total + _ended(problem, end)
        if term == SHELL:
            nearer, more = _walk(problem, end, 0.5 * self.eps, stream)
            reached = 2.0 * (reached - (total + more + _ended(problem, nearer)))
        return reached.reshape(-1, draws)

    def flop(self, problem: Poisson, term: str, draws: int) -> float:
        cost, eps = problem.costs(), 0.5 * self.eps if term == SHELL else self.eps
        step = NORMAL_FLOP * (problem.dim + 2) + cost.source
        return draws * (_steps(problem.dim, eps) * step + cost.boundary * (2.0 if term == SHELL else 1.0))

    def rows(self, term: str, draws: int) -> int:
        return draws


def _ended(problem: Poisson, x: Tensor) -> Tensor:
    """Boundary values at the nearest points of the boundary."""
    if problem.zero_boundary:
        return torch.zeros_like(x[:, 0])
    return problem.boundary(problem.domain.project(x)).double()


def _walk(problem: Poisson, x: Tensor, eps: float, stream: Stream) -> tuple[Tensor, Tensor]:
    """Walks until the boundary is nearer than eps: where they end, and minus the sum of R^2/(2d) f(Y)."""
    end, total = x.clone(), torch.zeros_like(x[:, 0])
    rows, radius = torch.arange(len(x)), problem.domain.distance(x)
    while True:
        going = radius >= eps
        rows, here, radius = rows[going], end[rows[going]], radius[going]
        if not len(rows):
            return end, total
        direction = uniform_directions(len(rows), problem.dim, stream)
        inner = radius * green_radii(len(rows), problem.dim, stream)
        # One direction serves both: Y needs its law alone. Away from the next centre it varies less with what comes.
        source = problem.source(here - inner[:, None] * direction).double()
        total[rows] -= radius.square() / (2.0 * problem.dim) * source
        end[rows] = here = here + radius[:, None] * direction
        radius = problem.domain.distance(here)


def _steps(dim: int, eps: float) -> float:
    """Steps of a walk from a uniform point of the unit ball or cube, measured at eps of 1e-2 to 1e-6 up to dim 100 and met to a third."""
    return 2.0 + 1.75 * (dim - 1) * math.log1p(1.0 / (3.0 * eps * (dim + 1)))


def walk_on_spheres(*, eps: float = 1e-4) -> WalkOnSpheres:
    """Walk on spheres, unbiased up to the shell of width ``eps``, whose bias is printed.

    :param eps: distance to the boundary at which a walk ends, > 0, in the domain's own unit of length
    """
    if not (math.isfinite(eps) and eps > 0.0):
        raise ValueError(f"eps = {eps}: a walk reaches no boundary exactly; should be finite and > 0, for example 1e-4")
    return WalkOnSpheres(eps=eps)
