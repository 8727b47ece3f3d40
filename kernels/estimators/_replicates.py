"""Trace estimators whose draw is a whole computation of so many products, from values that share them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.axes import Draws, Positions, Times
from kernels.contracts import NORMAL_FLOP, Stream, Trace
from kernels.contracts.operator import product

BLOCK = 2**20
"""Numbers a batch of vectors holds at once: 8 MB, which a cache holds."""


def blocks(count: int, size: int) -> list[int]:
    """How many of ``count`` things of ``size`` numbers are made together, block by block.

    >>> blocks(5, 2**19)
    [2, 2, 1]
    """
    most = max(1, BLOCK // size)
    return [min(most, count - first) for first in range(0, count, most)]


@dataclass(frozen=True)
class Replicates(ABC):
    """A draw is one independent replicate, of ``matvecs`` products: the mean of its ``values``.

    The values of one replicate are not independent. Their standard error is the one-shot form's error
    estimate, which tends to understate; that of several replicates is earned.
    """

    matvecs: int
    solves: ClassVar[type] = Trace
    chunk_draws: ClassVar[int] = 2
    terms: ClassVar[tuple[str, ...]] = ("replicate",)
    biases: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @torch.no_grad()
    def sample(self, problem: Trace, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        parts = blocks(len(t) * draws, problem.dim * self.matvecs)
        return torch.cat([self.values(problem, part, stream).mean(-1) for part in parts]).reshape(-1, draws)

    @abstractmethod
    def values(self, problem: Trace, replicates: int, stream: Stream) -> Float[Tensor, "replicates values"]:
        """Estimates of the trace, each unbiased, whose mean is the replicate's."""
        ...

    def flop(self, problem: Trace, term: str, draws: int) -> float:
        one = problem.cost + NORMAL_FLOP * problem.dim + 6.0 * problem.dim * self.matvecs
        return draws * self.matvecs * one

    def rows(self, term: str, draws: int) -> int:
        return draws * self.matvecs


def gaussian(replicates: int, dim: int, count: int, stream: Stream) -> Float[Tensor, "replicates dim count"]:
    """Independent Gaussian vectors, ``count`` a replicate."""
    return stream.normal(replicates, dim, count, dtype=torch.float64)


def products(problem: Trace, vectors: Float[Tensor, "replicates dim count"]) -> Float[Tensor, "replicates dim count"]:
    """A times the vectors of all replicates in one call."""
    replicates, dim, count = vectors.shape
    columns = vectors.transpose(0, 1).reshape(dim, replicates * count)
    return product(problem.matvec, columns).reshape(dim, replicates, count).transpose(0, 1)


def dots(a: Float[Tensor, "replicates k m"], b: Float[Tensor, "replicates k m"]) -> Float[Tensor, "replicates m"]:
    """Inner products of columns."""
    return (a * b).sum(-2)
