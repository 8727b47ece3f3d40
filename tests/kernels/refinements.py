"""Fixed-point corrections followed to a tolerance, and literal rivals of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kernels.contracts import KnownSolve, LeastSquares, LinearSystem, State
from kernels.defect import linear_system_defect
from kernels.streams import Purpose, Stream
from kernels.surrogates import learned_solver

Solve = Callable[[Tensor], Tensor]


def followed(method: Any, problem: Any, tol: float = 1e-8, most: int = 300) -> tuple[int, State, list[float]]:
    """Steps to a relative residual of ``tol``, the state there, and the residuals of the method's own books."""
    state = method.start(problem, Stream(0, 0))
    residuals = [float(state["progress"][0]) / problem.scale]
    while residuals[-1] > tol and len(residuals) <= most:
        state = method.step(problem, state)
        residuals.append(float(state["progress"][0]) / problem.scale)
    return len(residuals) - 1, state, residuals


def learned(problem: LinearSystem, pairs: int, form: str = "regression") -> LinearSystem:
    """The defect of a solver learned from so many pairs."""
    surrogate = learned_solver(problem, seed=0, pairs=pairs, form=form)  # type: ignore[arg-type]
    surrogate.fit(Stream(1, Purpose.TRAINING))
    return linear_system_defect(problem, surrogate)


def known(problem: LinearSystem, solve: Solve, x: Tensor | None = None) -> LinearSystem:
    """The problem with an approximate solve given by hand, from x^ = 0 or from x."""
    begin = torch.zeros_like(problem.rhs) if x is None else x
    part = KnownSolve(solution=begin, solve=solve, rhs=problem.rhs, scale=problem.scale, cost=0.0)
    return replace(problem, rhs=problem.rhs - problem.matvec(begin), known=part)


def literal_pcg(problem: LinearSystem, solve: Solve, tol: float = 1e-8, most: int = 300) -> int:
    """Iterations of preconditioned conjugate gradients as in the textbook, beta = z+.r+ / z.r; x = 0 at first."""
    r = problem.rhs
    z = solve(r)
    p, zr, count = z, z @ r, 0
    while r.norm() > tol * problem.rhs.norm() and count < most:
        ap = problem.matvec(p)
        r = r - zr / (p @ ap) * ap
        z = solve(r)
        p, zr, count = z + (z @ r) / zr * p, z @ r, count + 1
    return count


def wavy(solve: Solve, size: float) -> Solve:
    """A nonlinear B, homogeneous of degree one: z (1 + size sin(z / rms z)), z = solve(r)."""

    def bent(r: Tensor) -> Tensor:
        z = solve(r)
        return z * (1.0 + size * torch.sin(z / z.square().mean().sqrt()))

    return bent


def backward_error(problem: LeastSquares, x: Tensor) -> float:
    """Karlson-Walden estimate for perturbations of A and b: |(A^T A + |r|^2/(1 + |x|^2))^(-1/2) A^T r| / sqrt(1 + |x|^2)."""
    matrix = problem.matvec(torch.eye(problem.dim, dtype=torch.float64))
    _, singular, vt = torch.linalg.svd(matrix, full_matrices=False)
    r, size = problem.rhs - matrix @ x, 1.0 + float(x @ x)
    weight = (singular.square() + float(r @ r) / size).sqrt()
    return float(torch.linalg.vector_norm(vt @ (matrix.T @ r) / weight)) / size**0.5
