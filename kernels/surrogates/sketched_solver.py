"""Sketch and solve: least squares with its rows mixed down to a few."""

from __future__ import annotations

import math

import torch
from torch import nn

from kernels.axes import Positions, Times, Unknowns
from kernels.contracts import LeastSquares
from kernels.streams import Stream


class SketchedSolver(nn.Module):
    """x^ = argmin |S (A x - b)| and B = (R^T R)^-1, S A = Q R, S Gaussian of ``sketch`` rows.

    With n unknowns and s rows, the singular values of A R^-1 lie in [1/(1 + eta), 1/(1 - eta)] up to
    fluctuations, eta = sqrt(n/s) (Rokhlin and Tygert, PNAS 2008): the ``distortion``.
    """

    factor: torch.Tensor
    solution: torch.Tensor

    def __init__(self, problem: LeastSquares, *, sketch: int) -> None:
        super().__init__()
        self.problem, self.sketch = problem, sketch
        self.distortion = math.sqrt(problem.dim / sketch)
        self.register_buffer("factor", torch.eye(problem.dim, dtype=torch.float64))
        self.register_buffer("solution", torch.zeros(problem.dim, dtype=torch.float64))

    def solve(self, r: Unknowns, /) -> Unknowns:
        half = torch.linalg.solve_triangular(self.factor.T, r[:, None], upper=False)
        return torch.linalg.solve_triangular(self.factor, half, upper=True)[:, 0]

    def solve_flop(self) -> float:
        return 2.0 * self.problem.dim**2

    def answer(self) -> Unknowns:
        return self.solution

    def plug_in(self, t: Times, x: Positions) -> Unknowns:
        return self.answer()

    def fit_cost(self) -> tuple[float, float]:
        n, s = float(self.problem.dim), float(self.sketch)
        return s * self.problem.flop() + 4.0 * s * n**2, 8.0 * s * (self.problem.rows + 3.0 * n)

    @torch.no_grad()
    def fit(self, stream: Stream) -> list[float]:
        """Sketch A and b, factorise, solve. Returns |A x^ - b| / |b|."""
        s = stream.normal(self.problem.rows, self.sketch).double() / math.sqrt(self.sketch)
        q, r = torch.linalg.qr(self.problem.rmatvec(s).T)
        self.factor.copy_(r)
        right = q.T @ (s.T @ self.problem.rhs)
        self.solution.copy_(torch.linalg.solve_triangular(r, right[:, None], upper=True)[:, 0])
        left = torch.linalg.vector_norm(self.problem.rhs - self.problem.matvec(self.solution))
        return [float(left / torch.linalg.vector_norm(self.problem.rhs))]


def sketched_solver(problem: LeastSquares, *, seed: int, sketch: int = 400) -> SketchedSolver:
    """Least squares solved on ``sketch`` Gaussian combinations of its rows.

    ``seed`` is unused: all that is random is drawn by ``fit``.

    :param sketch: rows of the sketch, more than dim; corrections contract like sqrt(dim/sketch)
    """
    if sketch <= problem.dim:
        raise ValueError(f"sketch = {sketch}: should be more than dim = {problem.dim}, for example {8 * problem.dim}")
    return SketchedSolver(problem, sketch=sketch)
