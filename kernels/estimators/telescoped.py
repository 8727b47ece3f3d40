"""The linearised estimator in Ito-telescoped form: gradients of the surrogate only, along Euler paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import torch

from kernels.contracts import NORMAL_FLOP, Draws, Linearisable, Paths, Positions, SemilinearPDE, Times, Vectors
from kernels.estimators._remainder import HIGHER_ORDER, OPTIONAL, REMAINDER, remainder, remainder_flop, remainder_rows
from kernels.streams import Stream

COMBINATIONS = {
    "telescoped": (1.0,),
    "time step": (-2.0, 2.0),
    "time step left": (-4.0 / 3.0, 4.0, -8.0 / 3.0),
}
"""Weights of Y_n, Y_2n, Y_4n in a draw; see Telescoped."""


@dataclass(frozen=True)
class Telescoped:
    """v(t, x) = E[ D_T g(X_T) + int_t^T D (f - f_y u^ - f_z.z^) ds - int_t^T D z^.dW ] - u^(t, x), D = exp(int f_y),

    along dX = (mu + sigma f_z) dt + sigma dW, f and its slopes at (s, X_s, u^, z^). u^ is the known
    part of the solution of which the problem is the defect, z^ = sigma^T grad u^, and f and g are
    those of the problem that u solves. By Ito's formula along this path,

        d(D u^) = D (u^_t + mu.grad u^ + tr(sigma sigma^T Hess u^)/2 + f_y u^ + f_z.z^) ds + D z^.dW,

    this is the linearised estimator E[ D_T (g - u^)(X_T) + int D r ds ], r the residual of u^,
    with the second derivatives inside r traded for the martingale: W is the path's own noise, and
    z^.dW enters without its drift. No derivative of g is taken. Without a known part u^ = 0, and this
    is Feynman-Kac for the problem linearised at 0.

    telescoped  Y_n: the driver's linearisation at (u^, z^) is renewed in n steps, at
                s_k = T - (T-t)(1 - k/n)^2, and held within each. The problem held so is solved
                exactly where paths are exact, so that the bias is what holding costs: of weak order
                one, C/n, and never below 0 where f is concave in (y, z) and does not see (t, x).
    time step   2 (Y_2n - Y_n), on the same Brownian path, removes C/n (Richardson).
    remainder   What the linearisation leaves out; shared with the linearised estimator, and as there
                a draw takes residuals.

    Left are the biases "time step left", (4/3)(R_n - R_2n) to leading order for R_n = 2 Y_2n - Y_n =
    truth + C'/n^2, and "higher order" of the remainder. Both differences of resolutions go without
    the martingale, whose mean is 0 in each: what remains differs by O(1/n) in every draw instead of
    O(n^-1/2).

    The spread of Y_n is that of z^ within a step and does not fall with the error of u^, but as
    n^-1/2: also an exact u^ leaves it, where the linearised estimator is 0 in every draw. Source:
    Fan, Sun, Yang, Lu, arXiv 2504.16172, for the defect; Newton (SIAM J. Appl. Math. 1994) for
    the martingale as a control variate.
    """

    steps: int

    terms: tuple[str, ...] = ("telescoped", "time step", REMAINDER)
    biases: tuple[str, ...] = ("time step left", HIGHER_ORDER)
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = OPTIONAL

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        if term in (REMAINDER, HIGHER_ORDER):
            return remainder(problem, t, x, term, draws, 1, self.steps, stream).reshape(-1, draws)
        weights = COMBINATIONS[term]
        start = _hold(problem, t, x, stream).repeated(draws)
        paths = [_Path(problem, start, martingale=len(weights) == 1) for _ in weights]
        left, finest = problem.horizon - start.s, 2 ** (len(weights) - 1)
        for k in range(self.steps):
            grid = (1.0 - (k + torch.arange(finest + 1, dtype=torch.float64) / finest) / self.steps).square()
            gaps = -left * grid.diff().to(left)[:, None]
            noise = gaps.sqrt()[:, :, None] * stream.normal(finest, *start.x.shape)
            for level, path in enumerate(paths):
                for h, increment in zip(*(v.unflatten(0, (2**level, -1)).sum(1) for v in (gaps, noise)), strict=True):
                    path.step(h, increment, stream)
        value = torch.zeros_like(left)
        for weight, path in zip(weights, paths, strict=True):
            value += weight * path.total()
        return value.reshape(-1, draws)

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        if term in (REMAINDER, HIGHER_ORDER):
            return remainder_flop(problem, term, draws, 1, self.steps)
        known = problem.known
        look = problem.costs().source if known is None else problem.costs().driver
        end = (problem if known is None else known.problem).costs().terminal
        resolutions = [self.steps * 2**level for level in range(len(COMBINATIONS[term]))]
        paths = sum((steps - 1) * look + end for steps in resolutions)
        return look + draws * (paths + resolutions[-1] * NORMAL_FLOP * problem.dim)

    def rows(self, term: str, draws: int) -> int:
        if term in (REMAINDER, HIGHER_ORDER):
            return remainder_rows(draws, 1, self.steps)
        return draws * 2 ** len(COMBINATIONS[term])


@dataclass(frozen=True)
class _Held:
    """The known part y and z of the solution at a batch of (s, x), and the driver's linearisation f + f_y . + f_z . there."""

    s: Paths
    x: Vectors
    y: Paths
    z: Vectors
    f: Paths
    f_y: Paths
    f_z: Vectors

    def repeated(self, draws: int) -> _Held:
        return _Held(*(getattr(self, field.name).repeat_interleave(draws, 0) for field in fields(self)))


