"""Iterative refinement of A x = b around any approximate solver, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kernels.axes import Unknowns
from kernels.contracts import LinearSystem, Stream
from kernels.contracts.linear_system import Operator
from kernels.defect import linear_system_defect
from kernels.estimators._fgmres import FGMRES
from kernels.estimators.flexible_krylov import FlexibleCG, flexible_krylov
from kernels.estimators.iterative_refinement import IterativeRefinement, iterative_refinement


@dataclass(frozen=True)
class RefineResult:
    """What a refinement came to."""

    x: Tensor
    """The iterate with the smallest residual, (dim,)."""
    residuals: list[float]
    """|b - A x|/|b| of the solver's own answer and after each step; goes on through a change of method."""
    rate: float
    """Geometric mean of the factors between neighbours in ``residuals``."""
    diverged: bool
    """Refinement grew twice in a row and was replaced by FGMRES."""
    stagnated: bool
    """The last steps gained next to nothing above the tolerance: the solver is blind to what is left; a smoother helps."""


@dataclass(frozen=True)
class _Given:
    """An answer and an approximate solve, as they are."""

    x: Tensor
    solve: Operator
    distortion: float | None = None

    def answer(self) -> Unknowns:
        return self.x

    def solve_flop(self) -> float:
        return 0.0


def refine(
    A: Tensor | Operator,
    b: Tensor,
    solver: Operator,
    mode: Literal["richardson", "fcg", "fgmres"] = "richardson",
    smoother: Literal["jacobi"] | None = None,
    tol: float = 1e-8,
    *,
    sweeps: int = 1,
    diagonal: Tensor | None = None,
    max_steps: int = 300,
) -> RefineResult:
    """Solve A x = b from x = B b on, B the ``solver``: any r -> B r near A^-1 r, linear or not.

    ``richardson`` is x <- x + M (b - A x), M = B followed by ``sweeps`` of the ``smoother``; it converges
    iff the spectral radius of I - M A is below 1. Where the residual grows twice in a row, FGMRES takes
    over from the best iterate, or from 0 where that is no better; where it gains below 1 % three times in a row, it stops and says so. ``fcg`` (symmetric
    positive A; sweeps before and after B) and ``fgmres`` search the same directions optimally. A is a matrix, or a
    function of (dim,) and (dim, k) tensors; Jacobi needs the ``diagonal`` of a function. All float64.

    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    >>> result = refine(A, A @ torch.ones(2, dtype=torch.float64), lambda r: r / 4.0)
    >>> bool((result.x - 1.0).abs().max() < 1e-7), result.diverged, result.stagnated
    (True, False, False)
    """
    if not tol > 0.0:
        raise ValueError(f"tol = {tol}: the relative residual to stop at should be > 0, for example 1e-8")
    if max_steps < 1:
        raise ValueError(f"max_steps = {max_steps}: at least one step is made")
    if b.ndim != 1:
        raise ValueError(f"b of shape {tuple(b.shape)}: should be one vector (dim,); call once for each right-hand side")
    symmetric = mode == "fcg"
    matvec: Operator
    if isinstance(A, Tensor):
        if A.shape != (len(b), len(b)):
            raise ValueError(f"A of shape {tuple(A.shape)}, b of {len(b)} entries: A should be square, of as many rows as b")
        if symmetric and not torch.allclose(A, A.T):
            raise ValueError("mode = 'fcg' with an A that is not symmetric: take 'fgmres'")
        matvec, diagonal = A.__matmul__, A.diagonal()
    else:
        matvec = A
    problem = LinearSystem(
        name="A x = b",
        dim=len(b),
        matvec=matvec,
        rhs=b,
        symmetric=symmetric,
        positive=symmetric,
        diagonal=diagonal if smoother else None,
    )
    method = _method(mode, smoother, sweeps)
    at = linear_system_defect(problem, _Given(solver(b) if b.any() else b, solver))
    x, residuals, verdict = _follow(method, at, tol, max_steps)
    diverged = mode == "richardson" and verdict == "diverging"
    if diverged:
        at = linear_system_defect(problem, _Given(x if min(residuals) < 1.0 else torch.zeros_like(x), solver))
        x, more, verdict = _follow(_method("fgmres", smoother, sweeps), at, tol, max_steps)
        residuals = residuals + more[1:]
    steps = max(1, len(residuals) - 1)
    rate = (residuals[-1] / residuals[0]) ** (1.0 / steps) if residuals[0] > 0.0 else 0.0
    return RefineResult(x, residuals, rate, diverged, verdict == "stagnant" and residuals[-1] > tol)


def _method(mode: str, smoother: str | None, sweeps: int) -> IterativeRefinement | FlexibleCG | FGMRES:
    smooth: Literal["none", "jacobi"] = "none" if smoother is None else smoother  # type: ignore[assignment]
    if mode == "richardson":
        return iterative_refinement(smoother=smooth, sweeps=sweeps)
    if mode not in ("fcg", "fgmres"):
        raise ValueError(f"mode = {mode!r}: should be 'richardson', 'fcg' or 'fgmres'")
    return flexible_krylov(method=mode, smoother=smooth, sweeps=sweeps, symmetric=mode == "fcg")  # type: ignore[arg-type]


def _follow(
    method: IterativeRefinement | FlexibleCG | FGMRES, problem: LinearSystem, tol: float, max_steps: int
) -> tuple[Tensor, list[float], str]:
    """Steps to the tolerance, refinement until it grows or stands: value, relative residuals, the last verdict."""
    state = method.start(problem, Stream(0))
    residuals = [float(state["progress"][0]) / problem.scale]
    # A Krylov method may stand still on the way and conjugate gradients even grow.
    patient = not isinstance(method, IterativeRefinement)
    while residuals[-1] > tol and len(residuals) <= max_steps and (patient or method.verdict(state) == "converging"):
        state = method.step(problem, state)
        residuals.append(float(state["progress"][0]) / problem.scale)
    return method.value(state), residuals, method.verdict(state)
