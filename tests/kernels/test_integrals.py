"""Integrals: exact truths, surrogates whose integral is known, corrections that are unbiased for every one of them, and refusals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from oracles import factory, room
from scipy.integrate import quad
from torch import Tensor

from kernels.contracts import ControlVariate, Fitted, Integral
from kernels.coupled_streams import Mirrored, Quasi
from kernels.defect import integral_defect
from kernels.estimators import monte_carlo, truncated_monte_carlo
from kernels.integrands import bump, power_singularity, sine_product
from kernels.regression_adjusted import racv_integrate
from kernels.streams import Stream
from kernels.surrogates import kernel_ridge, multilinear, nearest_neighbours, regression_network
from kernels.surrogates._regression import Regression, net_mean
from kernels.surrogates.kernel_ridge import kernel
from kernels.tails import hill

MAKERS: dict[str, Callable[[Integral], Regression]] = {
    "nearest_neighbours": lambda problem: nearest_neighbours(problem, seed=0, points=40, neighbours=2),
    "multilinear": lambda problem: multilinear(problem, seed=0, points=40),
    "kernel_ridge": lambda problem: kernel_ridge(problem, seed=0, points=40),
    "regression_network": lambda problem: regression_network(problem, seed=0, points=40, width=6, depth=1, steps=10),
}
every_surrogate = pytest.mark.parametrize("name", MAKERS)
NOWHERE = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)


def gauss(f: Callable[[Tensor], Tensor], dim: int, cells: int = 1, nodes: int = 40) -> float:
    """int over the cube of f by a product of Gauss rules, on equal cells."""
    u, w = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(nodes))
    starts = torch.arange(cells, dtype=torch.float64)[:, None]
    u, w = ((starts + 0.5 * (1.0 + u)) / cells).flatten(), (0.5 * w / cells).repeat(cells)
    x = torch.cartesian_prod(*[u] * dim).reshape(-1, dim)
    return float(f(x) @ torch.cartesian_prod(*[w] * dim).reshape(-1, dim).prod(1))


def truth(problem: Integral) -> float:
    assert problem.value is not None
    return problem.value


def fitted(name: str, problem: Integral, seed: int = 0) -> Regression:
    surrogate = MAKERS[name](problem)
    surrogate.fit(Stream(seed, 1))
    return surrogate


def garbage(name: str, problem: Integral, size: float = 1.0) -> Regression:
    """A surrogate of values that have nothing to do with f."""
    surrogate = MAKERS[name](problem)
    x = surrogate.design(Stream(3, 1))
    surrogate.fit_to(x, size * Stream(3, 2).normal(len(x), dtype=torch.float64), Stream(3, 3))
    return surrogate


@dataclass
class Shifted:
    """f + size * wave, of mean zero over the cube: a surrogate of known error, and of known integral for power 1."""

    problem: Integral
    size: float
    evaluations: int = 0

    def values(self, x: Tensor) -> Tensor:
        return self.problem.integrand(x) + self.size * torch.cos(2.0 * math.pi * x).sum(-1)

    def plug_in(self, t: Tensor, x: Tensor) -> Tensor:
        return torch.full_like(t, truth(self.problem))

    def plug_in_error(self, t: Tensor, x: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def flop(self) -> float:
        return 1.0


def draws(problem: Integral, count: int, seed: int = 5, method: Any = None, term: str = "integrand") -> Tensor:
    return (method or monte_carlo()).sample(problem, *NOWHERE, term, count, Stream(seed, 4))[0]


def agrees(value: float, found: Tensor, width: float = 4.0, also: float = 0.0) -> bool:
    """The mean of draws within ``width`` standard errors of a value: false positives 6 in 10^5 at 4."""
    return abs(float(found.mean()) - value) <= width * math.hypot(float(found.std()) / math.sqrt(len(found)), also)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_integrals_of_the_room_are_those_of_a_quadrature(power: int) -> None:
    for problem in (sine_product(2, power=power), bump(2, rarity=9.0, power=power, order=2), bump(1, rarity=4.0, power=power)):
        rule = gauss(lambda x, p=problem: p.integrand(x) ** power, problem.dim, cells=48, nodes=4)
        assert truth(problem) == pytest.approx(rule, rel=3e-4 if problem.dim == 2 else 1e-6)
    singular = power_singularity(1, exponent=0.2, power=power)
    rule = quad(lambda x: abs(x - 0.37) ** (-0.2 * power), 0.0, 1.0, points=[0.37])[0]
    assert truth(singular) == pytest.approx(rule, rel=1e-7)
    assert power_singularity(2, exponent=0.2, power=power).value is None


@pytest.mark.parametrize("name", room("integrands"))
def test_every_integrand_of_the_room_is_a_problem_that_monte_carlo_solves(name: str) -> None:
    """20000 draws of f itself, so that all have a variance: 4 s.e., false positives 6 in 10^5."""
    options = {"bump": {"rarity": 8.0}, "power_singularity": {"exponent": 0.2}}.get(name, {})
    problem = factory("integrands", name)(1, power=1, **options)
    found = draws(problem, 20_000)
    assert agrees(truth(problem), found) and not agrees(1.1 * truth(problem), found)
    assert factory("integrands", name)(3).dim == 3


@pytest.mark.parametrize("power", [2, 3])
def test_noise_on_the_values_leaves_no_bias_in_their_powers(power: int) -> None:
    """10^5 draws, 4 s.e.; y^q itself is more than 10 s.e. off."""
    problem = sine_product(1, power=power, noise=1.0)
    found = draws(problem, 100_000)
    assert agrees(truth(problem), found)
    x = problem.points(100_000, Stream(5, 4))
    assert not agrees(truth(problem), problem.observe(x, Stream(5, 5)) ** power, 10.0)


@pytest.mark.parametrize("power", [1, 2, 5])
def test_an_exact_surrogate_leaves_nothing_to_correct_in_any_draw(power: int) -> None:
    problem = sine_product(3, power=power)
    assert isinstance(Shifted(problem, 0.0), ControlVariate)
    assert not draws(integral_defect(problem, Shifted(problem, 0.0)), 500).any()
    assert draws(integral_defect(problem, Shifted(problem, 1e-6)), 500).any()


@pytest.mark.parametrize(("dim", "power"), [(1, 1), (1, 2), (2, 1), (2, 3)])
@every_surrogate
def test_the_corrected_value_is_unbiased_for_every_surrogate_garbage_included(name: str, dim: int, power: int) -> None:
    """20000 draws, 4 s.e. (6 in 10^5 a case); a plug-in off by a tenth of what is corrected is seen."""
    problem = sine_product(dim, power=power)
    surrogate = garbage(name, problem)
    plug_in, error = (float(part(*NOWHERE)) for part in (surrogate.plug_in, surrogate.plug_in_error))
    found = plug_in + draws(integral_defect(problem, surrogate), 20_000)
    assert agrees(truth(problem), found, also=error)
    assert not agrees(truth(problem), found + 0.1 * (truth(problem) - plug_in), also=error)


@pytest.mark.parametrize("power", [1, 2])
def test_the_spread_of_the_correction_is_linear_in_the_surrogates_error(power: int) -> None:
    problem = sine_product(2, power=power)
    spreads = [float(draws(integral_defect(problem, Shifted(problem, size)), 2000).std()) for size in (1e-3, 1e-4)]
    assert math.log10(spreads[0] / spreads[1]) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("power", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_powers_of_a_multilinear_interpolant_are_integrated_exactly(dim: int, power: int) -> None:
    problem = sine_product(dim, power=power)
    surrogate = garbage("multilinear", problem)
    cells = {1: 39, 2: 5, 3: 2}[dim]
    assert float(surrogate.known[0]) == pytest.approx(gauss(lambda x: surrogate.values(x) ** power, dim, cells, 4), rel=1e-12)
    assert float(surrogate.known[1]) == 0.0


def test_a_multilinear_interpolant_is_exact_on_multilinear_functions_and_of_second_order_on_others() -> None:
    product = replace(sine_product(2), integrand=lambda x: (1.0 + 2.0 * x[:, 0]) * (3.0 - x[:, 1]), value=5.0)
    surrogate = fitted("multilinear", product)
    x = product.points(100, Stream(1))
    torch.testing.assert_close(surrogate.values(x), product.integrand(x), rtol=1e-13, atol=0.0)
    assert float(surrogate.known[0]) == pytest.approx(5.0, rel=1e-13)
    off, smooth = [], sine_product(2)
    for points in (11**2, 21**2):
        surrogate = multilinear(smooth, seed=0, points=points)
        losses = surrogate.fit(Stream(0, 1))
        assert 0.2 < losses[1] / float((surrogate.values(x) - smooth.integrand(x)).square().mean()) < 5.0
        off.append(float(surrogate.known[0]) - truth(smooth))
    assert off[0] / off[1] == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_the_mean_of_nearest_neighbours_is_integrated_exactly_on_the_line(neighbours: int) -> None:
    problem = sine_product(1, power=2)
    surrogate = nearest_neighbours(problem, seed=0, points=30, neighbours=neighbours)
    surrogate.fit(Stream(2, 1))
    rule = gauss(lambda x: surrogate.values(x) ** 2, 1, cells=20_000, nodes=1)
    assert float(surrogate.known[0]) == pytest.approx(rule, abs=3e-5)
    distances = (torch.linspace(0.0, 1.0, 101, dtype=torch.float64)[:, None] - surrogate.places[:, 0]).abs()
    nearest = surrogate.seen[distances.argsort(1)[:, :neighbours]].mean(1)
    torch.testing.assert_close(surrogate.values(torch.linspace(0.0, 1.0, 101, dtype=torch.float64)[:, None]), nearest)


def test_more_neighbours_average_noise() -> None:
    problem, off = sine_product(1, noise=0.5), []
    for neighbours in (1, 25):
        surrogate = nearest_neighbours(problem, seed=0, points=1000, neighbours=neighbours)
        losses = surrogate.fit(Stream(2, 1))
        x = problem.points(500, Stream(3))
        off.append(float((surrogate.values(x) - problem.integrand(x)).square().mean()))
        assert losses[1] == pytest.approx(off[-1] + 0.25, rel=0.15)
    assert off[0] / off[1] == pytest.approx(25.0, rel=0.4)


def test_a_kernels_integral_and_leave_one_out_errors_are_those_of_their_definitions() -> None:
    problem = sine_product(2)
    surrogate = kernel_ridge(problem, seed=0, points=30, length_scale=0.5, ridge=1e-3)
    losses = surrogate.fit(Stream(2, 1))
    assert float(surrogate.known[0]) == pytest.approx(gauss(surrogate.values, 2, cells=20, nodes=5), rel=1e-6)
    x = problem.points(30, Stream(2, 1))
    y, gram = problem.integrand(x), kernel(x, x, 0.5) + 1e-3 * torch.eye(30, dtype=torch.float64)
    errors = []
    for i in range(30):
        rest = torch.arange(30) != i
        c = torch.linalg.solve(gram[rest][:, rest], (y - y.mean())[rest])
        errors.append(float((kernel(x[i : i + 1], x[rest], 0.5) @ c + y.mean() - y[i])[0]))
    assert losses[1] == pytest.approx(float(np.mean(np.square(errors))), rel=1e-6)
    r = math.sqrt(5.0) * torch.tensor([0.3, 0.1], dtype=torch.float64) / 0.5
    here = kernel(torch.tensor([[0.5, 0.5]], dtype=torch.float64), torch.tensor([[0.2, 0.6]], dtype=torch.float64), 0.5)
    assert float(here) == pytest.approx(float(((1.0 + r + r.square() / 3.0) * torch.exp(-r)).prod()), rel=1e-12)


def test_smooth_regressions_learn_a_smooth_function_and_say_how_well() -> None:
    problem = sine_product(2)
    x = problem.points(500, Stream(9))
    for surrogate in (
        kernel_ridge(problem, seed=0, points=150),
        regression_network(problem, seed=0, points=150, width=8, depth=1, steps=25),
    ):
        losses = surrogate.fit(Stream(2, 1))
        off = float((surrogate.values(x) - problem.integrand(x)).square().mean())
        assert off < 1e-3 * losses[0] and off < 100.0 * losses[-1]


@pytest.mark.parametrize(("name", "power"), [("nearest_neighbours", 1), ("kernel_ridge", 2), ("regression_network", 2)])
def test_an_integral_by_scrambled_nets_has_an_error_bar_that_holds(name: str, power: int) -> None:
    """The mean of 16 nets off by no more than 6 of its standard errors, Student's law with 15: 2 in 10^5 (a case)."""
    problem = sine_product(2, power=power)
    surrogate = fitted(name, problem)
    value, error = surrogate.known.tolist()
    rule = gauss(lambda x: surrogate.values(x) ** power, 2, cells=150, nodes=2)
    assert 0.0 < error < 0.01 * abs(value)
    assert abs(value - rule) <= 6.0 * error + 1e-5 * abs(value)


