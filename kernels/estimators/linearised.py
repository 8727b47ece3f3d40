"""The linearised (Newton) estimator: the surrogate's error to second order, without nested calls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kernels.contracts import NORMAL_FLOP, Draws, Paths, Positions, SemilinearPDE, Times
from kernels.estimators._linear_path import LinearPath, stops
from kernels.estimators._remainder import HIGHER_ORDER, OPTIONAL, REMAINDER, remainder, remainder_flop, remainder_rows
from kernels.streams import Stream

THIN = 2.0**-1.5
"""P(a random time grid is refined once more): between the decay of a refinement's variance and the growth of its cost."""

MAX_REFINEMENT = 4
"""Halvings of the step after which Richardson's extrapolation takes over: a thousandth of the first bias is left."""

FINEST = 1024
"""Steps of a path from which on no more than one more halving is taken."""


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
                [F(a + b) - F(a - b)]/4 with two independent inner estimates a, b of (v, z), means
                of a few draws by one random time each, the drift frozen and the Bismut-Elworthy-Li weight: unbiased where
                F is quadratic. Where F = q |z|^2/2 it is q/2 times the variance of what a path gathers
                (Ito's isometry), without any weight.

    What is left is the bias "higher order": for a quadratic F to leading order -2 E int D B(v, c) ds,
    B the bilinear form of F and c what an inner estimate misses, its own remainder and the freezing of
    its drift; for F = q |z|^2/2 the next cumulant, -q^2/6 k_3. A cubic part of F adds another error of third
    order in v, which is not sampled.

    For a problem with f(., 0, 0) = 0 and without a surrogate this is a first-order expansion in f,
    and the bias says how poor that is. Source: science of the defect, arXiv 2504.16172, with one
    Newton step in place of a Picard step.
    """

    times: int
    steps: int

    terms: tuple[str, ...] = ("linear", "time step", REMAINDER)
    biases: tuple[str, ...] = (HIGHER_ORDER,)
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = OPTIONAL

    @property
    def halvings(self) -> int:
        """Most halvings of a step before the one whose effect is taken."""
        return max(1, min(MAX_REFINEMENT, int(math.log2(FINEST / (2 * self.times * self.steps)))))

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        if term in (REMAINDER, HIGHER_ORDER):
            return remainder(problem, t, x, term, draws, self.times, self.steps, stream).reshape(-1, draws)
        slopes = problem.at(t, x, stream, with_source=False).slopes()
        start = [v.repeat_interleave(draws, 0) for v in (t, x, *slopes)]
        if term == "time step":
            return self._refinement(problem, start, stream).reshape(-1, draws)
        return self._walk(problem, start, (self.steps,), stream)[0].reshape(-1, draws)

    def _walk(self, problem: SemilinearPDE, start: list[Tensor], steps: tuple[int, ...], stream: Stream) -> list[Paths]:
        """One draw a row for every number of steps, coarsest first: the same residual times, noise and probes."""
        t, x, f_y, f_z = start
        strata = torch.arange(self.times, device=t.device)[:, None] + 1.0 - stream.uniform(self.times, len(t))
        gaps, densities = stops(problem, problem.horizon - t, strata / self.times)
        paths = [LinearPath(problem, t, x, f_y, f_z) for _ in steps]
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
        level = (torch.log(stream.uniform(len(start[0]))) / math.log(THIN)).long().clamp_max(self.halvings)
        value = torch.zeros_like(start[0])
        for k in range(int(level.max()) + 1):
            rows = torch.nonzero(level == k)[:, 0]
            if len(rows):
                coarse = self.steps * 2**k
                walked = self._walk(problem, [v[rows] for v in start], (coarse, 2 * coarse), stream)
                # Weak order one: what is left after the last halving is what it changed.
                value[rows] = (
                    (walked[1] - walked[0]) * (2.0 if k == self.halvings else 1.0) / refinement_probability(k, self.halvings)
                )
        return value

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        if term in (REMAINDER, HIGHER_ORDER):
            return remainder_flop(problem, term, draws, self.times, self.steps)
        cost = problem.costs()
        normals = NORMAL_FLOP * problem.dim
        gaps = self.times + (0.0 if problem.zero_terminal else 1.0)

        def path(steps: int) -> float:
            return gaps * (steps - 1) * cost.driver + self.times * cost.source + cost.terminal

        if term == "linear":
            each = path(self.steps) + gaps * self.steps * normals
        else:
            each = 0.0
            for k in range(self.halvings + 1):
                coarse = self.steps * 2**k
                each += refinement_probability(k, self.halvings) * (path(coarse) + path(2 * coarse) + 2 * gaps * coarse * normals)
        return cost.driver + draws * each

    def rows(self, term: str, draws: int) -> int:
        if term in (REMAINDER, HIGHER_ORDER):
            return remainder_rows(draws, self.times, self.steps)
        return draws * ({"linear": 1, "time step": 4}[term] * self.steps + 1)


def refinement_probability(k: int, most: int) -> float:
    """P(a step is halved k times, of ``most``, before the difference to one more halving is taken)."""
    return THIN**k if k == most else (1.0 - THIN) * THIN**k


def linearised(*, times: int = 4, steps: int = 1) -> Linearised:
    """Feynman-Kac for the problem linearised at 0; second order in a surrogate's error.

    :param times: random times of the residual a path, at least 1
    :param steps: Euler steps of the drift between two of them, at least 1
    """
    if times < 1 or steps < 1:
        raise ValueError(f"times = {times}, steps = {steps}: a path needs at least one residual time and one step")
    return Linearised(times, steps)
