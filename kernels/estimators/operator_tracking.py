"""Leading eigenpairs of a moving symmetric operator, by first-order perturbation theory in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from kernels.axes import Unknowns
from kernels.contracts import OperatorStream, State, Stream, Verdict

NEARLY_EQUAL = 1e-3
"""Eigenvalues nearer than this to each other are not mixed: the first order divides by their difference."""


@dataclass(frozen=True)
class OperatorTracking:
    """One product with the new A and one QR a step: with B = A U, M = U^T B, R = B - U M,

        C_ji = M_ji / (lambda_i - lambda_j), 0 for j = i and nearly equal eigenvalues,
        U <- qr(U + R Lambda^-1 + U C),    Lambda <- diag(M),

    the first-order change of eigenvectors by A - U Lambda U^T (Kato, chapter II) with the part outside
    of U resolved by Lambda^-1 alone. ``ritz`` ends with a Rayleigh-Ritz step on the new U, at one more product:
    the error of the eigenvalues is then the square of that of the subspace.
    """

    rank: int
    ritz: bool
    solves: ClassVar[type] = OperatorStream

    def start(self, problem: OperatorStream, stream: Stream) -> State:
        if problem.dim < self.rank:
            raise ValueError(
                f"rank = {self.rank}: '{problem.name}' has dim = {problem.dim}; at most that many modes are followed"
            )
        known = problem.known
        if known is not None and known.basis.shape[1] != self.rank:
            raise ValueError(f"rank = {self.rank}: the surrogate knows {known.basis.shape[1]} modes; give both the same rank")
        basis = torch.linalg.qr(stream.normal(problem.dim, self.rank).double())[0] if known is None else known.basis
        seen = 1 if known is None else max(known.first, 1)
        basis, values = self._rayleigh_ritz(problem, seen - 1, basis)
        return {"basis": basis, "values": values, "seen": torch.tensor([float(seen)], dtype=torch.float64)}

    def step(self, problem: OperatorStream, state: State) -> State:
        seen = int(state["seen"])
        if seen >= problem.steps:
            return state
        u, values = state["basis"], state["values"]
        b = problem.matvec(seen, u)
        m = u.T @ b
        gaps = values[None, :] - values[:, None]
        mixing = torch.where(gaps.abs() < NEARLY_EQUAL, torch.zeros_like(m), m / gaps)
        basis, upper = torch.linalg.qr(u + (b - u @ m) / values + u @ mixing)
        basis, values = basis * upper.diagonal().sign(), m.diagonal().clone()
        if self.ritz:
            basis, values = self._rayleigh_ritz(problem, seen, basis)
        return {"basis": basis, "values": values, "seen": state["seen"] + 1.0}

    @staticmethod
    def _rayleigh_ritz(problem: OperatorStream, k: int, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenpairs of A_k within the span, largest first."""
        m = basis.T @ problem.matvec(k, basis)
        values, rotation = torch.linalg.eigh(0.5 * (m + m.T))
        return basis @ rotation.flip(1), values.flip(0)

    def value(self, state: State) -> Unknowns:
        return state["values"]

    def residual(self, problem: OperatorStream, state: State) -> Unknowns:
        """|A u_i - lambda_i u_i| / lambda_1 with the last operator seen, (rank,)."""
        u, values = state["basis"], state["values"]
        left = problem.matvec(int(state["seen"]) - 1, u) - u * values
        return torch.linalg.vector_norm(left, dim=0) / values.abs().max()

    def verdict(self, state: State) -> Verdict:
        """A stream is followed to its end."""
        return "converging"

    def flop(self, problem: OperatorStream) -> float:
        n, r = float(problem.dim), float(self.rank)
        return (2.0 if self.ritz else 1.0) * r * problem.flop() + (14.0 if self.ritz else 10.0) * n * r**2

    def size(self, problem: OperatorStream) -> int:
        """The basis and its values."""
        return (problem.dim + 1) * self.rank


def operator_tracking(*, rank: int = 10, ritz: bool = True) -> OperatorTracking:
    """Eigenpairs of a slowly moving symmetric operator, corrected to first order at each step.

    :param rank: modes to follow, those of the surrogate
    :param ritz: end each step by Rayleigh-Ritz, at twice the products
    """
    if rank < 1:
        raise ValueError(f"rank = {rank}: at least one mode is followed")
    return OperatorTracking(rank=rank, ritz=ritz)
