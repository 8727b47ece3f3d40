"""What a linearisation leaves out: the second-order part of the driver, and the leading order of what that misses."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from kernels.contracts import NORMAL_FLOP, LocalDriver, Paths, Positions, SemilinearPDE, Times, Vectors
from kernels.estimators._cumulants import cumulant, cumulant_flop
from kernels.estimators._linear_path import LinearPath
from kernels.random_times import arcsine_times
from kernels.streams import Stream

REMAINDER, HIGHER_ORDER = "remainder", "higher order"
"""The term that adds E int D F(v, sigma^T grad v) ds, F what a linearisation of f at 0 misses; and what the term misses."""

OPTIONAL: Mapping[str, tuple[str, ...]] = {REMAINDER: (HIGHER_ORDER,)}
"""Without its remainder a linearisation is of first order in what it is linearised in."""

INNER = 4
"""Draws whose mean is an inner estimate: the noise of two such in a product falls with the square of their number."""

Inner = tuple[Paths, Vectors]
"""A draw, or a mean of draws, of (v, sigma^T grad v)."""

Gather = Callable[[Paths, Vectors, Stream], Paths]
"""What is gathered at the end of a path: (s, X_s, probes) -> (paths,)."""


def root_time(left: Paths, stream: Stream) -> tuple[Paths, Paths]:
    """Elapsed time rho (T-s) with rho of density 1/(2 sqrt rho), left = T-s, and left over that density."""
    rho = stream.uniform(len(left)).square()
    return rho * left, 2.0 * left * rho.sqrt()


class Local:
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

    def inner(self, stream: Stream, samples: int = 1) -> Inner:
        """The mean of ``samples`` draws of the linear part: one random time, slopes frozen, Bismut-Elworthy-Li weight."""
        problem = self.problem
        s, x, f_y, f_z, left = (v.repeat_interleave(samples, 0) for v in (self.s, self.x, self.f_y, self.f_z, self.left))
        elapsed, over_density = root_time(left, stream)
        x_r, weight = problem.law.travel(s, x, elapsed, stream, f_z)
        source = problem.at((s + elapsed).clamp_max(problem.horizon), x_r, stream, with_source=True).source()
        y = over_density * torch.exp(f_y * elapsed) * source
        z = y[:, None] * weight()
        if not problem.zero_terminal:
            end, weight = problem.law.travel(s, x, left, stream, f_z)
            gain = torch.exp(f_y * left) * problem.terminal(end)
            y, z = y + gain, z + (gain - problem.terminal(x))[:, None] * weight()
        return y.unflatten(0, (-1, samples)).mean(1), z.unflatten(0, (-1, samples)).mean(1)

    def unfrozen(self, stream: Stream) -> Inner:
        """One draw of twice (slopes renewed half-way - slopes frozen): what freezing costs ``inner``, to first order."""
        problem = self.problem
        elapsed, over_density = root_time(self.left, stream)
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
        elapsed, over_density = root_time(self.left, stream)
        x_r, weight = problem.law.travel(self.s, self.x, elapsed, stream, self.f_z)
        r = (self.s + elapsed).clamp_max(problem.horizon)
        there = Local(problem, r, x_r, problem.at(r, x_r, stream, with_source=False))
        product = there.product(there.inner(stream), there.inner(stream))
        y = over_density * torch.exp(self.f_y * elapsed) * product
        return y, y[:, None] * weight()


def remainder(
    problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, times: int, steps: int, stream: Stream
) -> Paths:
    """``draws`` draws a point of E int D F ds (REMAINDER), or of the bias that is left (HIGHER_ORDER): (points x draws,).

    At one random time, to which the path takes ``times`` x ``steps`` Euler steps; where F = q |z|^2/2, as the
    second cumulant of what a path gathers at ``times`` random times, ``steps`` apart, and minus the third.
    """
    if problem.quadratic is not None:
        sign, order = (1.0, 2) if term == REMAINDER else (-1.0, 3)
        return sign * cumulant(problem, t, x, order, draws, times, steps, stream)
    steps = times * steps
    slopes = problem.at(t, x, stream, with_source=False).slopes()
    path = LinearPath(problem, *(v.repeat_interleave(draws, 0) for v in (t, x, *slopes)))
    (elapsed,), (density,) = arcsine_times(problem.horizon - path.s, 1.0 - stream.uniform(1, len(path.s)))
    at = path.advance(elapsed, (elapsed / steps).sqrt()[:, None] * stream.normal(steps, *path.x.shape), stream, None)
    here = Local(problem, path.s, path.x, at)
    weight, a = torch.exp(path.log_d) / density, here.inner(stream, INNER)
    if term == REMAINDER:
        return weight * here.product(a, here.inner(stream, INNER))
    y, z = here.second(stream)
    y_unfrozen, z_unfrozen = here.unfrozen(stream)
    return -2.0 * weight * here.product(a, (y + y_unfrozen, z + z_unfrozen))


def remainder_flop(problem: SemilinearPDE, term: str, draws: int, times: int, steps: int) -> float:
    """Expected model FLOP of ``draws`` draws of either at one point."""
    if problem.quadratic is not None:
        return cumulant_flop(problem, 2 if term == REMAINDER else 3, draws, times, steps)
    cost = problem.costs()
    normals = NORMAL_FLOP * problem.dim
    ends = 0.0 if problem.zero_terminal else 1.0
    inner = cost.source + normals + ends * (normals + 2.0 * cost.terminal)
    each = times * steps * (cost.driver + normals) + INNER * inner
    if term == REMAINDER:
        each += INNER * inner
    else:
        halves = 2.0 * normals + cost.driver
        each += normals + cost.driver + 2.0 * inner + halves + 2.0 * cost.source + ends * (halves + 2.0 * cost.terminal)
    return cost.driver + draws * each


def remainder_rows(draws: int, times: int, steps: int) -> int:
    """Largest batch of (t, x) alive at once for ``draws`` draws of either at one point, about."""
    return draws * (max(times * steps, INNER) + 1)
