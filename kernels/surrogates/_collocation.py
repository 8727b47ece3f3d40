"""Gauss-Newton for a PDE observed at collocation points, over the functions of a Gaussian kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.contracts import Jet, Paths, SemilinearPDE, Vectors
from kernels.streams import Stream
from kernels.surrogates._gaussian_kernel import Basis, Kernel, Rows

COLLOCATION = 2
"""Collocation points to a centre: at one, the residual vanishes there and is free in between."""

START_EVERY = 4
"""One point in so many is the start of a path."""

HELD_OUT = 1024
"""Collocation points that choose the lengths of the kernel and are never fitted."""

HALVINGS = 8
"""How often a step that raises the loss is halved before the iteration ends."""

TOLERANCE = 1e-3
"""The iteration ends where it lowers the loss by less than this share."""

RANK_TOLERANCE = 1e-12
"""A centre is left out where the others leave less than this share of the kernel's variance 1 there."""


@dataclass(frozen=True)
class Fit:
    """A minimiser: the loss at c = 0 and after each iteration, and the mean square residual, over rho^2, held out."""

    kernel: Kernel
    coefficients: Tensor
    losses: list[float]
    held_out: float


class Collocation:
    """Where the PDE is observed; rho, the size of its residual where u^ = g, the profile.

    Points lie at uniform times along paths from the evaluation law, where a correction goes, and
    every START_EVERY-th at the start of one: paths alone leave early times, of probability ~ t^2,
    to luck.
    """

    def __init__(self, problem: SemilinearPDE, points: int, stream: Stream) -> None:
        self.problem, self.points = problem, points
        self.rows, self.held_out = (self._visited(n, stream) for n in (COLLOCATION * points, HELD_OUT))
        r, _, _ = self.linearised(self.rows, self.rows.g)
        self.rho = math.sqrt(float(r.square().mean()))
        if not math.isfinite(self.rho):
            raise ValueError(f"the residual of the profile has mean square {self.rho}: g and f should be finite where paths go")

    def _visited(self, n: int, stream: Stream) -> Rows:
        t, x = self.problem.sample_points(n, stream)
        elapsed = (self.problem.horizon - t) * stream.uniform(n)
        elapsed[::START_EVERY] = 0.0
        x, _ = self.problem.law.travel(t, x, elapsed, stream)
        t, x = (t + elapsed).double(), x.double()
        directions, self.factor = self.problem.law.directions(t, x, None)
        return Rows(self.problem, t, x, directions, second=True)

    def linearised(self, rows: Rows, jet: Jet) -> tuple[Paths, Paths, Vectors]:
        """The residual r of a jet, f_y, and mu + sigma f_z: what r's derivative multiplies grad by."""
        law = self.problem.law
        with torch.enable_grad():
            y, gradient = jet.value.detach().requires_grad_(), jet.gradient.detach().requires_grad_()
            f = self.problem.driver(rows.t, rows.x, y, law.pull(rows.t, rows.x, gradient))
            first_order = law.advect(rows.t, rows.x, gradient) + f
            f_y, w = torch.autograd.grad(first_order.sum(), (y, gradient), allow_unused=True, materialize_grads=True)
        return jet.dt + 0.5 * self.factor * jet.laplacian + first_order.detach(), f_y, w


def independent(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factor of K with pivots: the centres kept, (rank,), and L with L L^T = K over them, (rank, rank).

    Takes the centre of largest remaining variance until none has RANK_TOLERANCE left.
    """
    count = len(gram)
    variance, columns = gram.diagonal().clone(), gram.new_zeros(count, count)
    kept: list[int] = []
    while len(kept) < count and float(variance.max()) > RANK_TOLERANCE:
        rank, pivot = len(kept), int(variance.argmax())
        column = gram[:, pivot] - columns[:, :rank] @ columns[pivot, :rank]
        column[kept] = 0.0
        columns[:, rank] = column / variance[pivot].sqrt()
        variance -= columns[:, rank].square()
        kept.append(pivot)
        variance[kept] = 0.0
    return torch.tensor(kept), columns[kept, : len(kept)]


def gauss_newton(seen: Collocation, kernel: Kernel, nugget: float, iterations: int) -> Fit:
    """min_c mean r^2/rho^2 + nugget c.K c/(rho T)^2, from c = 0.

    Solved in a = L^T c, for which c.K c = |a|^2, over centres independent to rounding. A step that
    raises the loss is halved; the iteration ends where none lowers it, or by less than TOLERANCE.
    """
    if seen.rho == 0.0:
        return Fit(kernel, torch.zeros(len(kernel.centres), dtype=torch.float64), [0.0], 0.0)
    kept, root = independent(kernel.values(kernel.centres))
    kernel = replace(kernel, centres=kernel.centres[kept])
    inside = Basis(kernel, seen.rows)
    operator = inside.linear_operator(seen.factor)
    scale = 1.0 / (seen.rho * math.sqrt(len(seen.rows.t)))
    weight = nugget / (seen.rho * seen.problem.horizon) ** 2

    def coefficients(a: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(root.T, a[:, None], upper=True)[:, 0]

    def at(a: Tensor) -> tuple[float, Tensor, Paths, Vectors]:
        c = coefficients(a)
        r, f_y, w = seen.linearised(seen.rows, inside.jet(c))
        misfit = scale * r
        return float(misfit.square().sum() + weight * a.square().sum()), misfit, f_y, w

    a = torch.zeros(len(kept), dtype=torch.float64)
    loss, misfit, f_y, w = at(a)
    losses = [loss]
    for _ in range(iterations):
        slope = scale * (operator + inside.first_order(f_y, w))
        slope = torch.linalg.solve_triangular(root.T, slope, upper=True, left=False)
        normal = slope.T @ slope
        normal.diagonal().add_(weight)
        factor, failed = torch.linalg.cholesky_ex(normal)
        if failed:
            break
        step = torch.cholesky_solve(-(slope.T @ misfit + weight * a)[:, None], factor)[:, 0]
        for halving in range(HALVINGS):
            tried = at(a + step / 2.0**halving)
            if tried[0] < loss:
                break
        else:
            break
        a = a + step / 2.0**halving
        loss, misfit, f_y, w = tried
        losses.append(loss)
        if losses[-2] - loss < TOLERANCE * losses[-2]:
            break
    c = coefficients(a)
    r, _, _ = seen.linearised(seen.held_out, Basis(kernel, seen.held_out).jet(c))
    return Fit(kernel, c, losses, float(r.square().mean()) / seen.rho**2)
