"""Plain Monte Carlo for integrals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from kernels.contracts import Draws, Integral, Positions, Times
from kernels.streams import Stream


@dataclass(frozen=True)
class MonteCarlo:
    """int f^q as the mean of f(X)^q, X uniform on the cube: unbiased, of a defect too.

    With a surrogate of L2 error n^(-s/d) a defect's mean of n draws has the error n^(-1/2-s/d) where f^q is in L2
    (Blanchet, Chen, Lu, Ying, arXiv 2305.16527). The integral has no evaluation point: each row gets draws of its own.
    """

    terms: tuple[str, ...] = ("integrand",)
    biases: tuple[str, ...] = ()
    solves: ClassVar[type] = Integral
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @torch.no_grad()
    def sample(self, problem: Integral, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        places = problem.points(len(t) * draws, stream)
        return problem.draws(places, problem.observe(places, stream)).reshape(-1, draws)

    def flop(self, problem: Integral, term: str, draws: int) -> float:
        return draws * problem.flop()

    def rows(self, term: str, draws: int) -> int:
        return draws


def monte_carlo() -> MonteCarlo:
    """int f^q as the mean of f(X)^q, X uniform: the baseline, and the correction of a surrogate with a known integral."""
    return MonteCarlo()
