"""A constant source in the unit ball: minus the mean exit time of a path of generator Laplacian."""

from __future__ import annotations

import torch

from kernels.contracts import Ball, Poisson, Solution


def constant_source(dim: int) -> Poisson:
    """Laplacian u = 1 in the unit ball, u = 0 on the sphere: u = (|x|^2 - 1)/(2 dim)."""
    return Poisson(
        name="constant_source",
        dim=dim,
        domain=Ball(dim),
        source=lambda x: torch.ones_like(x[:, 0]),
        boundary=lambda x: torch.zeros_like(x[:, 0]),
        zero_boundary=True,
        solution=Solution(value=lambda t, x: (x.square().sum(1) - 1.0) / (2.0 * dim), source="closed form"),
    )
