"""Poisson's equation for users with a surrogate of their own: its value corrected at given points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kernels.contracts import Ball, Domain, Poisson, Purpose, SpaceField
from kernels.defect import poisson_defect
from kernels.estimators.ball_green import BallGreen, ball_green
from kernels.estimators.walk_on_spheres import WalkOnSpheres, walk_on_spheres
from kernels.moments import Moments
from kernels.streams import Stream

BATCH = 2**18
"""Draws alive at once, over all points."""

NORMAL_QUANTILE = 1.959963984540054


@dataclass(frozen=True)
class PoissonEstimate:
    """u at points, all float64: value = plug_in + correction, its standard error, and 95 % intervals (points, 2)."""

    value: Tensor
    se: Tensor
    ci: Tensor
    plug_in: Tensor
    correction: Tensor


@dataclass
class _Given:
    """A surrogate by two functions of x."""

    u_hat: SpaceField
    lap_u_hat: SpaceField
    meets_boundary: bool = False

    def value(self, x: Tensor) -> Tensor:
        return self.u_hat(x)

    def laplacian(self, x: Tensor) -> Tensor:
        return self.lap_u_hat(x)

    def plug_in(self, t: Tensor, x: Tensor) -> Tensor:
        return self.u_hat(x.double()).double()

    def flop(self) -> tuple[float, float]:
        return 0.0, 0.0


def debias_poisson(
    x: Tensor,
    u_hat: SpaceField,
    lap_u_hat: SpaceField,
    f: SpaceField,
    g: SpaceField,
    *,
    domain: Domain | None = None,
    n_walks: int,
    eps: float = 1e-4,
    method: Literal["auto", "green", "walk"] = "auto",
    seed: int = 0,
) -> PoissonEstimate:
    """u^(x) + E (g - u^)(X_tau) - E int_0^tau (f - Laplacian u^)(X_t) dt at the points x (points, dim), Laplacian u = f, u = g.

    Every function takes (rows, dim) to (rows,). ``domain`` is the unit ball where it is None. ``n_walks`` independent draws a
    point: "green" ones in a ball, exact in the mean, or "walk" on spheres to within ``eps`` of any boundary, which leaves a
    bias of that order; "auto" takes the former in balls from dim 2. Only a u^ in C^{1,1} has all of its Laplacian in
    ``lap_u_hat``.

    >>> x = torch.tensor([[0.5, 0.0, 0.0]], dtype=torch.float64)
    >>> constant, zero = (lambda x: torch.ones_like(x[:, 0])), (lambda x: torch.zeros_like(x[:, 0]))
    >>> found = debias_poisson(x, zero, zero, constant, zero, n_walks=4000)
    >>> bool((found.value - (0.25 - 1.0) / 6.0).abs() < 4.0 * found.se), bool(found.se < 3e-3)
    (True, True)
    """
    if n_walks < 2:
        raise ValueError(f"n_walks = {n_walks}: a standard error needs at least 2 draws a point")
    dim = x.shape[-1]
    domain = Ball(dim) if domain is None else domain
    problem = Poisson(name="given", dim=dim, domain=domain, source=f, boundary=g)
    if method not in ("auto", "green", "walk"):
        raise ValueError(f"method = '{method}': should be auto, green or walk")
    green = method == "green" or (method == "auto" and isinstance(domain, Ball) and dim >= 2)
    estimator: BallGreen | WalkOnSpheres = ball_green() if green else walk_on_spheres(eps=eps)
    surrogate = _Given(u_hat, lap_u_hat)
    defect, wide = poisson_defect(problem, surrogate), problem.inside(x)
    time, correction, square = (torch.zeros(len(wide), dtype=torch.float64) for _ in range(3))
    at_once = max(2, BATCH // max(1, len(wide)))
    for number, term in enumerate(estimator.terms):
        parts = []
        for batch, first in enumerate(range(0, n_walks, at_once)):
            stream, draws = Stream(seed, Purpose.CORRECTION, number, batch), min(at_once, n_walks - first)
            parts.append(Moments.of(estimator.sample(defect, time, wide, term, draws, stream).numpy()))
        moments = Moments.fold(parts)
        correction, square = correction + torch.from_numpy(moments.mean), square + torch.from_numpy(moments.variance) / n_walks
    plug_in, se = surrogate.plug_in(time, wide), square.sqrt()
    value = plug_in + correction
    half = NORMAL_QUANTILE * se
    return PoissonEstimate(value, se, torch.stack((value - half, value + half), 1), plug_in, correction)
