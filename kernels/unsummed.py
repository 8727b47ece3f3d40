"""An estimator that prints a term as a bias instead of summing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kernels.contracts import Draws, Estimator, Positions, SemilinearPDE, Times
from kernels.streams import Stream


@dataclass(frozen=True)
class Unsummed:
    """``estimator`` without the terms ``moved``, each of which becomes a bias: minus its draws.

    For a term whose noise would cost more than what it removes is worth: the estimate keeps a bias
    that is printed with its own error. The biases of ``moved`` itself are dropped with it, those of
    the terms that are still summed stay.
    """

    estimator: Estimator
    moved: tuple[str, ...]

    @property
    def terms(self) -> tuple[str, ...]:
        return tuple(term for term in self.estimator.terms if term not in self.moved)

    @property
    def biases(self) -> tuple[str, ...]:
        dropped = {bias for term in self.moved for bias in self.estimator.optional[term]}
        return (*self.moved, *(bias for bias in self.estimator.biases if bias not in dropped))

    @property
    def optional(self) -> Mapping[str, tuple[str, ...]]:
        return {term: biases for term, biases in self.estimator.optional.items() if term not in self.moved}

    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        values = self.estimator.sample(problem, t, x, term, draws, stream)
        return -values if term in self.moved else values

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        return self.estimator.flop(problem, term, draws)

    def rows(self, term: str, draws: int) -> int:
        return self.estimator.rows(term, draws)


def unsummed(estimator: Estimator, moved: tuple[str, ...]) -> Estimator:
    """``estimator`` with the terms ``moved`` printed, not summed; itself where none is.

    Raises ValueError for a term that is not optional, or named twice: without it the others mean nothing.
    """
    for number, name in enumerate(moved):
        if name not in estimator.optional or name in moved[:number]:
            can = ", ".join(estimator.optional) or "no term"
            raise ValueError(f"moved = {moved}: of {estimator.terms} only {can} can be left out of the sum, and once")
    return Unsummed(estimator, moved) if moved else estimator
