"""Linear convection-diffusion, solved by a linear function."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.contracts import BrownianMotion, Jet, SemilinearPDE, Solution, require_dim, uniform_box, uniform_box_boundary


def linear_convection_diffusion(dim: int) -> SemilinearPDE:
    """u_t - (1/d) sum_i d_i u + Laplacian u = 0 on [0, 1/2], u = sum_i x_i + t.

    Fan, Sun, Yang, Lu (arXiv 2504.16172), evaluated on [-1/2, 1/2]^d. In (mu, sigma, f):
    -1/d, sqrt 2, 0.
    """
    require_dim(dim)
    horizon = 0.5

    def terminal(x: Tensor, /) -> Tensor:
        return x.sum(-1) + horizon

    def profile_jet(t: Tensor, x: Tensor, /) -> Jet:
        return Jet(terminal(x), torch.zeros_like(t), torch.ones_like(x), torch.zeros_like(t))

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        return torch.zeros_like(y)

    def value(t: Tensor, x: Tensor, /) -> Tensor:
        return x.double().sum(-1) + t.double()

    return SemilinearPDE(
        name="linear_convection_diffusion",
        dim=dim,
        horizon=horizon,
        law=BrownianMotion(mu=-1.0 / dim, sigma=math.sqrt(2.0)),
        driver=driver,
        terminal=terminal,
        profile_jet=profile_jet,
        # f = 0 is convex as well: either bound is exact.
        curvature="concave",
        sample_points=uniform_box(dim, horizon, 0.5),
        boundary_points=uniform_box_boundary(dim, horizon, 0.5),
        solution=Solution(value=value, source="closed form"),
    )
