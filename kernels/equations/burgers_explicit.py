"""A Burgers-type equation of large diffusion with an explicit solution."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import BrownianMotion, Jet, SemilinearPDE, Solution, along_paths, require_dim


def burgers_explicit(dim: int, *, horizon: float = 0.2) -> SemilinearPDE:
    """u_t + (d^2/2) Laplacian u + (u - (2+d)/(2d)) d sum_i d_i u = 0, u = 1 - 1/(1 + exp(t + mean_i x_i)).

    Chassagneux (SIAM J. Numer. Anal. 2014); E, Han, Jentzen (Commun. Math. Stat. 2017), d = 50 and
    T = 0.2 there. In (mu, sigma, f): 0, d, (y - (2+d)/(2d)) sum_i z_i. Bilinear in (y, z): neither
    concave nor convex.

    :param horizon: final time T, > 0
    """
    require_dim(dim)
    drift = (2.0 + dim) / (2.0 * dim)

    def terminal(x: Tensor, /) -> Tensor:
        return torch.sigmoid(horizon + x.mean(-1))

    def profile_jet(t: Tensor, x: Tensor, /) -> Jet:
        g = terminal(x)
        slope = g * (1.0 - g) / dim
        return Jet(g, torch.zeros_like(t), slope[:, None].expand_as(x), slope * (1.0 - 2.0 * g))

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        return (y - drift) * z.sum(-1)

    def value(t: Tensor, x: Tensor, /) -> Tensor:
        return torch.sigmoid(t.double() + x.double().mean(-1))

    law = BrownianMotion(sigma=float(dim))
    return SemilinearPDE(
        name="burgers_explicit",
        dim=dim,
        horizon=horizon,
        law=law,
        driver=driver,
        terminal=terminal,
        profile_jet=profile_jet,
        # The mean of X has variance d tau, and g moves over a length of 1.
        layer=dim * horizon,
        sample_points=along_paths(dim, horizon, law),
        solution=Solution(value=value, source="closed form"),
    )
