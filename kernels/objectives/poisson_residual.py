"""The residual objective of a physics-informed network for Poisson's equation."""

from __future__ import annotations

from torch import Tensor, nn

from kernels.contracts import NORMAL_FLOP, EllipticSurrogate, Poisson
from kernels.streams import Stream


class PoissonResidual(nn.Module):
    """Mean of (Laplacian u^ - f)^2 at uniform points of the domain.

    By the identity of ``poisson_defect`` u - u^ is Green's function applied to that residual, where u^ meets g.
    """

    def __init__(self, problem: Poisson, surrogate: EllipticSurrogate) -> None:
        super().__init__()
        self.problem, self.surrogate = problem, surrogate

    def sample(self, paths: int, stream: Stream, progress: float = 1.0) -> tuple[Tensor, ...]:
        """Collocation points (paths, dim), float32."""
        return (self.problem.domain.interior(paths, stream).float(),)

    def residuals(self, x: Tensor) -> Tensor:
        """Laplacian u^ - f at each point, (paths,): the loss is their mean square."""
        return self.surrogate.laplacian(x) - self.problem.source(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.residuals(x).square().mean()

    def flop(self, paths: int) -> float:
        """Model FLOP of loss and gradient: three sweeps of the Laplacian, and the points."""
        _, laplacian = self.surrogate.flop()
        return paths * (3.0 * laplacian + self.problem.costs().source + NORMAL_FLOP * self.problem.dim)


def poisson_residual(problem: Poisson, surrogate: EllipticSurrogate) -> PoissonResidual:
    """Squared residual of Poisson's equation at uniform points of the domain, with the exact Laplacian."""
    if not surrogate.meets_boundary:
        raise ValueError(
            f"the surrogate of '{problem.name}' does not meet the boundary values by construction, and the residual says nothing "
            "of them: use poisson_network"
        )
    return PoissonResidual(problem, surrogate)
