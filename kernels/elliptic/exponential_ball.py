"""An exponential ridge in the unit ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.contracts import Ball, Poisson, Solution, SpaceJet
from kernels.elliptic._ridges import directions


def exponential_ball(dim: int, *, steepness: float = 1.0, coefficient_seed: int = 0) -> Poisson:
    """Laplacian u = steepness^2 u in the unit ball, u = exp(steepness a.x), a a seeded unit vector; f and g are formulas of x.

    :param steepness: length of the gradient of log u, finite
    :param coefficient_seed: seed of a
    """
    if not math.isfinite(steepness):
        raise ValueError(f"steepness = {steepness}: should be finite, for example 1")
    (a,) = steepness * directions(1, dim, coefficient_seed)

    def u(x: Tensor, /) -> Tensor:
        return torch.exp(x @ a.to(x))

    def jet(x: Tensor, /) -> SpaceJet:
        value = u(x)
        return SpaceJet(value, value[:, None] * a.to(x), steepness**2 * value)

    return Poisson(
        name="exponential_ball",
        dim=dim,
        domain=Ball(dim),
        source=lambda x: steepness**2 * u(x),
        boundary=u,
        boundary_jet=jet,
        solution=Solution(value=lambda t, x: u(x), source="closed form"),
    )
