"""Rates of regression-adjusted control variates (Blanchet, Chen, Lu, Ying, arXiv 2305.16527), where they help and where they cannot.

Errors are over independent seeds, slopes least squares of log error in log n. Run with -s to see every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from kernels.contracts import Integral
from kernels.estimators import monte_carlo, truncated_monte_carlo
from kernels.integrands import bump, power_singularity, sine_product
from kernels.regression_adjusted import Estimate, racv_integrate
from kernels.streams import Purpose, Stream

pytestmark = [pytest.mark.slow, pytest.mark.unchecked]


def slope(n: Sequence[float], errors: Sequence[float]) -> float:
    return float(np.polyfit(np.log(n), np.log(errors), 1)[0])


def rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


def truth(problem: Integral) -> float:
    assert problem.value is not None
    return problem.value


def estimates(problem: Integral, n: int, repetitions: int, surrogate: str, **options: object) -> list[Estimate]:
    given = {"q": problem.power, "noise": problem.noise, **options}
    return [
        racv_integrate(problem.integrand, problem.dim, n, surrogate, seed=seed, **given)  # type: ignore[arg-type]
        for seed in range(repetitions)
    ]


def errors(problem: Integral, n: int, repetitions: int, surrogate: str, **options: object) -> np.ndarray:
    return np.array([e.value for e in estimates(problem, n, repetitions, surrogate, **options)]) - truth(problem)


def plain(problem: Integral, n: int, repetitions: int, method: object = None) -> np.ndarray:
    row = torch.zeros(1, dtype=torch.float64), torch.zeros(1, problem.dim, dtype=torch.float64)
    sample = (method or monte_carlo()).sample  # type: ignore[attr-defined]
    streams = (Stream(seed, Purpose.MLP) for seed in range(repetitions))
    return np.array([float(sample(problem, *row, "integrand", n, s).mean()) for s in streams]) - truth(problem)


@pytest.mark.parametrize(
    ("dim", "nodes", "repetitions", "expected", "margin"),
    [
        (4, (4, 5, 6, 7, 8, 9), 200, -1.08, 0.12),
        (2, (6, 8, 11, 15, 20, 28, 39), 300, -1.58, 0.10),
        (1, (8, 16, 32, 64, 128, 256, 512), 200, -2.54, 0.10),
    ],
)
def test_multilinear_interpolation_corrected_is_faster_than_itself_and_than_monte_carlo(
    dim: int, nodes: Sequence[int], repetitions: int, expected: float, margin: float
) -> None:
    """Theory -1/2 - 2/d; the grid's h = 1/(m - 1) makes slopes in n = 2 m^d steeper, so that its own is taken in (m - 1)^d."""
    problem = sine_product(dim)
    n = [2 * m**dim for m in nodes]
    found = [estimates(problem, size, repetitions, "multilinear") for size in n]
    corrected = [rms(np.array([e.value for e in some]) - truth(problem)) for some in found]
    quadrature = [abs(some[0].plug_in - truth(problem)) for some in found]
    monte = [rms(plain(problem, size, repetitions)) for size in n]
    slopes = [slope(n, e) for e in (quadrature, monte, corrected)]
    own = slope([float((m - 1) ** dim) for m in nodes], quadrature)
    gains = monte[-1] / corrected[-1], quadrature[-1] / corrected[-1]
    print(f"\nd = {dim}: quadrature {slopes[0]:.3f} ({own:.3f}), MC {slopes[1]:.3f}, RACV {slopes[2]:.3f}; last gains {gains}")
    assert abs(slopes[2] - expected) <= margin
    assert abs(slopes[1] + 0.5) <= 0.1 and abs(own + 2.0 / dim) <= 0.05
    assert slopes[2] < min(slopes[:2]) - 0.3
    if dim == 4:
        assert min(slopes[:2]) > -0.68 and gains[0] >= 25.0 and gains[1] >= 100.0


@pytest.mark.parametrize(
    ("dim", "sizes", "repetitions", "expected"),
    [(1, range(6, 13), 200, -1.5), (2, range(6, 11), 150, -1.0), (4, range(6, 11), 150, -0.75)],
)
def test_nearest_neighbours_reach_the_rate_of_one_derivative_without_bias(
    dim: int, sizes: Sequence[int], repetitions: int, expected: float
) -> None:
    problem = sine_product(dim)
    n = [2**k for k in sizes]
    found = [errors(problem, size, repetitions, "nearest_neighbours") for size in n]
    bias = [abs(e.mean()) / (e.std(ddof=1) / np.sqrt(len(e))) for e in found]
    rate = slope(n, [rms(e) for e in found])
    print(f"\nd = {dim}: 1-NN RACV {rate:.3f} (theory {expected}), |mean|/se at most {max(bias):.2f}")
    # Two standard deviations of a slope over so few sizes and repetitions.
    assert abs(rate - expected) <= 0.1
    assert max(bias) < 3.5


