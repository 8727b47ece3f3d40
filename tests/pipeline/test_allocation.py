"""Draws over terms and blocks: least work for the error, never beyond the budget, no more than the tolerance needs."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.allocation import BIAS_SHARE, Prices, Standing, forecast, grow, met, next_counts, rates

PRICES = Prices(draws=(64, 32, 32), work=(1e6, 4e6, 2e6), price=(1.0, 1.0, 1.0), summed=2)
VARIANCE = np.array([1.0, 0.01, 0.02])


def variance_of_sum(counts: tuple[int, ...] | list[int], variance: np.ndarray = VARIANCE) -> float:
    return sum(v / (c * d) for v, c, d in zip(variance[:2], counts, PRICES.draws))


def run(
    budget: float,
    *,
    tolerance: float | None = None,
    variances: Callable[[int], np.ndarray] = lambda b: VARIANCE,
    sizes: tuple[int, ...] = (16, 16, 5),
) -> list[list[tuple[int, ...]]]:
    """Every stage of a method whose variances are known, as the fan-out goes through them."""
    blocks = [Standing(size, (0, 0, 0), None, True) for size in sizes]
    stages: list[list[tuple[int, ...]]] = []
    while (grown := grow(blocks, PRICES, budget, tolerant=tolerance is not None)) is not None:
        stages.append(grown)
        blocks = []
        for b, (size, counts) in enumerate(zip(sizes, grown)):
            scaled = variances(b) / (1.0 if tolerance is None else tolerance**2)
            blocks.append(Standing(size, counts, scaled, tolerance is None or not met(scaled, counts, PRICES)))
        assert len(stages) < 200
    return stages


def price(counts: list[tuple[int, ...]], sizes: tuple[int, ...] = (16, 16, 5)) -> float:
    return sum(size * PRICES.cost(c) for size, c in zip(sizes, counts))


def test_draws_go_as_the_root_of_variance_over_cost() -> None:
    """N_l proportional to sqrt(V_l/C_l), and no split of the same work has a smaller variance."""
    rate = rates(VARIANCE, PRICES)
    assert rate[0] / rate[1] == pytest.approx(np.sqrt((1.0 / 1e6) / (0.01 / 4e6)))
    work = rate[0] * 1e6 + rate[1] * 4e6
    best = 1.0 / rate[0] + 0.01 / rate[1]
    assert best == pytest.approx(1.0)
    for factor in (0.5, 0.8, 1.25, 2.0):
        first = rate[0] * factor
        second = (work - first * 1e6) / 4e6
        if second > 0:
            assert 1.0 / first + 0.01 / second > best


def test_a_printed_bias_costs_at_most_its_share() -> None:
    rate = rates(np.array([1.0, 0.01, 1e6]), PRICES)
    assert rate[2] * 2e6 == pytest.approx(BIAS_SHARE * (rate[0] * 1e6 + rate[1] * 4e6))
    assert rates(np.array([1.0, 0.01, 1e-9]), PRICES)[2] < 1e-6


@pytest.mark.parametrize("budget", [10_000, 12_345, 200_000, 3_000_000])
def test_a_budget_is_never_exceeded_nor_left_unused(budget: int) -> None:
    stages = run(budget)
    for old, new in itertools.pairwise(stages):
        assert all(n >= o for a, b in zip(old, new) for o, n in zip(a, b))
        assert price(new) <= 2.0 * price(old) + 1e-6
    assert budget - price(stages[-1]) <= sum(16 * d for d in PRICES.draws) + 16 * 64
    assert price(stages[-1]) <= budget


def test_a_budget_too_small_for_a_pilot_gives_nothing() -> None:
    assert run(37 * 128 - 1) == []
    assert len(run(37 * 128)) == 1


def test_a_tolerance_is_met_without_much_more_work_than_it_needs() -> None:
    tolerance = 0.003
    stages = run(1e12, tolerance=tolerance)
    for counts in stages[-1]:
        assert variance_of_sum(counts) <= tolerance**2
        assert variance_of_sum(counts) > 0.7 * tolerance**2
    assert len(stages) < 20


def test_a_block_that_is_done_gets_no_more() -> None:
    easy = VARIANCE * 1e-6
    stages = run(1e12, tolerance=0.003, variances=lambda b: easy if b == 0 else VARIANCE)
    assert stages[-1][0] == (1, 1, 1)
    assert stages[-1][1] == stages[-1][2] != (1, 1, 1)


def test_nothing_varies_nothing_is_drawn_after_the_pilot() -> None:
    assert run(1e9, variances=lambda b: np.zeros(3)) == [[(1, 1, 1)] * 3]


def test_the_forecast_is_where_it_ends_when_variances_stay() -> None:
    start = [Standing(16, (1, 1, 1), VARIANCE / 1e-5, True), Standing(5, (1, 1, 1), VARIANCE / 1e-5, True)]
    ended = forecast(start, PRICES, 1e12, tolerant=True)
    assert all(met(VARIANCE / 1e-5, counts, PRICES) for counts in ended)
    tight = forecast(start, PRICES, 50_000, tolerant=True)
    assert sum(b.size * PRICES.cost(c) for b, c in zip(start, tight)) <= 50_000
    assert not all(met(VARIANCE / 1e-5, counts, PRICES) for counts in tight)


def test_counts_never_shrink_whatever_the_variances_become() -> None:
    assert next_counts(np.array([1e-9, 1.0, 0.0]), PRICES, (50, 1, 1), 1e5, tolerant=False)[0] == 50
