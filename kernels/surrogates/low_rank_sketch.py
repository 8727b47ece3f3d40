"""A matrix compressed onto the range of its product with random vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels.axes import Positions, Times
from kernels.contracts import NORMAL_FLOP, Stream, Trace
from kernels.contracts.operator import product


class LowRankSketch(nn.Module):
    """A^ = Q (Q^T A Q) Q^T with Q an orthonormal basis of the range of A S, S Gaussian (Halko, Martinsson, Tropp 2011).

    Its trace is that of Q^T A Q. Before a ``fit`` Q is 0, and so is A^.
    """

    basis: Tensor
    core: Tensor

    def __init__(self, problem: Trace, *, rank: int) -> None:
        super().__init__()
        self.problem, self.rank = problem, rank
        self.register_buffer("basis", torch.zeros(problem.dim, rank, dtype=torch.float64))
        self.register_buffer("core", torch.zeros(rank, rank, dtype=torch.float64))

    @property
    def matvecs(self) -> int:
        """Products with A that a fit takes: A S and A Q."""
        return 2 * self.rank

    @torch.no_grad()
    def fit(self, stream: Stream) -> list[float]:
        """Sketch A with 2 rank products. Returns |(I - Q Q^T) A Q| / |A Q|, Frobenius: 0 where Q is invariant."""
        image = product(self.problem.matvec, stream.normal(self.problem.dim, self.rank, dtype=torch.float64))
        self.basis.copy_(torch.linalg.qr(image).Q)
        image = product(self.problem.matvec, self.basis)
        self.core.copy_(self.basis.mT @ image)
        size = torch.linalg.norm(image)
        return [float(torch.linalg.norm(image - self.basis @ self.core) / size) if size > 0.0 else 0.0]

    def fit_cost(self) -> tuple[float, float]:
        dim, rank = self.problem.dim, self.rank
        flop = 2.0 * rank * self.problem.cost + NORMAL_FLOP * dim * rank + 8.0 * dim * rank**2
        return flop, 8.0 * 5.0 * dim * rank

    def plug_in(self, t: Times, x: Positions) -> Times:
        """tr(Q^T A Q), at every row; nothing of t and x is looked at."""
        return self.core.trace().expand(len(t)).clone()


def low_rank_sketch(problem: Trace, *, seed: int, rank: int = 20) -> LowRankSketch:
    """Randomized low-rank approximation of A from 2 ``rank`` products: the deflation of Hutch++.

    ``seed`` is unused: all that is random is drawn by ``fit``.

    :param rank: columns of the sketch, from 1 to the dimension
    """
    if not 1 <= rank <= problem.dim:
        raise ValueError(f"rank = {rank}: a sketch of a matrix of dimension {problem.dim} has from 1 to {problem.dim} columns")
    return LowRankSketch(problem, rank=rank)