@pytest.mark.parametrize(
    ("surrogate", "dim", "n", "crossfit"),
    [
        ("nearest_neighbours", 1, 512, False),
        ("nearest_neighbours", 1, 512, True),
        ("nearest_neighbours", 2, 64, True),
        ("multilinear", 2, 512, False),
        ("kernel_ridge", 2, 128, True),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(surrogate: str, dim: int, n: int, crossfit: bool) -> None:
    """1000 seeds: 0.95 within 0.02, three standard deviations; where halves are exchanged the error bar is an upper bound."""
    problem = sine_product(dim)
    options = {"length_scale": 1.0, "ridge": 1e-8} if surrogate == "kernel_ridge" else {}
    found = estimates(problem, n, 1000, surrogate, crossfit=crossfit, **options)
    covered = np.mean([e.ci[0] <= truth(problem) <= e.ci[1] for e in found])
    spread = rms(np.array([e.value for e in found]) - truth(problem)) / rms(np.array([e.se for e in found]))
    print(f"\n{surrogate}, d = {dim}, n = {n}, crossfit {crossfit}: coverage {covered:.3f}, spread over s.e. {spread:.3f}")
    assert 0.93 <= covered <= (1.0 if crossfit else 0.97)


@pytest.mark.parametrize("power", [2, 3])
def test_powers_of_the_integrand_have_the_same_rate(power: int) -> None:
    problem, n = sine_product(2, power=power), [2 * m**2 for m in (6, 8, 11, 15, 20, 28, 39)]
    rate = slope(n, [rms(errors(problem, size, 150, "multilinear")) for size in n])
    print(f"\nq = {power}: RACV {rate:.3f} (theory -1.5)")
    assert abs(rate + 1.5) <= 0.12


def test_a_rare_event_has_one_rate_for_all_and_truncation_the_smallest_constant() -> None:
    """q = 2, p = 3, s = 0.05, d = 1: W^(s,p) is not in L^4. Mean absolute errors, whose rate is q(1/p - s/d) - 1 = -0.433."""
    n, repetitions = [2**k for k in range(6, 13)], 400

    def mean_error(of: Callable[[int], np.ndarray]) -> list[float]:
        return [float(np.abs(of(size)).mean()) for size in n]

    def rare(size: int) -> Integral:
        return bump(1, rarity=size)

    monte = mean_error(lambda size: plain(rare(size), size, repetitions))
    control = mean_error(lambda size: errors(rare(size), size, repetitions, "nearest_neighbours", crossfit=False))
    cut = mean_error(
        lambda size: plain(rare(size), size, repetitions, truncated_monte_carlo(samples=size, p=3.0, s=0.05, scale=0.5))
    )
    slopes = [slope(n, e) for e in (monte, control, cut)]
    ratios = [[a / b for a, b in zip(monte, other, strict=True)] for other in (control, cut)]
    print(f"\nslopes MC, CV, TMC {np.round(slopes, 3)}; MC/CV {np.round(ratios[0], 3)}, MC/TMC {np.round(ratios[1], 3)}")
    assert all(abs(s + 0.433) <= 0.08 for s in slopes)
    assert all(0.55 <= r <= 1.0 for r in ratios[0])
    assert all(1.3 <= r <= 1.8 for r in ratios[1])


def singular(exponent: float, repetitions: int) -> tuple[float, float, list[float]]:
    """Slopes of plain Monte Carlo and of 1-NN control variates, and their ratio at every n."""
    problem, n = power_singularity(1, exponent=exponent), [2**k for k in range(7, 13)]
    monte = [rms(plain(problem, size, repetitions)) for size in n]
    control = [rms(errors(problem, size, repetitions, "nearest_neighbours", crossfit=False)) for size in n]
    return slope(n, monte), slope(n, control), [a / b for a, b in zip(monte, control, strict=True)]


def test_a_mild_singularity_leaves_a_gain_that_grows() -> None:
    """|x - c|^-0.1 squared is in L2: MC -0.5, CV -0.8."""
    monte, control, gains = singular(0.1, 400)
    print(f"\na = 0.1: MC {monte:.3f}, CV {control:.3f}, gains {np.round(gains, 2)}")
    assert abs(control + 0.8) <= 0.08 and abs(monte + 0.5) <= 0.08
    assert gains[0] < 2.5 and gains[-1] > 3.5


def test_a_strong_singularity_leaves_none_and_says_so() -> None:
    """|x - c|^-0.35 squared is not in L2: both have the rate -0.3, and half of the values are spent on the surrogate."""
    monte, control, gains = singular(0.35, 1000)
    print(f"\na = 0.35: MC {monte:.3f}, CV {control:.3f}, gains {np.round(gains, 2)}")
    # Without a variance a root mean square over repetitions is itself heavy-tailed: its mean over the sizes is looked at.
    assert abs(control - monte) <= 0.15
    assert 0.6 <= np.exp(np.mean(np.log(gains))) <= 1.1
    told = {a: np.mean(["no variance" in e.warning for e in estimates(power_singularity(1, exponent=a), 4096, 100, "nearest_neighbours")]) for a in (0.1, 0.35)}  # fmt: skip
    print(f"told so: {told}")
    assert told[0.1] <= 0.05 and told[0.35] >= 0.9


@pytest.mark.parametrize(("decay", "expected"), [(0.0, -0.5), (0.25, -0.75), (0.5, -1.0), (1.0, -1.5), (1.5, -1.5)])
def test_noise_bounds_the_rate_until_it_falls_faster_than_the_surrogate(decay: float, expected: float) -> None:
    """Noise n^-gamma on every value, d = 1, 1-NN: n^max(-1/2 - gamma, -3/2)."""
    n = [2**k for k in range(6, 13)]
    found = [rms(errors(sine_product(1, noise=size**-decay), size, 100, "nearest_neighbours")) for size in n]
    rate = slope(n, found)
    print(f"\ngamma = {decay}: {rate:.3f} (theory {expected})")
    assert abs(rate - expected) <= 0.08


def test_a_smooth_kernel_leaves_monte_carlo_far_behind() -> None:
    problem, n = sine_product(2), [64, 128, 256, 512, 1024]
    found = [rms(errors(problem, size, 20, "kernel_ridge")) for size in n]
    gains = [rms(plain(problem, size, 400)) / e for size, e in zip(n, found, strict=True)]
    print(f"\nMatern-5/2: {slope(n, found):.3f}, gains over MC {np.round(gains)}")
    assert slope(n, found) < -1.9
