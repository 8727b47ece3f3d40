"""A linear solver learned from systems that are already solved."""

from __future__ import annotations

from typing import Literal

import torch

from kernels.axes import Unknowns
from kernels.contracts import LinearSystem
from kernels.streams import Stream
from kernels.surrogates._approximate_inverse import ApproximateInverse

HELD_OUT = 8
"""Pairs on which the fit is judged."""


class LearnedSolver(ApproximateInverse):
    """B of rank N at most from N solved pairs A u_j = f_j, F = (f_1 .. f_N), U = (u_1 .. u_N).

    ``regression``: B = argmin |B F - U|^2 + ridge^2 |F|_2^2 |B|^2, by the SVD of F; exact on the span of F
    for ridge = 0, and 0 off it: hence blind there. ``galerkin``: B = V (V^T A V)^-1 V^T, V an orthonormal
    basis of the span of U: symmetric for symmetric A, as conjugate gradients ask for.
    """

    left: torch.Tensor
    right: torch.Tensor

    def __init__(self, problem: LinearSystem, *, pairs: int, ridge: float, form: Literal["regression", "galerkin"]) -> None:
        super().__init__(problem)
        self.pairs, self.ridge, self.form = pairs, ridge, form
        self.register_buffer("left", torch.zeros(problem.dim, pairs, dtype=torch.float64))
        self.register_buffer("right", torch.zeros(problem.dim, pairs, dtype=torch.float64))

    def solve(self, r: Unknowns, /) -> Unknowns:
        return self.left @ (self.right.T @ r)

    def solve_flop(self) -> float:
        return 4.0 * self.problem.dim * self.pairs

    def fit_cost(self) -> tuple[float, float]:
        n, pairs = float(self.problem.dim), float(self.pairs)
        return 14.0 * n * pairs**2 + 8.0 * pairs**3 + pairs * self.problem.flop(), 8.0 * 6.0 * n * pairs

    @torch.no_grad()
    def fit(self, stream: Stream) -> list[float]:
        """Learn B from N pairs. Returns its root mean square error |B f - u| / |u| on other pairs."""
        assert self.problem.pairs is not None
        f, u = self.problem.pairs(self.pairs, stream)
        if self.form == "regression":
            q, singular, w = torch.linalg.svd(f, full_matrices=False)
            weight = singular / (singular.square() + (self.ridge * singular[0]) ** 2)
            self.left.copy_(u @ (w.T * weight))
            self.right.copy_(q)
        else:
            v, _ = torch.linalg.qr(u)
            self.left.copy_(v)
            self.right.copy_(torch.linalg.solve(v.T @ self.problem.matvec(v), v.T).T)
        f, u = self.problem.pairs(HELD_OUT, stream)
        error = torch.linalg.vector_norm(torch.stack([self.solve(r) for r in f.T], 1) - u, dim=0)
        return [float((error / torch.linalg.vector_norm(u, dim=0)).square().mean().sqrt())]


def learned_solver(
    problem: LinearSystem,
    *,
    seed: int,
    pairs: int = 100,
    ridge: float = 0.0,
    form: Literal["regression", "galerkin"] = "regression",
) -> LearnedSolver:
    """Approximate inverse of A, learned from ``pairs`` right-hand sides and their solutions.

    ``seed`` is unused: all that is random is drawn by ``fit``.

    :param pairs: solved systems to learn from, from 1 to dim
    :param ridge: Tikhonov weight of the regression over the largest singular value of F, 0 or more
    :param form: 'regression' of solutions on right-hand sides, or 'galerkin' on the span of solutions, symmetric
    """
    if problem.pairs is None:
        raise ValueError(f"'{problem.name}' offers no solved systems to learn from: give its record 'pairs'")
    if not 1 <= pairs <= problem.dim:
        raise ValueError(f"pairs = {pairs}: from 1 to dim = {problem.dim} solved systems are served")
    if not ridge >= 0.0:
        raise ValueError(f"ridge = {ridge}: should be 0 or more")
    if form not in ("regression", "galerkin"):
        raise ValueError(f"form = {form!r}: should be 'regression' or 'galerkin'")
    return LearnedSolver(problem, pairs=pairs, ridge=ridge, form=form)
