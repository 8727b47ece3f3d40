"""The integral that a surrogate leaves over."""

from __future__ import annotations

from dataclasses import replace

from kernels.contracts import ControlVariate, Integral


def integral_defect(problem: Integral, surrogate: ControlVariate) -> Integral:
    """int (f^q - f^^q), f^ the surrogate: what its known integral int f^^q misses (regression-adjusted control variates).

    Raises ValueError for a defect: the integral of a second f^ would be that of the first left out.
    """
    if problem.known is not None:
        raise ValueError(f"'{problem.name}' is a defect already: form it from the plain problem and one surrogate")
    base = 12.0 * problem.dim if problem.cost is None else problem.cost
    return replace(
        problem,
        name=f"defect of {problem.name}",
        known=surrogate.values,
        value=None,
        source="",
        cost=base + surrogate.flop(),
    )
