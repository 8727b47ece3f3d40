"""The trace of a matrix that is known by its products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from kernels.contracts.operator import LinearOperator, Matvec, require_order
from kernels.contracts.semilinear import require_dim


@dataclass(frozen=True, kw_only=True)
class Trace:
    """tr(A) of a real (dim, dim) matrix A given by ``matvec``, on (dim, columns) in float64.

    ``cost`` is the model FLOP of A times one column, ``value`` the trace where it is known and ``source`` says whence.
    """

    name: str
    dim: int
    matvec: Matvec
    cost: float
    symmetric: bool = True
    positive: bool = False
    """Whether A is symmetric positive semidefinite."""
    value: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        require_dim(self.dim)
        require_order(self.positive, self.symmetric)

    @classmethod
    def of(cls, matrix: LinearOperator) -> Trace:
        """The trace of this matrix."""
        return cls(
            name=f"trace of {matrix.name}",
            dim=matrix.dim,
            matvec=matrix.matvec,
            cost=matrix.cost,
            symmetric=matrix.symmetric,
            positive=matrix.positive,
            value=matrix.trace,
            source=matrix.source,
        )


@runtime_checkable
class Compression(Protocol):
    """A^ = Q T Q^T, Q with orthonormal columns: an approximation of A whose trace is that of T."""

    basis: Tensor
    """Q, (dim, rank)."""
    core: Tensor
    """T, (rank, rank); Q^T A Q where it was formed from A itself."""
