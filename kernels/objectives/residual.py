"""The PDE residual objective of a physics-informed neural network."""

from __future__ import annotations

from torch import Tensor, nn

from kernels.contracts import NORMAL_FLOP, SemilinearPDE, Surrogate
from kernels.defect import residual as pde_residual
from kernels.streams import Stream


class ResidualLoss(nn.Module):
    """Mean of r(s, X_s)^2 at random times along paths from the evaluation points, exact Laplacian.

    One point a path: s uniform on [t, T], X_s from its law, so that the loss sees what a
    correction visits. No boundary term: the domain has no boundary and g is built in.
    """

    def __init__(self, problem: SemilinearPDE, surrogate: Surrogate) -> None:
        super().__init__()
        self.problem, self.surrogate = problem, surrogate

    def sample(self, paths: int, stream: Stream) -> tuple[Tensor, Tensor]:
        """Collocation points: times (paths,), positions (paths, dim)."""
        problem = self.problem
        t, x = problem.sample_points(paths, stream)
        elapsed = (problem.horizon - t) * stream.uniform(paths)
        return t + elapsed, problem.law.travel(t, x, elapsed, stream)[0]

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return pde_residual(self.problem, self.surrogate, t, x).square().mean()

    def flop(self, paths: int) -> float:
        """Model FLOP of loss and gradient: three sweeps of the jet, and the normals."""
        _, full = self.surrogate.flop(None)
        return paths * (3.0 * full + 3.0 * self.problem.costs().driver + NORMAL_FLOP * self.problem.dim)


def residual(problem: SemilinearPDE, surrogate: Surrogate) -> ResidualLoss:
    """Squared PDE residual with the exact Laplacian at points the paths visit."""
    return ResidualLoss(problem, surrogate)
