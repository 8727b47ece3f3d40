"""Semilinear parabolic equations: the problem, its surrogates and its estimators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from kernels.axes import Draws, Paths, Positions, Times, Vectors
from kernels.laws import Law
from kernels.point_samplers import PointSampler
from kernels.streams import Stream

NORMAL_FLOP = 512
"""Arithmetic one normal variate is booked at. One CPU core draws some 10^8 normals or multiplies
some 5 x 10^10 floats a second, so that equal booked FLOP means about equal time."""


def require_dim(dim: int) -> None:
    """Refuse a space without dimension, before anything divides by it."""
    if dim < 1:
        raise ValueError(f"dim = {dim}: a problem needs at least one space dimension")


@runtime_checkable
class Driver(Protocol):
    """f(t, x, y, z) with z = sigma^T grad u, row by row."""

    def __call__(self, t: Paths, x: Vectors, y: Paths, z: Vectors, /) -> Paths: ...


@runtime_checkable
class Terminal(Protocol):
    """g(x), row by row."""

    def __call__(self, x: Vectors, /) -> Paths: ...


@runtime_checkable
class ValueAndGradient(Protocol):
    """A function of (t, x) and its gradient in x, row by row."""

    def __call__(self, t: Tensor, x: Tensor, /) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class ProfileJet(Protocol):
    """A function of (t, x) with its derivatives in closed form, the Laplacian among them."""

    def __call__(self, t: Tensor, x: Tensor, /) -> Jet: ...


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What is known about the truth, in float64.

    ``error`` is the absolute accuracy of ``value``: 0 for a formula, the tolerance of a
    quadrature or reduction, or the standard error of a Monte Carlo reference.
    """

    value: PointwiseField
    source: str
    error: float = 0.0
    gradient: PointwiseField | None = None


@runtime_checkable
class HessianForm(Protocol):
    """A function of (t, x), its t-derivative, its gradient, and a, c, v with Hess = diag(a) + c v v^T, in closed form.

    Shapes: (paths,), (paths,), (paths, dim), (paths, dim), (paths,), (paths, dim).
    """

    def __call__(self, t: Tensor, x: Tensor, /) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class Reference:
    """u at the reference point of a problem whose solution elsewhere is unknown.

    ``error`` is the standard error of a Monte Carlo value, or what a published one can be trusted to.
    """

    value: float
    error: float
    source: str


