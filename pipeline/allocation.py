"""How many chunks every term of every block of points gets next: N_l proportional to sqrt(V_l/C_l)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BIAS_RESOLUTION = 0.5
"""A bias that is printed is sampled until its standard error is this part of the estimate's ..."""

BIAS_SHARE = 0.2
"""... or until it has cost this part of the estimate's work."""

MARGIN = 1.1
"""More draws than the measured variances ask for, so that their own noise seldom costs another round."""


@dataclass(frozen=True)
class Prices:
    """What one chunk of every term has and costs: ``draws`` a point, FLOP ``work`` a draw, ``price`` of a draw.

    ``price`` is the unit of the budget: 1 where draws are bounded, the work where FLOP are. The
    first ``summed`` terms make the estimate, the others are biases that are printed.
    """

    draws: tuple[int, ...]
    work: tuple[float, ...]
    price: tuple[float, ...]
    summed: int

    def cost(self, counts: Sequence[int]) -> float:
        """Price of so many chunks a term, at one point."""
        return sum(c * d * p for c, d, p in zip(counts, self.draws, self.price, strict=True))

    def flop(self, counts: Sequence[int]) -> float:
        """FLOP of so many chunks a term, at one point."""
        return sum(c * d * w for c, d, w in zip(counts, self.draws, self.work, strict=True))


def rates(variance: NDArray[np.float64], prices: Prices) -> list[float]:
    """Draws of every term for a variance of the estimate of 1; all 0 where nothing varies.

    Least work for a given variance of the sum (Giles, Operations Research 2008): N_l = S sqrt(V_l/C_l)
    with S = sum_k sqrt(V_k C_k). A bias b gets BIAS_RESOLUTION^-2 V_b, at most the BIAS_SHARE of S^2.
    """
    work, n = np.asarray(prices.work), prices.summed
    total = float(np.sqrt(variance[:n] * work[:n]).sum())
    draws = np.sqrt(variance / work) * total
    biases = np.minimum(variance[n:] / BIAS_RESOLUTION**2, BIAS_SHARE * total**2 / work[n:])
    return [*draws[:n].tolist(), *biases.tolist()]


def next_counts(
    variance: NDArray[np.float64], prices: Prices, counts: Sequence[int], budget: float, *, tolerant: bool
) -> list[int]:
    """Chunks a term for one block: for the tolerance or the budget, whichever is nearer, never fewer than there are.

    ``variance`` (terms,) is that of one draw over the squared tolerance, so that the tolerance is
    met where the variances of the terms' means sum to 1; without one only their ratios count.
    ``budget`` is the price that may be spent at a point, what is there included.
    """
    rate = rates(variance, prices)
    if not any(rate):
        return list(counts)

    if tolerant:
        enough = [max(c, math.ceil(MARGIN * r / d)) for c, r, d in zip(counts, rate, prices.draws, strict=True)]
        if prices.cost(enough) <= budget:
            return enough
    scale = _largest_scale(rate, prices, counts, budget)
    # A whole number of chunks must not be lost to rounding.
    return [max(c, int(scale * r / d + 1e-9)) for c, r, d in zip(counts, rate, prices.draws, strict=True)]


def _largest_scale(rate: list[float], prices: Prices, counts: Sequence[int], budget: float) -> float:
    """The s with sum_l max(what is there, s rate_l) price_l = budget: piecewise linear in s."""
    there = [c * d for c, d in zip(counts, prices.draws, strict=True)]
    order = sorted((t / r, number) for number, (t, r) in enumerate(zip(there, rate, strict=True)) if r > 0.0)
    fixed = sum(t * p for t, p in zip(there, prices.price, strict=True))
    slope, scale = 0.0, 0.0
    for place, (_, number) in enumerate(order):
        fixed -= there[number] * prices.price[number]
        slope += rate[number] * prices.price[number]
        scale = (budget - fixed) / slope
        if place + 1 == len(order) or scale <= order[place + 1][0]:
            break
    return max(0.0, scale)


@dataclass(frozen=True)
class Standing:
    """One block: its points, its chunks a term, the variances (terms,) of a draw, and whether it needs more."""

    size: int
    counts: tuple[int, ...]
    variance: NDArray[np.float64] | None
    active: bool


def grow(blocks: Sequence[Standing], prices: Prices, budget: float, *, tolerant: bool) -> list[tuple[int, ...]] | None:
    """The next number of chunks of every term of every block, or None where nothing is left to do.

    First one chunk of everything, the pilot; then what an active block has spent at most doubles,
    so that the error is looked at a few times only and stopping early hardly favours lucky draws.
    Where ``budget`` cannot pay for all, the blocks get equal parts of what they ask for.
    """
    if not any(sum(b.counts) for b in blocks):
        pilot = tuple(1 for _ in prices.draws)
        return [pilot for _ in blocks] if sum(b.size * prices.cost(pilot) for b in blocks) <= budget else None

    def proposal(share: float) -> list[tuple[int, ...]]:
        out = []
        for b in blocks:
            spent = prices.cost(b.counts)
            if b.active and b.variance is not None:
                out.append(tuple(next_counts(b.variance, prices, b.counts, spent * (1.0 + share), tolerant=tolerant)))
            else:
                out.append(b.counts)
        return out

    def price(counts: Sequence[tuple[int, ...]]) -> float:
        return sum(b.size * prices.cost(c) for b, c in zip(blocks, counts, strict=True))

    now = [b.counts for b in blocks]
    low, high = 0.0, 1.0
    best = proposal(high)
    if price(best) > budget:
        for _ in range(20):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if price(proposal(middle)) <= budget else (low, middle)
        best = proposal(low)
    return None if best == now else best


def forecast(blocks: Sequence[Standing], prices: Prices, budget: float, *, tolerant: bool) -> list[tuple[int, ...]]:
    """Where ``grow`` ends if the variances stay what they are."""
    now = list(blocks)
    while (grown := grow(now, prices, budget, tolerant=tolerant)) is not None:
        now = [
            Standing(b.size, c, b.variance, b.active and not (tolerant and met(b.variance, c, prices)))
            for b, c in zip(now, grown, strict=True)
        ]
        if any(b.variance is None for b in now):
            break
    return [b.counts for b in now]


def met(variance: NDArray[np.float64] | None, counts: Sequence[int], prices: Prices) -> bool:
    """Whether variances of a draw over the squared tolerance sum to at most 1 at these counts."""
    if variance is None:
        return False
    return sum(v / (c * d) for v, c, d in zip(variance[: prices.summed], counts, prices.draws, strict=False)) <= 1.0
