"""Sketched iterative and recursive refinement of least squares: backward stable to moderate condition numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kernels.axes import Unknowns
from kernels.contracts import LeastSquares, State, Stream, Verdict
from kernels.contracts.linear_system import KnownSolve
from kernels.estimators._progress import advanced, begun, verdict


@dataclass(frozen=True)
class SIRR:
    """x <- x + increment(A^T (b - A x)), around B = (R^T R)^-1 of a sketch S A = Q R with distortion eta.

    ``recursive`` (SIRR, Xu and Lu, AISTATS 2025): increment = SRR_N with

        SRR_0(z) = alpha B z,    SRR_i(z) = SRR_{i-1}(z) + SRR_{i-1}(z - A^T A SRR_{i-1}(z)),

    alpha = (1 - eta^2)^2 / (1 + eta^2), so that SRR_0 contracts by 2 eta/(1 + eta^2) and SRR_N by that to
    the power 2^N, at 2^N - 1 products with A^T A. ``momentum`` (heavy ball): increment = (1 - eta^2)^2 B z +
    eta^2 (last increment), which contracts by eta. The truth is a fixed point of both for every B.
    """

    form: Literal["recursive", "momentum"]
    depth: int
    solves: ClassVar[type] = LeastSquares

    def start(self, problem: LeastSquares, stream: Stream) -> State:
        begin = _known(problem)[0].solution
        gradient = problem.gradient(begin)
        return {
            "solution": begin,
            "increment": torch.zeros_like(begin),
            "gradient": gradient,
            "progress": begun(torch.linalg.vector_norm(gradient)),
        }

    def step(self, problem: LeastSquares, state: State) -> State:
        known, eta = _known(problem)
        z = state["gradient"]
        if self.form == "momentum":
            increment = (1.0 - eta**2) ** 2 * known.solve(z) + eta**2 * state["increment"]
        else:
            increment = self._recursive(problem, known, (1.0 - eta**2) ** 2 / (1.0 + eta**2), z, self.depth)
        solution = state["solution"] + increment
        gradient = problem.gradient(solution)
        return {
            "solution": solution,
            "increment": increment,
            "gradient": gradient,
            "progress": advanced(state["progress"], torch.linalg.vector_norm(gradient)),
        }

    def _recursive(self, problem: LeastSquares, known: KnownSolve, alpha: float, z: Tensor, depth: int) -> Tensor:
        if depth == 0:
            return alpha * known.solve(z)
        first = self._recursive(problem, known, alpha, z, depth - 1)
        left = z - problem.rmatvec(problem.matvec(first))
        return first + self._recursive(problem, known, alpha, left, depth - 1)

    def value(self, state: State) -> Unknowns:
        return state["solution"]

    def residual(self, problem: LeastSquares, state: State) -> Unknowns:
        return torch.linalg.vector_norm(state["gradient"])[None] / problem.scale

    def flop(self, problem: LeastSquares) -> float:
        solves = 1 if self.form == "momentum" else 2**self.depth
        return solves * (_known(problem)[0].cost + 2.0 * problem.flop()) + 4.0 * problem.dim

    def size(self, problem: LeastSquares) -> int:
        """Solution, increment and gradient."""
        return 3 * problem.dim

    def verdict(self, state: State) -> Verdict:
        """Whether |A^T (b - A x)| falls, stands or grows."""
        return verdict(state["progress"])


def _known(problem: LeastSquares) -> tuple[KnownSolve, float]:
    """The sketch's solve and its distortion."""
    if problem.known is None or problem.known.distortion is None:
        raise ValueError(
            f"'{problem.name}' comes without a sketch of known distortion: sirr corrects the defect of a surrogate such as sketched_solver"
        )
    return problem.known, problem.known.distortion


def sirr(*, form: Literal["recursive", "momentum"] = "recursive", depth: int = 4) -> SIRR:
    """Refinement of a sketched least-squares solution, by recursion or with momentum.

    :param form: 'recursive', the more stable, or 'momentum', the cheaper
    :param depth: N of SRR_N, 0 to 12: a step of the recursive form makes 2^N approximate solves; momentum does not look at it
    """
    if form not in ("recursive", "momentum"):
        raise ValueError(f"form = {form!r}: should be 'recursive' or 'momentum'")
    if not 0 <= depth <= 12:
        raise ValueError(f"depth = {depth}: should be from 0 to 12; a step makes 2^depth approximate solves")
    return SIRR(form=form, depth=depth)
