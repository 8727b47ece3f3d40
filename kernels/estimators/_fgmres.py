"""Flexible GMRES, one product a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kernels.axes import Unknowns
from kernels.contracts import LinearSystem, State, Stream, Verdict
from kernels.estimators._cycle import Cycle, known_solution
from kernels.estimators._progress import advanced, begun, verdict

PARALLEL = 1e-14
"""Share of A z off the basis below which nothing of it is new."""


@dataclass(frozen=True)
class FGMRES:
    """Minimises |b - A x| over x^ + span(z_1 .. z_j), z_i = M v_i, v_i an orthonormal basis of r and A z_1 .. A z_{j-1}.

    Flexible GMRES (Saad, SISC 1993, algorithm 2.2): for any A and any M, nonlinear ones too; the residual
    never grows. It starts anew after ``memory`` directions, two vectors each, or where A z is no new one.
    SciPy's ``gcrotmk`` is the same method, but cannot be left and taken up again between two products.
    """

    cycle: Cycle
    memory: int
    solves: ClassVar[type] = LinearSystem

    def start(self, problem: LinearSystem, stream: Stream) -> State:
        begin = self._begin(known_solution(problem), problem.rhs)
        return {**begin, "progress": begun(torch.linalg.vector_norm(problem.rhs))}

    def step(self, problem: LinearSystem, state: State) -> State:
        if state["directions"].shape[1] >= self.memory or not state["basis"][:, -1].any():
            solution = self.value(state)
            state = {**state, **self._begin(solution, problem.residual(solution))}
        basis, count = state["basis"], state["directions"].shape[1]
        z = self.cycle(problem, basis[:, -1])
        w = problem.matvec(z)
        whole = torch.linalg.vector_norm(w)
        column = w.new_zeros(count + 2)
        for _ in range(2):
            # Once loses orthogonality where A z is nearly in the span.
            h = basis.T @ w
            w = w - basis @ h
            column[: count + 1] += h
        norm = torch.linalg.vector_norm(w)
        if norm > PARALLEL * whole:
            column[count + 1], w = norm, w / norm
        else:
            w = torch.zeros_like(w)
        hessenberg = torch.cat((torch.nn.functional.pad(state["hessenberg"], (0, 0, 0, 1)), column[:, None]), 1)
        after = {
            **state,
            "basis": torch.cat((basis, w[:, None]), 1),
            "directions": torch.cat((state["directions"], z[:, None]), 1),
            "hessenberg": hessenberg,
        }
        left = hessenberg @ self._weights(after)
        left[0] -= state["norm"][0]
        return {**after, "progress": advanced(state["progress"], torch.linalg.vector_norm(left))}

    @staticmethod
    def _begin(solution: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """A cycle without directions yet; ``norm`` is that of its first residual."""
        norm = torch.linalg.vector_norm(residual)[None]
        return {
            "solution": solution,
            "norm": norm,
            "basis": (residual / norm if norm[0] > 0.0 else residual)[:, None],
            "directions": residual.new_zeros(len(residual), 0),
            "hessenberg": residual.new_zeros(1, 0),
        }

    @staticmethod
    def _weights(state: State) -> Tensor:
        """y that minimises |norm e_1 - H y|."""
        hessenberg = state["hessenberg"]
        right = hessenberg.new_zeros(len(hessenberg), 1)
        right[0] = state["norm"]
        return torch.linalg.lstsq(hessenberg, right, driver="gelsd").solution[:, 0]

    def value(self, state: State) -> Unknowns:
        if not state["directions"].shape[1]:
            return state["solution"]
        return state["solution"] + state["directions"] @ self._weights(state)

    def residual(self, problem: LinearSystem, state: State) -> Unknowns:
        return torch.linalg.vector_norm(problem.residual(self.value(state)))[None] / problem.scale

    def flop(self, problem: LinearSystem) -> float:
        return self.cycle.flop(problem) + problem.flop() + 8.0 * self.memory * problem.dim

    def size(self, problem: LinearSystem) -> int:
        """``memory`` directions, one more vector of the basis, the solution and the Hessenberg matrix."""
        return problem.dim * (2 * self.memory + 2) + self.memory * (self.memory + 1)

    def verdict(self, state: State) -> Verdict:
        """Whether the residual falls, stands or grows."""
        return verdict(state["progress"])
