"""Full-history recursive multilevel Picard iteration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.contracts import NORMAL_FLOP, Paths, Positions, Samples, SemilinearPDE, Times, Vectors
from kernels.streams import Stream

ALPHA = 0.5
"""Exponent of the power law of times, rho ~ ALPHA rho^(ALPHA-1): integrates the weight's singularity."""

BIAS_SHARE = 8
"""One draw in this many also samples the next Picard level, whose mean is the truncation."""


@dataclass(frozen=True)
class Picard:
    """U_n of Hutzenthaler, Jentzen, Kruse, Nguyen and von Wurstemberger (Proc. R. Soc. A 2020), U_0 = 0:

    U_n(t,x) = (g(x), 0) + M^-n sum (g(X_T) - g(x)) (1, I_T)
             + sum_{l<n} (T-t) M^-(n-l) sum w [f(U_l) - 1_{l>0} f(U_{l-1})](R, X_R) (1, I_R)

    with R = t + rho (T-t), w = rho^(1-a)/a, and the Bismut-Elworthy-Li weight I_s = (W_s - W_t)/(s-t),
    exact for constant mu and sigma. Each row of (value, z) comes from draws of its own at every
    level and nested call; the same (R, X_R) serves both terms of a difference. The first term of
    level 0 is f(., 0, 0), which is the residual for a defect, never taken to be 0.
    """

    levels: int
    samples: int

    biases: tuple[str, ...] = ("truncation",)

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, draws: int, stream: Stream) -> Samples:
        rows = t.repeat_interleave(draws), x.repeat_interleave(draws, 0)
        value, _ = self._iterate(problem, self.levels, *rows, stream, with_z=False)
        share = max(1, draws // BIAS_SHARE)
        rows = t.repeat_interleave(share), x.repeat_interleave(share, 0)
        next_level, _ = self._level(problem, self.levels, *rows, stream, with_z=False)
        return Samples(value.reshape(-1, draws), {"truncation": -next_level.reshape(-1, share)})

    def _iterate(
        self, problem: SemilinearPDE, n: int, t: Paths, x: Vectors, stream: Stream, *, with_z: bool
    ) -> tuple[Paths, Vectors]:
        """One realisation of U_n and its z at every row (t, x): (paths,), (paths, dim)."""
        if n == 0:
            return torch.zeros_like(t), torch.zeros_like(x)
        count = self.samples**n
        at_x = problem.terminal(x)
        start = x.repeat_interleave(count, 0)
        left = (problem.horizon - t).repeat_interleave(count)
        noise = stream.normal(*start.shape)
        increment = left.sqrt()[:, None] * noise
        gain = problem.terminal(problem.law.move(start, left, increment)) - at_x.repeat_interleave(count)
        y = at_x + _mean(gain, count)
        z = _mean(_weighted(gain, increment, left), count) if with_z else torch.zeros_like(x)
        for level in range(n):
            count = self.samples ** (n - level)
            rows = t.repeat_interleave(count), x.repeat_interleave(count, 0)
            level_y, level_z = self._level(problem, level, *rows, stream, with_z=with_z)
            y = y + _mean(level_y, count)
            if with_z:
                z = z + _mean(level_z, count)
        return y, z

    def _level(
        self, problem: SemilinearPDE, level: int, t: Paths, x: Vectors, stream: Stream, *, with_z: bool
    ) -> tuple[Paths, Vectors]:
        """One sample of (T-t) w [f(U_level) - 1_{level>0} f(U_{level-1})](R, X_R) (1, I_R) a row."""
        rho = stream.uniform(t.shape[0]) ** (1.0 / ALPHA)
        left = problem.horizon - t
        elapsed = rho * left
        increment = elapsed.sqrt()[:, None] * stream.normal(*x.shape)
        # Rounding must not carry a path past T.
        r, x_r = (t + elapsed).clamp_max(problem.horizon), problem.law.move(x, elapsed, increment)
        at = problem.at(r, x_r, stream, with_source=level == 0)
        if level == 0:
            f = at.source()
        else:
            f = at.increment(*self._iterate(problem, level, r, x_r, stream, with_z=True))
            if level > 1:
                f = f - at.increment(*self._iterate(problem, level - 1, r, x_r, stream, with_z=True))
        value = left * rho ** (1.0 - ALPHA) / ALPHA * f
        if not with_z:
            return value, torch.zeros_like(x)
        return value, _weighted(value, increment, elapsed)

    def flop(self, problem: SemilinearPDE, draws: int) -> float:
        share = max(1, draws // BIAS_SHARE)
        return draws * self._iterate_flop(problem, self.levels) + share * self._level_flop(problem, self.levels)

    def _iterate_flop(self, problem: SemilinearPDE, n: int) -> float:
        if n == 0:
            return 0.0
        cost = problem.costs()
        total = cost.terminal + self.samples**n * (NORMAL_FLOP * problem.dim + cost.terminal)
        return total + sum(self.samples ** (n - level) * self._level_flop(problem, level) for level in range(n))

    def _level_flop(self, problem: SemilinearPDE, level: int) -> float:
        cost = problem.costs()
        here = NORMAL_FLOP * problem.dim + (cost.source if level == 0 else 2.0 * cost.driver)
        return here + self._iterate_flop(problem, level) + (self._iterate_flop(problem, level - 1) if level > 1 else 0.0)

    def rows(self, draws: int) -> int:
        return max(draws * self.samples**self.levels, max(1, draws // BIAS_SHARE) * self.samples**self.levels)


def _weighted(value: Paths, increment: Vectors, elapsed: Paths) -> Vectors:
    """value I = value (W_s - W_t)/(s - t), (paths, dim); 0 where no time has passed."""
    return value[:, None] * increment / elapsed.clamp_min(torch.finfo(elapsed.dtype).tiny)[:, None]


def _mean(draws: Tensor, count: int) -> Tensor:
    return draws.reshape(-1, count, *draws.shape[1:]).mean(1)


def picard(*, levels: int = 2, samples: int = 4) -> Picard:
    """Full-history multilevel Picard: U_levels with ``samples``^k draws at each level.

    :param levels: Picard iterations n, at least 1
    :param samples: base M of the number of draws a level, at least 1
    """
    if levels < 1 or samples < 1:
        raise ValueError(f"levels = {levels}, samples = {samples}: multilevel Picard needs both to be at least 1")
    return Picard(levels, samples)
