"""Regressions of an integrand on values of it: what all surrogates of integrals share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from kernels.contracts import Integral, Paths, Positions, Times, Vectors
from kernels.contracts.integral import hermite
from kernels.streams import Stream

NODES = 256
"""Quasi-Monte Carlo nodes for each value of f: evaluations of the surrogate alone."""

SCRAMBLES = 16
"""Independent randomisations of the nodes, whose spread is the error bar of their mean."""

ROWS = 2**16
"""Rows of a surrogate evaluated at once."""


class Regression(nn.Module):
    """f^ from ``evaluations`` values y_i of f at points x_i, with its own int f^^q and what that is uncertain by.

    ``known`` (2,) holds the integral and its standard error: 0 where ``integral`` knows it, else that of SCRAMBLES
    scrambled Sobol' nets of NODES nodes in all for each value. A scrambled net is unbiased, so that the corrected value still
    is; its error is no part of the correction's and is added to it.
    """

    known: Tensor
    random_design: bool = True
    """Whether the points are drawn: those of two folds can be exchanged."""

    def __init__(self, problem: Integral, evaluations: int) -> None:
        super().__init__()
        self.problem, self.evaluations = problem, evaluations
        self.register_buffer("known", torch.zeros(2, dtype=torch.float64))

    def design(self, stream: Stream) -> Vectors:
        """Points at which f is evaluated, (evaluations, dim)."""
        return self.problem.points(self.evaluations, stream)

    @abstractmethod
    def regress(self, x: Vectors, y: Paths, stream: Stream) -> list[float]:
        """Set f^ from the values y at x. Returns the variance of y, then mean square errors of f^ where it has not seen f."""

    @abstractmethod
    def values(self, x: Vectors) -> Paths:
        """f^ in the cube, float64."""

    @abstractmethod
    def integral(self) -> float | None:
        """int f^^q where it is exact, else None."""

    @abstractmethod
    def flop(self) -> float:
        """Model FLOP of one row of ``values``."""

    @torch.no_grad()
    def fit(self, stream: Stream) -> list[float]:
        """Evaluate f at the design and regress: the losses of ``regress``."""
        x = self.design(stream)
        return self.fit_to(x, self.problem.observe(x, stream), stream)

    @torch.no_grad()
    def fit_to(self, x: Vectors, y: Paths, stream: Stream) -> list[float]:
        """Regress on values that were seen before, in the design's order where that is fixed; then integrate f^^q."""
        if x.shape != (self.evaluations, self.problem.dim) or y.shape != x.shape[:1]:
            raise ValueError(
                f"{tuple(y.shape)} values at points {tuple(x.shape)}: this surrogate takes {self.evaluations} in "
                f"{self.problem.dim} dimensions"
            )
        losses, exact = self.regress(x, y, stream), self.integral()
        found = self._by_nets(stream) if exact is None else (exact, 0.0)
        self.known.copy_(self.known.new_tensor(found))
        return losses

    def plug_in(self, t: Times, x: Positions) -> Times:
        return self.known[0].repeat(len(t))

    def plug_in_error(self, t: Times, x: Positions) -> Times:
        return self.known[1].repeat(len(t))

    def inside(self, x: Vectors) -> Vectors:
        """x in float64; ValueError where it leaves the cube."""
        if len(x) and not (float(x.min()) >= 0.0 and float(x.max()) <= 1.0):
            raise ValueError(
                f"coordinates from {float(x.min()):.6g} to {float(x.max()):.6g}: f^ is known on the unit cube, scale x to it"
            )
        return x.double()

    def nodes(self) -> int:
        """Nodes of one scrambled net, a power of 2."""
        return int(2 ** math.ceil(math.log2(max(2.0, NODES * self.evaluations / SCRAMBLES))))

    def net_flop(self) -> float:
        """Model FLOP of the quasi-Monte Carlo integral."""
        return SCRAMBLES * self.nodes() * (self.flop() + 8.0 * self.problem.dim)

    def _by_nets(self, stream: Stream) -> tuple[float, float]:
        def powers(x: Vectors) -> Paths:
            return hermite(self.values(x), self.problem.power, 0.0)

        means = torch.stack([net_mean(powers, self.problem.dim, self.nodes(), stream) for _ in range(SCRAMBLES)])
        return float(means.mean()), float(means.std()) / math.sqrt(SCRAMBLES)


def net_mean(function: Callable[[Vectors], Paths], dim: int, nodes: int, stream: Stream) -> Tensor:
    """Mean of a function over one scrambled Sobol' net: unbiased (Owen 1995; the scrambling of Matousek 1998)."""
    if dim > SobolEngine.MAXDIM:
        raise ValueError(
            f"dim = {dim}: a Sobol' net has at most {SobolEngine.MAXDIM} coordinates; use a surrogate with an exact integral"
        )
    engine = SobolEngine(dim, scramble=True, seed=stream.integer(2**31))
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, nodes, ROWS):
        # The engine has 30 binary digits: the middle of their cell, not its lower end.
        x = engine.draw(min(ROWS, nodes - start), dtype=torch.float64) + 2.0**-31
        total += function(x).sum()
    return total / nodes
