"""Laws of evaluation points: uniform on domains and their boundaries, or along a problem's own paths."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kernels.laws import Law
from kernels.streams import Stream


@runtime_checkable
class PointSampler(Protocol):
    """n evaluation points (t, x) from the problem's own law."""

    def __call__(self, n: int, stream: Stream, /) -> tuple[Tensor, Tensor]: ...


def uniform_ball(dim: int, horizon: float) -> PointSampler:
    """Points uniform in the unit ball, times uniform on [0, horizon]."""

    def sample(n: int, stream: Stream, /) -> tuple[Tensor, Tensor]:
        t = horizon * (1.0 - stream.uniform(n))
        direction = stream.normal(n, dim)
        radius = stream.uniform(n) ** (1.0 / dim)
        return t, direction * (radius / direction.norm(dim=1))[:, None]

    return sample


def uniform_sphere(dim: int, horizon: float) -> PointSampler:
    """Points uniform on the unit sphere, the boundary of the ball; times uniform on [0, horizon]."""

    def sample(n: int, stream: Stream, /) -> tuple[Tensor, Tensor]:
        t = horizon * (1.0 - stream.uniform(n))
        direction = stream.normal(n, dim)
        return t, direction / direction.norm(dim=1, keepdim=True)

    return sample


def uniform_box(dim: int, horizon: float, half_width: float) -> PointSampler:
    """Points uniform in [-half_width, half_width]^dim, times uniform on [0, horizon]."""

    def sample(n: int, stream: Stream, /) -> tuple[Tensor, Tensor]:
        t = horizon * (1.0 - stream.uniform(n))
        return t, half_width * (2.0 * stream.uniform(n, dim) - 1.0)

    return sample


def uniform_box_boundary(dim: int, horizon: float, half_width: float) -> PointSampler:
    """Points uniform on the faces of [-half_width, half_width]^dim, times uniform on [0, horizon]."""
    inside = uniform_box(dim, horizon, half_width)

    def sample(n: int, stream: Stream, /) -> tuple[Tensor, Tensor]:
        t, x = inside(n, stream)
        face = (dim * (1.0 - stream.uniform(n))).long().clamp_max(dim - 1)
        x[torch.arange(n), face] = half_width * stream.signs(n)
        return t, x

    return sample


def along_paths(dim: int, horizon: float, law: Law, start: float = 0.0) -> PointSampler:
    """Times uniform on [0, horizon], positions X_t of the path law from (start, ..., start)."""

    def sample(n: int, stream: Stream, /) -> tuple[Tensor, Tensor]:
        t = horizon * (1.0 - stream.uniform(n))
        return t, law.travel(torch.zeros(n), torch.full((n, dim), start), t, stream)[0]

    return sample
