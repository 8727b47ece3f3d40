"""Iterative refinement: the debiasing of a linear system's surrogate by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from kernels.axes import Unknowns
from kernels.contracts import LinearSystem, State, Stream, Verdict
from kernels.estimators._cycle import Cycle, Smoother, known_solution, smoothing
from kernels.estimators._progress import advanced, begun, verdict


@dataclass(frozen=True)
class IterativeRefinement:
    """x <- x + M (b - A x), M a :class:`Cycle` around the surrogate's B: the truth is a fixed point for every B.

    Converges iff the spectral radius of I - M A is below 1. B alone stagnates where it is blind (its
    range is not all), and a rough B diverges: both are seen from the residual (``verdict``: two growths
    in a row; three gains in a row below 1 %). A diverging state is not stepped further, and the value
    is always the iterate of the smallest residual, so that it is never worse than the surrogate's.
    """

    cycle: Cycle
    solves: ClassVar[type] = LinearSystem

    def start(self, problem: LinearSystem, stream: Stream) -> State:
        if problem.known is None and not self.cycle.before + self.cycle.after:
            raise ValueError(
                f"nothing approximates the inverse of '{problem.name}': refine the defect of a surrogate, or take smoother 'jacobi'"
            )
        begin = known_solution(problem)
        return {
            "solution": begin,
            "residual": problem.rhs,
            "best": begin,
            "smallest": torch.linalg.vector_norm(problem.rhs)[None],
            "progress": begun(torch.linalg.vector_norm(problem.rhs)),
        }

    def step(self, problem: LinearSystem, state: State) -> State:
        if self.verdict(state) == "diverging":
            return state
        solution = state["solution"] + self.cycle(problem, state["residual"])
        residual = problem.residual(solution)
        progress = advanced(state["progress"], torch.linalg.vector_norm(residual))
        improved = bool(progress[0] < state["smallest"][0])
        return {
            "solution": solution,
            "residual": residual,
            "best": solution if improved else state["best"],
            "smallest": progress[:1] if improved else state["smallest"],
            "progress": progress,
        }

    def value(self, state: State) -> Unknowns:
        return state["best"]

    def residual(self, problem: LinearSystem, state: State) -> Unknowns:
        return state["smallest"] / problem.scale

    def flop(self, problem: LinearSystem) -> float:
        return self.cycle.flop(problem) + problem.flop() + 2.0 * problem.dim

    def size(self, problem: LinearSystem) -> int:
        """Solution, residual and the best solution yet."""
        return 3 * problem.dim

    def verdict(self, state: State) -> Verdict:
        """Whether the residual falls, stands or grows."""
        return verdict(state["progress"])


def iterative_refinement(*, smoother: Smoother = "jacobi", sweeps: int = 9) -> IterativeRefinement:
    """x <- x + M (b - A x), M the surrogate's approximate solve and then ``sweeps`` damped Jacobi sweeps.

    :param smoother: 'jacobi', or 'none' for the approximate solve alone
    :param sweeps: Jacobi sweeps in a step, 1 or more; not looked at without a smoother
    """
    return IterativeRefinement(Cycle(after=smoothing(smoother, sweeps)))
