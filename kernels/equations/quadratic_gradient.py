"""An equation quadratic in the gradient, with an explicit solution that has a cusp."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import BrownianMotion, Jet, SemilinearPDE, Solution, along_paths, require_dim

EXPONENT = 0.4

FLOOR = 1e-12
"""Smallest b that derivatives of psi are taken at: there the largest, psi'' = b^-1.6, is 10^19 and fits float32."""


def quadratic_gradient(dim: int, *, horizon: float = 1.0) -> SemilinearPDE:
    """u_t + (1/2) Laplacian u + |grad u|^2 = 4 psi'(b)^2 |x|^2/d^2 + 2 psi''(b) |x|^2/d^2, u = psi(b).

    psi(b) = sin(b^0.4), b = T - t + |x|^2/d (Gobet, Turkedjian 2017; E, Han, Jentzen, Commun. Math.
    Stat. 2017). In (mu, sigma, f): 0, 1, |z|^2 - the right-hand side, which is convex in (y, z).
    grad u is infinite at b = 0; paths from the reference point 0 have b near T.

    :param horizon: final time T, > 0
    """
    require_dim(dim)

    def psi(t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """psi, psi', psi'' at b, and |x|^2/d."""
        square = x.square().sum(-1) / dim
        b = (horizon - t + square).clamp_min(FLOOR)
        power = b.pow(EXPONENT)
        first = EXPONENT * power / b
        sine, cosine = torch.sin(power), torch.cos(power)
        return sine, first * cosine, (EXPONENT - 1.0) * first / b * cosine - first.square() * sine, square

    def terminal(x: Tensor, /) -> Tensor:
        return psi(horizon, x)[0]

    def profile_jet(t: Tensor, x: Tensor, /) -> Jet:
        value, first, second, square = psi(horizon, x)
        gradient = (2.0 / dim) * first[:, None] * x
        return Jet(value, torch.zeros_like(t), gradient, 4.0 / dim * second * square + 2.0 * first)

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        _, first, second, square = psi(t, x)
        return z.square().sum(-1) - (4.0 * first.square() + 2.0 * second) * square / dim

    def value(t: Tensor, x: Tensor, /) -> Tensor:
        return psi(t.double(), x.double())[0]

    law = BrownianMotion()
    return SemilinearPDE(
        name="quadratic_gradient",
        dim=dim,
        horizon=horizon,
        law=law,
        driver=driver,
        terminal=terminal,
        profile_jet=profile_jet,
        curvature="convex",
        z_curvature=2.0,
        quadratic=2.0,
        sample_points=along_paths(dim, horizon, law),
        solution=Solution(value=value, source="closed form"),
    )
