"""A matrix that is known by its products alone: what traces, eigenpairs and linear systems are asked of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.contracts.semilinear import require_dim

Columns = Float[Tensor, "dim columns"]
"""Vectors side by side: what a matrix multiplies."""

SYMMETRY = 1e-8
"""Largest relative asymmetry that is taken for rounding."""


@runtime_checkable
class Matvec(Protocol):
    """A X for X (dim, columns) in float64, column by column; columns after each other or together give the same."""

    def __call__(self, columns: Tensor, /) -> Tensor: ...


def product(matvec: Matvec, columns: Columns) -> Columns:
    """A X, refused with ValueError unless it has the shape and the type of X and is finite."""
    out = matvec(columns)
    if out.shape != columns.shape or out.dtype != columns.dtype:
        raise ValueError(
            f"matvec of {tuple(columns.shape)} in {columns.dtype} returned {tuple(out.shape)} in {out.dtype}: "
            "it multiplies (dim, columns) by a square matrix and keeps shape and type"
        )
    if not bool(out.isfinite().all()):
        raise ValueError("matvec returned numbers that are not finite: every product of a finite matrix is")
    return out


def require_symmetric(gram: Float[Tensor, "*batch k k"], method: str) -> None:
    """Refuse X^T A X that is not symmetric, which a symmetric A gives for every X: a check without a product more."""
    off = float((gram - gram.mT).abs().max()) if gram.numel() else 0.0
    if off > SYMMETRY * float(gram.abs().max()):
        raise ValueError(
            f"X^T A X is asymmetric by {off:.1e}: {method} needs a symmetric A; for eigenpairs of A^T A give that product, "
            "for the trace of any A use xtrace or hutchpp"
        )


@dataclass(frozen=True, kw_only=True)
class LinearOperator:
    """A square real matrix A given by ``matvec``, with what is known of it.

    ``cost`` is the model FLOP of A times one column; ``trace``, ``eigenvalues`` (all of them, descending) and
    ``eigenvectors``, k -> the first k of them (dim, k), are there where they are known, ``source`` says whence.
    """

    name: str
    dim: int
    matvec: Matvec
    cost: float
    symmetric: bool = True
    positive: bool = False
    """Whether A is symmetric positive semidefinite."""
    trace: float | None = None
    eigenvalues: Float[Tensor, "dim"] | None = None
    eigenvectors: Callable[[int], Tensor] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        require_dim(self.dim)
        require_order(self.positive, self.symmetric)


def require_order(positive: bool, symmetric: bool) -> None:
    """Refuse a positive matrix that is not symmetric: here the one includes the other."""
    if positive and not symmetric:
        raise ValueError("positive = True with symmetric = False: positive means symmetric positive semidefinite; drop one")


def dense(matrix: Float[Tensor, "dim dim"], name: str = "dense") -> LinearOperator:
    """A given matrix as an operator; whether it is symmetric is seen, whether it is positive is not asked."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a matrix of shape {tuple(matrix.shape)}: a trace and eigenpairs need a square one")
    wide = matrix.to(torch.float64)
    symmetric = bool((wide - wide.mT).abs().max() <= SYMMETRY * wide.abs().max())
    dim = len(wide)
    return LinearOperator(name=name, dim=dim, matvec=lambda x, /: wide @ x, cost=2.0 * dim**2, symmetric=symmetric)
