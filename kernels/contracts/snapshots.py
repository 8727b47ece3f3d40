"""Streams of snapshots and of operators, whose leading modes are followed while they move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.axes import Columns, Unknowns
from kernels.contracts.semilinear import require_dim

Spectrum = Callable[[int], Tensor]
"""Step -> the true eigenvalues then, complex128 or float64, (rank,)."""

Basis = Float[Tensor, "unknowns rank"]


@runtime_checkable
class Modes(Protocol):
    """A surrogate of a stream: the modes it had at first."""

    def basis(self) -> Basis:
        """Orthonormal columns."""
        ...

    def first(self) -> int:
        """The first step that the surrogate has not seen."""
        ...


@dataclass(frozen=True, kw_only=True)
class KnownModes:
    """What a defect knows: a basis near the leading subspace, from the steps before ``first``."""

    basis: Basis
    first: int

    def __post_init__(self) -> None:
        gram = self.basis.T @ self.basis
        if not torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype), atol=1e-8):
            raise ValueError(f"a basis of {len(gram)} columns that are not orthonormal: take the Q of its QR factorisation")


@dataclass(frozen=True, kw_only=True)
class SnapshotStream:
    """Pairs (x_k, y_k), y_k one step of a dynamical system after x_k, k = 0 .. steps - 1, each made from its index alone.

    ``pair`` gives x_k and y_k, (dim,) float64; ``eigenvalues`` those of the map at a step. ``known`` is
    set by a defect alone.
    """

    name: str
    dim: int
    steps: int
    pair: Callable[[int], tuple[Unknowns, Unknowns]]
    eigenvalues: Spectrum | None = None
    source: str = ""
    known: KnownModes | None = None

    def __post_init__(self) -> None:
        require_dim(self.dim)
        _require_steps(self.steps)


@dataclass(frozen=True, kw_only=True)
class OperatorStream:
    """Symmetric A_k, k = 0 .. steps - 1, that change little from step to step: ``matvec(k, V)`` is A_k V, V (dim, columns).

    ``eigenvalues`` and ``vectors`` (dim, rank) are the leading ones, largest first. ``known`` is set by a defect alone.
    """

    name: str
    dim: int
    steps: int
    matvec: Callable[[int, Columns], Columns]
    eigenvalues: Spectrum | None = None
    vectors: Callable[[int], Basis] | None = None
    source: str = ""
    known: KnownModes | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        require_dim(self.dim)
        _require_steps(self.steps)

    def flop(self) -> float:
        """Model FLOP of one product with a vector; by default that of a dense matrix."""
        return self.cost if self.cost is not None else 2.0 * self.dim**2


def _require_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps = {steps}: a stream has at least one step")
