"""Multilevel Picard iteration: equal to its literal recursion, and off the truth by the biases it prints."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from estimates import Mean, estimate, sampled
from oracles import OneFeature, at_zero, equation, written

from kernels.defect import defect
from kernels.estimators.picard import Picard, picard
from kernels.streams import Stream

pytestmark = pytest.mark.unchecked

TRUNCATION, NONLINEARITY = "truncation", "nonlinearity"
K = torch.tensor([0.5, -0.3], dtype=torch.float64)


def literal_picard(
    f: Callable[[float, list[float], float, list[float]], float],
    g: Callable[[list[float]], float],
    n: int,
    base: int,
    t: float,
    x: list[float],
    horizon: float,
    rng: np.random.Generator,
    *,
    telescoped: bool = True,
) -> tuple[float, list[float]]:
    """One realisation of U_n(t, x) and its z, literally as displayed in the paper: sigma = 1, mu = 0, U_0 = 0."""
    dim = len(x)
    if n == 0:
        return 0.0, [0.0] * dim
    y, z = g(x), [0.0] * dim
    for _ in range(base**n):
        w = [math.sqrt(horizon - t) * e for e in rng.standard_normal(dim)]
        gain = g([a + b for a, b in zip(x, w)]) - g(x)
        y += gain / base**n
        z = [a + gain * b / (horizon - t) / base**n for a, b in zip(z, w)]
    for level in range(n):
        count = base ** (n - level)
        for _ in range(count):
            rho = (1.0 - rng.random()) ** 2
            r = t + rho * (horizon - t)
            w = [math.sqrt(r - t) * e for e in rng.standard_normal(dim)]
            x_r = [a + b for a, b in zip(x, w)]
            value = f(r, x_r, *literal_picard(f, g, level, base, r, x_r, horizon, rng))
            if level > 0 and telescoped:
                value -= f(r, x_r, *literal_picard(f, g, level - 1, base, r, x_r, horizon, rng))
            value *= (horizon - t) * 2.0 * math.sqrt(rho) / count
            y += value
            z = [a + value * b / (r - t) for a, b in zip(z, w)]
    return y, z


def test_an_iterate_agrees_with_the_literal_recursion_in_mean_and_variance() -> None:
    """Level 3, M = 2, a driver of t, x, y and z with f(., 0, 0) not 0; 1500 literal draws of (y, z) against 40000.

    Means within 4 s.e. (false positives 2 in 10^4 for three), variances within [0.75, 1.33] (measured spread of the ratio
    about 0.05); catches a forgotten telescoping, whose mean is off by more than 10 s.e. The sum of the terms has the mean of
    the iterate, within 4 s.e.
    """
    horizon, x = 0.8, [0.3, -0.2]
    problem = written(
        lambda t, x, y, z: 0.4 * t + 0.5 * torch.sin(2.0 * y) + 0.4 * z.sum(-1) + 0.2 * x[:, 0],
        terminal=lambda x: torch.cos(x.sum(-1)),
        horizon=horizon,
    )

    def f(t: float, x: list[float], y: float, z: list[float]) -> float:
        return 0.4 * t + 0.5 * math.sin(2.0 * y) + 0.4 * sum(z) + 0.2 * x[0]

    rng = np.random.default_rng(5)

    def literal(draws: int, *, telescoped: bool = True) -> np.ndarray:
        runs = [
            literal_picard(f, lambda x: math.cos(sum(x)), 3, 2, 0.1, x, horizon, rng, telescoped=telescoped) for _ in range(draws)
        ]
        return np.array([[y, *z] for y, z in runs])

    method, count = picard(levels=3, samples=2), 40_000
    t_rows = torch.full((count,), 0.1, dtype=torch.float64)
    x_rows = torch.tensor([x], dtype=torch.float64).expand(count, -1)
    y, z = method.iterate(problem, 3, t_rows, x_rows, Stream(4, 0), with_z=True)
    fast, slow = torch.cat((y[:, None], z), 1).numpy(), literal(1500)

    def apart(a: np.ndarray) -> np.ndarray:
        return np.abs(a.mean(0) - fast.mean(0)) / np.sqrt(a.var(0, ddof=1) / len(a) + fast.var(0, ddof=1) / len(fast))

    assert (apart(slow) < 4.0).all()
    ratio = slow.var(0, ddof=1) / fast.var(0, ddof=1)
    assert (ratio > 0.75).all() and (ratio < 1.33).all()
    assert apart(literal(400, telescoped=False))[0] > 10.0
    terms = estimate(method, problem, t_rows[:1], x_rows[:1], 20_000, 4, biases=False).value
    assert abs(terms.mean - y.mean()) <= 4.0 * math.hypot(terms.error.item(), y.std().item() / math.sqrt(count))


@pytest.mark.parametrize(("levels", "bias"), [(1, -0.5), (2, -0.125), (3, -(0.5**3) / 6)])
def test_the_truncation_of_an_exponential_series_is_its_next_term(levels: int, bias: float) -> None:
    """f = y/2, g = 1, T = 1: U_n is the exponential series of 1/2 cut after n terms.

    False positives 6 in 10^5 each (4 s.e.); the wrong sign, and no bias at all, are more than 10 s.e. away.
    """
    problem = written(lambda t, x, y, z: 0.5 * y, terminal=lambda x: torch.ones_like(x[:, 0]))
    method, point = picard(levels=levels, samples=2), at_zero()
    series = sum(0.5**k / math.factorial(k) for k in range(levels))
    value = estimate(method, problem, *point, 8000, levels, biases=False).value
    assert abs(value.mean - series) <= 4.0 * value.error + 1e-12
    found = Mean.of(sampled(method, problem, *point, TRUNCATION, 4000, levels))
    assert abs(found.mean - bias) <= 4.0 * found.error
    assert abs(found.mean + bias) > 10.0 * found.error and abs(found.mean) > 10.0 * found.error


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_the_biases_of_a_quadratic_driver_are_those_of_its_closed_form(samples: int) -> None:
    """f = q |z|^2, g = k.x, T = 1: E U_1 = k.x has z = k, and its noise adds (d + 1)|k|^2/M to |z|^2.

    U_1 leaves out q|k|^2, no more however few its draws; U_2 is off by the noise alone. 4 s.e. (false positives 6 in 10^5 each);
    planted: the noise of U_1 left in the truncation of U_1, and the nonlinearity of the wrong sign.
    """
    q, size, dim, point = 0.3, 0.34, 2, at_zero()
    problem = written(lambda t, x, y, z: q * z.square().sum(-1), terminal=lambda x: x @ K.to(x), dim=dim)
    noise = q * (dim + 1) * size / samples
    first, second = picard(levels=1, samples=samples), picard(levels=2, samples=samples)
    left_out = Mean.of(sampled(first, problem, *point, TRUNCATION, 40_000, 1))
    assert abs(left_out.mean + q * size) <= 4.0 * left_out.error
    with_noise = Mean.of(-sampled(second, problem, *point, "level 1", 40_000, 1))
    assert abs(with_noise.mean + q * size + noise) <= 4.0 * with_noise.error
    assert abs(with_noise.mean + q * size) > 10.0 * with_noise.error
    printed = Mean.of(sampled(second, problem, *point, NONLINEARITY, 40_000, 1))
    assert abs(printed.mean - noise) <= 4.0 * printed.error
    assert abs(printed.mean + noise) > 10.0 * printed.error
    assert not sampled(first, problem, *point, NONLINEARITY, 100, 1).any()
    # E U_2 has z = k again: nothing of its own noise may show.
    last = Mean.of(sampled(second, problem, *point, TRUNCATION, 40_000, 1))
    assert abs(last.mean) <= 4.0 * last.error
    value = estimate(second, problem, *point, 40_000, 1, biases=False).value
    assert abs(value.mean - q * size - noise) <= 4.0 * value.error


def test_the_noise_in_y_is_booked_as_well() -> None:
    """f = q y^2, g = k.x, T = 1: the variance |k|^2 (1-r)/M of U_1 adds q |k|^2/(2M); and the wrong sign is seen."""
    q, size, samples = 0.5, 0.34, 2
    problem = written(lambda t, x, y, z: q * y.square(), terminal=lambda x: x @ K.to(x))
    method, point = picard(levels=2, samples=samples), at_zero()
    found = Mean.of(sampled(method, problem, *point, NONLINEARITY, 100_000, 2))
    noise = 0.5 * q * size / samples
    assert abs(found.mean - noise) <= 4.0 * found.error
    assert abs(found.mean + noise) > 10.0 * found.error


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize(("levels", "explained"), [(1, 0.8), (2, 0.5)])
def test_the_printed_biases_explain_the_miss_on_a_control_problem(levels: int, explained: float, samples: int) -> None:
    """LQG in 5 dimensions, few draws: at level 1 the miss is 0.19, at level 2 the noise in |z|^2 makes it 1.8 to 5.5.

    Less its printed biases level 1 is off by a fifth of its miss at most, level 2 by half, and 4 s.e.; at 0 none is explained.
    Planted: level n itself as the truncation, whose noise is larger than the miss.
    """
    problem = equation("lqg", 5, isotropic=True)
    assert problem.solution is not None
    t, x = at_zero(5)
    x = x + 0.2
    truth = problem.solution.value(t, x)
    method = picard(levels=levels, samples=samples)
    found = estimate(method, problem, t, x, 20_000, 1, seeds=6)
    miss = (found.value.mean - truth).abs()
    assert miss > 10.0 * found.value.error
    assert (found.unbiased - truth).abs() <= (1.0 - explained) * miss + 4.0 * found.error
    if levels == 1:
        assert (1.0 - explained) * miss + 4.0 * found.error < 0.5 * miss
        noisy = Mean.of(-sampled(picard(levels=2, samples=samples), problem, t, x, "level 1", 20_000, 1))
        assert (found.value.mean - noisy.mean - truth).abs() > 5.0 * miss


@pytest.mark.parametrize("dim", [4, 10])
def test_the_correction_of_a_known_error_is_exact_up_to_its_printed_bias(dim: int) -> None:
    """20 streams of 160 draws: false positives 6 in 10^5 a case (4 s.e.); bound to catch a bias of 1 % of u."""
    problem = equation("viscous_burgers", dim)
    x = torch.linspace(-0.3, 0.4, dim, dtype=torch.float64)[None]
    t = torch.full((1,), 0.1 * problem.horizon, dtype=torch.float64)
    surrogate = OneFeature(
        lambda t, w: torch.sigmoid(t + w) + 0.02 * torch.sin(w / dim**0.5 + 1.0) * (problem.horizon - t), meets_terminal=True
    )
    assert problem.solution is not None
    truth = problem.solution.value(t, x)
    v = truth - surrogate.value(t, x)
    found = estimate(picard(levels=2, samples=3), defect(problem, surrogate), t, x, 160, 3, seeds=20)
    assert found.agrees_with(v)
    assert not found.off_by(0.01 * truth).agrees_with(v)


@pytest.mark.parametrize("options", [{"levels": 0}, {"samples": 0}])
def test_impossible_sizes_are_refused_by_value(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} = 0"):
        picard(**options)


def test_the_factory_makes_the_named_estimator() -> None:
    method = picard(levels=3, samples=2)
    assert isinstance(method, Picard)
    assert method.terms == ("terminal", "level 0", "level 1", "level 2")
