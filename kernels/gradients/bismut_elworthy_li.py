"""Gradients by Bismut-Elworthy-Li weights on the residual, around the problem linearised at each point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kernels.contracts import NORMAL_FLOP, Paths, Positions, SemilinearPDE, Times, Vectors
from kernels.estimators._remainder import Inner, Local, root_time
from kernels.gradients._gradient import VectorDraws
from kernels.streams import Stream


@dataclass(frozen=True)
class BismutElworthyLi:
    """sigma^T grad v(t, x) = E[ int D_s (f(s, X_s, 0, 0) - f(t, x, 0, 0)) I_s ds + (D_T g(X_T) - g(x)) I_T ]
                            + E[ int D_s R(s, X_s) I_s ds ]

    along dX = (mu + sigma f_z) dt + sigma dW, D_s = exp(f_y (s-t)), with f_y and f_z those at (t, x, 0, 0)
    along the whole path, and I the Bismut-Elworthy-Li weight of the law, E[h(X_s) I_s] = sigma^T grad E[h(X_s)].
    What a frozen linearisation leaves is R = (f_y(s, X_s) - f_y) v + (f_z(s, X_s) - f_z).sigma^T grad v + F(v, sigma^T grad v),
    F of second order: the equation is exact for constant mu and sigma, and for geometric Brownian motion. The
    subtracted f(t, x, 0, 0) and g(x) leave the means alone and the variances finite (Fournie et
    al. 1999; Elworthy and Li 1994; on a residual: the defect of arXiv 2504.16172).

    frozen      The first line, at one random time of density 1/(2 sqrt((s-t)(T-t))), which integrates
                the weight's (s-t)^-1/2.
    renewed     The second line, with independent inner draws a, b of (v, sigma^T grad v), each a frozen
                first line at (s, X_s): R = slopes changed.a + B(a, b), B the bilinear form of F.

    What is left, the bias "higher order", is what those inner draws miss themselves: to leading order
    minus the second line with R = slopes changed.c + 2 B(a, c), c a draw of the second line at (s, X_s).
    On a defect v is the surrogate's error, without one v is u.
    """

    terms: tuple[str, ...] = ("frozen", "renewed")
    biases: tuple[str, ...] = ("higher order",)

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> VectorDraws:
        begin, start = t.repeat_interleave(draws), x.repeat_interleave(draws, 0)
        if term == "frozen":
            at = problem.at(t, x, stream, with_source=True)
            source, f_y, f_z = (v.repeat_interleave(draws, 0) for v in (at.source(), *at.slopes()))
            z = _frozen(problem, begin, start, source, f_y, f_z, stream)
        else:
            here = Local(problem, begin, start, problem.at(begin, start, stream, with_source=False))
            z = _renewed(here, stream)[1] if term == "renewed" else _left(here, stream)
        return z.unflatten(0, (-1, draws)).mT

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        cost = problem.costs()
        normals = NORMAL_FLOP * problem.dim
        inner = cost.source + normals + (0.0 if problem.zero_terminal else normals + 2.0 * cost.terminal)
        look = normals + cost.driver
        if term == "frozen":
            return cost.source + draws * inner
        return draws * (cost.driver + look + 2.0 * inner + (0.0 if term == "renewed" else look + inner))

    def rows(self, term: str, draws: int) -> int:
        return draws


def _frozen(problem: SemilinearPDE, t: Paths, x: Vectors, source: Paths, f_y: Paths, f_z: Vectors, stream: Stream) -> Vectors:
    """One draw a row of the first line."""
    left = problem.horizon - t
    elapsed, over_density = root_time(left, stream)
    x_s, weight = problem.law.travel(t, x, elapsed, stream, f_z)
    there = problem.at((t + elapsed).clamp_max(problem.horizon), x_s, stream, with_source=True).source()
    z = (over_density * torch.exp(f_y * elapsed) * (there - source))[:, None] * weight()
    if problem.zero_terminal:
        return z
    end, weight = problem.law.travel(t, x, left, stream, f_z)
    return z + (torch.exp(f_y * left) * problem.terminal(end) - problem.terminal(x))[:, None] * weight()


def _second_line(here: Local, stream: Stream, rest: Callable[[Local, Stream], Paths]) -> Inner:
    """One draw a row of E int D_s R (1, I_s) ds, with ``rest`` a draw of R at a batch of (s, X_s)."""
    problem = here.problem
    elapsed, over_density = root_time(here.left, stream)
    x_s, weight = problem.law.travel(here.s, here.x, elapsed, stream, here.f_z)
    s = (here.s + elapsed).clamp_max(problem.horizon)
    there = Local(problem, s, x_s, problem.at(s, x_s, stream, with_source=False))
    y = over_density * torch.exp(here.f_y * elapsed) * rest(there, stream)
    return y, y[:, None] * weight()


def _slopes_changed(here: Local, there: Local, inner: Inner) -> Paths:
    y, z = inner
    return (there.f_y - here.f_y) * y + ((there.f_z - here.f_z) * z).sum(-1)


def _renewed(here: Local, stream: Stream) -> Inner:
    """One draw a row of the second line, with weight 1 and with I."""

    def rest(there: Local, stream: Stream) -> Paths:
        a = there.inner(stream)
        return _slopes_changed(here, there, a) + there.product(a, there.inner(stream))

    return _second_line(here, stream, rest)


def _left(here: Local, stream: Stream) -> Vectors:
    """One draw a row of the bias "higher order"."""

    def rest(there: Local, stream: Stream) -> Paths:
        c = _renewed(there, stream)
        return _slopes_changed(here, there, c) + 2.0 * there.product(there.inner(stream), c)

    return -_second_line(here, stream, rest)[1]


def bismut_elworthy_li() -> BismutElworthyLi:
    """sigma^T grad of a problem's solution by weights on its source, second order in a surrogate's error."""
    return BismutElworthyLi()
