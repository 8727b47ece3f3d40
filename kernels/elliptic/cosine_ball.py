"""Two oscillating ridges in the unit ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.contracts import Ball, Poisson, Solution, SpaceJet
from kernels.elliptic._ridges import directions


def cosine_ball(dim: int, *, frequency: float = 3.0, coefficient_seed: int = 0) -> Poisson:
    """Laplacian u = -frequency^2 u in the unit ball, u = cos(frequency a.x) + sin(frequency b.x), a and b seeded unit vectors.

    f and g are formulas of x. The larger the frequency, the harder for a surrogate.

    :param frequency: of both ridges, > 0
    :param coefficient_seed: seed of a and b, which are orthogonal from dim 2
    """
    if not (math.isfinite(frequency) and frequency > 0.0):
        raise ValueError(f"frequency = {frequency}: should be finite and > 0, for example 3")
    a, b = frequency * directions(2, dim, coefficient_seed)

    def u(x: Tensor, /) -> Tensor:
        return torch.cos(x @ a.to(x)) + torch.sin(x @ b.to(x))

    def jet(x: Tensor, /) -> SpaceJet:
        along_a, along_b = x @ a.to(x), x @ b.to(x)
        value = along_a.cos() + along_b.sin()
        gradient = -along_a.sin()[:, None] * a.to(x) + along_b.cos()[:, None] * b.to(x)
        return SpaceJet(value, gradient, -(frequency**2) * value)

    return Poisson(
        name="cosine_ball",
        dim=dim,
        domain=Ball(dim),
        source=lambda x: -(frequency**2) * u(x),
        boundary=u,
        boundary_jet=jet,
        solution=Solution(value=lambda t, x: u(x), source="closed form"),
    )
