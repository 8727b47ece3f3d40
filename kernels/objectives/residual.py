"""The PDE residual objective of a physics-informed neural network."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from kernels.contracts import NORMAL_FLOP, Paths, SemilinearPDE, Surrogate, Vectors
from kernels.defect import residual as pde_residual
from kernels.objectives._curriculum import Curriculum
from kernels.objectives._drift import Drift
from kernels.objectives._weighting import Name, Weighting, mean_square, weighting_of
from kernels.random_times import arcsine_times
from kernels.streams import Stream

DRIFT_STEPS = 32
"""Euler steps of a drifting path up to its point, graded towards T as those of the path objective."""


class ResidualLoss(nn.Module):
    """Mean of (r(s, X_s)/p(s))^2 at random times along paths from the evaluation points.

    One point a path: s on [t, T] from the density p/(T - t), X_s from its law, so that the loss sees
    what a correction visits. With p = 1 the residual counts alike at all times. The arcsine law is the
    density of the linearised estimator: E (r/p)^2 then weighs a layer at T, or around the points, no
    more than the spread of that estimator does. No boundary term: the domain has no boundary and g
    is built in.

    A share ``drift`` of the paths drifts as those of the linearised equation do, in DRIFT_STEPS steps.

    With ``probes`` the Laplacian is that along so many random directions a path, half of them in each of
    two residuals r_1, r_2 at the same point, and r_1 r_2 stands for r^2. They are independent, so that its
    mean is r^2 and that of its gradient 2 r grad r; the square of one noisy residual with K directions is
    too large by c^2 (|H|_F^2 - sum_i H_ii^2)/(2 K), H the Hessian and c = sigma^2 (Hutchinson, Commun. Stat.
    1990, for the variance; Hu, Shi, Karniadakis, Kawaguchi, arXiv 2312.14499, for both forms of the loss).
    """

    def __init__(
        self,
        problem: SemilinearPDE,
        surrogate: Surrogate,
        *,
        arcsine: bool,
        drift: float,
        probes: int | None,
        weighting: Weighting | None,
        curriculum: float | None,
    ) -> None:
        super().__init__()
        self.problem, self.surrogate, self.arcsine = problem, surrogate, arcsine
        self.drift, self.probes = Drift(problem, surrogate, drift), probes
        self.weighting, self.curriculum = weighting, Curriculum(problem.horizon, curriculum)

    def sample(self, paths: int, stream: Stream, progress: float = 1.0) -> tuple[Tensor, ...]:
        """Collocation points: times (paths,), positions (paths, dim); and the weights 1/p (paths,) where they are not 1.

        With drift: times, starts, elapsed times (paths,), weights, which paths drift (paths,), and
        standard normals (paths, steps, dim); those that do not drift have moved already. With probes
        their signs (paths, probes, dim) come last. ``progress`` is the share of the steps that is done.
        """
        points = self._points(paths, stream, progress)
        return points if self.probes is None else (*points, stream.signs(paths, self.probes, self.problem.dim))

    def _points(self, paths: int, stream: Stream, progress: float) -> tuple[Tensor, ...]:
        problem = self.problem
        t, x = problem.sample_points(paths, stream)
        quantile, moving = stream.uniform(paths), torch.zeros(paths, dtype=torch.bool)
        if self.drift.share > 0.0:
            t, x, moving = self.drift.begin(t, x)
        wait = self.curriculum.wait(t, progress)
        left, weight = problem.horizon - t - wait, torch.ones(paths)
        elapsed = wait + left * quantile
        if self.arcsine:
            elapsed = wait + arcsine_times(left, quantile[None])[0][0]
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

    def _halves(self, t: Tensor, x: Tensor, *more: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Times, and r/p there once, or twice along directions of their own, each (paths,)."""
        weight: Tensor | float = 1.0
        if self.probes is not None:
            more, signs = more[:-1], more[-1]
        if self.drift.share > 0.0:
            elapsed, weight, moving, normals = more
            t, x = self._moved(t, x, elapsed, moving, normals)
        elif more:
            (weight,) = more
        if self.probes is None:
            return t, (weight * pde_residual(self.problem, self.surrogate, t, x),)
        twice = torch.cat((t, t)), torch.cat((x, x)), torch.cat(signs.chunk(2, 1))
        return t, tuple(weight * r for r in pde_residual(self.problem, self.surrogate, *twice).chunk(2))

    def residuals(self, *batch: Tensor) -> Tensor:
        """r/p at each point, (paths,), times the root of its weight: the loss is their mean square.

        Raises ValueError with probes, whose loss is no square.
        """
        if self.probes is not None:
            raise ValueError(
                f"probes = {self.probes}: the loss is a product of two residuals, no square of one; use probes: null"
            )
        t, (r,) = self._halves(*batch)
        return r if self.weighting is None else r * self.weighting.roots(t)

    def forward(self, *batch: Tensor) -> Tensor:
        t, halves = self._halves(*batch)
        return mean_square(self.weighting, t, halves[0].square() if self.probes is None else halves[0] * halves[1])

    def flop(self, paths: int) -> float:
        """Model FLOP of loss and gradient: three sweeps of the jets, the drift, and the normals."""
        jets, probes = (1, None) if self.probes is None else (2, self.probes // 2)
        first_order, full = self.surrogate.flop(probes)
        driver, normals = self.problem.costs().driver, NORMAL_FLOP * self.problem.dim
        moved = DRIFT_STEPS * self.drift.rows(paths) * (first_order + 4.0 * driver)
        drawn = 1.0 if self.drift.share == 0.0 else 1.0 + DRIFT_STEPS
        return paths * (3.0 * jets * (full + driver) + drawn * normals) + moved


def residual(
    problem: SemilinearPDE,
    surrogate: Surrogate,
    *,
    times: Literal["uniform", "arcsine"] = "uniform",
    drift: float = 0.0,
    probes: int | None = None,
    weighting: Name | None = None,
    bins: int | None = None,
    tolerance: float | None = None,
    rate: float | None = None,
    curriculum: float | None = None,
) -> ResidualLoss:
    """Squared PDE residual at points the paths visit, with the exact Laplacian or along random directions.

    :param times: law of the times along a path: uniform, or arcsine as the linearised estimator draws them
    :param drift: share of the paths, rounded up, that follow the linearised drift, half of them from the reference point
    :param probes: random directions of the Laplacian a path, an even number; null takes it exactly
    :param weighting: of bins of time by their losses: causal, rba (residual-based attention), self_adaptive (SA-PINN), or null
    :param bins: bins of time of a weighting, at least 2; null stands for 16
    :param tolerance: of the causal weighting, in units of one over the loss, > 0; null stands for 1
    :param rate: of rba and self_adaptive, how fast their weights move, > 0; null stands for 0.01
    :param curriculum: share of the steps over which the times reach back from near T to 0; null draws in all from the start
    """
    if probes is not None and (probes < 2 or probes % 2):
        raise ValueError(
            f"probes = {probes}: an even number of random directions, at least 2, for two independent residuals; or null"
        )
    if problem.keeps_kinks and surrogate.meets_terminal:
        raise ValueError(
            f"the terminal condition of '{problem.name}' has kinks, and a surrogate built on it has a Laplacian there that no point "
            "sees: give the problem a profile that is smooth before T, or use objective: path"
        )
    return ResidualLoss(
        problem,
        surrogate,
        arcsine={"uniform": False, "arcsine": True}[times],
        drift=drift,
        probes=probes,
        weighting=weighting_of(weighting, problem.horizon, bins=bins, tolerance=tolerance, rate=rate),
        curriculum=curriculum,
    )
