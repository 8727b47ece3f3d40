"""Krylov methods around an approximate solve that may change from step to step, as a nonlinear one does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kernels.axes import Unknowns
from kernels.contracts import LinearSystem, State, Stream, Verdict
from kernels.estimators._cycle import Cycle, Smoother, smoothing
from kernels.estimators._progress import advanced, begun, verdict

PARALLEL = 1e-14
"""Share of A z off the directions already searched below which nothing of z is new."""


@dataclass(frozen=True)
class FlexibleKrylov:
    """The best use of the directions z_i = M r_i that refinement would just add, M a :class:`Cycle` around B.

    ``fgmres`` minimises |b - A x| over their span, for any A and any M, nonlinear ones too: the
    residual never grows. It is written as GCR (Eisenstat, Elman, Schultz, SINUM 1983, algorithm 3.1),
    whose iterates are those of flexible GMRES (Saad, SISC 1993) and which goes on from any step; SciPy's
    ``gcrotmk`` takes whole cycles of products only. Of the directions the last ``memory`` are kept (ORTHOMIN).
    ``fcg`` is the flexible conjugate gradient method FCG(1) (Notay, SISC 2000, equation 2.2) for symmetric
    positive A: two vectors of memory; conjugate gradients where M is symmetric, positive and fixed.
    Without a surrogate both are their plain selves.
    """

    method: Literal["fcg", "fgmres"]
    cycle: Cycle
    memory: int
    solves: ClassVar[type] = LinearSystem

    def start(self, problem: LinearSystem, stream: Stream) -> State:
        if self.method == "fcg" and not problem.positive:
            raise ValueError(f"'{problem.name}' is not known to be symmetric positive definite, which fcg needs: take fgmres")
        zero = torch.zeros_like(problem.rhs)
        return {
            "known": zero if problem.known is None else problem.known.solution,
            "correction": zero,
            "residual": problem.rhs,
            "directions": zero.new_zeros(problem.dim, 0),
            "images": zero.new_zeros(problem.dim, 0),
            "progress": begun(problem.rhs),
        }

    def step(self, problem: LinearSystem, state: State) -> State:
        r, old, images = state["residual"], state["directions"], state["images"]
        z = self.cycle(problem, r)
        q = problem.matvec(z)
        if self.method == "fcg":
            p, ap, gain = self._conjugate(z, q, old, images, r)
            kept = 0
        else:
            p, ap, gain = self._orthogonal(z, q, old, images, r)
            kept = self.memory - 1
        residual = r - gain * ap
        skip = max(0, old.shape[1] - kept)
        return {
            "known": state["known"],
            "correction": state["correction"] + gain * p,
            "residual": residual,
            "directions": torch.cat((old[:, skip:], p[:, None]), 1),
            "images": torch.cat((images[:, skip:], ap[:, None]), 1),
            "progress": advanced(state["progress"], residual),
        }

    @staticmethod
    def _orthogonal(z: Tensor, q: Tensor, old: Tensor, images: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z with its image orthonormal to the old ones, and the length of the step along it."""
        whole = torch.linalg.vector_norm(q)
        for _ in range(2):
            # Once loses orthogonality where A z is nearly among the old images.
            h = images.T @ q
            q, z = q - images @ h, z - old @ h
        norm = torch.linalg.vector_norm(q)
        if not norm > PARALLEL * whole:
            return torch.zeros_like(z), torch.zeros_like(q), norm.new_zeros(())
        return z / norm, q / norm, q @ r / norm

    @staticmethod
    def _conjugate(z: Tensor, q: Tensor, old: Tensor, images: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z made conjugate to the last direction, and the length of the step along it."""
        if old.shape[1] and (curvature := old[:, 0] @ images[:, 0]) > 0.0:
            beta = -(z @ images[:, 0]) / curvature
            z, q = z + beta * old[:, 0], q + beta * images[:, 0]
        curvature = z @ q
        if not curvature > 0.0:
            if z.any():
                raise ValueError(
                    f"p.A p = {curvature.item():.3g} <= 0 along a direction: A is not positive definite; take fgmres"
                )
            return z, q, curvature.new_zeros(())
        return z, q, z @ r / curvature

    def value(self, state: State) -> Unknowns:
        return state["known"] + state["correction"]

    def residual(self, problem: LinearSystem, state: State) -> Unknowns:
        # Formed anew: the recurrence for r drifts from it by rounding.
        return torch.linalg.vector_norm(problem.rhs - problem.matvec(state["correction"]))[None] / problem.scale

    def flop(self, problem: LinearSystem) -> float:
        vectors = 14.0 if self.method == "fcg" else 8.0 * self.memory
        return self.cycle.flop(problem) + problem.flop() + vectors * problem.dim

    def verdict(self, state: State) -> Verdict:
        """Whether the residual falls, stands or grows."""
        return verdict(state["progress"])


def flexible_krylov(
    *,
    method: Literal["fcg", "fgmres"] = "fgmres",
    smoother: Smoother = "jacobi",
    sweeps: int = 1,
    symmetric: bool = False,
    memory: int = 100,
) -> FlexibleKrylov:
    """FCG(1) or FGMRES, preconditioned by the surrogate's approximate solve and Jacobi sweeps.

    :param method: 'fgmres' for any system and surrogate, 'fcg' for symmetric positive definite ones
    :param smoother: 'jacobi', or 'none' for the approximate solve alone
    :param sweeps: Jacobi sweeps after the approximate solve, 1 or more; not looked at without a smoother
    :param symmetric: as many sweeps before it too: symmetric where the approximate solve is
    :param memory: directions that fgmres keeps, 1 or more, each two vectors
    """
    if method not in ("fcg", "fgmres"):
        raise ValueError(f"method = {method!r}: should be 'fcg' or 'fgmres'")
    if memory < 1:
        raise ValueError(f"memory = {memory}: fgmres keeps at least one direction")
    after = smoothing(smoother, sweeps)
    return FlexibleKrylov(method=method, cycle=Cycle(before=after if symmetric else 0, after=after), memory=memory)
