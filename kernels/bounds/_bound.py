"""What a bound is, and how its draws are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kernels.contracts import Draws, Positions, SemilinearPDE, Times
from kernels.intervals import student_quantile
from kernels.moments import Moments
from kernels.streams import Stream

Side = Literal["lower", "upper"]
Values = NDArray[np.float64]


@runtime_checkable
class Bound(Protocol):
    """A one-sided bound of a problem's solution, valid for any surrogate and any number of steps.

    It is sampled like an estimator, so that chunks, moments and allocation serve both, but it is
    none: its limit is a bound, not the solution. ``read`` turns the mean of its draws into the
    bound. On a defect it bounds the surrogate's error v, on a plain problem u itself.
    """

    @property
    def terms(self) -> tuple[str, ...]:
        """One name."""
        ...

    @property
    def biases(self) -> tuple[str, ...]:
        """None: what separates a bound from the solution is its gap."""
        ...

    def side(self, problem: SemilinearPDE) -> Side:
        """Which side it bounds; ValueError with the reason where it does not bound this problem."""
        ...

    @property
    def exponential(self) -> bool:
        """Whether draws are exponentials, whose mean hides its tail until its standard error is small."""
        ...

    def read(self, problem: SemilinearPDE, mean: Values) -> Values:
        """The bound for a mean of draws, a monotone function of it."""
        ...

    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        """``draws`` independent float64 draws at each of the points (t, x)."""
        ...

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        """Expected model FLOP of ``draws`` draws at one point, normals included."""
        ...

    def rows(self, term: str, draws: int) -> int:
        """Largest batch of (t, x) alive at once for ``draws`` draws at one point."""
        ...


LARGEST_RELATIVE_ERROR = 0.1
"""Of the mean of exponential draws: a hundred draws' worth of equal weights."""


@dataclass(frozen=True)
class Reading:
    """A bound at every point, (points,) float64."""

    value: Values
    """``read`` of the mean."""
    safe: Values
    """Its end of the confidence interval on the far side of the solution."""


def reading(bound: Bound, problem: SemilinearPDE, moments: Moments, confidence: float) -> Reading:
    """What ``moments`` of the draws say of a bound; ``safe`` holds with probability 1/2 + confidence/2.

    The interval of the mean is transformed, which stays valid where ``read`` is curved; the
    standard error is never put through its slope. NaN where draws are exponential and their mean is
    not known to LARGEST_RELATIVE_ERROR: what they did not meet yet may be most of it.
    """
    mean, error = moments.mean, moments.standard_error
    if bound.exponential:
        mean = np.where(error <= LARGEST_RELATIVE_ERROR * mean, mean, np.nan)
    reach = student_quantile(confidence, moments.count - 1.0) * error
    with np.errstate(invalid="ignore", divide="ignore"):
        ends = [bound.read(problem, mean + sign * reach) for sign in (1.0, -1.0)]
    # An interval that reaches a place where ``read`` has no value has no end on that side, which is the inner one.
    safe = np.fmax(*ends) if bound.side(problem) == "upper" else np.fmin(*ends)
    return Reading(bound.read(problem, mean), safe)
