"""The stream that is left where a surrogate knew the first modes."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from kernels.contracts import KnownModes, Modes, OperatorStream, SnapshotStream

Moving = TypeVar("Moving", SnapshotStream, OperatorStream)


def snapshots_defect(problem: Moving, surrogate: Modes) -> Moving:
    """The same stream from the surrogate's last step on, its basis known: feedback corrects that basis by the residual.

    The fixed point of a correction is the leading subspace of the current window or operator, whatever the basis.
    """
    basis, first = surrogate.basis(), surrogate.first()
    if basis.shape[0] != problem.dim or not 0 <= first <= problem.steps:
        raise ValueError(
            f"a basis of shape {tuple(basis.shape)} from step {first} on, '{problem.name}' has dim {problem.dim} and {problem.steps} steps: "
            "form the defect with a surrogate of the same stream"
        )
    return replace(problem, name=f"defect of {problem.name}", known=KnownModes(basis=basis, first=first))
