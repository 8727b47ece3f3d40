"""Studies of a convergence rate: methods, their squared errors on n data, and the slopes that theory gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kernels.axes import Positions, Times
from kernels.contracts.semilinear import require_dim
from kernels.streams import Stream


@runtime_checkable
class Replicate(Protocol):
    """(n, method, stream) -> squared error of a method on n data that the stream draws."""

    def __call__(self, n: int, method: str, stream: Stream, /) -> float: ...


@runtime_checkable
class SizeCost(Protocol):
    """(n) -> model FLOP of one replicate of one method, in the mean over the methods."""

    def __call__(self, n: int, /) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """How the squared error of each of several methods falls with the number n of data.

    ``error`` is a replicate of one method; methods given equal streams see equal data. ``theory`` is the slope of
    log E[squared error] in log n of each method, None where none is known, and ``source`` who gives it. ``sizes``
    are the n of a study that names none.
    """

    name: str
    dim: int
    methods: tuple[str, ...]
    theory: tuple[float | None, ...]
    error: Replicate
    sizes: tuple[int, ...]
    source: str
    cost: SizeCost

    def __post_init__(self) -> None:
        require_dim(self.dim)
        if not self.methods or len(set(self.methods)) != len(self.methods) or len(self.theory) != len(self.methods):
            raise ValueError(
                f"methods = {self.methods} with theory = {self.theory}: a study needs methods of different names, a slope or None each"
            )
        if len(self.sizes) < 2 or min(self.sizes) < 1 or any(b <= a for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ValueError(f"sizes = {self.sizes}: a slope needs two or more numbers of data, positive and rising")

    def errors(self, n: int, stream: Stream) -> Tensor:
        """Squared errors of all methods on the same n data, float64 (methods,).

        The stream gives the seed that all of them start from: methods that draw unequally many numbers leave it at the same place.
        """
        seed = stream.integer(1 << 63)
        return torch.tensor([self.error(n, method, Stream(seed)) for method in self.methods], dtype=torch.float64)

    def points(self) -> tuple[Times, Positions]:
        """t = 0 and rows (n, place of the method among ``methods``), method by method: what an estimator evaluates."""
        rows = [[float(n), float(m)] for m in range(len(self.methods)) for n in self.sizes]
        x = torch.tensor(rows, dtype=torch.float64)
        return torch.zeros_like(x[:, 0]), x

    def mean_cost(self) -> float:
        """Model FLOP of a replicate, in the mean over the sizes."""
        return math.fsum(self.cost(n) for n in self.sizes) / len(self.sizes)
