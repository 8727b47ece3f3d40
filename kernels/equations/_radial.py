"""Reaction-diffusion with a radial terminal condition, and its solution by radial reduction."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from kernels.contracts import BrownianMotion, Jet, SemilinearPDE, Solution, along_paths, require_dim

Reaction = Callable[[Tensor], Tensor]
"""f(u), entry by entry on tensors of any shape."""

WIDTH = 5.0
"""g = 2.5/(WIDTH + |x|^2)."""

TOLERANCE = 1e-11
"""Absolute error that a table of the solution is held to."""

MAX_UNKNOWNS = 4500
"""Unknowns of one collocation system: a few seconds of dense algebra at the most."""

NEWTON_STEPS = 20


def reaction_diffusion(name: str, dim: int, horizon: float, reaction: Reaction) -> SemilinearPDE:
    """u_t + Laplacian u + f(u) = 0 on [0, horizon], g = 1/(2 + 0.4 |x|^2); in (mu, sigma, f): 0, sqrt 2, f(y)."""
    require_dim(dim)

    def terminal(x: Tensor, /) -> Tensor:
        return 1.0 / (2.0 + 0.4 * x.square().sum(-1))

    def profile(t: Tensor, x: Tensor, /) -> Tensor:
        return 1.0 / (2.0 + 0.4 * (x.square().sum(-1) + 2.0 * dim * (horizon - t)))

    def profile_jet(t: Tensor, x: Tensor, /) -> Jet:
        p = profile(t, x)
        square = p.square()
        laplacian = square * (-0.8 * dim + 1.28 * p * x.square().sum(-1))
        return Jet(p, 0.8 * dim * square, -0.8 * square[:, None] * x, laplacian)

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        return reaction(y)

    def value(t: Tensor, x: Tensor, /) -> Tensor:
        return radial_table(dim, horizon, reaction).value(horizon - t.double(), x.double().square().sum(-1))

    def gradient(t: Tensor, x: Tensor, /) -> Tensor:
        slope = radial_table(dim, horizon, reaction).slope(horizon - t.double(), x.double().square().sum(-1))
        return 2.0 * slope[:, None] * x.double()

    law = BrownianMotion(sigma=math.sqrt(2.0))
    return SemilinearPDE(
        name=name,
        dim=dim,
        horizon=horizon,
        law=law,
        driver=driver,
        terminal=terminal,
        profile=profile,
        profile_jet=profile_jet,
        # What the reaction adds to the profile grows about evenly with T - t.
        layer=0.5,
        sample_points=along_paths(dim, horizon, law),
        solution=Solution(
            value=value,
            gradient=gradient,
            error=TOLERANCE,
            source=f"radial reduction, space-time Chebyshev collocation, two grids agree to {TOLERANCE:.0e}",
        ),
    )


@dataclass(frozen=True)
class RadialTable:
    """v(tau, s) = u(T - tau, x), s = |x|^2, as a Chebyshev series sum_ij c_ij T_i(p) T_j(y).

    v_tau = 4 s v_ss + 2 d v_s + f(v). For f = 0 and large d, v is 2.5/(a + s) with a = WIDTH + 2 d tau.
    In the coordinates w = log a and y = (a - s)/(a + s), which move along, that is linear in y:

        v_w = [(1-y)(1+y)^3 v_yy + 2(1-y)(1+y)^2 v_y]/(2d) - (1+y) v_y + a f(v)/(2d)

    so that a few nodes serve every dimension. p is w scaled to run from 1 at T to -1; y = -1 is
    s = infinity, where v follows v_tau = f(v) alone. ``error`` is the largest difference to a
    coarser grid anywhere: a bound for the coarser one, and far above the error of this.
    """

    dim: int
    horizon: float
    coefficients: Tensor
    error: float

    def _coordinates(self, tau: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = WIDTH + 2.0 * self.dim * tau
        return a, 1.0 - 2.0 * torch.log(a / WIDTH) / _log_range(self.dim, self.horizon), (a - s) / (a + s)

    def value(self, tau: Tensor, s: Tensor) -> Tensor:
        """v; shapes (points,), (points,) -> (points,), differentiable."""
        _, p, y = self._coordinates(tau, s)
        return _series(self.coefficients, p, y)

    def slope(self, tau: Tensor, s: Tensor) -> Tensor:
        """v_s; shapes as for the value."""
        a, p, y = self._coordinates(tau, s)
        by_y = torch.from_numpy(np.polynomial.chebyshev.chebder(self.coefficients.numpy(), axis=1))
        return _series(by_y, p, y) * (-2.0 * a / (a + s).square())


@cache
def radial_table(dim: int, horizon: float, reaction: Reaction) -> RadialTable:
    """The series on the first grid that agrees with a coarser one to TOLERANCE.

    Between two grids each direction grows: by half where its last coefficients are not small yet, else by
    four nodes. Raises ValueError where Newton's method stalls or the largest affordable grid does not agree.
    """
    advice = f"dim = {dim}, horizon = {horizon}: %s; a shorter horizon is within reach"
    times, places = 12, 12
    coarse, error = _collocate(dim, horizon, reaction, times, places, None, advice), math.inf
    grid = torch.meshgrid(*(torch.linspace(-1.0, 1.0, n, dtype=torch.float64) for n in (41, 81)), indexing="ij")
    p, y = (v.flatten() for v in grid)
    while True:
        tail_t, tail_y = coarse[-2:].abs().max().item(), coarse[:, -2:].abs().max().item()
        times += times // 2 if tail_t > 0.1 * TOLERANCE else 4
        places += places // 2 if tail_y > 0.1 * TOLERANCE else 4
        if times * (places + 1) > MAX_UNKNOWNS:
            raise ValueError(advice % f"the radial solution is known to {error:.1e} only, and should be to {TOLERANCE:.0e}")
        fine = _collocate(dim, horizon, reaction, times, places, coarse, advice)
        error = (_series(fine, p, y) - _series(coarse, p, y)).abs().max().item()
        if error <= TOLERANCE:
            return RadialTable(dim, horizon, fine, error)
        coarse = fine


def _log_range(dim: int, horizon: float) -> float:
    return math.log1p(2.0 * dim * horizon / WIDTH)


def _collocate(
    dim: int, horizon: float, reaction: Reaction, times: int, places: int, guess: Tensor | None, advice: str
) -> Tensor:
    """Coefficients c (times + 1, places + 1) of v, by Newton's method for all nodes at once, from those of a coarser grid."""
    p, d_p, to_p = _chebyshev(times)
    y, d_y, to_y = _chebyshev(places)
    w = 0.5 * _log_range(dim, horizon) * (1.0 - p)
    d_w = -d_p / (0.5 * _log_range(dim, horizon))
    a = WIDTH * w.exp()
    second, first = (1.0 - y) * (1.0 + y) ** 3 / (2.0 * dim), (1.0 - y) * (1.0 + y) ** 2 / dim - (1.0 + y)
    operator = second[:, None] * (d_y @ d_y) + first[:, None] * d_y
    start = 1.25 * (1.0 + y) / WIDTH
    eye = torch.eye(places + 1, dtype=torch.float64), torch.eye(times, dtype=torch.float64)
    linear = torch.kron(d_w[1:, 1:].contiguous(), eye[0]) - torch.kron(eye[1], operator)
    known = torch.kron(d_w[1:, :1].contiguous(), start[:, None])[:, 0]
    rate = (a[1:] / (2.0 * dim)).repeat_interleave(places + 1)
    if guess is None:
        v = torch.kron(WIDTH / a[1:], start)
    else:
        v = _series(guess, p[1:].repeat_interleave(places + 1), y.repeat(times))
    for _ in range(NEWTON_STEPS):
        f, f_v = _with_slope(reaction, v)
        newton = torch.linalg.solve(linear - torch.diag(rate * f_v), linear @ v + known - rate * f)
        v = v - newton
        # Newton's method doubles the digits: what follows such a step is rounding.
        if newton.abs().max() < 1e-9:
            return to_p @ torch.cat((start[None], v.reshape(times, -1))) @ to_y.T
    raise ValueError(advice % f"Newton's method for the radial solution still moves by {newton.abs().max():.1e}")