def _hold(problem: SemilinearPDE, s: Paths, x: Vectors, stream: Stream) -> _Held:
    if problem.known is None:
        at = problem.at(s, x, stream, with_source=True)
        return _Held(s, x, torch.zeros_like(s), torch.zeros_like(x), at.source(), *at.slopes())
    y, gradient = problem.known.value_and_gradient(s, x)
    z = problem.law.pull(s, x, gradient)
    at = Linearisable(problem.known.problem.driver, s, x, y, z, linear=0.0)
    f_y, f_z = at.slopes()
    return _Held(s, x, y, z, at.source() - f_y * y - (f_z * z).sum(-1), f_y, f_z)


class _Path:
    """A batch of paths along which the linearisation is held from step to step, with what they have gathered."""

    def __init__(self, problem: SemilinearPDE, start: _Held, *, martingale: bool) -> None:
        self.problem, self.martingale = problem, martingale
        self.s, self.x = start.s, start.x
        self.held: _Held | None = start
        self.log_d, self.gathered = torch.zeros_like(start.s), -start.y

    def step(self, h: Paths, increment: Vectors, stream: Stream) -> None:
        """Gather D (f ds - z^.dW) over ``h`` and move, the linearisation of this place held."""
        held, self.held = self.held or _hold(self.problem, self.s, self.x, stream), None
        rise = h * held.f_y
        gain = h * torch.where(rise == 0.0, 1.0, torch.expm1(rise) / rise) * held.f
        if self.martingale:
            gain = gain - (held.z * increment).sum(-1)
        self.gathered = self.gathered + torch.exp(self.log_d) * gain
        self.log_d = self.log_d + rise
        self.x = self.problem.law.move(self.s, self.x, h, torch.addcmul(increment, h[:, None], held.f_z))
        # Rounding must not carry a path past T.
        self.s = (self.s + h).clamp_max(self.problem.horizon)

    def total(self) -> Paths:
        problem = self.problem if self.problem.known is None else self.problem.known.problem
        return self.gathered + torch.exp(self.log_d) * problem.terminal(self.x)


def telescoped(*, steps: int = 16) -> Telescoped:
    """Feynman-Kac for the problem linearised at the surrogate, its residual telescoped by Ito's formula: gradients only.

    :param steps: times at which a path looks at the surrogate, at least 1
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: a path needs at least one step")
    return Telescoped(steps)
