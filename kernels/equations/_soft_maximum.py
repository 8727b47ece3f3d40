"""A soft maximum whose temperature follows the time left: what diffusion makes of the kinks of a maximum."""

from __future__ import annotations

import torch
from torch import Tensor

TEMPERATURE = 0.6
"""In standard deviations of what a coordinate has left to move: of two normals of equal means the expected larger one is
0.81 log 2 above them, of a hundred the largest 0.54 log 100."""


def temperature(left: Tensor, spread: float) -> Tensor:
    """a = TEMPERATURE spread sqrt(T - t), (paths,), ``spread`` the standard deviation of a coordinate's noise in unit time.

    At T it is 10^-15: the maximum is the plain one to the last digit.
    """
    return TEMPERATURE * spread * left.clamp_min(1e-30).sqrt()


def soft_maximum(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """m = a log sum_i exp(x_i/a), its gradient w in x, and its derivative in a, the entropy of w.

    Shapes: x (paths, terms), a (paths,); returns (paths,), (paths, terms), (paths,). The Hessian in x is (diag(w) - w w^T)/a.
    """
    top = x.amax(-1)
    heights = (x - top[:, None]) / a[:, None]
    w = torch.softmax(heights, -1)
    return top + a * torch.logsumexp(heights, -1), w, torch.special.entr(w).sum(-1)
