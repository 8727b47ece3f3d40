"""Integrals of powers of a function that is seen at points: the problem, and surrogates whose integral is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kernels.axes import Paths, Positions, Times, Vectors
from kernels.contracts.semilinear import NORMAL_FLOP, require_dim
from kernels.streams import Stream


@runtime_checkable
class Integrand(Protocol):
    """f(x), row by row, float64."""

    def __call__(self, x: Vectors, /) -> Paths: ...


@runtime_checkable
class ControlVariate(Protocol):
    """An approximation f^ of f whose own integral is known: what a defect is formed from."""

    evaluations: int
    """Values of f that it was made from."""

    def values(self, x: Vectors) -> Paths:
        """f^."""
        ...

    def plug_in(self, t: Times, x: Positions) -> Times:
        """int f^^q, the same at every row."""
        ...

    def plug_in_error(self, t: Times, x: Positions) -> Times:
        """Standard error of ``plug_in``: 0 where the integral is exact, that of a quadrature with an error bar elsewhere."""
        ...

    def flop(self) -> float:
        """Model FLOP of one row of ``values``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Integral:
    """int over [0,1]^dim of f^q dx, q = ``power``, where f is seen as y = f(x) + ``noise`` N(0, 1).

    ``known`` is the f^ of a defect, whose integrand is f^q - f^^q; a problem written by hand leaves it out. ``value``
    is the integral where it is known, and ``source`` says from where. ``cost`` is the model FLOP of f at one point, by
    default a dozen operations a coordinate.
    """

    name: str
    dim: int
    integrand: Integrand
    power: int = 1
    noise: float = 0.0
    value: float | None = None
    source: str = ""
    known: Integrand | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        require_dim(self.dim)
        if self.power < 1:
            raise ValueError(f"power = {self.power}: the integral is of f to a whole power of at least 1")
        if not (math.isfinite(self.noise) and self.noise >= 0.0):
            raise ValueError(f"noise = {self.noise}: a standard deviation is finite and >= 0; 0 where f is seen as it is")
        if self.value is not None and not self.source:
            raise ValueError(f"value = {self.value} without a source: say where the truth comes from, or leave it out")

    def points(self, count: int, stream: Stream) -> Vectors:
        """Points uniform on the cube, (count, dim), float64."""
        return stream.uniform(self.dim, count, dtype=torch.float64).T.contiguous()

    def observe(self, x: Vectors, stream: Stream) -> Paths:
        """y = f(x) + noise N(0, 1); refused where it is not one finite number a row."""
        y = self.integrand(x)
        if y.shape != x.shape[:1]:
            raise ValueError(
                f"'{self.name}' gave shape {tuple(y.shape)} at {len(x)} points: f works row by row, one number a row"
            )
        if not bool(y.isfinite().all()):
            where = [round(v, 6) for v in x[~y.isfinite()][0].tolist()]
            raise ValueError(f"'{self.name}' is not finite at x = {where}: f should be, except at points that are never drawn")
        if self.noise == 0.0:
            return y.double()
        return y.double() + self.noise * stream.normal(len(y), 1, dtype=torch.float64)[:, 0]

    def powers(self, y: Paths) -> Paths:
        """sigma^q He_q(y/sigma), sigma the noise, whose mean is f^q; without noise it is y^q.

        By E He_q(mu + N) = mu^q for N standard normal: y^q itself would be off by q(q - 1)/2 sigma^2 f^(q-2) and more.
        """
        return hermite(y, self.power, self.noise)

    def draws(self, x: Vectors, y: Paths) -> Paths:
        """What has the mean f^q - f^^q at x, from the observation y there."""
        own = self.powers(y)
        return own if self.known is None else own - hermite(self.known(x), self.power, 0.0)

    def flop(self) -> float:
        """Model FLOP of one draw: the point, the noise and f, and f^ of a defect."""
        normals = self.dim + (self.noise > 0.0)
        return NORMAL_FLOP * normals + (12.0 * self.dim if self.cost is None else self.cost)


def hermite(y: Tensor, degree: int, scale: float) -> Tensor:
    """scale^n He_n(y/scale) of degree n: H_0 = 1, H_1 = y, H_(k+1) = y H_k - k scale^2 H_(k-1).

    >>> hermite(torch.tensor([2.0]), 3, 0.0), hermite(torch.tensor([2.0]), 2, 1.0)
    (tensor([8.]), tensor([3.]))
    """
    before, now = torch.ones_like(y), y
    for k in range(1, degree):
        before, now = now, y * now - k * scale**2 * before
    return now
