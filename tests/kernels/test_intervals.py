"""Intervals on root mean squares, simultaneous intervals, and shrunken biases: they hold as often as they say."""

import numpy as np
import pytest

from kernels.moments import noise_interval, normal_quantile, rms_interval, shrink, simultaneous_quantile

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


@pytest.mark.parametrize("points", [1, 10, 1000])
def test_simultaneous_intervals_hold_at_all_points_together(points: int) -> None:
    rng = np.random.default_rng(2)
    largest = np.abs(rng.standard_normal((RUNS, points))).max(1)
    assert share(list(largest <= simultaneous_quantile(0.95, points))) == pytest.approx(0.95, abs=0.02)
    if points > 1:
        assert share(list(largest <= normal_quantile(0.95))) < 0.7


def test_estimates_that_are_all_noise_shrink_to_nearly_nothing_with_the_error_of_their_mean() -> None:
    rng = np.random.default_rng(3)
    value, error = shrink(rng.standard_normal(400), np.ones(400))
    assert np.abs(value).max() < 0.25
    assert 1.0 / 20.0 <= error[0] < 0.25


def test_estimates_without_noise_are_kept() -> None:
    value = np.linspace(-1.0, 2.0, 7)
    kept, error = shrink(value, np.zeros(7))
    np.testing.assert_allclose(kept, value)
    assert (error == 0.0).all()
    alone, unknown = shrink(np.array([5.0]), np.array([1.0]))
    assert alone[0] == pytest.approx(5.0 * (1.0 - 1.0 / 25.0)) and unknown[0] == 1.0


def test_shrunken_biases_and_their_errors_hold_the_truth() -> None:
    """200 seeds of 200 true values with spread 1 and noise 2: intervals of 95 % hold 89 to 98 %; without the error they hold none."""
    rng = np.random.default_rng(4)
    hits, bare = [], []
    for _ in range(200):
        v = 0.5 + rng.standard_normal(200)
        value, error = shrink(v + 2.0 * rng.standard_normal(200), np.full(200, 2.0))
        hits.append(np.mean(np.abs(value - v) <= 1.96 * error))
        bare.append(np.mean(value == v))
    assert 0.89 < np.mean(hits) < 0.98
    assert np.mean(bare) == 0.0
