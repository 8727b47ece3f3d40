"""Multilinear interpolation on a regular grid, with the exact integral of its powers."""

from __future__ import annotations

import math

import torch
from numpy.polynomial.legendre import leggauss
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from kernels.contracts import Integral, Paths, Vectors
from kernels.contracts.integral import hermite
from kernels.streams import Stream
from kernels.surrogates._regression import Regression

MAX_NODES = 2**26
"""Gauss nodes of the exact integral: half a gigabyte of values."""


class Multilinear(Regression):
    """f^ = the multilinear interpolant of f on the grid {0, 1/(m-1), .., 1}^d; of order m^(-2) for twice differentiable f.

    f^^q is a polynomial of degree q in each coordinate of a cell: ceil((q + 1)/2) Gauss nodes integrate it exactly.
    Its losses: the variance of the values, and the mean square of sum_j (second difference along j)/8, which is what an
    interpolant is off by in the middle of a cell.
    """

    random_design = False
    grid: Tensor

    def __init__(self, problem: Integral, nodes: int) -> None:
        super().__init__(problem, nodes**problem.dim)
        self.register_buffer("grid", torch.zeros((nodes,) * problem.dim, dtype=torch.float64))
        self.axis = torch.linspace(0.0, 1.0, nodes, dtype=torch.float64)

    def design(self, stream: Stream) -> Vectors:
        return torch.cartesian_prod(*[self.axis] * self.problem.dim).reshape(-1, self.problem.dim)

    def regress(self, x: Vectors, y: Paths, stream: Stream) -> list[float]:
        self.grid.copy_(y.reshape(self.grid.shape))
        losses, dim = [float(y.var(correction=0))], self.problem.dim
        if len(self.axis) > 2:
            inner = [self.grid[tuple(slice(None) if i == j else slice(1, -1) for i in range(dim))] for j in range(dim)]
            bends = sum((along.diff(n=2, dim=j) / 8.0 for j, along in enumerate(inner)), torch.zeros(()))
            losses.append(float(bends.square().mean()))
        return losses

    def values(self, x: Vectors) -> Paths:
        interpolant = RegularGridInterpolator([self.axis.numpy()] * self.problem.dim, self.grid.numpy())
        return torch.from_numpy(interpolant(self.inside(x).numpy()))

    def integral(self) -> float | None:
        u, w = (torch.from_numpy(part) for part in leggauss(gauss_nodes(self.problem.power)))
        cells = len(self.axis) - 1
        u, w = 0.5 * (1.0 + u), (0.5 * w / cells).repeat(cells)
        found = self.grid
        for _ in range(self.problem.dim):
            left, right = found[:-1, None], found[1:, None]
            share = u.reshape(-1, *[1] * (found.ndim - 1))
            # The axis done goes last, so that the next one comes first.
            found = ((1.0 - share) * left + share * right).flatten(0, 1).movedim(0, -1)
        found = hermite(found, self.problem.power, 0.0)
        for _ in range(self.problem.dim):
            found = found @ w
        return float(found)

    def flop(self) -> float:
        return 2.0**self.problem.dim * (self.problem.dim + 2.0) + 4.0 * self.problem.dim

    def fit_cost(self) -> tuple[float, float]:
        """Model FLOP of ``fit`` and the bytes at its peak."""
        fine = integral_nodes(len(self.axis), self.problem.dim, self.problem.power)
        return self.evaluations * self.problem.flop() + 8.0 * fine, 8.0 * (3.0 * fine + self.evaluations * (self.problem.dim + 1))


def gauss_nodes(power: int) -> int:
    """Of one cell and coordinate: exact to degree ``power``."""
    return math.ceil((power + 1) / 2)


def integral_nodes(nodes: int, dim: int, power: int) -> float:
    """Gauss nodes of the whole integral."""
    return float((nodes - 1) * gauss_nodes(power)) ** dim


def multilinear(problem: Integral, *, seed: int, points: int = 4096) -> Multilinear:
    """Multilinear interpolant on the largest regular grid of at most ``points`` values of f, for two derivatives and few dimensions.

    ``seed`` is unused: nothing is random where f has no noise.

    :param points: values of f at most, from 2^dim; the grid has floor(points^(1/dim)) nodes a coordinate
    """
    nodes = round(max(1, points) ** (1.0 / problem.dim)) + 1
    while nodes**problem.dim > points:
        nodes -= 1
    if nodes < 2:
        raise ValueError(
            f"points = {points}: a grid of {problem.dim} dimensions takes at least 2^{problem.dim} = {2**problem.dim}; "
            "raise points, or use kernel_ridge or regression_network"
        )
    if max(integral_nodes(nodes, problem.dim, problem.power), float(points)) > MAX_NODES:
        raise ValueError(
            f"points = {points}, power = {problem.power}: the exact integral takes more than {MAX_NODES} nodes; lower points"
        )
    return Multilinear(problem, nodes)
