"""The PDE residual objective of a physics-informed neural network."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from kernels.contracts import NORMAL_FLOP, Paths, SemilinearPDE, Surrogate, Vectors
from kernels.defect import residual as pde_residual
from kernels.objectives._drift import Drift
from kernels.random_times import arcsine_times
from kernels.streams import Stream

DRIFT_STEPS = 32
"""Euler steps of a drifting path up to its point, graded towards T as those of the path objective."""


class ResidualLoss(nn.Module):
    """Mean of (r(s, X_s)/p(s))^2 at random times along paths from the evaluation points, exact Laplacian.

    One point a path: s on [t, T] from the density p/(T - t), X_s from its law, so that the loss sees
    what a correction visits. With p = 1 the residual counts alike at all times. The arcsine law is the
    density of the linearised estimator: E (r/p)^2 then weighs a layer at T, or around the points, no
    more than the spread of that estimator does. No boundary term: the domain has no boundary and g
    is built in.

    A share ``drift`` of the paths drifts as those of the linearised equation do, in DRIFT_STEPS steps.
    """

    def __init__(self, problem: SemilinearPDE, surrogate: Surrogate, *, arcsine: bool, drift: float) -> None:
        super().__init__()
        self.problem, self.surrogate, self.arcsine = problem, surrogate, arcsine
        self.drift = Drift(problem, surrogate, drift)

    def sample(self, paths: int, stream: Stream) -> tuple[Tensor, ...]:
        """Collocation points: times (paths,), positions (paths, dim); and the weights 1/p (paths,) where they are not 1.

        With drift: times, starts, elapsed times (paths,), weights, which paths drift (paths,), and
        standard normals (paths, steps, dim); those that do not drift have moved already.
        """
        problem = self.problem
        t, x = problem.sample_points(paths, stream)
        quantile, moving = stream.uniform(paths), torch.zeros(paths, dtype=torch.bool)
        if self.drift.share > 0.0:
            t, x, moving = self.drift.begin(t, x)
        left, weight = problem.horizon - t, torch.ones(paths)
        elapsed = left * quantile
        if self.arcsine:
            (elapsed,), _ = arcsine_times(left, quantile[None])
            weight = 0.5 * math.pi * torch.sin(math.pi * quantile).abs()
        there = problem.law.travel(t, x, elapsed, stream)[0]
        if self.drift.share == 0.0:
            return (t + elapsed, there, weight) if self.arcsine else (t + elapsed, there)
        normals = torch.stack([stream.normal(*x.shape) for _ in range(DRIFT_STEPS)], 1)
        return t, torch.where(moving[:, None], x, there), elapsed, weight, moving, normals

    @torch.no_grad()
    def _moved(self, t: Paths, x: Vectors, elapsed: Paths, moving: Tensor, normals: Tensor) -> tuple[Paths, Vectors]:
        """Where the drifting paths are after the elapsed times, the others where they are."""
        rows = torch.nonzero(moving)[:, 0]
        start, y, left = t[rows], x[rows], self.problem.horizon - t[rows]
        far = 1.0 - (1.0 - elapsed[rows] / left.clamp_min(torch.finfo(left.dtype).tiny)).clamp_min(0.0).sqrt()
        s = start
        for k in range(DRIFT_STEPS):
            later = start + left * (1.0 - (1.0 - (k + 1) / DRIFT_STEPS * far).square())
            # Rounding must not make a step negative, nor carry a path past T.
            h = (later - s).clamp_min(0.0)
            increment = h.sqrt()[:, None] * normals[rows, k] + h[:, None] * self.drift.slope(s, y)
            y, s = self.problem.law.move(s, y, h, increment), later
        return (t + elapsed).clamp_max(self.problem.horizon), x.index_copy(0, rows, y)

    def residuals(self, t: Tensor, x: Tensor, *more: Tensor) -> Tensor:
        """r/p at each point, (paths,): the loss is their mean square."""
        weight: Tensor | float = 1.0
        if self.drift.share > 0.0:
            elapsed, weight, moving, normals = more
            t, x = self._moved(t, x, elapsed, moving, normals)
        elif more:
            (weight,) = more
        return weight * pde_residual(self.problem, self.surrogate, t, x)

    def forward(self, *batch: Tensor) -> Tensor:
        return self.residuals(*batch).square().mean()

    def flop(self, paths: int) -> float:
        """Model FLOP of loss and gradient: three sweeps of the jet, the drift, and the normals."""
        first_order, full = self.surrogate.flop(None)
        driver, normals = self.problem.costs().driver, NORMAL_FLOP * self.problem.dim
        moved = DRIFT_STEPS * self.drift.rows(paths) * (first_order + 4.0 * driver)
        drawn = 1.0 if self.drift.share == 0.0 else 1.0 + DRIFT_STEPS
        return paths * (3.0 * full + 3.0 * driver + drawn * normals) + moved


def residual(
    problem: SemilinearPDE, surrogate: Surrogate, *, times: Literal["uniform", "arcsine"] = "uniform", drift: float = 0.0
) -> ResidualLoss:
    """Squared PDE residual with the exact Laplacian at points the paths visit.

    :param times: law of the times along a path: uniform, or arcsine as the linearised estimator draws them
    :param drift: share of the paths, rounded up, that follow the linearised drift, half of them from the reference point
    """
    return ResidualLoss(problem, surrogate, arcsine={"uniform": False, "arcsine": True}[times], drift=drift)
