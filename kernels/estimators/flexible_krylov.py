"""Krylov methods around an approximate solve that may change from step to step, as a nonlinear one does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from kernels.axes import Unknowns
from kernels.contracts import LinearSystem, State, Stream, Verdict
from kernels.estimators._cycle import Cycle, Smoother, known_solution, smoothing
from kernels.estimators._fgmres import FGMRES
from kernels.estimators._progress import moved_on, patient_verdict, set_out


@dataclass(frozen=True)
class FlexibleCG:
    """x <- x + (z.r / p.Ap) p, p = z - (z.Aq / q.Aq) q, z = M r, q the last p: FCG(1) (Notay, SISC 2000, algorithm 2.1).

    For symmetric positive A; conjugate gradients, with two vectors of memory, where M is symmetric,
    positive and fixed, and robust where it is not quite that: beta makes p conjugate to the last
    direction whatever M did.
    """

    cycle: Cycle
    solves: ClassVar[type] = LinearSystem

    def start(self, problem: LinearSystem, stream: Stream) -> State:
        if not problem.positive:
            raise ValueError(f"'{problem.name}' is not known to be symmetric positive definite, which fcg needs: take fgmres")
        zero = torch.zeros_like(problem.rhs)
        return {
            "solution": known_solution(problem),
            "residual": problem.rhs,
            "direction": zero,
            "image": zero,
            "progress": set_out(torch.linalg.vector_norm(problem.rhs)),
        }

    def step(self, problem: LinearSystem, state: State) -> State:
        r, last, image = state["residual"], state["direction"], state["image"]
        if not r.any():
            return state
        p = self.cycle(problem, r)
        if last.any():
            p = p - (p @ image) / (last @ image) * last
        ap = problem.matvec(p)
        curvature = p @ ap
        if not curvature > 0.0:
            raise ValueError(f"p.A p = {curvature.item():.3g} <= 0 along a direction: A is not positive definite; take fgmres")
        alpha = p @ r / curvature
        residual = r - alpha * ap
        return {
            "solution": state["solution"] + alpha * p,
            "residual": residual,
            "direction": p,
            "image": ap,
            "progress": moved_on(state["progress"], torch.linalg.vector_norm(residual)),
        }

    def value(self, state: State) -> Unknowns:
        return state["solution"]

    def residual(self, problem: LinearSystem, state: State) -> Unknowns:
        # Formed anew: the recurrence for r drifts from it by rounding.
        return torch.linalg.vector_norm(problem.residual(state["solution"]))[None] / problem.scale

    def flop(self, problem: LinearSystem) -> float:
        return self.cycle.flop(problem) + problem.flop() + 14.0 * problem.dim

    def size(self, problem: LinearSystem) -> int:
        """Solution, residual, direction and its image."""
        return 4 * problem.dim

    def verdict(self, state: State) -> Verdict:
        """By the smallest residual: that of conjugate gradients grows on the way, while the error falls."""
        return patient_verdict(state["progress"])


def flexible_krylov(
    *,
    method: Literal["fcg", "fgmres"] = "fgmres",
    smoother: Smoother = "jacobi",
    sweeps: int = 1,
    symmetric: bool = False,
    memory: int = 100,
) -> FlexibleCG | FGMRES:
    """FCG(1) or FGMRES around the surrogate's approximate solve and Jacobi sweeps: the best use of what refinement just adds.

    Without a surrogate both are their plain selves, the baseline.

    :param method: 'fgmres' for any system and surrogate, 'fcg' for symmetric positive definite ones
    :param smoother: 'jacobi', or 'none' for the approximate solve alone
    :param sweeps: Jacobi sweeps after the approximate solve, 1 or more; not looked at without a smoother
    :param symmetric: as many sweeps before it too: a symmetric whole where the approximate solve is symmetric
    :param memory: directions that fgmres keeps before it starts anew, 1 or more, each two vectors; fcg keeps one
    """
    if method not in ("fcg", "fgmres"):
        raise ValueError(f"method = {method!r}: should be 'fcg' or 'fgmres'")
    if memory < 1:
        raise ValueError(f"memory = {memory}: fgmres keeps at least one direction")
    after = smoothing(smoother, sweeps)
    cycle = Cycle(before=after if symmetric else 0, after=after)
    return FlexibleCG(cycle) if method == "fcg" else FGMRES(cycle, memory)
