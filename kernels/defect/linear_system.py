"""The linear problem that an approximate solution's error solves."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from kernels.contracts import ApproximateSolver, KnownSolve, LeastSquares, LinearSystem

System = TypeVar("System", LinearSystem, LeastSquares)


def linear_system_defect(problem: System, surrogate: ApproximateSolver) -> System:
    """A e = b - A x^, e = x - x^ (min |A e - (b - A x^)| for least squares): iterative refinement's problem (Wilkinson 1963).

    Its ``known`` part is x^, the surrogate's r -> B r, and the norm that residuals stay relative to.
    """
    x = surrogate.answer()
    if x.shape != (problem.dim,):
        raise ValueError(
            f"the surrogate's answer has shape {tuple(x.shape)}, '{problem.name}' has {problem.dim} unknowns: "
            "form the defect with a surrogate of the same problem"
        )
    return replace(
        problem,
        name=f"defect of {problem.name}",
        rhs=problem.rhs - problem.matvec(x),
        solution=None if problem.solution is None else problem.solution - x,
        known=KnownSolve(
            solution=x,
            solve=surrogate.solve,
            scale=problem.scale,
            cost=surrogate.solve_flop(),
            distortion=surrogate.distortion,
        ),
    )
