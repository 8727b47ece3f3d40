"""The PDE residual objective of a physics-informed neural network."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from kernels.contracts import NORMAL_FLOP, SemilinearPDE, Surrogate
from kernels.defect import residual as pde_residual
from kernels.random_times import arcsine_times
from kernels.streams import Stream


class ResidualLoss(nn.Module):
    """Mean of (r(s, X_s)/p(s))^2 at random times along paths from the evaluation points, exact Laplacian.

    One point a path: s on [t, T] from the density p/(T - t), X_s from its law, so that the loss sees
    what a correction visits. With p = 1 the residual counts alike at all times. The arcsine law is the
    density of the linearised estimator: E (r/p)^2 then weighs a layer at T, or around the points, no
    more than the spread of that estimator does. No boundary term: the domain has no boundary and g
    is built in.
    """

    def __init__(self, problem: SemilinearPDE, surrogate: Surrogate, *, arcsine: bool) -> None:
        super().__init__()
        self.problem, self.surrogate, self.arcsine = problem, surrogate, arcsine

    def sample(self, paths: int, stream: Stream) -> tuple[Tensor, ...]:
        """Collocation points: times (paths,), positions (paths, dim); and the weights 1/p (paths,) where they are not 1."""
        problem = self.problem
        t, x = problem.sample_points(paths, stream)
        left, quantile = problem.horizon - t, stream.uniform(paths)
        elapsed, weights = left * quantile, []
        if self.arcsine:
            (elapsed,), _ = arcsine_times(left, quantile[None])
            weights = [0.5 * math.pi * torch.sin(math.pi * quantile).abs()]
        return t + elapsed, problem.law.travel(t, x, elapsed, stream)[0], *weights

    def forward(self, t: Tensor, x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        return (weight * pde_residual(self.problem, self.surrogate, t, x)).square().mean()

    def flop(self, paths: int) -> float:
        """Model FLOP of loss and gradient: three sweeps of the jet, and the normals."""
        _, full = self.surrogate.flop(None)
        return paths * (3.0 * full + 3.0 * self.problem.costs().driver + NORMAL_FLOP * self.problem.dim)


def residual(problem: SemilinearPDE, surrogate: Surrogate, *, times: Literal["uniform", "arcsine"] = "uniform") -> ResidualLoss:
    """Squared PDE residual with the exact Laplacian at points the paths visit.

    :param times: law of the times along a path: uniform, or arcsine as the linearised estimator draws them
    """
    return ResidualLoss(problem, surrogate, arcsine={"uniform": False, "arcsine": True}[times])
