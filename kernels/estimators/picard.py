"""Full-history recursive multilevel Picard iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.contracts import NORMAL_FLOP, Draws, LocalDriver, Paths, Positions, SemilinearPDE, Times, Vectors
from kernels.streams import Stream

ALPHA = 0.5
"""Exponent of the power law of times, rho ~ ALPHA rho^(ALPHA-1): integrates the weight's singularity."""


@dataclass(frozen=True)
class Picard:
    """U_n of Hutzenthaler, Jentzen, Kruse, Nguyen and von Wurstemberger (Proc. R. Soc. A 2020), U_0 = 0:

    U_n(t,x) = (g(x), 0) + M^-n sum (g(X_T) - g(x)) (1, I_T)
             + sum_{l<n} (T-t) M^-(n-l) sum w [f(U_l) - 1_{l>0} f(U_{l-1})](R, X_R) (1, I_R)

    with R = t + rho (T-t), w = rho^(1-a)/a, and the Bismut-Elworthy-Li weight I of the path law.
    Each row of (value, z) comes from draws of its own at every level and nested call; the same
    (R, X_R) serves both terms of a difference. The first term of level 0 is f(., 0, 0), which is
    the residual for a defect, never taken to be 0.

    The outermost sums are the terms of this estimator, so that their numbers of draws can follow
    measured variances instead of M^(n-l); the nested ones keep the paper's. Level n, which U_n
    leaves out, is the bias "truncation", int f(E U_(n-1)) - f(E U_n). The noise of U_(n-1) inside f
    makes E f(U_(n-1)) differ from f(E U_(n-1)): the bias "nonlinearity". Both take f(E U) from two
    independent U, which is free of their noise to leading order, and for quadratic f altogether:
    with the noise of U_n left in, level n would be booked as a bias that U_n does not have.
    """

    levels: int
    samples: int

    biases: tuple[str, ...] = ("truncation", "nonlinearity")

    @property
    def terms(self) -> tuple[str, ...]:
        return ("terminal", *(f"level {level}" for level in range(self.levels)))

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        rows = t.repeat_interleave(draws), x.repeat_interleave(draws, 0)
        if term == "terminal":
            end, _ = problem.law.travel(*rows, problem.horizon - rows[0], stream)
            return problem.terminal(end).reshape(-1, draws)
        if term in self.biases:
            return self._bias(problem, term, *rows, stream).reshape(-1, draws)
        value, _ = self._level(problem, self._number(term), *rows, stream, with_z=False)
        return value.reshape(-1, draws)

    def _number(self, term: str) -> int:
        fixed = {"truncation": self.levels, "nonlinearity": self.levels - 1}
        return fixed[term] if term in fixed else int(term.removeprefix("level "))

    def iterate(
        self, problem: SemilinearPDE, n: int, t: Paths, x: Vectors, stream: Stream, *, with_z: bool
    ) -> tuple[Paths, Vectors]:
        """One realisation of U_n and its z at every row (t, x): (paths,), (paths, dim)."""
        if n == 0:
            return torch.zeros_like(t), torch.zeros_like(x)
        count = self.samples**n
        at_x = problem.terminal(x)
        begin, start = t.repeat_interleave(count), x.repeat_interleave(count, 0)
        end, weight = problem.law.travel(begin, start, problem.horizon - begin, stream)
        gain = problem.terminal(end) - at_x.repeat_interleave(count)
        y = at_x + _mean(gain, count)
        z = _mean(gain[:, None] * weight(), count) if with_z else torch.zeros_like(x)
        for level in range(n):
            count = self.samples ** (n - level)
            rows = t.repeat_interleave(count), x.repeat_interleave(count, 0)
            level_y, level_z = self._level(problem, level, *rows, stream, with_z=with_z)
            y = y + _mean(level_y, count)
            if with_z:
                z = z + _mean(level_z, count)
        return y, z

    @staticmethod
    def _random_time(
        problem: SemilinearPDE, t: Paths, x: Vectors, stream: Stream
    ) -> tuple[Paths, Vectors, Paths, Callable[[], Vectors]]:
        """R, X_R, (T-t) w and I_R a row."""
        rho, left = stream.uniform(t.shape[0]) ** (1.0 / ALPHA), problem.horizon - t
        x_r, weight = problem.law.travel(t, x, rho * left, stream)
        # Rounding must not carry a path past T.
        return (t + rho * left).clamp_max(problem.horizon), x_r, left * rho ** (1.0 - ALPHA) / ALPHA, weight

    def _bias(self, problem: SemilinearPDE, term: str, t: Paths, x: Vectors, stream: Stream) -> Paths:
        """One sample a row of (T-t) w times what the bias takes f to miss at (R, X_R)."""
        r, x_r, over_density, _ = self._random_time(problem, t, x, stream)
        at = problem.at(r, x_r, stream, with_source=False)
        noisy, below = self._pair(problem, at, self.levels - 1, r, x_r, stream)
        if term == "nonlinearity":
            return over_density * (noisy - below)
        _, above = self._pair(problem, at, self.levels, r, x_r, stream)
        return over_density * (below - above)

    def _pair(self, problem: SemilinearPDE, at: LocalDriver, n: int, t: Paths, x: Vectors, stream: Stream) -> tuple[Paths, Paths]:
        """Increments of f a row from two independent U_n: one of mean E f(U_n), and one of mean f(E U_n) to second order."""
        if n == 0:
            return torch.zeros_like(t), torch.zeros_like(t)
        (y, z), (y_2, z_2) = (self.iterate(problem, n, t, x, stream, with_z=True) for _ in range(2))
        noisy = 0.5 * (at.increment(y, z) + at.increment(y_2, z_2))
        return noisy, 2.0 * at.increment(0.5 * (y + y_2), 0.5 * (z + z_2)) - noisy

    def _level(
        self, problem: SemilinearPDE, level: int, t: Paths, x: Vectors, stream: Stream, *, with_z: bool
    ) -> tuple[Paths, Vectors]:
        """One sample of (T-t) w [f(U_level) - 1_{level>0} f(U_{level-1})](R, X_R) (1, I_R) a row."""
        r, x_r, over_density, weight = self._random_time(problem, t, x, stream)
        at = problem.at(r, x_r, stream, with_source=level == 0)
        if level == 0:
            f = at.source()
        else:
            f = at.increment(*self.iterate(problem, level, r, x_r, stream, with_z=True))
            if level > 1:
                f = f - at.increment(*self.iterate(problem, level - 1, r, x_r, stream, with_z=True))
        value = over_density * f
        return value, value[:, None] * weight() if with_z else torch.zeros_like(x)

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        if term == "terminal":
            return draws * (NORMAL_FLOP * problem.dim + problem.costs().terminal)
        if term in self.biases:
            pairs = (self.levels - 1,) if term == "nonlinearity" else (self.levels - 1, self.levels)
            inner = sum(3.0 * problem.costs().driver + 2.0 * self._iterate_flop(problem, n) for n in pairs if n > 0)
            return draws * (NORMAL_FLOP * problem.dim + problem.costs().driver + inner)
        return draws * self._level_flop(problem, self._number(term))

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

    def rows(self, term: str, draws: int) -> int:
        return draws if term == "terminal" else draws * self.samples ** self._number(term)


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