def test_a_scrambled_net_is_unbiased_and_converges_faster_than_points_drawn() -> None:
    """64 nets of 256 nodes on a jump: 4 s.e., and a twentieth of the 6 % that 256 independent points are off by."""
    nets = torch.stack([net_mean(lambda x: (x.sum(-1) < 0.7).double(), 2, 256, Stream(1, i)) for i in range(64)])
    assert agrees(0.245, nets)
    assert float(nets.std()) < 0.25 * math.sqrt(0.245 * 0.755 / 256)


@every_surrogate
def test_a_fit_is_the_same_bit_by_bit_and_lives_on_in_its_buffers(name: str) -> None:
    problem = sine_product(2, power=2)
    first, again, other = fitted(name, problem), MAKERS[name](problem), fitted(name, problem, seed=1)
    assert isinstance(first, Fitted) and isinstance(first, ControlVariate)
    losses = again.fit(Stream(0, 1))
    fresh = MAKERS[name](problem)
    fresh.load_state_dict(first.state_dict())
    assert not list(first.parameters()) and all(b.dtype == torch.float64 for b in first.buffers())
    x = problem.points(50, Stream(8))
    for same in (again, fresh):
        assert same.values(x).equal(first.values(x)) and same.known.equal(first.known)
    assert name == "multilinear" or not other.known.equal(first.known)
    assert losses and all(math.isfinite(loss) for loss in losses) and losses[-1] < losses[0]
    assert min(*first.fit_cost(), first.flop()) > 0.0
    assert first.plug_in(torch.zeros(3), torch.zeros(3, 2)).tolist() == [float(first.known[0])] * 3
    assert first.plug_in_error(torch.zeros(3), torch.zeros(3, 2)).dtype == torch.float64


