"""The linearised (Newton) estimator: the surrogate's error to second order, without nested calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.contracts import NORMAL_FLOP, Draws, LocalDriver, Paths, Positions, SemilinearPDE, Times, Vectors
from kernels.streams import Stream

THIN = 2.0**-1.5
"""P(a random time grid is refined once more): between the decay of a refinement's variance and the growth of its cost."""

MAX_REFINEMENT = 4
"""Halvings of the step after which Richardson's extrapolation takes over: a thousandth of the first bias is left."""


@dataclass(frozen=True)
class Linearised:
    """v(t, x) = E[ D_T g(X_T) + int_t^T D_s f(s, X_s, 0, 0) ds ], D = exp(int f_y ds),

    along dX = (mu + sigma f_z) dt + sigma dW, f_y and f_z at (s, X_s, 0, 0): Feynman-Kac for the
    problem linearised at 0. On a defect, f(., 0, 0) is the residual and what is left out is second
    order in the surrogate's error.

    linear      The integral is sampled at ``times`` random times a path, one in each of as many
                strata of equal probability under the arcsine law, without quadrature error. Between
                two of them the path takes ``steps`` Euler steps of the drift.
    time step   Removes the bias of those steps: a step halved a random number k of times against
                one halved k - 1 times, on the same Brownian path and probes, over the probability
                of k (Rhee and Glynn 2015).
    remainder   Adds E int D F(v, z) ds, F(v, z) = f(v, z) - f(0, 0) - f_y v - f_z z, as
                [F(a + b) - F(a - b)]/4 with two independent inner estimates a, b of (v, z) by one
                random time each, the drift frozen and the Bismut-Elworthy-Li weight: unbiased where
                F is quadratic.

    What is left is the bias "higher order": to leading order -2 E int D B(v, c) ds, B the bilinear
    form of F and c what an inner estimate misses, its own remainder and the freezing of its drift.

    For a problem with f(., 0, 0) = 0 and without a surrogate this is a first-order expansion in f,
    and the bias says how poor that is. Source: science of the defect, arXiv 2504.16172, with one
    Newton step in place of a Picard step.
    """

    times: int
    steps: int

    terms: tuple[str, ...] = ("linear", "time step", "remainder")
    biases: tuple[str, ...] = ("higher order",)

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        slopes = problem.at(t, x, stream, with_source=False).slopes()
        start = [v.repeat_interleave(draws, 0) for v in (t, x, *slopes)]
        if term == "linear":
            (value,) = self._walk(problem, start, (self.steps,), stream)
        elif term == "time step":
            value = self._refinement(problem, start, stream)
        else:
            value = self._remainder(problem, start, stream, left=term == "higher order")
        return value.reshape(-1, draws)

    def _walk(self, problem: SemilinearPDE, start: list[Tensor], steps: tuple[int, ...], stream: Stream) -> list[Paths]:
        """One draw a row for every number of steps, coarsest first: the same residual times, noise and probes."""
        t, x, f_y, f_z = start
        left = problem.horizon - t
        strata = torch.arange(self.times)[:, None] + 1.0 - stream.uniform(self.times, len(t))
        elapsed, densities = arcsine_times(left, strata / self.times)
        if not problem.zero_terminal:
            elapsed = torch.cat((elapsed, left[None]))
        # Rounding may turn two neighbouring times round by an ulp; a step is never negative.
        gaps = elapsed.diff(dim=0, prepend=torch.zeros_like(left)[None]).clamp_min(0.0)
        paths = [_Path(problem, t, x, f_y, f_z) for _ in steps]
        finest = steps[-1]
        for i, gap in enumerate(gaps):
            noise = (gap / finest).sqrt()[:, None] * stream.normal(finest, *x.shape)
            for path, count in zip(paths, steps, strict=True):
                increments = noise if count == finest else noise.unflatten(0, (count, -1)).sum(1)
                # Every resolution sees the probes of the finest.
                probes = stream if path is paths[-1] else stream.clone()
                if i < self.times:
                    path.advance(gap, increments, probes, 1.0 / (self.times * densities[i]))
                else:
                    path.finish(gap, increments, probes)
        return [path.total for path in paths]

    def _refinement(self, problem: SemilinearPDE, start: list[Tensor], stream: Stream) -> Paths:
        """(Y_k+1 - Y_k)/P(k) for a random number k of halvings of the step, one a row."""
        level = (torch.log(stream.uniform(len(start[0]))) / math.log(THIN)).long().clamp_max(MAX_REFINEMENT)
        value = torch.zeros_like(start[0])
        for k in range(int(level.max()) + 1):
            rows = torch.nonzero(level == k)[:, 0]
            if len(rows):
                coarse = self.steps * 2**k
                walked = self._walk(problem, [v[rows] for v in start], (coarse, 2 * coarse), stream)
                # Weak order one: what is left after the last halving is what it changed.
                value[rows] = (walked[1] - walked[0]) * (2.0 if k == MAX_REFINEMENT else 1.0) / refinement_probability(k)
        return value

    def _remainder(self, problem: SemilinearPDE, start: list[Tensor], stream: Stream, *, left: bool) -> Paths:
        """One draw a row of E int D F ds at a random time, or of the bias that is left."""
        t, x, f_y, f_z = start
        path = _Path(problem, t, x, f_y, f_z)
        (elapsed,), (density,) = arcsine_times(problem.horizon - t, 1.0 - stream.uniform(1, len(t)))
        steps = self.times * self.steps
        at = path.advance(elapsed, (elapsed / steps).sqrt()[:, None] * stream.normal(steps, *x.shape), stream, None)
        here = _Local(problem, path.s, path.x, at)
        weight, a = torch.exp(path.log_d) / density, here.inner(stream)
        if not left:
            return weight * here.product(a, here.inner(stream))
        y, z = here.second(stream)
        y_unfrozen, z_unfrozen = here.unfrozen(stream)
        return -2.0 * weight * here.product(a, (y + y_unfrozen, z + z_unfrozen))

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        cost = problem.costs()
        normals = NORMAL_FLOP * problem.dim
        ends = 0.0 if problem.zero_terminal else 1.0
        gaps = self.times + ends

        def path(steps: int) -> float:
            return gaps * (steps - 1) * cost.driver + self.times * cost.source + cost.terminal

        inner = cost.source + normals + ends * (normals + 2.0 * cost.terminal)
        if term == "linear":
            each = path(self.steps) + gaps * self.steps * normals
        elif term == "time step":
            each = 0.0
            for k in range(MAX_REFINEMENT + 1):
                coarse = self.steps * 2**k
                each += refinement_probability(k) * (path(coarse) + path(2 * coarse) + 2 * gaps * coarse * normals)
        else:
            each = self.times * self.steps * (cost.driver + normals) + inner
            if term == "remainder":
                each += inner
            else:
                halves = 2.0 * normals + cost.driver
                each += normals + cost.driver + 2.0 * inner + halves + 2.0 * cost.source + ends * (halves + 2.0 * cost.terminal)
        return cost.driver + draws * each

    def rows(self, term: str, draws: int) -> int:
        steps = {"linear": self.steps, "time step": 4 * self.steps}.get(term, self.times * self.steps)
        return draws * (steps + 1)


