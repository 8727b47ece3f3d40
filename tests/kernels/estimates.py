"""What an estimator says at a few points: the sum of its terms' means, its standard error, and its printed biases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kernels.contracts import SemilinearPDE
from kernels.streams import Stream


@dataclass(frozen=True)
class Mean:
    """A mean of draws and its squared standard error, point by point, in float64."""

    mean: Tensor
    square: Tensor

    @classmethod
    def of(cls, draws: Tensor) -> Mean:
        wide = draws.double()
        return cls(wide.mean(-1), wide.var(-1) / wide.shape[-1])

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.mean + other.mean, self.square + other.square)

    @property
    def error(self) -> Tensor:
        return self.square.sqrt()


@dataclass(frozen=True)
class Estimate:
    """The sum of the terms and the sum of the printed biases, each with its standard error."""

    value: Mean
    bias: Mean

    @property
    def unbiased(self) -> Tensor:
        return self.value.mean - self.bias.mean

    @property
    def error(self) -> Tensor:
        return (self.value.square + self.bias.square).sqrt()

    def agrees_with(self, truth: Tensor | float, width: float = 4.0) -> bool:
        """Value - printed bias within ``width`` standard errors of the truth at every point, both errors counted."""
        return bool(((self.unbiased - truth).abs() <= width * self.error).all())

    def off_by(self, shift: Tensor | float) -> Estimate:
        """The same with a planted shift of the value."""
        return replace(self, value=Mean(self.value.mean + shift, self.value.square))


def sampled(
    method: Any, problem: SemilinearPDE, t: Tensor, x: Tensor, term: str, draws: int, seed: int, *, seeds: int = 1
) -> Tensor:
    """Draws of one term or bias from ``seeds`` streams, no two terms from the same: (points, seeds x draws) in float64."""
    place = (*method.terms, *method.biases).index(term)
    parts = [method.sample(problem, t, x, term, draws, Stream(seed, place, s)).double() for s in range(seeds)]
    return torch.cat(parts, 1)


def estimate(
    method: Any,
    problem: SemilinearPDE,
    t: Tensor,
    x: Tensor,
    draws: int,
    seed: int,
    *,
    seeds: int = 1,
    biases: bool = True,
) -> Estimate:
    """``draws`` draws from each of ``seeds`` streams of every term and, if asked for, every bias."""

    def total(names: Sequence[str]) -> Mean:
        out = Mean(torch.zeros(len(t), dtype=torch.float64), torch.zeros(len(t), dtype=torch.float64))
        for term in names:
            out = out + Mean.of(sampled(method, problem, t, x, term, draws, seed, seeds=seeds))
        return out

    return Estimate(total(method.terms), total(method.biases if biases else ()))
