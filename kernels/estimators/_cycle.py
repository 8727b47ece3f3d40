"""One application of a composite preconditioner: damped Jacobi sweeps before and after an approximate solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from kernels.axes import Unknowns
from kernels.contracts import LinearSystem

Smoother = Literal["none", "jacobi"]

DAMPING = 2.0 / 3.0
"""Weight of a Jacobi sweep, which smooths the upper half of the Laplacian's spectrum in one dimension best."""


@dataclass(frozen=True)
class Cycle:
    """r -> z near A^-1 r: ``before`` sweeps, z += B (r - A z), ``after`` sweeps; a sweep is z += (2/3) D^-1 (r - A z).

    An approximate solve that was learned from smooth solutions is blind to all others and the
    smoother to smooth ones: together they see everything (HINTS, Zhang et al., Nat. Mach. Intell. 2024).
    Symmetric B and before = after make it symmetric, as conjugate gradients ask for. Without a
    known B the sweeps are all there is, and without sweeps z = r.
    """

    before: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        if min(self.before, self.after) < 0:
            raise ValueError(f"sweeps before, after = {self.before}, {self.after}: should be 0 or more")

    def __call__(self, problem: LinearSystem, r: Unknowns) -> Unknowns:
        if not r.any():
            # A nonlinear B may divide by the norm of r.
            return torch.zeros_like(r)
        z = self._sweeps(problem, r, None, self.before)
        if problem.known is not None:
            z = problem.known.solve(r) if z is None else z + problem.known.solve(r - problem.matvec(z))
        z = self._sweeps(problem, r, z, self.after)
        return r if z is None else z

    def _sweeps(self, problem: LinearSystem, r: Unknowns, z: Unknowns | None, count: int) -> Unknowns | None:
        """``count`` sweeps from z; None stands for z = 0, which saves a product."""
        if count == 0:
            return z
        if problem.diagonal is None:
            raise ValueError(f"'{problem.name}' gives no diagonal, which a Jacobi sweep divides by: give it, or take no smoother")
        weight = DAMPING / problem.diagonal
        for _ in range(count):
            z = weight * r if z is None else z + weight * (r - problem.matvec(z))
        return z

    def flop(self, problem: LinearSystem) -> float:
        """Model FLOP of one application."""
        known = problem.known
        products = self.before + self.after - (1 if self.before + self.after and (self.before or known is None) else 0)
        products += 1 if known is not None and self.before else 0
        sweeps = 3.0 * problem.dim * (self.before + self.after)
        return products * problem.flop() + sweeps + (known.cost if known is not None else 0.0)


def smoothing(smoother: Smoother, sweeps: int) -> int:
    """Number of sweeps that the two options ask for."""
    if smoother not in ("none", "jacobi"):
        raise ValueError(f"smoother = {smoother!r}: should be 'none' or 'jacobi'")
    if smoother == "jacobi" and sweeps < 1:
        raise ValueError(f"sweeps = {sweeps}: a smoother makes at least one; for no smoothing take smoother 'none'")
    return sweeps if smoother == "jacobi" else 0
