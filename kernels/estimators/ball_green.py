"""Poisson's equation in a ball, without a walk: one point of Green's function and one of the harmonic measure a draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kernels.contracts import NORMAL_FLOP, Ball, Draws, Poisson, Positions, Times, uniform_directions
from kernels.streams import Stream

CELLS = 1024
"""Of the table that exit angles are drawn from."""


@dataclass(frozen=True)
class BallGreen:
    """u(x) = E g(Z) - int G(x, y) f(y) dy in a ball, Z from the harmonic measure of x; both exact in the mean, for any dim >= 2.

    In the unit ball, d = dim, with a uniform direction theta, L the length of the chord from x along it and U uniform,

        int G(x, y) f(y) dy = E w f(Y),    Y = x + r theta,    r = L sqrt(U),
        w = L^2/2 [1 - (r/q)^(d-2)]/(d-2),    q^2 = |x|^2 |Y|^2 - 2 x.Y + 1 = r^2 + (1 - |x|^2)(1 - |Y|^2),

    from G = (r^(2-d) - q^(2-d))/((d-2) omega), omega the area of the unit sphere: r^(d-1) G is r times a bounded
    function, which for d = 2 is log(q/r). For Z see ``harmonic_points``.
    """

    solves: ClassVar[type] = Poisson
    chunk_draws: ClassVar[int] = 128
    terms: tuple[str, ...] = ("source", "boundary")
    biases: tuple[str, ...] = ()
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @torch.no_grad()
    def sample(self, problem: Poisson, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        radius = _radius(problem)
        x = problem.inside(x) / radius
        if term == "source":
            y, weight = green_points(x.repeat_interleave(draws, 0), stream)
            return (-(radius**2) * weight * problem.source(radius * y).double()).reshape(-1, draws)
        if problem.zero_boundary:
            return torch.zeros(len(x), draws, dtype=torch.float64)
        z, weight = harmonic_points(x, draws, stream)
        return (weight * problem.boundary(radius * z).double()).reshape(-1, draws)

    def flop(self, problem: Poisson, term: str, draws: int) -> float:
        cost, vector = problem.costs(), NORMAL_FLOP * problem.dim
        if term == "source":
            return draws * (vector + NORMAL_FLOP + cost.source)
        return float(draws) if problem.zero_boundary else draws * (vector + 2.0 * NORMAL_FLOP + cost.boundary)

    def rows(self, term: str, draws: int) -> int:
        return draws


def _radius(problem: Poisson) -> float:
    if not isinstance(problem.domain, Ball):
        raise ValueError(
            f"'{problem.name}' lives in a {type(problem.domain).__name__}, and this is for a Ball: use walk_on_spheres"
        )
    if problem.dim < 2:
        raise ValueError(f"dim = {problem.dim}: a ball has a sphere of directions from dim 2: use walk_on_spheres")
    return problem.domain.radius


def green_points(x: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
    """Y (paths, dim) and w (paths,) with E w f(Y) = int G(x, y) f(y) dy in the unit ball."""
    n, dim = x.shape
    theta = uniform_directions(n, dim, stream)
    along, inside = (x * theta).sum(1), (1.0 - x.square().sum(1)).clamp_min(0.0)
    beyond = (along.square() + inside).sqrt()
    # Written so that nothing cancels at the boundary.
    chord = torch.where(along > 0.0, inside / (beyond + along), beyond - along)
    r = chord * stream.uniform(n).double().sqrt()
    ratio = -torch.log1p(inside * (chord - r) * (r + beyond + along) / r.square().clamp_min(torch.finfo(r.dtype).tiny))
    kernel = -0.5 * ratio if dim == 2 else -torch.expm1(0.5 * (dim - 2) * ratio) / (dim - 2)
    return x + r[:, None] * theta, 0.5 * chord.square() * kernel


def harmonic_points(x: Tensor, draws: int, stream: Stream) -> tuple[Tensor, Tensor]:
    """Z (points x draws, dim) and w, E w g(Z) = the harmonic function at x of boundary values g on the unit sphere.

    Z = ((1 - |x|^2) eta + 2 (1 + x.eta) x)/|eta + x|^2, the Moebius map of the ball that takes 0 to x, turns
    Poisson's kernel (1 - |x|^2)/|x - z|^d into the density |eta + x|^(2-d) of eta to the uniform one. Its angle psi to x thus has

        p(psi) proportional to (sin psi / |eta + x|)^(d-2),    |eta + x|^2 = sin^2 psi + (|x| + cos psi)^2,

    which is bounded and stays broad as x nears the sphere. psi is drawn from the straight lines between the values of p at CELLS + 1
    nodes, and w is p over them: near 1, and its mean is 1 exactly, as is int p = B((d-1)/2, 1/2).
    """
    points, dim = x.shape
    rows = x.repeat_interleave(draws, 0)
    size = x.norm(dim=1)

    def density(psi: Tensor, size: Tensor) -> Tensor:
        square = psi.sin().square()
        return (square / (square + (size + psi.cos()).square())) ** (0.5 * (dim - 2))

    step = math.pi / CELLS
    nodes = density(step * torch.arange(CELLS + 1, dtype=torch.float64), size[:, None])
    table = (0.5 * step * (nodes[:, 1:] + nodes[:, :-1])).cumsum(1)
    mass = table[:, -1:]
    drawn = stream.uniform(points * draws).double().reshape(points, draws)
    cell = torch.searchsorted(table, (drawn * mass).clamp_max(mass)).clamp_max(CELLS - 1)
    low, high = nodes.gather(1, cell), nodes.gather(1, cell + 1)
    share = stream.uniform(points * draws).double().reshape(points, draws)
    share = share * (low + high) / (low + (low.square() + share * (high.square() - low.square())).sqrt())
    psi = step * (cell + share)
    beta = math.exp(math.lgamma(0.5 * (dim - 1)) + math.lgamma(0.5) - math.lgamma(0.5 * dim))
    weight = density(psi, size[:, None]) / (low + share * (high - low)) * (mass / beta)
    pole = _pole(rows)
    across = stream.normal(points * draws, dim).double()
    across -= (across * pole).sum(1, keepdim=True) * pole
    across /= across.norm(dim=1, keepdim=True)
    psi = psi.reshape(-1, 1)
    eta = psi.cos() * pole + psi.sin() * across
    along, square = (rows * eta).sum(1, keepdim=True), rows.square().sum(1, keepdim=True)
    z = ((1.0 - square) * eta + 2.0 * (1.0 + along) * rows) / (eta + rows).square().sum(1, keepdim=True)
    return z, weight.flatten()


def _pole(x: Tensor) -> Tensor:
    """x/|x|, the first axis at 0."""
    return Ball(x.shape[1]).project(x)


def ball_green() -> BallGreen:
    """Green's function of a ball, one point a draw, and the harmonic measure: exact in the mean, without walks or shell."""
    return BallGreen()
