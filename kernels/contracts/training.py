"""How parameters are found: a fit of the surrogate's own, and optimizers that look at a batch more than once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from kernels.streams import Stream


@runtime_checkable
class Fitted(Protocol):
    """A surrogate that solves for its own parameters; others follow an objective down."""

    def fit(self, stream: Stream) -> list[float]:
        """Set the parameters from what the stream draws; the losses on the way, which end with the last."""
        ...

    def fit_cost(self) -> tuple[float, float]:
        """Model FLOP of ``fit``, at most, and the bytes at its peak."""
        ...


@runtime_checkable
class PlugIn(Protocol):
    """A surrogate whose own answer is all that a correction adds to: of problems other than semilinear equations."""

    def plug_in(self, t: Tensor, x: Tensor) -> Tensor:
        """Phi of the surrogate at the points, (points,), in float64."""
        ...


@runtime_checkable
class UncertainPlugIn(PlugIn, Protocol):
    """One whose own answer comes from a quadrature with an error bar."""

    def plug_in_error(self, t: Tensor, x: Tensor) -> Tensor:
        """Standard error of ``plug_in``, (points,)."""
        ...


@dataclass(frozen=True)
class Batch:
    """A training step's batch, for an optimizer that looks at it more than once."""

    loss: float
    """At the current parameters, whose gradients are in place."""
    evaluate: Callable[[], float]
    """The loss at the parameters as they are when it is called; leaves their gradients in place."""
    parts: Sequence[Tensor]
    """What the objective drew, samples along the first axis."""
    residuals: Callable[..., Tensor]
    """(parameters, *parts) -> residuals (rows,), the rows of a sample together; the loss is their mean square."""


@runtime_checkable
class Searching(Protocol):
    """An optimizer whose step takes the batch; others take nothing."""

    needs: Literal["loss", "residuals"]
    """Of the batch. The Jacobian of residuals is that of one worker: it is not summed over several."""

    def memory(self, rows: int) -> float:
        """Bytes beside those of first-order optimizers, on a batch of so many residuals."""
        ...

    def step(self, batch: Batch) -> object:
        """Move the parameters."""
        ...
