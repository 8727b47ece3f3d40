"""Poisson's equation: domains, the problem, and its surrogates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kernels.axes import Paths, Positions, Times, Vectors
from kernels.contracts.semilinear import Solution, require_dim
from kernels.streams import Stream

SpaceField = Callable[[Tensor], Tensor]
"""A function of x, row by row: (paths, dim) -> (paths,)."""

OUTSIDE = 1e-6
"""How far outside a point may lie: what single precision makes of one on the boundary."""


@dataclass(frozen=True)
class SpaceJet:
    """A function of x with its gradient and Laplacian, row by row."""

    value: Paths
    gradient: Vectors
    laplacian: Paths


@runtime_checkable
class Domain(Protocol):
    """An open bounded set, by what walks and surrogates need of it."""

    @property
    def dim(self) -> int:
        """Space dimension."""
        ...

    def distance(self, x: Vectors) -> Paths:
        """Distance to the boundary, negative outside."""
        ...

    def project(self, x: Vectors) -> Vectors:
        """A nearest point of the boundary."""
        ...

    def bump(self, x: Vectors) -> SpaceJet:
        """A smooth function, positive inside and 0 on the boundary."""
        ...

    def interior(self, n: int, stream: Stream) -> Tensor:
        """n uniform points, (n, dim), float64."""
        ...

    def rim(self, n: int, stream: Stream) -> Tensor:
        """n uniform points of the boundary, (n, dim), float64."""
        ...


def uniform_directions(n: int, dim: int, stream: Stream) -> Tensor:
    """Unit vectors, uniform on the sphere, (n, dim), float64."""
    normals = stream.normal(n, dim).double()
    return normals / normals.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Ball:
    """|x| < radius.

    >>> Ball(3).distance(torch.tensor([[0.6, 0.0, 0.0]]))
    tensor([0.4000])
    """

    dim: int
    radius: float = 1.0

    def __post_init__(self) -> None:
        require_dim(self.dim)
        if not (math.isfinite(self.radius) and self.radius > 0.0):
            raise ValueError(f"radius = {self.radius}: a ball needs a finite radius > 0")

    def distance(self, x: Vectors) -> Paths:
        return self.radius - x.norm(dim=1)

    def project(self, x: Vectors) -> Vectors:
        size = x.norm(dim=1, keepdim=True)
        # All of the boundary is nearest to the centre.
        first = torch.eye(1, self.dim, dtype=x.dtype, device=x.device)
        return self.radius * torch.where(size > 0.0, x / size, first)

    def bump(self, x: Vectors) -> SpaceJet:
        """1 - |x|^2/radius^2."""
        square = self.radius**2
        value = 1.0 - x.square().sum(1) / square
        return SpaceJet(value, -2.0 / square * x, torch.full_like(value, -2.0 * self.dim / square))

    def interior(self, n: int, stream: Stream) -> Tensor:
        directions = uniform_directions(n, self.dim, stream)
        return self.radius * stream.uniform(n).double()[:, None] ** (1.0 / self.dim) * directions

    def rim(self, n: int, stream: Stream) -> Tensor:
        return self.radius * uniform_directions(n, self.dim, stream)


@dataclass(frozen=True)
class Box:
    """The unit cube (0, 1)^dim.

    >>> Box(2).project(torch.tensor([[0.6, 0.1]]))
    tensor([[0.6000, 0.0000]])
    """

    dim: int

    def __post_init__(self) -> None:
        require_dim(self.dim)

    def distance(self, x: Vectors) -> Paths:
        return torch.minimum(x, 1.0 - x).amin(1)

    def project(self, x: Vectors) -> Vectors:
        x = x.clamp(0.0, 1.0)
        nearest = torch.minimum(x, 1.0 - x).argmin(1, keepdim=True)
        return x.scatter(1, nearest, x.gather(1, nearest).round())

    def bump(self, x: Vectors) -> SpaceJet:
        """prod_i sqrt(30) x_i (1 - x_i), whose mean square is 1."""
        scale = math.sqrt(30.0)
        factors = scale * x * (1.0 - x)
        ones = torch.ones_like(x[:, :1])
        before = torch.cat((ones, factors[:, :-1]), 1).cumprod(1)
        after = torch.cat((factors[:, 1:], ones), 1).flip(1).cumprod(1).flip(1)
        others = before * after
        return SpaceJet(factors.prod(1), scale * (1.0 - 2.0 * x) * others, -2.0 * scale * others.sum(1))

    def interior(self, n: int, stream: Stream) -> Tensor:
        return stream.uniform(n, self.dim).double()

    def rim(self, n: int, stream: Stream) -> Tensor:
        x = self.interior(n, stream)
        face = (self.dim * (1.0 - stream.uniform(n))).long().clamp_max(self.dim - 1)
        x[torch.arange(n), face] = 0.5 * (1.0 + stream.signs(n).double())
        return x


@dataclass(frozen=True, kw_only=True)
class PoissonCost:
    """Model FLOP of one row of the source and of the boundary values."""

    source: float
    boundary: float


@dataclass(frozen=True, kw_only=True)
class Poisson:
    """Laplacian u = source in the domain, u = boundary on its boundary.

    ``source`` and ``boundary`` work row by row on float32 or float64 points. ``boundary`` is a
    formula on the whole closed domain, of which walks see the boundary alone; surrogates extend it
    inside, with ``boundary_jet`` for its derivatives, automatic ones where it is None.
    ``zero_boundary`` says that it is 0. The solution's ``value(t, x)`` ignores t.
    """

    name: str
    dim: int
    domain: Domain
    source: SpaceField
    boundary: SpaceField
    boundary_jet: Callable[[Tensor], SpaceJet] | None = None
    zero_boundary: bool = False
    solution: Solution | None = None
    cost: PoissonCost | None = None

    def __post_init__(self) -> None:
        require_dim(self.dim)
        if self.domain.dim != self.dim:
            raise ValueError(f"dim = {self.dim}: the domain has {self.domain.dim} dimensions, and both should be the same")

    def sample_points(self, n: int, stream: Stream) -> tuple[Tensor, Tensor]:
        """n points (0, x), x uniform in the domain."""
        return torch.zeros(n, dtype=torch.float64), self.domain.interior(n, stream)

    def boundary_points(self, n: int, stream: Stream) -> tuple[Tensor, Tensor]:
        """n points (0, x), x uniform on the boundary."""
        return torch.zeros(n, dtype=torch.float64), self.domain.rim(n, stream)

    def inside(self, x: Tensor) -> Tensor:
        """The points in float64; ValueError where they are no points of the closed domain."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x of shape {tuple(x.shape)}: should be (points, {self.dim}), one row a point of '{self.name}'")
        wide = x.double()
        least = float(self.domain.distance(wide).min()) if len(wide) else 0.0
        if not least >= -OUTSIDE:
            raise ValueError(
                f"x lies outside the domain of '{self.name}' by {-least:.3g}: give points of the closed domain, "
                "where the equation holds"
            )
        return wide

    def costs(self) -> PoissonCost:
        """Model FLOP per row; by default a dozen operations a coordinate."""
        return self.cost or PoissonCost(source=12.0 * self.dim, boundary=12.0 * self.dim)


@runtime_checkable
class EllipticSurrogate(Protocol):
    """An approximation of u in C^{1,1}: where its gradient jumps, as a finite element's, its Laplacian misses what the jump holds."""

    meets_boundary: bool
    """Whether it equals the boundary values exactly, by construction."""

    def value(self, x: Vectors) -> Paths:
        """u^."""
        ...

    def laplacian(self, x: Vectors) -> Paths:
        """Laplacian of u^, exact."""
        ...

    def plug_in(self, t: Times, x: Positions) -> Times:
        """u^ in float64, whatever t."""
        ...

    def flop(self) -> tuple[float, float]:
        """Model FLOP of one row of value, and of laplacian."""
        ...
