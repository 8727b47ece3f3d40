"""The leading eigenvectors of a stream's first operator, kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels.axes import Positions, Times, Unknowns
from kernels.contracts import OperatorStream
from kernels.streams import Stream


class InitialEigenvectors(nn.Module):
    """Subspace iteration on A_0 from a Gaussian start: a stale surrogate of all later operators."""

    vectors: Tensor
    values: Tensor

    def __init__(self, problem: OperatorStream, *, rank: int, iterations: int) -> None:
        super().__init__()
        self.problem, self.rank, self.iterations = problem, rank, iterations
        self.register_buffer("vectors", torch.eye(problem.dim, rank, dtype=torch.float64))
        self.register_buffer("values", torch.zeros(rank, dtype=torch.float64))

    def basis(self) -> Tensor:
        return self.vectors

    def first(self) -> int:
        return 1

    def plug_in(self, t: Times, x: Positions) -> Unknowns:
        return self.values

    def fit_cost(self) -> tuple[float, float]:
        n, r = float(self.problem.dim), float(self.rank)
        return (self.iterations + 1) * (r * self.problem.flop() + 4.0 * n * r**2), 8.0 * 6.0 * n * r

    @torch.no_grad()
    def fit(self, stream: Stream) -> list[float]:
        """Iterate. Returns the largest |A u - lambda u| / lambda_1."""
        u = stream.normal(self.problem.dim, self.rank).double()
        for _ in range(self.iterations):
            u = self.problem.matvec(0, torch.linalg.qr(u)[0])
        u = torch.linalg.qr(u)[0]
        image = self.problem.matvec(0, u)
        values, rotation = torch.linalg.eigh(0.5 * (u.T @ image + image.T @ u))
        self.values.copy_(values.flip(0))
        self.vectors.copy_(u @ rotation.flip(1))
        left = image @ rotation.flip(1) - self.vectors * self.values
        return [float(torch.linalg.vector_norm(left, dim=0).max() / self.values.abs().max())]


def initial_eigenvectors(problem: OperatorStream, *, seed: int, rank: int = 10, iterations: int = 20) -> InitialEigenvectors:
    """Leading eigenvectors of a stream's first operator, by subspace iteration.

    ``seed`` is unused: all that is random is drawn by ``fit``.

    :param rank: eigenvectors, from 1 to dim
    :param iterations: products with the first operator, at least 1
    """
    if not 1 <= rank <= problem.dim:
        raise ValueError(f"rank = {rank}: from 1 to dim = {problem.dim} eigenvectors are served")
    if iterations < 1:
        raise ValueError(f"iterations = {iterations}: at least one product with the operator is needed")
    return InitialEigenvectors(problem, rank=rank, iterations=iterations)
