"""Plain Monte Carlo for the linear problem: what remains when the driver is dropped."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.contracts import NORMAL_FLOP, Positions, Samples, SemilinearPDE, Times
from kernels.streams import Stream


@dataclass(frozen=True)
class FeynmanKac:
    """u(t, x) = E g(X_T), exact for f = 0; with f dropped, the baseline ``linear`` of every table."""

    biases: tuple[str, ...] = ()

    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, draws: int, stream: Stream) -> Samples:
        start = x.repeat_interleave(draws, 0)
        left = (problem.horizon - t).repeat_interleave(draws)
        end = problem.law.move(start, left, left.sqrt()[:, None] * stream.normal(*start.shape))
        with torch.no_grad():
            return Samples(problem.terminal(end).reshape(-1, draws), {})

    def flop(self, problem: SemilinearPDE, draws: int) -> float:
        return draws * (NORMAL_FLOP * problem.dim + problem.costs().terminal)

    def rows(self, draws: int) -> int:
        return draws


def feynman_kac() -> FeynmanKac:
    """u(t, x) = E g(X_T): exact where f = 0, the f-dropped baseline elsewhere."""
    return FeynmanKac()
