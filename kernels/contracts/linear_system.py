"""Linear systems and least-squares problems: the problem, its approximate solvers, and what a correction may know of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kernels.axes import Columns, Unknowns
from kernels.contracts.semilinear import require_dim
from kernels.streams import Stream


@runtime_checkable
class Operator(Protocol):
    """A map of vectors; products with a matrix also take (dim, columns), an approximate solve one vector and need not be linear."""

    def __call__(self, v: Tensor, /) -> Tensor: ...


@runtime_checkable
class SolvedPairs(Protocol):
    """(count, stream) -> right-hand sides and their solutions, columns (dim, count) each: what a solver is learned from."""

    def __call__(self, count: int, stream: Stream, /) -> tuple[Columns, Columns]: ...


@runtime_checkable
class ApproximateSolver(Protocol):
    """A surrogate of a linear problem: a cheap r -> B r with B near A^-1, near (A^T A)^-1 for least squares."""

    @property
    def distortion(self) -> float | None:
        """eta, where every eigenvalue of B A^T A is known to lie in [(1 + eta)^-2, (1 - eta)^-2]; None where nothing is known."""
        ...

    def answer(self) -> Unknowns:
        """x^, its own solution of the problem it was made for."""
        ...

    def solve(self, r: Unknowns, /) -> Unknowns:
        """B r."""
        ...

    def solve_flop(self) -> float:
        """Model FLOP of ``solve``."""
        ...


@dataclass(frozen=True, kw_only=True)
class KnownSolve:
    """What a defect knows: a solution x^ up to the error that is left, and the approximate solve it came from."""

    solution: Unknowns
    """x^; the solution of the original problem is x^ + the defect's."""
    solve: Operator
    """r -> B r."""
    rhs: Tensor
    """b of the original problem."""
    scale: float
    """What residuals of the original problem are relative to."""
    cost: float
    """Model FLOP of ``solve``."""
    distortion: float | None = None
    """Of B, as an :class:`ApproximateSolver` says it."""


@dataclass(frozen=True, kw_only=True)
class LinearSystem:
    """A x = b, A square and given by its products with vectors (dim,) and with columns (dim, k).

    ``symmetric`` and ``positive`` say what A is; ``diagonal`` is its diagonal, where smoothers may
    use it; ``solution`` the truth, from ``source``; ``pairs`` draws systems of the same A that are
    already solved. ``known`` is set by a defect alone: then b is b - A x^, and the solution is the error.
    """

    name: str
    dim: int
    matvec: Operator
    rhs: Tensor
    symmetric: bool = False
    positive: bool = False
    diagonal: Tensor | None = None
    solution: Tensor | None = None
    source: str = ""
    pairs: SolvedPairs | None = None
    known: KnownSolve | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        require_dim(self.dim)
        _require_vector("rhs", self.rhs, self.dim, "the unknowns")
        if self.positive and not self.symmetric:
            raise ValueError("positive = True, symmetric = False: positive definite is said of symmetric matrices; set both")
        for field in ("diagonal", "solution"):
            if (value := getattr(self, field)) is not None:
                _require_vector(field, value, self.dim, "the unknowns")
        if self.diagonal is not None and not self.diagonal.all():
            raise ValueError("diagonal = 0 in places: a smoother divides by it; leave it out")

    @property
    def scale(self) -> float:
        """What residuals are relative to: the norm of b, of the original one for a defect; 1 where b = 0."""
        return self.known.scale if self.known is not None else float(torch.linalg.vector_norm(self.rhs)) or 1.0

    def residual(self, x: Unknowns) -> Unknowns:
        """b - A x, with the original b for a defect: (b - A x^) - A e would keep the rounding of A x^ for good."""
        return (self.rhs if self.known is None else self.known.rhs) - self.matvec(x)

    def flop(self) -> float:
        """Model FLOP of one product with a vector; by default that of a dense matrix."""
        return self.cost if self.cost is not None else 2.0 * self.dim**2


@dataclass(frozen=True, kw_only=True)
class LeastSquares:
    """min |A x - b|, A of ``rows`` x ``dim``, given by its products (``matvec``) and those of A^T (``rmatvec``), columns too.

    ``known`` is set by a defect alone: then b is b - A x^, and the solution is the error.
    """

    name: str
    rows: int
    dim: int
    matvec: Operator
    rmatvec: Operator
    rhs: Tensor
    solution: Tensor | None = None
    source: str = ""
    known: KnownSolve | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        require_dim(self.dim)
        if self.rows < self.dim:
            raise ValueError(
                f"rows = {self.rows}, dim = {self.dim}: a least-squares problem has as many rows as unknowns or more"
            )
        _require_vector("rhs", self.rhs, self.rows, "the rows")
        if self.solution is not None:
            _require_vector("solution", self.solution, self.dim, "the unknowns")

    @property
    def scale(self) -> float:
        """What residuals are relative to: the norm of A^T b, of the original b for a defect; 1 where it is 0."""
        return self.known.scale if self.known is not None else float(torch.linalg.vector_norm(self.rmatvec(self.rhs))) or 1.0

    def gradient(self, x: Unknowns) -> Unknowns:
        """A^T (b - A x), 0 at the solution, with the original b for a defect: (b - A x^) - A e keeps the rounding of A x^."""
        return self.rmatvec((self.rhs if self.known is None else self.known.rhs) - self.matvec(x))

    def flop(self) -> float:
        """Model FLOP of one product with A or A^T; by default that of a dense matrix."""
        return self.cost if self.cost is not None else 2.0 * self.rows * self.dim


def _require_vector(field: str, value: Tensor, size: int, what: str) -> None:
    if value.shape != (size,) or value.dtype != torch.float64:
        raise ValueError(
            f"{field} of shape {tuple(value.shape)}, {value.dtype}: should be one float64 vector of {what}, shape ({size},)"
        )
    if not math.isfinite(float(value.abs().sum())):
        raise ValueError(f"{field} holds nan or inf: every entry should be finite")
