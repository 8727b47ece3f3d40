"""Paths of the problem linearised at 0."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import LocalDriver, Paths, SemilinearPDE, Vectors
from kernels.random_times import arcsine_times
from kernels.streams import Stream


def stops(problem: SemilinearPDE, left: Paths, quantiles: Tensor) -> tuple[Tensor, Tensor]:
    """Gaps between the random times at rising quantiles of the arcsine law, and its densities there, (times, paths).

    ``left`` is T - t, (paths,). One gap more leads to T where there is a terminal condition to gather.
    """
    elapsed, densities = arcsine_times(left, quantiles)
    if not problem.zero_terminal:
        elapsed = torch.cat((elapsed, left[None]))
    # Rounding may turn two neighbouring times round by an ulp; a step is never negative.
    return elapsed.diff(dim=0, prepend=torch.zeros_like(left)[None]).clamp_min(0.0), densities


class LinearPath:
    """A batch of paths of the linearised problem, with what they have gathered."""

    def __init__(self, problem: SemilinearPDE, t: Paths, x: Vectors, f_y: Paths, f_z: Vectors) -> None:
        self.problem, self.s, self.x, self.f_y, self.f_z = problem, t, x, f_y, f_z
        self.log_d, self.total = torch.zeros_like(t), torch.zeros_like(t)

    def _step(self, h: Paths, increment: Vectors) -> None:
        law = self.problem.law
        self.x = law.move(self.s, self.x, h, torch.addcmul(increment, h[:, None], self.f_z))
        # Rounding must not carry a path past T.
        self.s = (self.s + h).clamp_max(self.problem.horizon)

    def _look(self, h: Paths, probes: Stream, *, with_source: bool) -> LocalDriver:
        at = self.problem.at(self.s, self.x, probes, with_source=with_source)
        old, (self.f_y, self.f_z) = self.f_y, at.slopes()
        self.log_d = self.log_d + 0.5 * h * (old + self.f_y)
        return at

    def advance(self, gap: Paths, increments: Tensor, probes: Stream, weight: Paths | None) -> LocalDriver:
        """Move by ``gap`` in as many Euler steps as there are increments; gather weight D f(., 0, 0) there, if any."""
        h = gap / len(increments)
        for increment in increments[:-1]:
            self._step(h, increment)
            self._look(h, probes, with_source=False)
        self._step(h, increments[-1])
        at = self._look(h, probes, with_source=weight is not None)
        if weight is not None:
            self.total = self.total + weight * torch.exp(self.log_d) * at.source()
        return at

    def finish(self, gap: Paths, increments: Tensor, probes: Stream) -> None:
        """Move to T and gather D g, the slopes frozen over the last step."""
        h = gap / len(increments)
        for increment in increments[:-1]:
            self._step(h, increment)
            self._look(h, probes, with_source=False)
        self._step(h, increments[-1])
        self.total = self.total + torch.exp(self.log_d + h * self.f_y) * self.problem.terminal(self.x)
