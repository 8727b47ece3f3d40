"""Plain Monte Carlo for the linear problem: what remains when the driver is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from kernels.contracts import NORMAL_FLOP, Draws, Positions, SemilinearPDE, Times
from kernels.streams import Stream


@dataclass(frozen=True)
class FeynmanKac:
    """u(t, x) = E g(X_T), exact for f = 0; with f dropped, the baseline ``linear`` of every table."""

    terms: tuple[str, ...] = ("terminal",)
    biases: tuple[str, ...] = ()
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        start, begin = x.repeat_interleave(draws, 0), t.repeat_interleave(draws)
        end, _ = problem.law.travel(begin, start, problem.horizon - begin, stream)
        return problem.terminal(end).reshape(-1, draws)

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        return draws * (NORMAL_FLOP * problem.dim + problem.costs().terminal)

    def rows(self, term: str, draws: int) -> int:
        return draws


def feynman_kac() -> FeynmanKac:
    """u(t, x) = E g(X_T): exact where f = 0, the f-dropped baseline elsewhere."""
    return FeynmanKac()
