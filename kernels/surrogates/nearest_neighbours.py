"""The mean of the nearest values: no smoothness beyond the first derivative is needed, nor used."""

from __future__ import annotations

import math

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from kernels.contracts import Integral, Paths, Vectors
from kernels.contracts.integral import hermite
from kernels.streams import Stream
from kernels.surrogates._regression import Regression


class NearestNeighbours(Regression):
    """f^(x) = mean of y_i over the k points x_i nearest to x; of order n^(-1/d) for Lipschitz f and k = 1.

    In one dimension int f^^q is exact: among the sorted points the k nearest are neighbours i .. i + k - 1 where x lies
    between the middles of x_(i-1), x_(i+k-1) and of x_i, x_(i+k); for k = 1 that is the Voronoi cell.
    """

    places: Tensor
    seen: Tensor

    def __init__(self, problem: Integral, points: int, neighbours: int) -> None:
        super().__init__(problem, points)
        self.neighbours = neighbours
        self.register_buffer("places", torch.zeros(points, problem.dim, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(points, dtype=torch.float64))

    def regress(self, x: Vectors, y: Paths, stream: Stream) -> list[float]:
        self.places.copy_(x)
        self.seen.copy_(y)
        losses = [float(y.var(correction=0))]
        if self.evaluations > self.neighbours:
            others = self._nearest(x, self.neighbours + 1)[:, 1:]
            losses.append(float((self.seen[others].mean(1) - y).square().mean()))
        return losses

    def _nearest(self, x: Vectors, count: int) -> Tensor:
        """Indices of the nearest points, nearest first, (paths, count)."""
        found = cKDTree(self.places.numpy()).query(x.numpy(), k=range(1, count + 1))[1]
        return torch.from_numpy(found)

    def values(self, x: Vectors) -> Paths:
        return self.seen[self._nearest(self.inside(x), self.neighbours)].mean(1)

    def integral(self) -> float | None:
        if self.problem.dim > 1:
            return None
        k = self.neighbours
        x, order = self.places[:, 0].sort()
        level = self.seen[order].unfold(0, k, 1).mean(1)
        ends = torch.cat((x.new_zeros(1), 0.5 * (x[k:] + x[:-k]), x.new_ones(1)))
        return float(hermite(level, self.problem.power, 0.0) @ ends.diff())

    def flop(self) -> float:
        # A visit of a leaf of the tree takes the time of some 100 operations, and some 2^d of them are searched.
        return 100.0 * (math.log2(self.evaluations + 1) + min(2.0**self.problem.dim, float(self.evaluations)))

    def fit_cost(self) -> tuple[float, float]:
        """Model FLOP of ``fit`` and the bytes at its peak."""
        searched = self.evaluations * (self.problem.flop() + self.flop())
        return searched + (0.0 if self.problem.dim == 1 else self.net_flop()), 32.0 * self.evaluations * self.problem.dim


def nearest_neighbours(problem: Integral, *, seed: int, points: int = 1000, neighbours: int = 1) -> NearestNeighbours:
    """Mean of the nearest values, for f with at most one derivative; its integral is exact in one dimension.

    ``seed`` is unused: all that is random is drawn by ``fit``.

    :param points: values of f, uniform in the cube
    :param neighbours: k of the mean; more than 1 averages noise
    """
    if not 1 <= neighbours <= points:
        raise ValueError(f"neighbours = {neighbours} of points = {points}: at least 1 neighbour, and as many points")
    return NearestNeighbours(problem, points, neighbours)
