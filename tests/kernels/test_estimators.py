"""What the estimators' means, standard errors, biases and books are worth."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from oracles import Known, equation, estimator, perturbed

from kernels.contracts import BrownianMotion, Cost, SemilinearPDE, uniform_box
from kernels.defect import defect
from kernels.estimators.linearised import linearised
from kernels.estimators.picard import picard
from kernels.moments import Moments
from kernels.streams import Stream

METHODS = {
    "feynman_kac": {},
    "picard": {"levels": 2, "samples": 2},
    "linearised": {},
}


def quadratic_time(dim: int = 3) -> SemilinearPDE:
    """f = t^2, g = 0, T = 1: u(0, x) = 1/3."""
    return SemilinearPDE(
        name="quadratic_time",
        dim=dim,
        horizon=1.0,
        law=BrownianMotion(),
        driver=lambda t, x, y, z: t.square(),
        terminal=lambda x: torch.zeros_like(x[:, 0]),
        sample_points=uniform_box(dim, 1.0, 0.5),
    )


@pytest.mark.parametrize("name", ["picard", "linearised"])
def test_the_time_integral_is_weighted(name: str) -> None:
    """4 s.e. of 40,000 draws: false positive 6 in 10^5; the unweighted mean would be 0.2 (rho density 1/2) and is 50 s.e. off."""
    method = estimator(name, **({"levels": 1, "samples": 1} if name == "picard" else {"times": 1}))
    t, x = torch.zeros(1), torch.zeros(1, 3)
    moments = Moments.of(method.sample(quadratic_time(), t, x, 40_000, Stream(0, 0)).value.double().numpy())
    assert abs(moments.mean[0] - 1 / 3) < 4 * moments.standard_error[0] < 0.02
    assert abs(0.2 - 1 / 3) > 10 * moments.standard_error[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_point_at_the_final_time_has_its_terminal_value_without_error(name: str) -> None:
    problem = equation("viscous_burgers", 5)
    x = problem.sample_points(4, Stream(0, 0))[1]
    t = torch.full((4,), problem.horizon)
    options = {"levels": 3, "samples": 2} if name == "picard" else METHODS[name]
    samples = estimator(name, **options).sample(problem, t, x, 64, Stream(0, 1))
    assert samples.value.equal(problem.terminal(x)[:, None].expand(-1, 64))
    for draws in samples.bias.values():
        assert torch.isfinite(draws).all() and draws.abs().max() < 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_draws_close_to_the_final_time_stay_finite(name: str) -> None:
    problem = equation("lqg", 6)
    x = problem.sample_points(2000, Stream(0, 0))[1]
    t = problem.horizon - torch.logspace(-9, 0, 2000)
    samples = estimator(name, **METHODS[name]).sample(problem, t, x, 16, Stream(0, 1))
    assert torch.isfinite(samples.value).all()
    assert all(torch.isfinite(draws).all() for draws in samples.bias.values())


@pytest.mark.parametrize("name", METHODS)
def test_doubling_the_draws_divides_the_standard_error_by_root_two(name: str) -> None:
    problem = equation("viscous_burgers", 5)
    t, x = problem.sample_points(8, Stream(0, 0))
    few, many = (
        Moments.of(estimator(name, **METHODS[name]).sample(problem, t, x, n, Stream(0, n)).value.numpy()) for n in (4096, 8192)
    )
    ratio = math.sqrt(np.mean(few.standard_error**2) / np.mean(many.standard_error**2))
    assert ratio == pytest.approx(math.sqrt(2.0), rel=0.05)


@pytest.mark.parametrize("name", METHODS)
def test_draws_at_different_points_are_uncorrelated(name: str) -> None:
    """Two copies of one point; |correlation| < 5/sqrt(n): shared noise would give 1."""
    problem = equation("viscous_burgers", 5)
    t, x = problem.sample_points(1, Stream(0, 0))
    n = 4096
    draws = estimator(name, **METHODS[name]).sample(problem, t.expand(2), x.expand(2, -1), n, Stream(0, 3)).value.double()
    correlation = torch.corrcoef(draws)[0, 1].abs().item()
    assert correlation < 5 / math.sqrt(n)


class Seeds:
    """Means of many independent seeds at some points, with the exact value and the printed bias."""

    def __init__(self, problem: SemilinearPDE, size: float, method: Any, seeds: int, draws: int) -> None:
        surrogate = perturbed(problem, size)
        t, x = problem.sample_points(6, Stream(11, 0))
        t = 0.5 * t
        assert problem.solution is not None
        base = surrogate.u(t.double(), x.double()).numpy()
        self.exact = problem.solution.value(t.double(), x.double()).numpy()
        error = defect(problem, surrogate)
        samples = [method.sample(error, t, x, draws, Stream(seed, 3, 0, 0)) for seed in range(seeds)]
        means = Moments.of(np.stack([s.value.double().mean(1).numpy() for s in samples], axis=-1))
        self.value, self.error = base + means.mean, means.standard_error
        biases = [sum(draws.double().mean(1) for draws in s.bias.values()).numpy() for s in samples]
        pooled = Moments.of(np.stack(biases, axis=-1))
        self.bias, self.bias_error = pooled.mean, pooled.standard_error

    def agrees(self, shift: float = 0.0) -> bool:
        """Mean within 4 standard errors of the exact value plus the printed bias, at every point."""
        off = np.abs(self.value * (1.0 + shift) - self.exact - self.bias)
        return bool((off <= 4 * np.hypot(self.error, self.bias_error)).all())


@pytest.mark.parametrize(("name", "dim"), [("viscous_burgers", 6), ("diffusion_reaction", 4)])
def test_the_mean_of_200_seeds_is_the_exact_value_plus_the_printed_bias(name: str, dim: int) -> None:
    """False positive: 6 points at 4 s.e., 4 in 10^4. A planted bias of 1 % of u is caught."""
    seeds = Seeds(equation(name, dim), 0.05, linearised(), seeds=200, draws=32)
    assert seeds.agrees()
    assert not seeds.agrees(shift=0.01)
    assert not seeds.agrees(shift=-0.01)


def test_the_printed_bias_is_the_remainder_where_that_is_large() -> None:
    """f = 1 - y^2 with a surrogate off by 0.2: the linearised mean alone is far from the truth, with its printed bias it is not.

    4 s.e. on both; the remainder is over 8 of them, so that leaving it out is seen.
    """
    problem = replace(
        quadratic_time(2),
        driver=lambda t, x, y, z: 1.0 - y.square(),
        terminal=lambda x: torch.ones_like(x[:, 0]),
    )
    # u = 1; the surrogate is 1 - 0.2 (1 - t).
    error = defect(problem, Known(lambda t, x: 1.0 - 0.2 * (1.0 - t) + 0.0 * x.sum(-1)))
    t, x = torch.zeros(1), torch.zeros(1, 2)
    samples = linearised(times=2, steps=4).sample(error, t, x, 400_000, Stream(4, 0))
    value = Moments.of(samples.value.double().numpy())
    bias = {cause: Moments.of(draws.double().numpy()) for cause, draws in samples.bias.items()}
    off = value.mean[0] - 0.2
    spread = math.sqrt(value.standard_error[0] ** 2 + sum(b.standard_error[0] ** 2 for b in bias.values()))
    remainder = bias["remainder"].mean[0]
    assert abs(remainder) > 8 * spread
    # The printed bias is the leading order: its own third-order rest is within a quarter of it here.
    assert abs(off - sum(b.mean[0] for b in bias.values())) < 4 * spread + 0.25 * abs(remainder)
    assert abs(off) > 0.5 * abs(remainder)


def slow_mlp(
    problem: SemilinearPDE, n: int, m: int, t: float, x: np.ndarray, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """U_n and its z at one point: the displayed formula, term by term, one sample at a time."""
    d, horizon, sigma, mu = len(x), problem.horizon, problem.law.sigma, problem.law.mu
    if n == 0:
        return 0.0, np.zeros(d)

    def g(at: np.ndarray) -> float:
        return float(problem.terminal(torch.tensor(at)[None])[0])

    def f(s: float, at: np.ndarray, y: float, z: np.ndarray) -> float:
        row = torch.tensor([s], dtype=torch.float64), torch.tensor(at)[None], torch.tensor([y]), torch.tensor(z)[None]
        return float(problem.driver(*row)[0])

    total = np.zeros(1 + d)
    total[0] = g(x)
    for _ in range(m**n):
        w = math.sqrt(horizon - t) * rng.standard_normal(d)
        gain = g(x + mu * (horizon - t) + sigma * w) - g(x)
        total += gain * np.concatenate(([1.0], w / (horizon - t))) / m**n
    for level in range(n):
        for _ in range(m ** (n - level)):
            rho = (1.0 - rng.random()) ** 2
            gap = rho * (horizon - t)
            w = math.sqrt(gap) * rng.standard_normal(d)
            r, at = t + gap, x + mu * gap + sigma * w
            value = f(r, at, *slow_mlp(problem, level, m, r, at, rng))
            if level > 0:
                value -= f(r, at, *slow_mlp(problem, level - 1, m, r, at, rng))
            weighted = (horizon - t) * 2.0 * math.sqrt(rho) * value
            total += weighted * np.concatenate(([1.0], w / gap)) / m ** (n - level)
    return total[0], total[1:]


def test_picard_equals_a_literal_transcription_in_law() -> None:
    """800 literal against 20,000 fast draws of U_2, M = 2: means within 4 s.e., spreads within 20 % (5 s.d. of the literal one)."""
    problem = equation("viscous_burgers", 3, sigma=1.0)
    t, x = torch.tensor([0.1], dtype=torch.float64), torch.tensor([[0.2, -0.1, 0.3]], dtype=torch.float64)
    rng = np.random.default_rng(0)
    slow = Moments.of(np.array([[slow_mlp(problem, 2, 2, 0.1, x[0].numpy(), rng)[0] for _ in range(800)]]))
    fast = Moments.of(picard(levels=2, samples=2).sample(problem, t, x, 20_000, Stream(0, 0)).value.numpy())
    assert abs(slow.mean[0] - fast.mean[0]) < 4 * math.hypot(slow.standard_error[0], fast.standard_error[0])
    assert math.sqrt(slow.variance[0] / fast.variance[0]) == pytest.approx(1.0, rel=0.2)


def test_picards_truncation_sample_points_at_the_next_level() -> None:
    """E[U_1] - E[U_2] within 4 s.e. of the mean of U_1's truncation sample, and that is over 10 s.e. away from 0."""
    problem = replace(quadratic_time(2), driver=lambda t, x, y, z: 1.0 + y)
    t, x = torch.zeros(1), torch.zeros(1, 2)
    n = 40_000
    one = picard(levels=1, samples=1).sample(problem, t, x, n, Stream(0, 0))
    two = Moments.of(picard(levels=2, samples=1).sample(problem, t, x, n, Stream(0, 1)).value.double().numpy())
    first, bias = Moments.of(one.value.double().numpy()), Moments.of(one.bias["truncation"].double().numpy())
    spread = math.sqrt(two.standard_error[0] ** 2 + first.standard_error[0] ** 2 + bias.standard_error[0] ** 2)
    assert abs(first.mean[0] - two.mean[0] - bias.mean[0]) < 4 * spread
    assert bias.mean[0] < -10 * spread


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("feynman_kac", {}),
        ("picard", {"levels": 3, "samples": 2}),
        ("linearised", {"times": 3, "steps": 2}),
        ("linearised", {"times": 1, "steps": 1}),
    ],
)
def test_the_flop_booked_are_the_rows_evaluated(name: str, options: dict[str, int]) -> None:
    """Counting rows of terminal, source and driver with normals free: exact, but for increments that share one gradient."""
    rows = {"terminal": 0, "source": 0, "first": 0}
    base = quadratic_time(3)

    def terminal(x: torch.Tensor) -> torch.Tensor:
        rows["terminal"] += len(x)
        return x.sum(-1)

    plain = replace(base, terminal=terminal)

    def local(t: torch.Tensor, x: torch.Tensor, stream: Stream, with_source: bool) -> Any:
        rows["source" if with_source else "first"] += len(t)
        return base.at(t, x, stream, with_source=with_source)

    counted = replace(plain, local=local, cost=Cost(driver=0.0, source=1.0, terminal=0.0))
    draws = 64
    method = estimator(name, **options)
    if name == "linearised":
        counted = replace(counted, terminal=base.terminal)
    method.sample(counted, torch.zeros(1), torch.zeros(1, 3), draws, Stream(0, 0))

    def booked(cost: Cost) -> float:
        problem = replace(counted, cost=cost)
        free = replace(problem, cost=Cost(driver=0.0, source=0.0, terminal=0.0))
        return method.flop(problem, draws) - method.flop(free, draws)

    assert booked(Cost(driver=0.0, source=1.0, terminal=0.0)) == pytest.approx(rows["source"], rel=1e-9)
    if name != "linearised":
        # Evaluations at the points themselves, once a point for all draws of a level, are not booked apart.
        assert (
            booked(Cost(driver=0.0, source=0.0, terminal=1.0))
            <= rows["terminal"]
            <= 2.0 * booked(Cost(driver=0.0, source=0.0, terminal=1.0)) + 1
        )


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("picard", {"levels": 0}, "levels = 0"),
        ("picard", {"samples": 0}, "samples = 0"),
        ("linearised", {"times": 0}, "times = 0"),
    ],
)
def test_impossible_options_are_refused_by_value(name: str, options: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        estimator(name, **options)
