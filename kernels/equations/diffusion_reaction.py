"""Diffusion-reaction with an oscillating solution."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import BrownianMotion, Jet, SemilinearPDE, Solution, uniform_ball, uniform_sphere

FREQUENCY = 0.1
OFFSET = 1.6


def diffusion_reaction(dim: int) -> SemilinearPDE:
    """u_t + (1/2) Laplacian u + min(1, (u - u*)^2) = 0 on [0, 1].

    u* = 1.6 + sin(0.1 sum_i x_i) exp(0.01 d (t-T)/2) (Gobet and Turkedjian 2017; Fan, Sun,
    Yang, Lu, arXiv 2504.16172). In (mu, sigma, f): 0, 1, min(1, (y - u*)^2). u* solves the heat
    equation and f vanishes on it, so dropping f costs nothing here: a test of variance only. A parabola
    cut off at 1 is neither concave nor convex.
    """
    horizon = 1.0

    def solution(t: Tensor | float, x: Tensor) -> Tensor:
        decay = torch.as_tensor(0.5 * FREQUENCY**2 * dim * (t - horizon), dtype=x.dtype)
        return OFFSET + torch.sin(FREQUENCY * x.sum(-1)) * torch.exp(decay)

    def terminal(x: Tensor, /) -> Tensor:
        return solution(horizon, x)

    def profile_jet(t: Tensor, x: Tensor, /) -> Jet:
        phase = FREQUENCY * x.sum(-1)
        wave = torch.sin(phase)
        gradient = (FREQUENCY * torch.cos(phase))[:, None].expand_as(x)
        return Jet(OFFSET + wave, torch.zeros_like(t), gradient, -(FREQUENCY**2) * dim * wave)

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        return (y - solution(t, x)).square().clamp_max(1.0)

    def value(t: Tensor, x: Tensor, /) -> Tensor:
        return solution(t.double(), x.double())

    return SemilinearPDE(
        name="diffusion_reaction",
        dim=dim,
        horizon=horizon,
        law=BrownianMotion(),
        driver=driver,
        terminal=terminal,
        profile_jet=profile_jet,
        sample_points=uniform_ball(dim, horizon),
        boundary_points=uniform_sphere(dim, horizon),
        solution=Solution(value=value, source="closed form"),
    )
