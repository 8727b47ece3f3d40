"""The PDE residual objective of a physics-informed neural network."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from kernels.contracts import NORMAL_FLOP, SemilinearPDE, Surrogate
from kernels.defect import residual as pde_residual
from kernels.random_times import arcsine_times
from kernels.streams import Stream

ARCSINE = "arcsine"


class ResidualLoss(nn.Module):
    """Mean of (r(s, X_s)/p(s))^2 at random times along paths from the evaluation points, exact Laplacian.

    One point a path: s on [t, T] from the density p/(T - t), X_s from its law, so that
    the loss sees what a correction visits. Where p is uniform, r^2 counts alike at all times; where it is the
    arcsine law, whose density is that of the linearised estimator, the loss is the second moment
    of what that estimator draws, and a layer at T or at the points weighs no more than there. No boundary term: the domain has no
    boundary and g is built in.
    """

    def __init__(self, problem: SemilinearPDE, surrogate: Surrogate, times: str) -> None:
        super().__init__()
        self.problem, self.surrogate, self.times = problem, surrogate, times

    def sample(self, paths: int, stream: Stream) -> tuple[Tensor, ...]:
        """Collocation points: times (paths,), positions (paths, dim); and the weights 1/p (paths,) where they are not 1."""
        problem = self.problem
        t, x = problem.sample_points(paths, stream)
        left, quantile = problem.horizon - t, stream.uniform(paths)
        elapsed, weights = left * quantile, []
        if self.times == ARCSINE:
            (elapsed,), (density,) = arcsine_times(left, quantile[None])
            weights = [1.0 / (density * left)]
        return t + elapsed, problem.law.travel(t, x, elapsed, stream)[0], *weights

    def forward(self, t: Tensor, x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        return (weight * pde_residual(self.problem, self.surrogate, t, x)).square().mean()

    def flop(self, paths: int) -> float:
        """Model FLOP of loss and gradient: three sweeps of the jet, and the normals."""
        _, full = self.surrogate.flop(None)
        return paths * (3.0 * full + 3.0 * self.problem.costs().driver + NORMAL_FLOP * self.problem.dim)


def residual(problem: SemilinearPDE, surrogate: Surrogate, *, times: Literal["uniform", "arcsine"] = "uniform") -> ResidualLoss:
    """Squared PDE residual with the exact Laplacian at points the paths visit.

    :param times: law of the times along a path: uniform, or arcsine with the weights of the linearised estimator
    """
    return ResidualLoss(problem, surrogate, times)
