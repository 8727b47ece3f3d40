"""The recursion of full-history multilevel Picard iteration, over any rule for its time integrals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from kernels.contracts import NORMAL_FLOP, Draws, LocalDriver, Paths, Positions, SemilinearPDE, Times, Vectors
from kernels.streams import Stream

TRUNCATION, NONLINEARITY = "truncation", "nonlinearity"


@dataclass(frozen=True)
class Node:
    """A place (s, X_s) on every path of a batch at which a time integral looks at its integrand."""

    s: Paths
    x: Vectors
    share: Paths
    """What the integrand counts for: a quadrature weight, or one over the density of a random s."""
    weight: Callable[[], Vectors]
    """The Bismut-Elworthy-Li weight I of z from the start of the path to s."""
    stream: Stream
    """Noise of what is nested here."""


@runtime_checkable
class TimeRule(Protocol):
    """How int_t^T h(s, X_s) (1, I_s) ds becomes a sum over ``nodes`` nodes a path."""

    @property
    def nodes(self) -> int: ...

    def along(self, problem: SemilinearPDE, t: Paths, x: Vectors, stream: Stream) -> Iterator[Node]:
        """The nodes of one path from every row (t, x), to be used in turn."""
        ...


MAX_LEVELS = 10
"""Levels beyond which no machine would come to an end, whatever the samples are."""


@dataclass(frozen=True)
class FullHistory:
    """U_n(t, x) and its z, U_0 = 0, from ``samples`` = M to the powers below:

    U_n = (g(x), 0) + M^-n sum (g(X_T) - g(x)) (1, I_T)
          + sum_{l<n} M^-(n-l) sum sum_s share [f(U_l) - 1_{l>0} f(U_{l-1})](s, X_s) (1, I_s)

    Each row of (value, z) comes from draws of its own at every level and nested call; the same
    (s, X_s) serves both terms of a difference. The first term of level 0 is f(., 0, 0), which is
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
    rule: TimeRule

    biases: tuple[str, ...] = (TRUNCATION, NONLINEARITY)
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __post_init__(self) -> None:
        if self.levels < 1 or self.samples < 1:
            raise ValueError(f"levels = {self.levels}, samples = {self.samples}: multilevel Picard needs both to be at least 1")
        if self.levels > MAX_LEVELS:
            raise ValueError(f"levels = {self.levels}: should be at most {MAX_LEVELS}, work grows so fast with it; lower it")

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
        fixed = {TRUNCATION: self.levels, NONLINEARITY: self.levels - 1}
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

    def _level(
        self, problem: SemilinearPDE, level: int, t: Paths, x: Vectors, stream: Stream, *, with_z: bool
    ) -> tuple[Paths, Vectors]:
        """One sample a row of int [f(U_level) - 1_{level>0} f(U_{level-1})] (1, I) ds."""
        y, z = torch.zeros_like(t), torch.zeros_like(x)
        for node in self.rule.along(problem, t, x, stream):
            at = problem.at(node.s, node.x, node.stream, with_source=level == 0)
            if level == 0:
                f = at.source()
            else:
                f = at.increment(*self.iterate(problem, level, node.s, node.x, node.stream, with_z=True))
                if level > 1:
                    f = f - at.increment(*self.iterate(problem, level - 1, node.s, node.x, node.stream, with_z=True))
            value = node.share * f
            y = y + value
            if with_z:
                z = z + value[:, None] * node.weight()
        return y, z

    def _bias(self, problem: SemilinearPDE, term: str, t: Paths, x: Vectors, stream: Stream) -> Paths:
        """One sample a row of the integral of what the bias takes f to miss."""
        total = torch.zeros_like(t)
        for node in self.rule.along(problem, t, x, stream):
            at = problem.at(node.s, node.x, node.stream, with_source=False)
            noisy, below = self._pair(problem, at, self.levels - 1, node)
            missed = noisy - below if term == NONLINEARITY else below - self._pair(problem, at, self.levels, node)[1]
            total = total + node.share * missed
        return total

    def _pair(self, problem: SemilinearPDE, at: LocalDriver, n: int, node: Node) -> tuple[Paths, Paths]:
        """Increments of f a row from two independent U_n: one of mean E f(U_n), and one of mean f(E U_n) to second order."""
        if n == 0:
            return torch.zeros_like(node.s), torch.zeros_like(node.s)
        (y, z), (y_2, z_2) = (self.iterate(problem, n, node.s, node.x, node.stream, with_z=True) for _ in range(2))
        noisy = 0.5 * (at.increment(y, z) + at.increment(y_2, z_2))
        return noisy, 2.0 * at.increment(0.5 * (y + y_2), 0.5 * (z + z_2)) - noisy

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        if term == "terminal":
            return draws * (NORMAL_FLOP * problem.dim + problem.costs().terminal)
        if term in self.biases:
            pairs = (self.levels - 1,) if term == NONLINEARITY else (self.levels - 1, self.levels)
            inner = sum(3.0 * problem.costs().driver + 2.0 * self.iterate_flop(problem, n) for n in pairs if n > 0)
            return draws * self.rule.nodes * (NORMAL_FLOP * problem.dim + problem.costs().driver + inner)
        return draws * self._level_flop(problem, self._number(term))

    def iterate_flop(self, problem: SemilinearPDE, n: int) -> float:
        """Expected model FLOP of one row of ``iterate``."""
        if n == 0:
            return 0.0
        cost = problem.costs()
        total = cost.terminal + self.samples**n * (NORMAL_FLOP * problem.dim + cost.terminal)
        return total + sum(self.samples ** (n - level) * self._level_flop(problem, level) for level in range(n))

    def _level_flop(self, problem: SemilinearPDE, level: int) -> float:
        cost = problem.costs()
        here = NORMAL_FLOP * problem.dim + (cost.source if level == 0 else 2.0 * cost.driver)
        below = self.iterate_flop(problem, level - 1) if level > 1 else 0.0
        return self.rule.nodes * (here + self.iterate_flop(problem, level) + below)

    def rows(self, term: str, draws: int) -> int:
        return draws if term == "terminal" else draws * self.samples ** self._number(term)


def _mean(draws: Tensor, count: int) -> Tensor:
    return draws.reshape(-1, count, *draws.shape[1:]).mean(1)