@runtime_checkable
class PointwiseField(Protocol):
    """A function of (t, x), row by row."""

    def __call__(self, t: Tensor, x: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Model FLOP of one row: of the driver at given (y, z), of its source f(t, x, 0, 0), of g."""

    driver: float
    source: float
    terminal: float


@runtime_checkable
class LocalDriver(Protocol):
    """The driver at a batch of (t, x), where several (y, z) are to be tried."""

    def source(self) -> Paths:
        """f(t, x, 0, 0); for a defect the surrogate's residual. Only where it was asked for."""
        ...

    def increment(self, y: Paths, z: Vectors) -> Paths:
        """f(t, x, y, z) - f(t, x, 0, 0)."""
        ...

    def slopes(self) -> tuple[Paths, Vectors]:
        """f_y and f_z at (t, x, 0, 0)."""
        ...


@runtime_checkable
class LocalDriverFactory(Protocol):
    """(t, x, stream, with_source) -> the driver there; the stream serves stochastic Laplacians."""

    def __call__(self, t: Tensor, x: Tensor, stream: Stream, with_source: bool, /) -> LocalDriver: ...


@dataclass(frozen=True, kw_only=True)
class Known:
    """A known part u^ of a solution u, for estimators that gain from u^ and z^ themselves.

    ``problem`` is the one that u solves; ``value_and_gradient(t, x)`` gives u^ and grad u^.
    """

    problem: SemilinearPDE
    value_and_gradient: ValueAndGradient
    cost: float
    """Model FLOP of one row of ``value_and_gradient``."""


@dataclass(frozen=True, kw_only=True)
class SemilinearPDE:
    """u_t + mu.grad u + tr(sigma sigma^T Hess u)/2 + f(t, x, u, sigma^T grad u) = 0, u(T, x) = g(x).

    Every function works row by row on float32 or float64 tensors and never looks at the batch
    around a row. ``law`` holds mu and sigma. ``start`` is the coordinate x0 of the reference point
    (0, (x0, ..., x0)), and ``reference`` is u there where no ``solution`` is known. ``layer`` says
    how fast u leaves its profile: it moves by O(1) within time T/layer of T. ``profile`` is a function
    of (t, x) that surrogates build on, g where it is None: it equals g at T, is smooth before, and
    carries what is known of how diffusion smoothes g. ``profile_jet`` is it with its derivatives;
    ``hessian_form`` the same for laws whose sigma is not one number, which need more of the Hessian than its trace. ``curvature`` says whether f is "concave" or "convex" in
    (y, z) jointly, which is what two-sided bounds need; ``z_curvature`` is a kappa with
    |f(z + zeta) - f(z) - f_z(z).zeta| <= kappa |zeta|^2 / 2 for an f free of y, ``quadratic`` a q with which
    that difference is q |zeta|^2 / 2, and ``pieces`` are the
    affine functions p y + q sum_i z_i + c, as triples (p, q, c), whose maximum (convex) or minimum
    (concave) f is. ``zero_terminal`` says that g = 0 identically, as for the defect of a surrogate
    with g built in, ``kinked`` that g has kinks (max, min, |.|), where a surrogate built on g itself has a Laplacian that no
    point sees. ``local`` replaces ``driver`` where the driver is itself expensive, as a defect's
    is, and ``known`` is the part of the solution that a defect is formed from; a problem written by
    hand leaves both out.
    """

    name: str
    dim: int
    horizon: float
    law: Law
    driver: Driver
    terminal: Terminal
    sample_points: PointSampler
    boundary_points: PointSampler | None = None
    start: float = 0.0
    solution: Solution | None = None
    reference: Reference | None = None
    profile: PointwiseField | None = None
    profile_jet: ProfileJet | None = None
    hessian_form: HessianForm | None = None
    zero_terminal: bool = False
    kinked: bool = False
    curvature: Literal["concave", "convex"] | None = None
    z_curvature: float | None = None
    quadratic: float | None = None
    pieces: tuple[tuple[float, float, float], ...] = ()
    layer: float = 3.0
    local: LocalDriverFactory | None = None
    known: Known | None = None
    cost: Cost | None = None

    def __post_init__(self) -> None:
        require_dim(self.dim)
        if not (math.isfinite(self.horizon) and self.horizon > 0.0):
            raise ValueError(f"horizon = {self.horizon}: a problem needs a finite time T > 0")

    @property
    def keeps_kinks(self) -> bool:
        """Whether a surrogate that is built on this problem's profile has the kinks of g at all times."""
        return self.kinked and self.profile is None

    def at(self, t: Paths, x: Vectors, stream: Stream, *, with_source: bool) -> LocalDriver:
        """The driver at a batch of points."""
        if self.local is not None:
            return self.local(t, x, stream, with_source)
        zero = torch.zeros_like(t), torch.zeros_like(x)
        return Linearisable(self.driver, t, x, *zero, linear=0.0 if with_source else None)

    def costs(self) -> Cost:
        """Model FLOP per row; by default a dozen operations a coordinate."""
        return self.cost or Cost(driver=12.0 * self.dim, source=12.0 * self.dim, terminal=12.0 * self.dim)


class Linearisable:
    """Increments and slopes of f around a base (y, z), by automatic differentiation.

    ``linear`` is what the source holds beside f at the base: nothing for a plain problem, the
    linear part of the residual for a defect.
    """

    def __init__(
        self, driver: Driver, t: Paths, x: Vectors, y: Paths, z: Vectors, *, linear: Paths | float | None = None
    ) -> None:
        self._driver, self._t, self._x, self._y, self._z = driver, t, x, y, z
        self._base = driver(t, x, y, z)
        self._source = None if linear is None else self._base + linear

    def source(self) -> Paths:
        if self._source is None:
            raise ValueError("the source was not computed here: ask for it with with_source=True")
        return self._source

    def increment(self, y: Paths, z: Vectors) -> Paths:
        return self._driver(self._t, self._x, self._y + y, self._z + z) - self._base

    def slopes(self) -> tuple[Paths, Vectors]:
        with torch.enable_grad():
            y, z = self._y.detach().requires_grad_(), self._z.detach().requires_grad_()
            total = self._driver(self._t, self._x, y, z).sum()
            if not total.requires_grad:
                return torch.zeros_like(y), torch.zeros_like(z)
            f_y, f_z = torch.autograd.grad(total, (y, z), allow_unused=True, materialize_grads=True)
        return f_y, f_z


@dataclass(frozen=True)
class Jet:
    """A function of (t, x) with the derivatives its PDE needs, row by row.

    ``laplacian`` is sum_k d_k.Hess d_k over the directions it was asked for: the Laplacian itself
    where those are the coordinate vectors.
    """

    value: Paths
    dt: Paths
    gradient: Vectors
    laplacian: Paths


@runtime_checkable
class Surrogate(Protocol):
    """An approximation of u with derivatives; what a defect is formed from."""

    meets_terminal: bool
    """Whether the surrogate equals g at T exactly, by construction."""

    def value_and_gradient(self, t: Paths, x: Vectors) -> tuple[Paths, Vectors]:
        """u and grad u (not sigma^T grad u)."""
        ...

    def jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        """All derivatives; second ones along ``directions`` as Law.directions gives them."""
        ...

    def flop(self, probes: int | None) -> tuple[float, float]:
        """Model FLOP of one row of value_and_gradient, and of jet along so many directions."""
        ...


@runtime_checkable
class Estimator(Protocol):
    """A sum of terms, each sampled by independent draws, whose mean solves a problem up to named biases.

    The estimate is the sum of the terms' means; its variance the sum of theirs. How many draws a
    term gets is for the caller to decide.
    """

    @property
    def terms(self) -> tuple[str, ...]:
        """What is summed; the first is the base, the others remove a bias of it."""
        ...

    @property
    def biases(self) -> tuple[str, ...]:
        """What is left out and can be sampled: the mean of each is (estimate - truth), to first order."""
        ...

    @property
    def optional(self) -> Mapping[str, tuple[str, ...]]:
        """Terms without which the others still solve the problem to a lower order, each with the biases of its own."""
        ...

    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        """``draws`` independent draws of a term or bias at each of the points (t, x)."""
        ...

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        """Expected model FLOP of ``draws`` draws of a term at one point, normals included."""
        ...

    def rows(self, term: str, draws: int) -> int:
        """Largest batch of (t, x) alive at once for ``draws`` draws at one point: what bounds memory."""
        ...
