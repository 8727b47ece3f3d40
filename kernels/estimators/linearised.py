"""The linearised (Newton) estimator: the surrogate's error to second order, without nested calls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.contracts import NORMAL_FLOP, Paths, Positions, Samples, SemilinearPDE, Times, Vectors
from kernels.streams import Stream

BIAS_SHARE = 8
"""One draw in this many also samples its own time-step bias and second-order remainder."""


@dataclass(frozen=True)
class Linearised:
    """v(t, x) = E[ D_T g(X_T) + int_t^T D_s f(s, X_s, 0, 0) ds ], D = exp(int f_y ds),

    along dX = (mu + sigma f_z) dt + sigma dW, f_y and f_z at (s, X_s, 0, 0): Feynman-Kac for the
    problem linearised at 0. On a defect, f(., 0, 0) is the residual and what is left out is second
    order in the surrogate's error. No Bismut-Elworthy-Li weight is needed.

    The integral is sampled at ``times`` random times a path, one in each of as many strata of equal
    probability under the arcsine law; so it carries no quadrature error.
    Between two of them the path takes ``steps`` Euler steps of the drift, whose bias is sampled by
    halving them on the same Brownian motion and probes. The remainder is sampled as
    E int D [F(a + b) - F(a - b)]/4 ds, F(v, z) = f(v, z) - f(0, 0) - f_y v - f_z z, with two
    independent inner estimates a, b of (v, z): unbiased where F is quadratic.
    """

    times: int
    steps: int

    biases: tuple[str, ...] = ("time step", "remainder")

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, draws: int, stream: Stream) -> Samples:
        share = max(1, draws // BIAS_SHARE)
        plain = _Walk(problem, t, x, draws - share, self.times, stream)
        value = plain.run(self.steps, plain.noise(self.steps), stream)
        walk = _Walk(problem, t, x, share, self.times, stream)
        fine_noise = walk.noise(2 * self.steps)
        coarse_noise = [(pair[0::2] + pair[1::2]) / math.sqrt(2.0) for pair in fine_noise]
        coarse = walk.run(self.steps, coarse_noise, stream.clone())
        fine = walk.run(2 * self.steps, fine_noise, stream, pick=walk.strata())
        shape = t.shape[0], -1
        return Samples(
            torch.cat((value.reshape(shape), coarse.reshape(shape)), dim=1),
            # Weak order one: halving the step removes half of its bias.
            {"time step": (2.0 * (coarse - fine)).reshape(shape), "remainder": -walk.remainder(stream).reshape(shape)},
        )

    def flop(self, problem: SemilinearPDE, draws: int) -> float:
        share = max(1, draws // BIAS_SHARE)
        cost = problem.costs()
        normals = NORMAL_FLOP * problem.dim
        ends = 1.0 if cost.terminal else 0.0

        def walk(steps: int) -> float:
            interior = (self.times + ends) * (steps - 1) * cost.driver + self.times * cost.source
            return interior + (self.times + ends) * steps * normals + cost.terminal

        inner = cost.driver + 2.0 * (cost.source + normals + ends * normals + 2.0 * cost.terminal)
        # A coarse walk takes its increments from the fine one.
        shared = (self.times + ends) * self.steps * normals
        return 2.0 * cost.driver + draws * walk(self.steps) + share * (walk(2 * self.steps) + inner - shared)

    def rows(self, draws: int) -> int:
        return draws * (self.times + 1) * self.steps


class _Walk:
    """Paths from the points (t, x): residual times fixed, so that two step sizes can share them."""

    def __init__(self, problem: SemilinearPDE, t: Tensor, x: Tensor, draws: int, times: int, stream: Stream) -> None:
        self.problem, self.stream = problem, stream
        # The first drift is one per point, whatever the number of its draws.
        slope_y, slope_z = problem.at(t, x, stream, with_source=False).slopes()
        self.slope_y, self.slope_z = slope_y.repeat_interleave(draws), slope_z.repeat_interleave(draws, 0)
        self.t, self.x = t.repeat_interleave(draws), x.repeat_interleave(draws, 0)
        left = problem.horizon - self.t
        strata = torch.arange(times)[:, None] + 1.0 - stream.uniform(times, self.t.shape[0])
        elapsed, self.densities = arcsine_times(left, strata / times)
        self.count = times
        if self._has_terminal():
            elapsed = torch.cat((elapsed, left[None]))
        # Rounding may turn two neighbouring times round by an ulp; a step is never negative.
        self.gaps = elapsed.diff(dim=0, prepend=torch.zeros_like(left)[None]).clamp_min(0.0)
        self.picked: tuple[Tensor, ...] = ()

    def _has_terminal(self) -> bool:
        return self.problem.costs().terminal > 0.0

    def noise(self, steps: int) -> list[Tensor]:
        """Standard normals of every step: one (steps, paths, dim) a residual time."""
        return [self.stream.normal(steps, *self.x.shape) for _ in self.gaps]

    def run(self, steps: int, noise: list[Tensor], stream: Stream, pick: Tensor | None = None) -> Paths:
        """One draw a path of the linearised solution, (paths,)."""
        problem = self.problem
        s, x, log_d, total = self.t, self.x, torch.zeros_like(self.t), torch.zeros_like(self.t)
        f_y, f_z = self.slope_y, self.slope_z
        for i, gap in enumerate(self.gaps):
            h = gap / steps
            for k in range(steps):
                x = problem.law.move(x + problem.law.sigma * h[:, None] * f_z, h, h.sqrt()[:, None] * noise[i][k])
                # Rounding must not carry a path past T.
                s = (s + h).clamp_max(problem.horizon)
                last = k == steps - 1
                if last and i == self.count:
                    return total + torch.exp(log_d + h * f_y) * problem.terminal(x)
                at = problem.at(s, x, stream, with_source=last)
                old, (f_y, f_z) = f_y, at.slopes()
                log_d = log_d + 0.5 * h * (old + f_y)
            weight = torch.exp(log_d) / (self.count * self.densities[i])
            total = total + weight * at.source()
            if pick is not None:
                here = s, x, self.count * weight
                chosen = pick == i
                kept = self.picked or here
                self.picked = tuple(
                    torch.where(chosen if new.ndim == 1 else chosen[:, None], new, old)
                    for new, old in zip(here, kept, strict=True)
                )
        return total

    def strata(self) -> Tensor:
        """A residual time for every path, by number: each path its own, or the draws of a chunk would be tied."""
        return (self.count * (1.0 - self.stream.uniform(self.t.shape[0]))).long().clamp_max(self.count - 1)

    def remainder(self, stream: Stream) -> Paths:
        """One draw a path of E int D F(v, z) ds, at the residual times that the last run picked."""
        s, x, weight = self.picked
        at = self.problem.at(s, x, stream, with_source=False)
        f_y, f_z = at.slopes()

        def excess(y: Tensor, z: Tensor) -> Tensor:
            return at.increment(y, z) - f_y * y - (f_z * z).sum(-1)

        y_a, z_a = self._inner(s, x, f_y, f_z, stream)
        y_b, z_b = self._inner(s, x, f_y, f_z, stream)
        return 0.25 * weight * (excess(y_a + y_b, z_a + z_b) - excess(y_a - y_b, z_a - z_b))

    def _inner(self, s: Paths, x: Vectors, f_y: Paths, f_z: Vectors, stream: Stream) -> tuple[Paths, Vectors]:
        """One draw of (v, sigma grad v) at (s, x): one random time, frozen drift, Bismut-Elworthy-Li weight."""
        problem = self.problem
        left = problem.horizon - s
        rho = stream.uniform(s.shape[0]).square()
        elapsed = rho * left
        increment = elapsed.sqrt()[:, None] * stream.normal(*x.shape)
        drift = problem.law.sigma * f_z
        x_r = problem.law.move(x + drift * elapsed[:, None], elapsed, increment)
        source = problem.at((s + elapsed).clamp_max(problem.horizon), x_r, stream, with_source=True).source()
        y = 2.0 * left * rho.sqrt() * torch.exp(f_y * elapsed) * source
        z = y[:, None] * increment / elapsed.clamp_min(torch.finfo(s.dtype).tiny)[:, None]
        if not self._has_terminal():
            return y, z
        increment = left.sqrt()[:, None] * stream.normal(*x.shape)
        discount = torch.exp(f_y * left)
        end = discount * problem.terminal(problem.law.move(x + drift * left[:, None], left, increment))
        gain = end - problem.terminal(x)
        return y + end, z + gain[:, None] * increment / left.clamp_min(torch.finfo(s.dtype).tiny)[:, None]


def arcsine_times(left: Tensor, quantile: Tensor) -> tuple[Tensor, Tensor]:
    """Times elapsed after t at the given quantiles of q(s) = 1/(pi sqrt((s-t)(T-s))), and q there.

    A surrogate's residual is largest in the layer at T and around the evaluation points, where
    its training data are thinnest; where it is flat, the arcsine law costs a factor pi/2 at most.
    Shapes: left = T - t (paths,), quantile (times, paths); returns (times, paths) twice.
    """
    sine, cosine = torch.sin(0.5 * math.pi * quantile), torch.cos(0.5 * math.pi * quantile)
    density = 1.0 / (math.pi * left * (sine * cosine).abs().clamp_min(torch.finfo(left.dtype).tiny))
    return left * sine.square(), density


def linearised(*, times: int = 4, steps: int = 1) -> Linearised:
    """Feynman-Kac for the problem linearised at 0; second order in a surrogate's error.

    :param times: random times of the residual a path, at least 1
    :param steps: Euler steps of the drift between two of them, at least 1
    """
    if times < 1 or steps < 1:
        raise ValueError(f"times = {times}, steps = {steps}: a path needs at least one residual time and one step")
    return Linearised(times, steps)
