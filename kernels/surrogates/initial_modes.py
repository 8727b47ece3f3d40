"""The modes of a stream's first window, kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels.axes import Positions, Times, Unknowns
from kernels.contracts import SnapshotStream
from kernels.dmd import batch_basis, ordered_eigenvalues, reduced_operator, require_window
from kernels.streams import Stream


class InitialModes(nn.Module):
    """Batch DMD of the first ``window`` pairs: a stale surrogate of all later ones."""

    vectors: Tensor
    values: Tensor

    def __init__(self, problem: SnapshotStream, *, rank: int, window: int) -> None:
        super().__init__()
        self.problem, self.rank, self.window = problem, rank, window
        self.register_buffer("vectors", torch.eye(problem.dim, rank, dtype=torch.float64))
        self.register_buffer("values", torch.zeros(2 * rank, dtype=torch.float64))

    def basis(self) -> Tensor:
        return self.vectors

    def first(self) -> int:
        return self.window

    def plug_in(self, t: Times, x: Positions) -> Unknowns:
        """Real parts of the eigenvalues by argument, then their imaginary parts, (2 rank,)."""
        return self.values

    def fit_cost(self) -> tuple[float, float]:
        n, w = float(self.problem.dim), float(self.window)
        return 14.0 * n * w**2 + 8.0 * w**3, 8.0 * 5.0 * n * w

    @torch.no_grad()
    def fit(self, stream: Stream) -> list[float]:
        """Decompose the first window; the stream is not drawn from. Returns |Y - Q K Q^T X| / |Y|."""
        x, y = (torch.stack(part) for part in zip(*map(self.problem.pair, range(self.window)), strict=True))
        weights = torch.ones(self.window, dtype=torch.float64)
        self.vectors.copy_(batch_basis(x, weights, self.rank))
        operator = reduced_operator(x, y, weights, self.vectors)
        found = ordered_eigenvalues(operator)
        self.values.copy_(torch.cat((found.real, found.imag)))
        left = y - x @ self.vectors @ operator.T @ self.vectors.T
        return [float(torch.linalg.matrix_norm(left) / torch.linalg.matrix_norm(y))]


def initial_modes(problem: SnapshotStream, *, seed: int, rank: int = 8, window: int = 100) -> InitialModes:
    """Batch DMD of a stream's first ``window`` pairs.

    ``seed`` is unused: nothing is random.

    :param rank: modes, at most dim and window
    :param window: pairs to learn from, at most the stream's steps
    """
    require_window(rank, window, 1.0)
    if rank > problem.dim or window > problem.steps:
        raise ValueError(
            f"rank = {rank}, window = {window}: '{problem.name}' has dim = {problem.dim} and {problem.steps} steps; take no more"
        )
    return InitialModes(problem, rank=rank, window=window)
