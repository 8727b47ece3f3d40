"""The inverse with a perturbation of known size: a surrogate whose convergence factor is known beforehand."""

from __future__ import annotations

import torch

from kernels.axes import Unknowns
from kernels.contracts import LinearSystem
from kernels.streams import Stream
from kernels.surrogates._approximate_inverse import ApproximateInverse

MAX_DIM = 2048
"""Unknowns at most: a dense inverse then fills 34 MB, and is formed in a second."""


class PerturbedInverse(ApproximateInverse):
    """B = A^-1 (I + E), E symmetric Gaussian scaled to spectral radius delta: then I - A B = -E, the factor of refinement."""

    inverse: torch.Tensor

    def __init__(self, problem: LinearSystem, *, delta: float) -> None:
        super().__init__(problem)
        self.delta = delta
        self.register_buffer("inverse", torch.zeros(problem.dim, problem.dim, dtype=torch.float64))

    def solve(self, r: Unknowns, /) -> Unknowns:
        return self.inverse @ r

    def solve_flop(self) -> float:
        return 2.0 * self.problem.dim**2

    def fit_cost(self) -> tuple[float, float]:
        return 20.0 * self.problem.dim**3, 8.0 * 6.0 * self.problem.dim**2

    @torch.no_grad()
    def fit(self, stream: Stream) -> list[float]:
        """Form B. Returns the spectral radius of E."""
        n = self.problem.dim
        identity = torch.eye(n, dtype=torch.float64)
        noise = stream.normal(n, n).double()
        noise = noise + noise.T
        noise = noise * (self.delta / torch.linalg.eigvalsh(noise).abs().max())
        self.inverse.copy_(torch.linalg.solve(self.problem.matvec(identity), identity + noise))
        return [self.delta]


def perturbed_inverse(problem: LinearSystem, *, seed: int, delta: float = 0.1) -> PerturbedInverse:
    """A^-1 (I + E) with E symmetric, random, of spectral radius ``delta``: for tests and demonstrations, as it needs A^-1.

    ``seed`` is unused: all that is random is drawn by ``fit``.

    :param delta: spectral radius of E, 0 or more; refinement converges below 1
    """
    if problem.dim > MAX_DIM:
        raise ValueError(f"dim = {problem.dim}: a dense inverse is formed up to dim = {MAX_DIM}; take learned_solver")
    if not delta >= 0.0:
        raise ValueError(f"delta = {delta}: a spectral radius is 0 or more")
    return PerturbedInverse(problem, delta=delta)
