"""Directions of ridge functions c(a.x), seeded."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import Purpose, Stream, require_dim


def directions(count: int, dim: int, seed: int) -> Tensor:
    """``count`` unit vectors, (count, dim), float64, orthogonal where dim allows."""
    require_dim(dim)
    normals = Stream(seed, Purpose.PROBLEM).normal(count, dim).double()
    if count > dim:
        return normals / normals.norm(dim=1, keepdim=True)
    return torch.linalg.qr(normals.T)[0].T.contiguous()
