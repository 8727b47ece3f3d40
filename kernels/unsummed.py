"""An estimator that prints a term as a bias instead of summing it."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.contracts import Draws, Estimator, Positions, SemilinearPDE, Times
from kernels.streams import Stream


@dataclass(frozen=True)
class Unsummed:
    """``estimator`` without the terms ``moved``, each of which becomes a bias: minus its draws.

    For a term whose noise would cost more than what it removes is worth: the estimate keeps a bias
    that is printed with its own error, and ``estimator``'s biases, which belong to the moved term,
    are dropped.
    """

    estimator: Estimator
    moved: tuple[str, ...]

    @property
    def terms(self) -> tuple[str, ...]:
        return tuple(term for term in self.estimator.terms if term not in self.moved)

    @property
    def biases(self) -> tuple[str, ...]:
        return self.moved

    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        values = self.estimator.sample(problem, t, x, term, draws, stream)
        return -values if term in self.moved else values

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        return self.estimator.flop(problem, term, draws)

    def rows(self, term: str, draws: int) -> int:
        return self.estimator.rows(term, draws)


def unsummed(estimator: Estimator, moved: tuple[str, ...]) -> Estimator:
    """``estimator`` with the terms ``moved`` printed, not summed; itself where none is.

    Raises ValueError for a name that is no term, and for the base term, without which nothing is left.
    """
    for name in moved:
        if name not in estimator.terms[1:]:
            raise ValueError(f"moved = {name!r}: only a term after the first can be left out, one of {estimator.terms[1:]}")
    return Unsummed(estimator, moved) if moved else estimator
