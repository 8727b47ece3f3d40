"""Corrections that have no mean but a fixed point: the truth is one for every surrogate, and a residual certifies it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from kernels.streams import Stream

Verdict = Literal["converging", "stagnant", "diverging"]

State = Mapping[str, Tensor]
"""All that an iteration needs to go on, by name: float64 arrays, so that it can be stored and taken up again bit by bit."""


@runtime_checkable
class FixedPoint(Protocol):
    """A correction x <- x + B(residual of x), whose certificate is the residual itself.

    Like every estimator it sees no surrogate: ``problem`` is a defect, whose ``known`` part holds the
    surrogate's answer and its approximate solve, or a plain problem, which is the baseline. Every
    function is pure: a state is never changed in place, and nothing but it is carried from step to step.
    """

    def start(self, problem: Any, stream: Stream) -> State:
        """The surrogate's own answer, or where a baseline begins, and all that later steps need beside the problem."""
        ...

    def step(self, problem: Any, state: State) -> State:
        """One correction."""
        ...

    def value(self, state: State) -> Tensor:
        """What the original problem is solved for, the known part included, (values,)."""
        ...

    def residual(self, problem: Any, state: State) -> Tensor:
        """Size of the residual of each value, relative to the problem's own scale, (values,) or (1,): 0 at the truth alone."""
        ...

    def verdict(self, state: State) -> Verdict:
        """Whether the residual still falls; what is not converging is not stepped further."""
        ...

    def flop(self, problem: Any) -> float:
        """Model FLOP of one step."""
        ...

    def size(self, problem: Any) -> int:
        """Numbers in a state at its largest, but for a few that no dimension counts."""
        ...
