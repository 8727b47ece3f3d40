"""The viscous Burgers-type equation with a travelling sigmoid."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import BrownianMotion, Jet, SemilinearPDE, Solution, require_dim, uniform_box, uniform_box_boundary


def viscous_burgers(dim: int, *, sigma: float = 0.25) -> SemilinearPDE:
    """u_t + (sigma^2 u - 1/d - sigma^2/2) sum_i d_i u + (sigma^2/2) Laplacian u = 0 on [0, 1/2].

    u = sigmoid(t + sum_i x_i) (Fan, Sun, Yang, Lu, arXiv 2504.16172). In (mu, sigma, f):
    -(1/d + sigma^2/2), sigma, sigma y sum_i z_i, which is bilinear: neither concave nor convex.

    :param sigma: diffusion coefficient, > 0
    """
    require_dim(dim)
    if sigma <= 0.0:
        raise ValueError(f"sigma = {sigma}: the diffusion coefficient must be > 0")
    horizon = 0.5

    def terminal(x: Tensor, /) -> Tensor:
        return torch.sigmoid(horizon + x.sum(-1))

    def profile_jet(t: Tensor, x: Tensor, /) -> Jet:
        g = terminal(x)
        slope = g * (1.0 - g)
        return Jet(g, torch.zeros_like(t), slope[:, None].expand_as(x), dim * slope * (1.0 - 2.0 * g))

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        return sigma * y * z.sum(-1)

    def value(t: Tensor, x: Tensor, /) -> Tensor:
        return torch.sigmoid(t.double() + x.double().sum(-1))

    return SemilinearPDE(
        name="viscous_burgers",
        dim=dim,
        horizon=horizon,
        law=BrownianMotion(mu=-(1.0 / dim + 0.5 * sigma**2), sigma=sigma),
        driver=driver,
        terminal=terminal,
        profile_jet=profile_jet,
        sample_points=uniform_box(dim, horizon, 0.5),
        boundary_points=uniform_box_boundary(dim, horizon, 0.5),
        solution=Solution(value=value, source="closed form"),
    )
