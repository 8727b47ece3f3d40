"""Estimators whose draws are means over coupled rows: antithetic pairs, and randomised quasi-Monte Carlo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kernels.contracts import Draws, Estimator, Positions, SemilinearPDE, Times
from kernels.coupled_streams import MAX_SIZE, Mirrored, Quasi
from kernels.streams import Stream

Couple = Callable[[Stream, int], Stream]
"""(stream, number of draws) -> the stream that couples the rows of each draw."""


@dataclass(frozen=True)
class Averaged:
    """An estimator whose draws of the base term are means over ``size`` coupled draws of another's.

    The terms that remove a bias, and the biases, are drawn as they are: their variance is small.

    Every one of the coupled draws has the law that it has alone, so that means and biases are those
    of ``estimator``; draws are independent, so that their spread is an honest error. What is
    gained in variance is for a pilot to measure.
    """

    estimator: Estimator
    size: int
    couple: Couple

    @property
    def terms(self) -> tuple[str, ...]:
        return self.estimator.terms

    @property
    def biases(self) -> tuple[str, ...]:
        return self.estimator.biases

    @property
    def optional(self) -> Mapping[str, tuple[str, ...]]:
        return self.estimator.optional

    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        if term != self.terms[0]:
            return self.estimator.sample(problem, t, x, term, draws, stream)
        coupled = self.couple(stream, len(t) * draws)
        values = self.estimator.sample(problem, t, x, term, draws * self.size, coupled)
        return values.double().unflatten(1, (draws, self.size)).mean(-1).to(values)

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        return self.estimator.flop(problem, term, draws * (self.size if term == self.terms[0] else 1))

    def rows(self, term: str, draws: int) -> int:
        return self.estimator.rows(term, draws * (self.size if term == self.terms[0] else 1))


def _alone(estimator: Estimator) -> Estimator:
    if isinstance(estimator, Averaged):
        raise ValueError(
            "an estimator that couples its draws is not coupled again, the first coupling would be lost: wrap it once"
        )
    return estimator


def antithetic(estimator: Estimator) -> Averaged:
    """Every draw is the mean of a pair driven by W and -W (Hammersley and Morton 1956).

    Random times are equal in a pair, probe signs independent (see Mirrored). The odd part of a draw
    in W is removed, the even part keeps its variance at twice the cost: exact for linear g, and
    twice as dear as plain draws for even functions.
    """
    return Averaged(_alone(estimator), 2, Mirrored)


def quasi(estimator: Estimator, *, size: int = 64) -> Averaged:
    """Every draw is the mean over a randomised Sobol' net of ``size`` points, new for every draw (see Quasi).

    The parts of a draw that add up over single coordinates of the noise are integrated at the
    rate size^-3/2, their products at the rate of independent numbers at worst.

    :param size: points of a net, a power of two from 2 to 2^16
    """
    if not 2 <= size <= MAX_SIZE or size & (size - 1):
        raise ValueError(f"size = {size}: a Sobol' net is balanced at powers of two only, here from 2 to {MAX_SIZE}")

    def couple(stream: Stream, draws: int) -> Stream:
        return Quasi(stream, draws, size)

    return Averaged(_alone(estimator), size, couple)


def efficiency(
    estimator: Estimator, problem: SemilinearPDE, t: Times, x: Positions, draws: int, stream: Stream
) -> dict[str, tuple[float, float]]:
    """Of every term: the variance of a draw, averaged over the points, and its model FLOP.

    Their product compares estimators at equal cost. ``draws`` at each point, at least 2; a
    variance is known to sqrt(2/(draws x points)) of itself, for draws that are about normal.
    """
    if draws < 2:
        raise ValueError(f"draws = {draws}: a variance needs at least two draws at a point")
    found = {}
    for term in estimator.terms:
        values = estimator.sample(problem, t, x, term, draws, stream).double()
        found[term] = values.var(1).mean().item(), estimator.flop(problem, term, draws) / draws
    return found
