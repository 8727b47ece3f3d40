"""Plain Monte Carlo for the linear problem: what remains when the driver is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from kernels.contracts import NORMAL_FLOP, Draws, Positions, SemilinearPDE, Times
from kernels.random_times import arcsine_times
from kernels.streams import Stream

DROPPED = "driver dropped"


@dataclass(frozen=True)
class FeynmanKac:
    """u(t, x) = E g(X_T), exact for f = 0; with f dropped, the baseline ``linear`` of every table.

    What is left out is the bias "driver dropped", -E int_t^T f(s, X_s, 0, 0) ds to first order, one
    random time a draw: on a defect minus the integral of the residual.
    """

    terms: tuple[str, ...] = ("terminal",)
    biases: tuple[str, ...] = (DROPPED,)
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        start, begin = x.repeat_interleave(draws, 0), t.repeat_interleave(draws)
        left = problem.horizon - begin
        if term == DROPPED:
            (elapsed,), (density,) = arcsine_times(left, 1.0 - stream.uniform(1, len(begin)))
            x_s, _ = problem.law.travel(begin, start, elapsed, stream)
            # Rounding must not carry a path past T.
            s = (begin + elapsed).clamp_max(problem.horizon)
            return (-problem.at(s, x_s, stream, with_source=True).source() / density).reshape(-1, draws)
        end, _ = problem.law.travel(begin, start, left, stream)
        return problem.terminal(end).reshape(-1, draws)

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        cost = problem.costs()
        return draws * (NORMAL_FLOP * problem.dim + (cost.source if term == DROPPED else cost.terminal))

    def rows(self, term: str, draws: int) -> int:
        return draws


def feynman_kac() -> FeynmanKac:
    """u(t, x) = E g(X_T): exact where f = 0, the f-dropped baseline elsewhere."""
    return FeynmanKac()
