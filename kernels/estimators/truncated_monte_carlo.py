"""Monte Carlo of a truncated integrand, for events so rare that control variates do not see them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from kernels.contracts import Draws, Integral, Positions, Times
from kernels.streams import Stream

TRUNCATION = "truncation"


@dataclass(frozen=True)
class TruncatedMonteCarlo:
    """int clip(f, -M, M)^q as the mean over uniform points, M = scale n^(1/p - s/d).

    For f in W^(s,p) that is not in L^2q, s < d (2q - p)/(2pq), its error is n^(q(1/p - s/d) - 1), which no estimator from
    n values of f improves (regression-adjusted control variates, arXiv 2305.16527). What is cut off is the bias
    "truncation", int clip(f)^q - f^q, sampled as it stands: tails that made the truncation necessary are in its draws.
    """

    samples: int
    p: float
    s: float
    scale: float
    terms: tuple[str, ...] = ("integrand",)
    biases: tuple[str, ...] = (TRUNCATION,)
    solves: ClassVar[type] = Integral
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def level(self, dim: int) -> float:
        """M."""
        return float(self.scale * self.samples ** (1.0 / self.p - self.s / dim))

    @torch.no_grad()
    def sample(self, problem: Integral, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        places = problem.points(len(t) * draws, stream)
        y, level = problem.observe(places, stream), self.level(problem.dim)
        cut = y.clamp(-level, level)
        found = problem.powers(cut) - problem.powers(y) if term == TRUNCATION else problem.draws(places, cut)
        return found.reshape(-1, draws)

    def flop(self, problem: Integral, term: str, draws: int) -> float:
        return draws * problem.flop()

    def rows(self, term: str, draws: int) -> int:
        return draws


def truncated_monte_carlo(*, samples: int = 10_000, p: float = 2.0, s: float = 0.0, scale: float = 1.0) -> TruncatedMonteCarlo:
    """int clip(f, -M, M)^q, M = scale samples^(1/p - s/d): for rare events, with the bias of what is cut off.

    :param samples: n, the draws in all that M is chosen for, at least 1
    :param p: f has p moments, > 0
    :param s: derivatives of f that do, >= 0
    :param scale: of M, > 0; the theory leaves it open
    """
    if samples < 1:
        raise ValueError(f"samples = {samples}: M is chosen for at least one draw")
    if not (p > 0.0 and s >= 0.0 and scale > 0.0 and math.isfinite(p + s + scale)):
        raise ValueError(f"p = {p}, s = {s}, scale = {scale}: truncation needs finite p > 0, s >= 0 and scale > 0")
    return TruncatedMonteCarlo(samples, p, s, scale)
