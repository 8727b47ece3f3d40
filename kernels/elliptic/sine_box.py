"""A mean of sines in the unit cube."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.contracts import Box, Poisson, Solution, SpaceJet


def sine_box(dim: int, *, waves: int = 1) -> Poisson:
    """Laplacian u = -(pi waves)^2 u in the unit cube, u = mean_i sin(pi waves x_i), which is not 0 on the faces for dim > 1.

    :param waves: half waves along an edge, at least 1
    """
    if waves < 1:
        raise ValueError(f"waves = {waves}: at least one half wave along an edge is needed")
    k = math.pi * waves

    def u(x: Tensor, /) -> Tensor:
        return torch.sin(k * x).mean(1)

    def jet(x: Tensor, /) -> SpaceJet:
        value = u(x)
        return SpaceJet(value, k / dim * torch.cos(k * x), -(k**2) * value)

    return Poisson(
        name="sine_box",
        dim=dim,
        domain=Box(dim),
        source=lambda x: -(k**2) * u(x),
        boundary=u,
        boundary_jet=jet,
        solution=Solution(value=lambda t, x: u(x), source="closed form"),
    )
