"""What a driver quadratic in z adds to its linearisation: higher cumulants of what a path gathers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.contracts import NORMAL_FLOP, Paths, Positions, SemilinearPDE, Times
from kernels.estimators._linear_path import LinearPath, stops
from kernels.streams import Stream

LEAST_STEPS = 16
"""Euler steps of a path at least: no other term removes what the steps of a cumulant miss."""


def copies(problem: SemilinearPDE, t: Paths, x: Tensor, count: int, times: int, steps: int, stream: Stream) -> Tensor:
    """``count`` estimates, unbiased and independent given the path, of R = g(X_T) + int f(s, X_s, 0, 0) ds: (count, paths).

    Along dX = (mu + sigma f_z) ds + sigma dW, in ``steps`` Euler steps between random times, of which each
    estimate has one in each of ``times`` strata.
    """
    f_y, f_z = problem.at(t, x, stream, with_source=False).slopes()
    path = LinearPath(problem, t, x, f_y, f_z)
    strata = torch.arange(times, device=t.device)[:, None, None] + 1.0 - stream.uniform(times, count, len(t))
    quantiles, owners = strata.sort(1)
    gaps, densities = stops(problem, problem.horizon - t, quantiles.flatten(0, 1) / times)
    gathered = t.new_zeros(count, len(t))
    for i, gap in enumerate(gaps):
        path.total, h = torch.zeros_like(t), gap / steps
        for _ in range(steps - 1):
            path.advance(h, h.sqrt()[:, None] * stream.normal(1, *x.shape), stream, None)
        increments = h.sqrt()[:, None] * stream.normal(1, *x.shape)
        if i < times * count:
            path.advance(h, increments, stream, 1.0 / (times * densities[i]))
            gathered.scatter_add_(0, owners[i // count, i % count][None], path.total[None])
        else:
            path.finish(h, increments, stream)
            gathered += path.total
    return gathered


def finer(order: int, times: int, steps: int) -> int:
    """Euler steps between two random times."""
    return math.ceil(max(LEAST_STEPS, times * steps) / (order * times))


def cumulant(
    problem: SemilinearPDE, t: Times, x: Positions, order: int, draws: int, times: int, steps: int, stream: Stream
) -> Paths:
    """Draws of q^(n-1)/n! k_n(R), k_n the cumulant of order n = 2 or 3, as (points x draws,).

    For f = q |z|^2/2 and what is linear in z, exp(q v) solves a linear equation: v = log E exp(q R)/q,
    the sum over n of these terms, the first of which the linearisation is (Hopf-Cole). A draw takes n independent paths
    with n independent estimates of R on each: products of differences between paths, unbiased for paths of
    that many Euler steps.
    """
    q = problem.quadratic
    assert q is not None
    t, x = t.repeat_interleave(draws * order, 0), x.repeat_interleave(draws * order, 0)
    r = copies(problem, t, x, order, times, finer(order, times, steps), stream)
    if order == 2:
        a, b = r.unflatten(1, (-1, 2)).unbind(-1)
        return q / 4.0 * (a[0] - b[0]) * (a[1] - b[1])
    a, b, c = r.unflatten(1, (-1, 3)).unbind(-1)
    return q**2 / 12.0 * (a[0] - b[0]) * (a[1] - b[1]) * (a[2] + b[2] - 2.0 * c[2])


def cumulant_flop(problem: SemilinearPDE, order: int, draws: int, times: int, steps: int) -> float:
    """Expected model FLOP of ``draws`` draws at one point."""
    cost, visits, steps = problem.costs(), order * times, finer(order, times, steps)
    gaps = visits + (0 if problem.zero_terminal else 1)
    path = gaps * ((steps - 1) * cost.driver + steps * NORMAL_FLOP * problem.dim) + visits * cost.source + cost.terminal
    return draws * order * (cost.driver + path)
