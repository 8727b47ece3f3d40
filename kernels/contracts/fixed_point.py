"""Corrections that have no mean but a fixed point: the truth is one for every surrogate, and a residual certifies it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from kernels.streams import Stream

State = Mapping[str, Tensor]
"""All that an iteration needs to go on, by name: float64 arrays, so that it can be stored and taken up again bit by bit."""


@runtime_checkable
class FixedPoint(Protocol):
    """A correction x <- x + B(residual of x), whose certificate is the residual itself.

    Every function is pure: a state is never changed in place.
    """

    def start(self, problem: Any, surrogate: Any, stream: Stream) -> State:
        """The surrogate's own answer, and all that later steps need of it."""
        ...

    def step(self, problem: Any, state: State) -> State:
        """One correction."""
        ...

    def value(self, state: State) -> Tensor:
        """What is solved for, (values,)."""
        ...

    def residual(self, problem: Any, state: State) -> Tensor:
        """Size of the residual of each value, relative to the problem's own scale, (values,) or (1,): 0 at the truth alone."""
        ...

    def flop(self, problem: Any) -> float:
        """Model FLOP of one step."""
        ...
