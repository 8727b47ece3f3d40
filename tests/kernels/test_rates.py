"""Rates of convergence: the fit and its interval, replicates as draws, and three studies against their literal formulas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels import rates
from kernels.contracts import Estimator, Experiment, Stream
from kernels.estimators import replicates
from kernels.experiments import deep_ritz, graph_laplacian, operator_learning
from kernels.experiments.graph_laplacian import EIGENVALUE, FOURTH, SECOND, eigenvalue, sample
from kernels.experiments.operator_learning import MULTI, SINGLE, risk

pytestmark = pytest.mark.unchecked


def study(errors: Callable[[int, Stream], float] | None = None) -> Experiment:
    """Squared errors z^2 n^-1.3, z normal, and n^-2 without spread."""

    def error(n: int, method: str, stream: Stream) -> float:
        return n**-2.0 if method == "sure" else n**-1.3 * float(stream.normal(1)) ** 2

    return Experiment(
        name="planted",
        dim=1,
        methods=("random", "sure"),
        theory=(-1.3, None),
        error=error,
        sizes=(10, 40, 160),
        source="by hand",
        cost=float,
    )


def test_a_power_law_gives_its_exponent_and_a_spread_its_error() -> None:
    ns = (100, 200, 400)
    mean = np.array([[3.0 * n**-0.75, n**-2.0] for n in ns])
    found, error = rates.slope(ns, mean, 0.1 * mean * np.array([1.0, 0.0]))
    assert found == pytest.approx([-0.75, -2.0])
    assert error == pytest.approx([0.1 * math.sqrt(2.0) / (2.0 * math.log(2.0)), 0.0])


def test_the_interval_of_a_rate_holds_the_truth_as_often_as_it_says() -> None:
    """1000 fits of 40 replicates: 95 % intervals hold in 92 % to 97 %, outside which 95 % is once in 500 times; half as wide
    they hold in 67 %."""
    ns = np.array([10.0, 40.0, 160.0])
    draws = ns[:, None, None] ** -1.3 * Stream(0, 1).normal(3, 1000, 40).double().numpy() ** 2
    found, error = rates.slope(ns, draws.mean(-1), draws.std(-1, ddof=1) / np.sqrt(40))
    assert 0.92 <= np.mean(np.abs(found + 1.3) < 1.96 * error) <= 0.97
    assert np.mean(np.abs(found + 1.3) < 0.98 * error) < 0.8


def test_a_fit_sees_the_spread_of_its_replicates() -> None:
    """600 replicates: the s.e. of a slope over two sizes is sqrt(2 * 2/600)/log 16, to 15 % (3 s.d.)."""
    found = rates.fit(study(), (10, 160), 600)
    assert found.se[0] == pytest.approx(math.sqrt(4.0 / 600.0) / math.log(16.0), rel=0.15)
    assert abs(found.slope[0] + 1.3) < 4.0 * found.se[0]
    assert found.slope[1] == pytest.approx(-2.0) and found.se[1] == pytest.approx(0.0, abs=1e-12)
    assert found.theory[0] == -1.3 and np.isnan(found.theory[1])


def test_a_fit_repeats_itself_and_takes_the_sizes_it_is_given() -> None:
    first, again, other = (rates.fit(study(), (20, 80), 5, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.mean, again.mean) and not np.array_equal(first.mean, other.mean)
    assert first.ns == (20, 80) and first.mean.shape == first.mean_se.shape == (2, 2)


def test_a_draw_at_a_point_is_a_replicate_of_a_method_at_a_size() -> None:
    """3000 draws a point: the mean is n^-1.3 within 4 s.e. (3.7 %), where a forgotten square or the other method is far off."""
    planted, method = study(), replicates()
    assert isinstance(method, Estimator) and method.solves is Experiment and not method.biases
    t, x = planted.points()
    assert x.tolist() == [[10, 0], [40, 0], [160, 0], [10, 1], [40, 1], [160, 1]] and not t.any()
    draws = method.sample(planted, t, x, *method.terms, 3000, Stream(3, 0))
    assert draws.shape == (6, 3000) and draws.dtype == torch.float64
    assert draws[:3].mean(1).numpy() == pytest.approx(x[:3, 0].numpy() ** -1.3, rel=4.0 * math.sqrt(2.0 / 3000))
    assert draws[3:].numpy() == pytest.approx(np.repeat(x[3:, :1].numpy() ** -2.0, 3000, 1))
    assert draws.equal(method.sample(planted, t, x, *method.terms, 3000, Stream(3, 0)))
    assert abs(torch.corrcoef(draws[:2])[0, 1]) < 4.0 / math.sqrt(3000)
    assert method.flop(planted, *method.terms, 7) == 7 * 70.0 and method.rows(*method.terms, 7) == 1


@pytest.mark.parametrize("make", [deep_ritz, operator_learning, graph_laplacian], ids=lambda make: make.__name__)
def test_methods_of_a_study_see_the_same_data_and_draws_other_data_each(make: Callable[..., Experiment]) -> None:
    problem = make(1)
    stream = Stream(5, 0)
    first, second = problem.errors(100, stream), problem.errors(100, stream)
    assert first.shape == (len(problem.methods),) and (first > 0.0).all() and not first.equal(second)
    assert first.equal(problem.errors(100, Stream(5, 0)))
    alone = [problem.error(100, method, Stream(Stream(5, 0).integer(1 << 63))) for method in problem.methods]
    assert alone == first.tolist()
    assert problem.mean_cost() > 0.0 and problem.sizes[0] < problem.sizes[-1]


def test_a_closed_form_risk_is_the_mean_of_its_replicates() -> None:
    """400 draws a point, 4 s.e.; a bias forgotten is half of the risk, which is 10 s.e. or more."""
    problem, method = operator_learning(1, modes=20), replicates()
    t, x = problem.points()
    draws = method.sample(problem, t, x, *method.terms, 400, Stream(1, 0))
    bias, variance = model(20)
    exact = torch.tensor([risk(bias, variance / n, problem.methods[int(m)]) for n, m in x.tolist()])
    error = draws.std(1) / 20.0
    assert ((draws.mean(1) - exact).abs() < 4.0 * error).all() and (0.4 * exact > 10.0 * error).sum() >= 6


def model(modes: int, a: float = 1.0, b: float = 0.25) -> tuple[Tensor, Tensor]:
    i = torch.arange(1.0, modes + 2.0, dtype=torch.float64)
    return i[:, None] ** -2.0 * i**-2.0, i[:, None] ** (2.0 * a) * i ** (-2.0 * b)


def test_no_other_choice_of_entries_beats_the_multilevel_cut_and_no_rectangle_the_single_one() -> None:
    """All 2^16 sets of 4 x 4 entries, the fifth row and column dropped as in the model."""
    bias, variance = model(8)
    noise = variance / 300.0
    places = list(itertools.product(range(3), repeat=2))
    found = {MULTI: math.inf, SINGLE: math.inf}
    rectangles = {frozenset(itertools.product(range(r), range(c))) for r in range(1, 4) for c in range(1, 4)}
    for flags in itertools.product((False, True), repeat=len(places)):
        kept = frozenset(place for place, flag in zip(places, flags, strict=True) if flag)
        mask = torch.zeros_like(bias, dtype=torch.bool)
        for place in kept:
            mask[place] = True
        total = float(noise[mask].sum() + bias[~mask].max())
        found[MULTI] = min(found[MULTI], total)
        if kept in rectangles:
            found[SINGLE] = min(found[SINGLE], total)
    for method, best in found.items():
        assert risk(bias, noise, method) == pytest.approx(best, rel=1e-12)


def test_multilevel_operator_learning_gains_more_the_more_data_there_are() -> None:
    """Ratios of the risks at n = 1e2 .. 1e6, and exponents in the limit."""
    problem = operator_learning(1)
    bias, variance = model(64)
    table = np.array([[risk(bias, variance / n, m) for m in problem.methods] for n in problem.sizes])
    ratio = table[:, 0] / table[:, 1]
    assert (np.diff(ratio) > 0.0).all() and ratio[-1] >= 1.7
    assert rates.slope(problem.sizes, table, 0.0 * table)[0] == pytest.approx([-0.329, -0.382], abs=0.005)
    bias, variance = model(400)
    ns = [1e9, 1e10, 1e11]
    far = np.array([[risk(bias, variance / n, m) for m in problem.methods] for n in ns])
    assert rates.slope(ns, far, 0.0 * far)[0] == pytest.approx(problem.theory, abs=0.01)


def literal(problem: Experiment, method: str, n: int, stream: Stream, dim: int, modes: int, ratio: float) -> float:
    """The three objectives minimised as written, at every K, over functions evaluated at the points one by one."""
    potential, noise, s = 2.0, 0.5, 4.0
    grid = [torch.tensor(z, dtype=torch.float64) for z in itertools.product(range(1, 2 * modes + 1), repeat=dim)]
    grid.sort(key=lambda z: (int(z.max()), [int(v) for v in z]))
    signs = Stream(0, 7).signs(len(grid)).double()
    truth = torch.stack([sign * z.norm() ** (-s - dim / 2.0) for sign, z in zip(signs, grid, strict=True)])
    eigen = torch.stack([math.pi**2 * z.square().sum() for z in grid])

    def waves(x: Tensor, slope: int | None) -> Tensor:
        """phi_z, or its derivative along an axis, (points, functions)."""
        out = torch.ones(len(x), len(grid), dtype=torch.float64)
        for k in range(dim):
            angle = math.pi * torch.stack([z[k] for z in grid]) * x[:, k, None]
            out *= math.sqrt(2.0) * (torch.cos(angle) * angle / x[:, k, None] if k == slope else torch.sin(angle))
        return out

    x = stream.uniform(n, dim).double()
    f = waves(x, None) @ ((eigen + potential) * truth) + noise * stream.normal(n).double()
    more = stream.uniform(math.ceil(n ** (1.0 + ratio)), dim).double() if method == "MDRM" else x
    errors = []
    for k in range(modes + 1):
        size = k**dim
        if method == "PINN":
            a = waves(x, None)[:, :size] * (eigen + potential)[:size]
            c = torch.linalg.lstsq(a, f).solution if size else truth[:0]
        else:
            phi, slopes = waves(x, None)[:, :size], torch.cat([waves(more, k)[:, :size] for k in range(dim)])
            gram = slopes.T @ slopes / len(more) + potential * phi.T @ phi / n
            c = torch.linalg.solve(gram, phi.T @ f / n)
        off = truth - torch.cat([c, torch.zeros(len(truth) - size, dtype=torch.float64)])
        errors.append(float(((1.0 + eigen) ** (2 if method == "PINN" else 1) * off.square()).sum()))
    return min(errors)


@pytest.mark.parametrize("method", ["DRM", "MDRM", "PINN"])
@pytest.mark.parametrize(("dim", "modes"), [(1, 4), (2, 3), (3, 2)])
def test_the_ritz_and_least_squares_solutions_are_those_of_the_literal_objectives(method: str, dim: int, modes: int) -> None:
    problem = deep_ritz(dim, modes=modes, potential=2.0)
    found = problem.error(150, method, Stream(2, 0))
    assert found == pytest.approx(literal(problem, method, 150, Stream(2, 0), dim, modes, 2.0 / (dim + 4.0)), rel=1e-6)


def test_exponents_of_the_ritz_methods_are_those_of_the_paper() -> None:
    assert deep_ritz(2).theory == pytest.approx((-0.75, -1.0, -2.0 / 3.0))
    assert deep_ritz(3, smoothness=5.0).theory == pytest.approx((-8.0 / 11.0, -8.0 / 9.0, -6.0 / 9.0))


def test_more_functions_than_data_leave_the_oracle_those_that_can_be_solved_for() -> None:
    assert deep_ritz(2, modes=6).errors(5, Stream(0, 0)).isfinite().all()


def test_the_fourth_order_kernel_has_second_moment_one_fourth_moment_zero_and_a_positive_symbol() -> None:
    z = torch.linspace(-12.0, 12.0, 4001, dtype=torch.float64)
    kernel = 0.5 * (5.0 - z**2) * torch.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)

    def integral(f: Tensor) -> float:
        return float(torch.trapezoid(f * kernel, z))

    assert integral(z**2) == pytest.approx(1.0) and integral(z**4) == pytest.approx(0.0, abs=1e-10)
    for k in (0.3, 1.0, 2.0, 4.0):
        assert integral(torch.cos(k * z)) == pytest.approx((2.0 + k**2 / 2.0) * math.exp(-(k**2) / 2.0), rel=1e-9)


def test_points_follow_the_density_whose_eigenvalue_is_known() -> None:
    x = sample(torch.linspace(0.0, 1.0, 1001, dtype=torch.float64))
    assert x + torch.sin(2.0 * math.pi * x) / (4.0 * math.pi) == pytest.approx(torch.linspace(0.0, 1.0, 1001).double())
    half = torch.linspace(0.0, 1.0, 100_000, dtype=torch.float64)
    assert float(torch.cos(2.0 * math.pi * sample(half)).mean()) == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize(
    ("method", "hs", "order", "within"), [(SECOND, (0.03, 0.042, 0.06), 2.0, 0.1), (FOURTH, (0.04, 0.05, 0.065), 4.0, 0.15)]
)
def test_without_sampling_noise_the_bias_falls_with_the_order_of_the_kernel(
    method: str, hs: tuple[float, ...], order: float, within: float
) -> None:
    points = sample((torch.arange(400, dtype=torch.float64) + 0.5) / 400)
    bias = [abs(eigenvalue(points, h, method) / EIGENVALUE - 1.0) for h in hs]
    assert np.polyfit(np.log(hs), np.log(bias), 1)[0] == pytest.approx(order, abs=within)


def dense(x: Tensor, h: float, method: str) -> float:
    """L as written, on functions of mean 0."""
    apart = (x[:, None] - x + 0.5).remainder(1.0) - 0.5
    u = apart / h
    kernel = torch.exp(-0.5 * u**2) / math.sqrt(2.0 * math.pi) * (1.0 if method == SECOND else 0.5 * (5.0 - u**2))
    whole = 2.0 / (len(x) * h**3) * (torch.diag(kernel.sum(1)) - kernel)
    basis = torch.linalg.qr(torch.eye(len(x), dtype=x.dtype)[:, 1:] - 1.0 / len(x)).Q
    return float(torch.linalg.eigvalsh(basis.T @ whole @ basis)[:2].mean())


@pytest.mark.parametrize("method", [SECOND, FOURTH])
@pytest.mark.parametrize(("n", "h"), [(6, 0.2), (60, 0.03), (60, 0.2), (200, 0.08)])
def test_the_eigenvalue_is_that_of_the_literal_matrix(method: str, n: int, h: float) -> None:
    """Few points, a graph nearly in pieces, a spectrum that crowds, and the ordinary."""
    x = sample(Stream(n, 3).uniform(n).double())
    assert eigenvalue(x, h, method) == pytest.approx(dense(x, h, method), rel=1e-7, abs=1e-9)


def test_the_fourth_order_kernel_is_nearer_at_the_same_points() -> None:
    found = rates.fit(graph_laplacian(1), (125, 250), 8)
    assert (found.mean[:, 1] < 0.3 * found.mean[:, 0]).all()


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: replace(study(), dim=0), "dim = 0"),
    (lambda: replace(study(), methods=("a", "a")), "different names"),
    (lambda: replace(study(), theory=(1.0,)), "a slope or None each"),
    (lambda: replace(study(), sizes=(10, 5)), "positive and rising"),
    (lambda: replace(study(), sizes=(10,)), "two or more numbers"),
    (lambda: rates.fit(study(), reps=1), "reps = 1"),
    (lambda: rates.fit(study(), (10,), 3), "at least two sizes"),
    (lambda: rates.slope((1, 2), np.array([1.0, 0.0]), np.zeros(2)), "takes logarithms"),
    (
        lambda: replicates().sample(study(), torch.zeros(1), torch.zeros(1, 1), "squared error", 2, Stream(0, 0)),
        "points of 1 columns",
    ),
    (lambda: deep_ritz(4), "up to dim = 3"),
    (lambda: deep_ritz(2, smoothness=2.0), "smoothness = 2"),
    (lambda: deep_ritz(2, noise=-1.0), "noise = -1"),
    (lambda: operator_learning(2), "take dim = 1"),
    (lambda: operator_learning(0), "dim = 0"),
    (lambda: operator_learning(1, input_smoothness=0.0), "smoothness > 0"),
    (lambda: operator_learning(1, modes=4).errors(10**9, Stream(0, 0)), "modes = 4: the best cut reaches"),
    (lambda: graph_laplacian(2), "take dim = 1"),
    (lambda: graph_laplacian(1, second=0.0), "bandwidths are positive"),
]


@pytest.mark.parametrize(("call", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_has_no_rate_is_refused(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
