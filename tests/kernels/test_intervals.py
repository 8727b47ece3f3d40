"""Intervals on root mean squares, simultaneous intervals, and shrunken biases: they hold as often as they say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kernels.intervals import noise_interval, rms_interval, shrink, student_quantile, summed
from kernels.moments import Moments

RUNS = 2000


def share(hits: list[bool]) -> float:
    return float(np.mean(hits))


def test_the_interval_of_a_root_mean_square_behind_noise_holds_as_often_as_it_says() -> None:
    """2000 seeds of 100 points: 95 % within 2 % (4 s.d.); the plain root mean square of the noisy means never lies in its reach."""
    rng = np.random.default_rng(0)
    v, s = rng.normal(0.0, 1.0, 100), np.full(100, 1.5)
    truth = float(np.sqrt(np.mean(v**2)))
    hits, naive = [], []
    for _ in range(RUNS):
        m = v + s * rng.standard_normal(100)
        low, middle, high = rms_interval(m, s, 0.95)
        hits.append(low <= truth <= high)
        naive.append(low <= np.sqrt(np.mean(m**2)) <= high)
        assert low <= middle <= high
    assert share(hits) == pytest.approx(0.95, abs=0.02)
    assert share(naive) < 0.5


def test_the_interval_of_an_estimates_own_error_holds_the_error_made() -> None:
    rng = np.random.default_rng(1)
    bias, s = np.full(200, 0.3), np.full(200, 1.0)
    made = [float(np.sqrt(np.mean((bias + s * rng.standard_normal(200)) ** 2))) for _ in range(RUNS)]
    low, middle, high = noise_interval(bias, s, 0.95)
    assert share([low <= e <= high for e in made]) == pytest.approx(0.95, abs=0.02)
    assert middle == pytest.approx(np.mean(made), rel=0.01)
    assert share([low <= 1.2 * e <= high for e in made]) < 0.5


@pytest.mark.parametrize("draws", [16, 64])
@pytest.mark.parametrize("points", [1, 10, 1000])
def test_simultaneous_intervals_of_few_draws_hold_at_all_points_together(points: int, draws: int) -> None:
    """1000 runs: 95 % within 2.8 % (4 s.d.); the normal quantile holds 35 % of the time for 16 draws at 1000 points."""
    rng = np.random.default_rng(2)
    ratio = rng.standard_normal((1000, points)) / np.sqrt(rng.chisquare(draws - 1, (1000, points)) / (draws - 1))
    largest = np.abs(ratio).max(1)
    assert share(list(largest <= student_quantile(0.95, draws - 1.0, points))) == pytest.approx(0.95, abs=0.028)
    if points == 1000:
        assert share(list(largest <= student_quantile(0.95, np.inf, points))) < 0.9


def test_the_interval_of_a_sum_of_means_of_few_draws_holds_as_often_as_it_says() -> None:
    """20,000 sums of a mean of 16 and one of 32 draws: 95 % within 0.7 % (4 s.d. and Welch's error); normal intervals hold less."""
    rng = np.random.default_rng(5)
    a, b = Moments.of(rng.standard_normal((20_000, 16))), Moments.of(0.5 * rng.standard_normal((20_000, 32)))
    found = summed([(m.mean, m.standard_error, np.full(20_000, m.count - 1.0)) for m in (a, b)], 2)
    assert found.bias is None and found.se is not None
    assert np.mean(np.abs(found.value) <= found.half_width(0.95)) == pytest.approx(0.95, abs=0.007)
    assert np.mean(np.abs(found.value) <= student_quantile(0.95, np.inf) * found.se) < 0.943


def test_estimates_that_are_all_noise_shrink_to_their_mean() -> None:
    value, error = shrink(np.random.default_rng(3).standard_normal(400), np.ones(400))
    assert np.abs(value).max() < 0.4 and np.ptp(value) < 0.6
    assert 1.0 / 20.0 <= error[0] < 0.5


def test_shrinking_is_nearer_the_truth_than_the_noise() -> None:
    rng = np.random.default_rng(2)
    truth = 0.1 * rng.standard_normal(1000)
    noisy = truth + rng.standard_normal(1000)
    assert np.mean((shrink(noisy, np.ones(1000))[0] - truth) ** 2) < 0.05 * np.mean((noisy - truth) ** 2)


def test_estimates_alone_or_without_noise_are_kept() -> None:
    for estimates, errors in ((np.linspace(-1.0, 2.0, 7), np.zeros(7)), (np.array([5.0]), np.array([4.0]))):
        kept, error = shrink(estimates, errors)
        assert (kept == estimates).all() and (error == errors).all()
    mixed, error = shrink(np.array([3.0, 0.1, -0.1]), np.array([0.0, 1.0, 1.0]))
    assert mixed[0] == 3.0 and error[0] == 0.0


def test_shrinking_does_not_depend_on_the_units_of_any_estimate() -> None:
    rng = np.random.default_rng(6)
    estimate, error, unit = rng.standard_normal(50), rng.uniform(0.5, 1.0, 50), rng.uniform(0.1, 10.0, 50)
    for scaled, plain in zip(shrink(unit * estimate, unit * error), shrink(estimate, error), strict=True):
        np.testing.assert_allclose(scaled, unit * plain, rtol=1e-12)


def scattered(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return 0.2 * rng.standard_normal(200), np.ones(200)


def wide(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 + 0.5 * rng.standard_normal(200), np.ones(200)


def alone(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.array([2.0]), np.ones(1)


def growing(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    left = rng.uniform(0.0, 1.0, 200) ** 2
    return 0.5 * left, left


@pytest.mark.parametrize("biases", [scattered, wide, alone, growing])
def test_intervals_widened_by_shrunken_biases_hold_the_truth_where_the_noise_is_large(biases: Callable[..., Any]) -> None:
    """500 runs, the noise of the bias ten times the estimate's: 95 % or more of all, and 93 % or more of the widest third."""
    rng = np.random.default_rng(4)
    hits, early = [], []
    for _ in range(500):
        bias, noise = biases(rng)
        own = 0.1 * noise
        estimate = bias + own * rng.standard_normal(len(bias))
        found, unknown = shrink(bias + noise * rng.standard_normal(len(bias)), noise)
        held = np.abs(estimate) <= student_quantile(0.95, np.inf) * np.sqrt(own**2 + unknown**2) + np.abs(found)
        hits.append(held.mean())
        early.append(held[noise >= np.quantile(noise, 0.67)].mean())
    assert np.mean(hits) >= 0.945 and np.mean(early) >= 0.93