def test_values_do_not_depend_on_the_batch_they_stand_in() -> None:
    problem = sine_product(2)
    x = problem.points(300, Stream(8))
    for name in MAKERS:
        surrogate = fitted(name, problem)
        parts = torch.cat([surrogate.values(part) for part in x.split(7)])
        torch.testing.assert_close(parts, surrogate.values(x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("method", [monte_carlo(), truncated_monte_carlo(samples=100)], ids=["plain", "truncated"])
def test_draws_come_by_point_independent_and_the_same_from_the_same_stream(method: Any) -> None:
    """|correlation| of 4000 pairs below 4/sqrt n has false positives 6 in 10^5."""
    problem = sine_product(2, noise=0.1)
    assert method.solves is Integral
    for term in (*method.terms, *method.biases):
        rows = torch.zeros(2), torch.zeros(2, 1)
        first, again = (method.sample(problem, *rows, term, 4000, Stream(1, 0)) for _ in range(2))
        assert first.shape == (2, 4000) and first.dtype == torch.float64 and first.equal(again)
        assert method.rows(term, 7) == 7 and method.flop(problem, term, 7) == 7.0 * problem.flop()
    first = method.sample(problem, *rows, "integrand", 4000, Stream(1, 0))
    assert abs(torch.corrcoef(first)[0, 1].item()) < 4.0 / math.sqrt(4000)
    for coupled in (Mirrored(Stream(1, 0), 4000), Quasi(Stream(1, 0), 500, 8)):
        assert (
            method.sample(problem, *NOWHERE, "integrand", 8000 if isinstance(coupled, Mirrored) else 4000, coupled)
            .isfinite()
            .all()
        )


def test_truncation_costs_what_it_says() -> None:
    """4 x 10^4 draws with the bias and its error counted: 4 s.e.; without it the value is more than 10 s.e. off."""
    problem = sine_product(2, power=2, noise=0.1)
    method = truncated_monte_carlo(samples=1, scale=2.0)
    found = draws(problem, 40_000, method=method)
    bias = draws(problem, 40_000, seed=6, method=method, term="truncation")
    assert float(bias.mean()) < 0.0
    assert agrees(truth(problem), found - bias) and not agrees(truth(problem), found, 10.0)
    far = truncated_monte_carlo(samples=1, scale=1e9)
    assert draws(problem, 100, method=far).equal(draws(problem, 100))
    assert not draws(problem, 100, method=far, term="truncation").any()
    assert truncated_monte_carlo(samples=1000, p=3.0, s=0.5, scale=2.0).level(2) == pytest.approx(2.0 * 1000 ** (1 / 3 - 1 / 4))
    surrogate = Shifted(problem, 0.1)
    cut = draws(integral_defect(problem, surrogate), 500, method=method)
    x = problem.points(500, Stream(5, 4))
    torch.testing.assert_close(cut, draws(problem, 500, method=method) - surrogate.values(x).square())


@pytest.mark.parametrize(
    ("surrogate", "crossfit", "q"),
    [("multilinear", True, 1), ("nearest_neighbours", False, 2), ("nearest_neighbours", True, 1), ("kernel_ridge", True, 1)],
)
def test_the_estimate_of_one_function_is_unbiased_with_the_spread_it_says(surrogate: str, crossfit: bool, q: int) -> None:
    """100 seeds: mean within 4 s.e. of the truth (6 in 10^5), spread below 1.4 of the standard error and above 0.45 (s.d. 7 %)."""
    dim = 1 if surrogate == "nearest_neighbours" else 2
    problem, seen = sine_product(dim, power=q), []
    options = {"length_scale": 1.0, "ridge": 1e-6} if surrogate == "kernel_ridge" else {}

    def f(x: Tensor) -> Tensor:
        seen.append(len(x))
        return problem.integrand(x)

    found = [racv_integrate(f, dim, 80, surrogate, q, crossfit, seed, **options) for seed in range(100)]
    assert sum(seen) == sum(e.n_evals for e in found) and all(60 < e.n_evals <= 80 for e in found)
    values = torch.tensor([e.value for e in found], dtype=torch.float64)
    assert agrees(truth(problem), values)
    assert 0.45 < float(values.std()) / float(np.sqrt(np.mean([e.se**2 for e in found]))) < 1.4
    assert all(e.value == pytest.approx(e.plug_in + e.correction) and e.ci[0] < e.value < e.ci[1] for e in found)
    assert np.mean([e.gain for e in found]) > 1.0


def test_it_says_where_a_control_variate_cannot_help(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(problem: Integral, n: int, surrogate: str = "nearest_neighbours") -> str:
        return racv_integrate(problem.integrand, problem.dim, n, surrogate, q=problem.power).warning

    assert "no variance" in told(power_singularity(1, exponent=0.35), 4096)
    assert told(power_singularity(1, exponent=0.1), 4096) == told(sine_product(2), 1000) == ""
    assert "one value only" in told(bump(1, rarity=1e6), 1000)
    wild = replace(sine_product(1), integrand=lambda x: torch.sin(1e4 * x[:, 0]))
    assert "plain Monte Carlo" in told(wild, 200)
    assert told(sine_product(2, power=2), 200, "kernel_ridge") == ""
    monkeypatch.setattr("kernels.surrogates._regression.NODES", 1)
    assert "the quadrature" in told(sine_product(2, power=2), 200, "kernel_ridge")


def test_a_tail_index_is_that_of_a_power_law() -> None:
    """10^4 draws of x^-alpha: 100 of them, within 4 s.e."""
    u = Stream(1, 2).uniform(10_000, dtype=torch.float64)
    for alpha in (1.0, 3.0):
        found, error = hill(u ** (-1.0 / alpha))
        assert abs(found - alpha) <= 4.0 * error < 0.5 * alpha
    assert hill(torch.ones(100))[0] == math.inf and hill(torch.zeros(100))[0] == math.inf
    assert hill((torch.arange(100) == 3).double())[0] == 0.0


def test_streams_give_53_bits_where_asked_and_what_they_gave_elsewhere() -> None:
    u = Stream(1, 2).uniform(10_000, dtype=torch.float64)
    assert u.dtype == torch.float64 and u.min() > 0.0 and u.max() <= 1.0 and (u * 2**40).frac().any()
    for coupled in (Mirrored(Stream(1, 2), 8), Quasi(Stream(1, 2), 2, 8)):
        assert (
            coupled.uniform(3, 16, dtype=torch.float64).dtype == coupled.normal(16, 2, dtype=torch.float64).dtype == torch.float64
        )
    assert Stream(1, 2).normal(4, dtype=torch.float64).dtype == torch.float64
    expected = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy=1, spawn_key=(2,))))
    assert Stream(1, 2).uniform(5).numpy().tolist() == (1.0 - expected.random(5, dtype=np.float32)).tolist()


