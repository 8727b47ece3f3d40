"""The largest eigenpairs of a symmetric positive semidefinite matrix that is known by its products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from kernels.contracts.operator import LinearOperator, Matvec
from kernels.contracts.semilinear import require_dim


@dataclass(frozen=True, kw_only=True)
class Eigenproblem:
    """The ``pairs`` largest eigenvalues, descending, and eigenvectors of a symmetric positive semidefinite A.

    ``matvec`` multiplies (dim, columns) in float64 at ``cost`` model FLOP a column; right singular vectors of a B are
    those of A = B^T B. ``values`` (pairs,) and ``vectors`` (dim, pairs) are there where they are known.
    """

    name: str
    dim: int
    pairs: int
    matvec: Matvec
    cost: float
    values: Float[Tensor, "pairs"] | None = None
    vectors: Float[Tensor, "dim pairs"] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        require_dim(self.dim)
        if not 1 <= self.pairs <= self.dim:
            raise ValueError(f"pairs = {self.pairs}: from 1 to dim = {self.dim} eigenpairs can be asked for")

    @classmethod
    def of(cls, matrix: LinearOperator, pairs: int) -> Eigenproblem:
        """The largest ``pairs`` eigenpairs of this matrix; ValueError where it is not known to be positive semidefinite."""
        if not matrix.positive:
            raise ValueError(
                f"'{matrix.name}' is not known to be positive semidefinite, as its largest eigenpairs need: "
                "give A^T A, or A shifted until it is"
            )
        known = 1 <= pairs <= matrix.dim
        return cls(
            name=f"eigenpairs of {matrix.name}",
            dim=matrix.dim,
            pairs=pairs,
            matvec=matrix.matvec,
            cost=matrix.cost,
            values=matrix.eigenvalues[:pairs] if known and matrix.eigenvalues is not None else None,
            vectors=matrix.eigenvectors(pairs) if known and matrix.eigenvectors is not None else None,
            source=matrix.source,
        )


@runtime_checkable
class SpectralSketch(Protocol):
    """A^ = U diag(values) U^T with orthonormal U and values >= 0, descending: a cheap approximation of A to invert."""

    basis: Tensor
    """U, (dim, rank)."""
    values: Tensor
    """(rank,), those of A^ itself."""
    scale: float
    """By what the values are multiplied where A^ is inverted, so that they stay below those of A."""

    @property
    def matvecs(self) -> int:
        """Products with A that it took."""
        ...
