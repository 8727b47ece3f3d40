"""The dual bound of piecewise affine drivers of (y, z): the worst drift, paid for by its entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from kernels.bounds._bound import Side, Values
from kernels.bounds._walk import original, require_steps, surrogate
from kernels.contracts import NORMAL_FLOP, Draws, Paths, Positions, SemilinearPDE, Times, Vectors
from kernels.streams import Stream


@dataclass(frozen=True)
class Entropic:
    """v <= (1/gamma) log E exp(gamma eta_0) for f = max_a (p_a y + q_a sum z + c_a); v >= the mirror image for a minimum.

    v is the supremum over adapted choices a of E_a[D_T g + int D (r + G_a) ds], in the measure of
    drift q_a, r the surrogate's residual and G_a = (the affine function a - f)(u^, z^) <= 0. By Donsker
    and Varadhan's E_a[Y] <= log E[exp(gamma Y)]/gamma + int E_a |q_a - q|^2 ds/(2 gamma), E of the
    surrogate's own drift q, held within a step; the supremum path by path is then

    eta_n = g(X_T),   eta_k = max_p exp(p h) eta_{k+1} + h [r + max_a (G_a + |q_a - q|^2/(2 gamma D))](s, X_s)

    with s at random in the step, p free between the least and largest p_a, and D the least
    discount: every replacement moves the bound outwards (Jensen; change of measure in the
    information relaxation of Brown and Haugh, Operations Research 2017). With gamma near
    |q_a - q|^2/(2 |G_a|) the bracket is r wherever the driver is off its kinks, and the gap is
    gamma Var(eta)/2, second order in the surrogate's error; on a kink it is of first order. So it
    tells little for a surrogate that puts the paths on the kinks, or that is so poor that gamma^2 Var(eta) > 1.

    Draws are exp(gamma eta_0) on a defect and on a plain problem alike, with u^ = 0 for the latter.
    """

    gamma: float
    steps: int

    terms: tuple[str, ...] = ("entropic",)
    exponential: bool = True
    biases: tuple[str, ...] = ()

    def side(self, problem: SemilinearPDE) -> Side:
        if problem.curvature is None or not problem.pieces:
            raise ValueError(
                f"{problem.name}: curvature = {problem.curvature}, pieces = {problem.pieces}; the entropic bound needs a driver "
                "that is the maximum or minimum of affine functions, stated in pieces"
            )
        return "upper" if problem.curvature == "convex" else "lower"

    def _rate(self, problem: SemilinearPDE) -> float:
        return self.gamma if self.side(problem) == "upper" else -self.gamma

    def read(self, problem: SemilinearPDE, mean: Values) -> Values:
        return np.log(mean) / self._rate(problem)

    @torch.no_grad()
    def sample(self, problem: SemilinearPDE, t: Times, x: Positions, term: str, draws: int, stream: Stream) -> Draws:
        sign = math.copysign(1.0, self._rate(problem))
        s, place = t.repeat_interleave(draws), x.repeat_interleave(draws, 0)
        h = (problem.horizon - s) / self.steps
        discounts = [p for p, _, _ in problem.pieces]
        low, high = min(discounts), max(discounts)
        least = torch.exp(min(low, 0.0) * (problem.horizon - s)).double()
        looks = []
        for _ in range(self.steps):
            _, q = _active(problem, s, place)
            share = stream.uniform(len(s)).to(s)
            s, place = _advance(problem, s, place, share * h, q, stream)
            source = problem.at(s, place, stream, with_source=True).source().double()
            looks.append((share.double(), sign * source + self._excess(problem, s, place, q, least)))
            s, place = _advance(problem, s, place, (1.0 - share) * h, q, stream)
        eta, h = sign * problem.terminal(place).double(), h.double()
        for share, rate in reversed(looks):
            eta = _grow(eta, low, high, (1.0 - share) * h) + h * rate
            eta = _grow(eta, low, high, share * h)
        return torch.exp(self.gamma * eta).reshape(-1, draws)

    def _excess(self, problem: SemilinearPDE, s: Paths, x: Vectors, q: Paths, least: Paths) -> Paths:
        """max_a (G_a + |q_a - q|^2/(2 gamma D)) with f taken along its own sign."""
        margins, _ = _active(problem, s, x)
        price = problem.dim / (2.0 * self.gamma)
        each = [
            margin.double() + price * (slope - q.double()).square() / least
            for margin, (_, slope, _) in zip(margins, problem.pieces, strict=True)
        ]
        return torch.stack(each).amax(0)

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        cost, known = problem.costs(), 0.0 if problem.known is None else problem.known.cost
        step = 2.0 * NORMAL_FLOP * problem.dim + 2.0 * known + cost.source + 4.0 * original(problem).costs().driver
        return draws * (self.steps * step + cost.terminal)

    def rows(self, term: str, draws: int) -> int:
        return draws


def _advance(problem: SemilinearPDE, s: Paths, x: Vectors, part: Paths, q: Paths, stream: Stream) -> tuple[Paths, Vectors]:
    """The path ``part`` later, under the constant drift sigma (q, ..., q)."""
    noise = part.sqrt()[:, None] * stream.normal(*x.shape)
    # Rounding must not carry a path past T.
    return (s + part).clamp_max(problem.horizon), problem.law.move(s, x, part, noise + (part * q)[:, None])


def _active(problem: SemilinearPDE, s: Paths, x: Vectors) -> tuple[list[Paths], Paths]:
    """Each affine function less f at (u^, z^), times the sign that makes it <= 0, and q of the piece that is f there."""
    base, sign = original(problem), 1.0 if problem.curvature == "convex" else -1.0
    y, z = surrogate(problem, s, x)
    f, total = base.driver(s, x, y, z), z.sum(-1)
    margins = torch.stack([sign * (p * y + q * total + c - f) for p, q, c in problem.pieces])
    scale = 1.0 + f.abs() + y.abs() + total.abs()
    nearest, index = margins.max(0)
    if not bool((nearest.abs() <= 1e-4 * scale).all()):
        raise ValueError(
            f"{problem.name}: the driver misses the {'largest' if sign > 0 else 'smallest'} of its pieces {problem.pieces} "
            f"by {nearest.abs().max().item():.1e}: state every piece as (p, q, c) of p y + q sum z + c"
        )
    slopes = torch.tensor([q for _, q, _ in problem.pieces]).to(y)
    return list(margins), slopes[index]


def _grow(eta: Paths, low: float, high: float, gap: Paths) -> Paths:
    """max_p exp(p gap) eta over low <= p <= high."""
    return torch.maximum(eta * torch.exp(low * gap), eta * torch.exp(high * gap))


def entropic(*, gamma: float, steps: int = 8) -> Entropic:
    """Worst drift of a piecewise affine driver, priced by entropy: the other side of its policy bound.

    :param gamma: price, in 1/u, > 0; any value bounds, and the best is near |q_a - q|^2/(2 |G_a|) off the kinks
    :param steps: equal time steps in which the drift is held, at least 1
    """
    if not (math.isfinite(gamma) and gamma > 0.0):
        raise ValueError(f"gamma = {gamma}: the price of entropy must be finite and > 0")
    require_steps(steps)
    return Entropic(gamma, steps)