def _with_slope(reaction: Reaction, v: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = v.detach().requires_grad_()
        f = reaction(leaf)
        (f_v,) = torch.autograd.grad(f.sum(), leaf)
    return f.detach(), f_v


def _chebyshev(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """n + 1 Chebyshev points from 1 to -1, their differentiation matrix, and that from values to coefficients.

    Trefethen, Spectral Methods in MATLAB (2000), chapter 6.
    """
    k = torch.arange(n + 1, dtype=torch.float64)
    x = torch.cos(math.pi * k / n)
    c = torch.where((k == 0) | (k == n), 2.0, 1.0) * (-1.0) ** k
    d = torch.outer(c, 1.0 / c) / (x[:, None] - x[None, :] + torch.eye(n + 1, dtype=torch.float64))
    return x, d - torch.diag(d.sum(1)), torch.linalg.inv(torch.cos(math.pi * torch.outer(k, k) / n))


def _series(c: Tensor, p: Tensor, y: Tensor) -> Tensor:
    """sum_ij c_ij T_i(p) T_j(y), row by row."""
    return ((_polynomials(p, c.shape[0]) @ c) * _polynomials(y, c.shape[1])).sum(-1)


def _polynomials(x: Tensor, count: int) -> Tensor:
    """T_0 .. T_(count-1) at x by their recurrence, which unlike the cosine is differentiable up to the ends."""
    rows = [torch.ones_like(x), x]
    while len(rows) < count:
        rows.append(2.0 * x * rows[-1] - rows[-2])
    return torch.stack(rows[:count], -1)
