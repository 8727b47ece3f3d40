"""Gradients of any estimator by central differences under common random numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from kernels.contracts import Estimator, Positions, SemilinearPDE, Times
from kernels.gradients._gradient import VectorDraws
from kernels.streams import Stream

DIFFERENCE = "difference"
"""The bias of a central difference: what doubling its step changes, over 3 (Richardson)."""


@dataclass(frozen=True)
class CommonNoise:
    """(sigma^T grad u)_i = [Y(x + sigma e_i delta) - Y(x - sigma e_i delta)]/(2 delta) + O(delta^2), term by term,

    Y draws of ``estimator`` from both places out of copies of one stream: the same noise, times and
    probes, so that the difference of two draws is of the size of delta and the quotient that of a
    derivative along the path (Glasserman 2004, section 7.1). It takes 2 dim draws where a weight takes one,
    and its variance lacks the factor of about dim that the weight brings; it has the biases of the
    estimator, the derivatives of which are sampled alike, and no frozen slopes. delta = step sqrt(T).
    """

    estimator: Estimator
    step: float

    @property
    def terms(self) -> tuple[str, ...]:
        return self.estimator.terms

    @property
    def biases(self) -> tuple[str, ...]:
        return (*self.estimator.biases, DIFFERENCE)

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> VectorDraws:
        if term != DIFFERENCE:
            return self._quotient(problem, t, x, term, draws, stream, self.step)
        base, both = self.estimator.terms[0], []
        for step in (2.0 * self.step, self.step):
            both.append(self._quotient(problem, t, x, base, draws, stream.clone(), step))
        return (both[0] - both[1]) / 3.0

    def _quotient(
        self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream, step: float
    ) -> VectorDraws:
        delta, still = step * math.sqrt(problem.horizon), torch.zeros_like(t)
        out = x.new_empty((*x.shape, draws), dtype=torch.float64)
        for i in range(problem.dim):
            along = torch.zeros_like(x)
            along[:, i] = delta
            ahead, behind = (
                self.estimator.sample(problem, t, problem.law.move(t, x, still, way), term, draws, stream.clone()).double()
                for way in (along, -along)
            )
            out[:, i] = (ahead - behind) / (2.0 * delta)
        return out

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        if term == DIFFERENCE:
            return 4.0 * problem.dim * self.estimator.flop(problem, self.estimator.terms[0], draws)
        return 2.0 * problem.dim * self.estimator.flop(problem, term, draws)

    def rows(self, term: str, draws: int) -> int:
        return self.estimator.rows(self.estimator.terms[0] if term == DIFFERENCE else term, draws)


def common_noise(*, estimator: Estimator, step: float = 0.05) -> CommonNoise:
    """sigma^T grad of what an estimator estimates, by central differences of draws that share their noise.

    :param estimator: of the value
    :param step: half the distance of the two places over the spread sigma sqrt(T) of a path, > 0
    """
    if not (math.isfinite(step) and step > 0.0):
        raise ValueError(f"step = {step}: a central difference needs a finite step > 0")
    return CommonNoise(estimator, step)