def unfit(name: str, **options: Any) -> Callable[[], object]:
    return lambda: factory("surrogates", name)(sine_product(2), seed=0, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sine_product(2, power=0), "power = 0: the integral is of f to a whole power"),
        (lambda: sine_product(2, noise=-1.0), "noise = -1.0: a standard deviation"),
        (lambda: sine_product(2, amplitude=math.inf), "amplitude = inf"),
        (lambda: sine_product(0), "dim = 0"),
        (lambda: replace(sine_product(2), source=""), "without a source: say where the truth comes from"),
        (lambda: bump(1, rarity=0.5), "rarity = 0.5"),
        (lambda: bump(1, centre=0.0), "leaves the cube; move it within"),
        (lambda: power_singularity(1, exponent=0.5), "exponent = 0.5"),
        (lambda: power_singularity(1, centre=2.0), "centre = 2.0"),
        (lambda: truncated_monte_carlo(samples=0), "samples = 0"),
        (lambda: truncated_monte_carlo(p=0.0), "p = 0.0"),
        (unfit("nearest_neighbours", points=3, neighbours=4), "neighbours = 4 of points = 3"),
        (unfit("multilinear", points=3), "points = 3: a grid of 2 dimensions takes at least 2^2 = 4; raise points"),
        (unfit("multilinear", points=10**9), "lower points"),
        (unfit("kernel_ridge", points=1), "points = 1: from 2"),
        (unfit("kernel_ridge", length_scale=0.0), "length_scale = 0.0"),
        (unfit("kernel_ridge", ridge=-1.0), "ridge = -1.0"),
        (unfit("regression_network", width=0), "width = 0"),
        (lambda: fitted("multilinear", sine_product(2)).values(torch.full((1, 2), 1.5)), "scale x to it"),
        (lambda: MAKERS["kernel_ridge"](sine_product(2)).fit_to(torch.rand(3, 2), torch.rand(3), Stream(0, 1)), "takes 40 in 2"),
        (
            lambda: integral_defect(
                integral_defect(sine_product(2), Shifted(sine_product(2), 0.0)), Shifted(sine_product(2), 0.0)
            ),
            "is a defect already",
        ),
        (lambda: draws(replace(sine_product(2), integrand=lambda x: x), 5), "gave shape (5, 2) at 5 points"),
        (lambda: draws(replace(sine_product(2), integrand=lambda x: x[:, 0] / 0.0), 5), "not finite at x ="),
        (lambda: net_mean(lambda x: x[:, 0], 30_000, 2, Stream(0, 1)), "dim = 30000"),
        (lambda: hill(torch.ones(5)), "5 draws"),
        (lambda: racv_integrate(sine_product(2).integrand, 2, 100, "mlp"), "surrogate = 'mlp': of the surrogates, kernel_ridge"),
        (lambda: racv_integrate(sine_product(2).integrand, 2, 10), "n = 10: a correction and its error bar"),
    ],
)
def test_what_cannot_be_is_refused_with_value_rule_and_remedy(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