class _Path:
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


Inner = tuple[Paths, Vectors]
"""A draw of (v, sigma^T grad v)."""

Gather = Callable[[Paths, Vectors, Stream], Paths]
"""What is gathered at the end of a path: (s, X_s, probes) -> (paths,)."""


class _Local:
    """Inner estimates of (v, sigma grad v) at a batch of (s, x), for the problem linearised there."""

    def __init__(self, problem: SemilinearPDE, s: Paths, x: Vectors, at: LocalDriver) -> None:
        self.problem, self.s, self.x, self.at = problem, s, x, at
        self.f_y, self.f_z = at.slopes()
        self.left = problem.horizon - s

    def excess(self, y: Paths, z: Vectors) -> Paths:
        """F(y, z) = f(y, z) - f(0, 0) - f_y y - f_z.z."""
        return self.at.increment(y, z) - self.f_y * y - (self.f_z * z).sum(-1)

    def product(self, a: Inner, b: Inner) -> Paths:
        """[F(a + b) - F(a - b)]/4: the bilinear form of a quadratic F at (a, b), unbiased for independent a and b."""
        (y_a, z_a), (y_b, z_b) = a, b
        return 0.25 * (self.excess(y_a + y_b, z_a + z_b) - self.excess(y_a - y_b, z_a - z_b))

    def _time(self, stream: Stream) -> tuple[Paths, Paths]:
        """Elapsed time rho (T-s) with rho of density 1/(2 sqrt rho), and (T-s) over it."""
        rho = stream.uniform(len(self.s)).square()
        return rho * self.left, 2.0 * self.left * rho.sqrt()

    def inner(self, stream: Stream) -> Inner:
        """One draw of the linear part: one random time, slopes frozen, Bismut-Elworthy-Li weight."""
        problem = self.problem
        elapsed, over_density = self._time(stream)
        x_r, weight = problem.law.travel(self.s, self.x, elapsed, stream, self.f_z)
        source = problem.at((self.s + elapsed).clamp_max(problem.horizon), x_r, stream, with_source=True).source()
        y = over_density * torch.exp(self.f_y * elapsed) * source
        z = y[:, None] * weight()
        if problem.zero_terminal:
            return y, z
        end, weight = problem.law.travel(self.s, self.x, self.left, stream, self.f_z)
        discount = torch.exp(self.f_y * self.left)
        gain = discount * problem.terminal(end)
        return y + gain, z + (gain - problem.terminal(self.x))[:, None] * weight()

    def unfrozen(self, stream: Stream) -> Inner:
        """One draw of twice (slopes renewed half-way - slopes frozen): what freezing costs ``inner``, to first order."""
        problem = self.problem
        elapsed, over_density = self._time(stream)
        y, z = self._halves(elapsed, stream, self._source(over_density))
        if problem.zero_terminal:
            return y, z
        y_end, z_end = self._halves(self.left, stream, lambda r, x, probes: problem.terminal(x))
        return y + y_end, z + z_end

    def _source(self, weight: Paths) -> Gather:
        return lambda r, x, probes: weight * self.problem.at(r, x, probes, with_source=True).source()

    def _halves(self, elapsed: Paths, stream: Stream, gather: Gather) -> Inner:
        problem, half = self.problem, 0.5 * elapsed
        middle, weight = problem.law.travel(self.s, self.x, half, stream, self.f_z)
        there = problem.at((self.s + half).clamp_max(problem.horizon), middle, stream, with_source=False)
        f_y, f_z = there.slopes()
        noise, end = half.sqrt()[:, None] * stream.normal(*self.x.shape), (self.s + elapsed).clamp_max(problem.horizon)

        def payoff(f_y: Paths, f_z: Vectors, probes: Stream) -> Paths:
            x = problem.law.move(self.s + half, middle, half, torch.addcmul(noise, half[:, None], f_z))
            return torch.exp((self.f_y + f_y) * half) * gather(end, x, probes)

        # Both ends see the same probes.
        frozen = payoff(self.f_y, self.f_z, stream.clone())
        change = 2.0 * (payoff(f_y, f_z, stream) - frozen)
        return change, change[:, None] * weight()

    def second(self, stream: Stream) -> Inner:
        """One draw of the second-order part: the product of two inner estimates at one random time."""
        problem = self.problem
        elapsed, over_density = self._time(stream)
        x_r, weight = problem.law.travel(self.s, self.x, elapsed, stream, self.f_z)
        r = (self.s + elapsed).clamp_max(problem.horizon)
        there = _Local(problem, r, x_r, problem.at(r, x_r, stream, with_source=False))
        product = there.product(there.inner(stream), there.inner(stream))
        y = over_density * torch.exp(self.f_y * elapsed) * product
        return y, y[:, None] * weight()


def refinement_probability(k: int) -> float:
    """P(a step is halved k times before the difference to one more halving is taken)."""
    return THIN**k if k == MAX_REFINEMENT else (1.0 - THIN) * THIN**k


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
