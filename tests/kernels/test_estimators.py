"""What every estimator promises: shapes, streams, the horizon, error bars that are earned, and honest books."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from estimates import Mean, estimate
from meter import Meter
from oracles import EQUATIONS, ESTIMATORS, OneFeature, Zero, at_zero, equation, exact_surrogate, small, some_points, written
from torch import Tensor

from kernels.contracts import NORMAL_FLOP, Cost, SemilinearPDE
from kernels.defect import defect
from kernels.streams import Stream

ALL = [(name, term) for name in ESTIMATORS for term in (*small(name).terms, *small(name).biases)]
every_term = pytest.mark.parametrize(("name", "term"), ALL, ids=lambda part: part)


def burgers(dim: int = 4) -> SemilinearPDE:
    return equation("viscous_burgers", dim)


def one_point(problem: SemilinearPDE, copies: int = 1) -> tuple[Tensor, Tensor]:
    """A point early in time and off the start, in copies."""
    x = problem.start + torch.linspace(-0.3, 0.4, problem.dim, dtype=torch.float64)
    return torch.full((copies,), 0.1 * problem.horizon, dtype=torch.float64), x.expand(copies, -1).contiguous()


@every_term
@pytest.mark.parametrize("draws", [1, 7])
def test_any_number_of_draws_comes_out_by_point_and_the_same_from_the_same_stream(name: str, term: str, draws: int) -> None:
    problem, method = burgers(3), small(name)
    t, x = problem.sample_points(5, Stream(9, 0))
    first, again, other = (method.sample(problem, t, x, term, draws, Stream(9, seed)) for seed in (1, 1, 2))
    assert first.shape == (5, draws) and first.equal(again) and not first.requires_grad
    assert first.isfinite().all()
    assert not first.any() or not first.equal(other)
    assert method.rows(term, draws) >= draws and method.flop(problem, term, draws) > 0.0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_terms_and_biases_have_names_of_their_own(name: str) -> None:
    method = small(name)
    names = (*method.terms, *method.biases)
    assert method.terms and len(set(names)) == len(names)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(
    ("problem_name", "dtype"), [*((q, torch.float32) for q in EQUATIONS), ("viscous_burgers", torch.float64)], ids=str
)
def test_at_the_horizon_the_terms_add_up_to_the_terminal_value_in_every_draw(
    name: str, problem_name: str, dtype: torch.dtype
) -> None:
    problem, method = equation(problem_name, 3), small(name)
    x = (problem.start + torch.tensor([[0.1, -0.2, 0.3], [0.4, 0.2, 0.1]])).to(dtype)
    t = torch.full((2,), problem.horizon, dtype=dtype)
    draws = [method.sample(problem, t, x, term, 5, Stream(1, i)) for i, term in enumerate(method.terms)]
    torch.testing.assert_close(sum(draws), problem.terminal(x)[:, None].expand(-1, 5), rtol=1e-6, atol=1e-7)
    size = problem.terminal(x).abs().max().item()
    for bias in method.biases:
        assert method.sample(problem, t, x, bias, 5, Stream(1, 9)).abs().max() <= 1e-6 * size


@pytest.mark.parametrize("name", ESTIMATORS)
def test_at_the_horizon_a_surrogate_that_misses_g_is_corrected_by_what_it_misses(name: str) -> None:
    problem, method = burgers(3), small(name)
    x = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64).reshape(2, 3)
    t = torch.full((2,), problem.horizon, dtype=torch.float64)
    off = defect(problem, OneFeature(lambda t, w: torch.sigmoid(t + w) + 0.125, meets_terminal=False))
    draws = sum(method.sample(off, t, x, term, 8, Stream(2, i)) for i, term in enumerate(method.terms))
    torch.testing.assert_close(draws, torch.full((2, 8), -0.125, dtype=torch.float64), rtol=0.0, atol=1e-14)


@every_term
@pytest.mark.parametrize("problem_name", EQUATIONS)
def test_no_path_from_just_before_the_horizon_overshoots_it(name: str, term: str, problem_name: str) -> None:
    """float32 times a few ulp before T and within rounding of it: t + (T-t) may round past T, no draw may be NaN."""
    problem = equation(problem_name, 2)
    near = [torch.tensor(problem.horizon)]
    for _ in range(15):
        near.append(torch.nextafter(near[-1], torch.tensor(0.0)))
    t = torch.cat([torch.stack(near), torch.linspace(0.0, problem.horizon, 33)[:-1]])
    x = torch.full((len(t), 2), problem.start + 0.1)
    assert small(name).sample(problem, t, x, term, 32, Stream(1, 0)).isfinite().all()


@dataclass(frozen=True)
class Unweighted:
    """The planted fault: time drawn from the power law, its weight forgotten."""

    terms: tuple[str, ...] = ("integral",)
    biases: tuple[str, ...] = ()

    def sample(self, problem: SemilinearPDE, t: Tensor, x: Tensor, term: str, draws: int, stream: Stream) -> Tensor:
        r = t + stream.uniform(draws).square() * (problem.horizon - t)
        return ((problem.horizon - t) * problem.driver(r, x.expand(draws, -1), r, x))[None]


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if tuple(small(name).terms) != ("terminal",)])
def test_a_time_integral_carries_the_weight_of_its_random_times(name: str) -> None:
    """f = t^2, g = 0, T = 1: 1/3, and 10^-3 for a quadrature; without the weight it would be 0.2.

    4000 draws, false positives 6 in 10^5 (4 s.e.).
    """
    problem = written(lambda t, x, y, z: t.square())
    found = estimate(small(name), problem, *at_zero(), 4000, 1)
    assert abs(found.unbiased - 1 / 3) <= 4.0 * found.error + 1e-3 < 0.1
    planted = estimate(Unweighted(), problem, *at_zero(), 20_000, 1)
    assert planted.agrees_with(0.2) and not planted.agrees_with(1 / 3)


def test_feynman_kac_corrects_an_error_that_solves_the_linear_problem() -> None:
    """It ignores the driver, hence a residual: only an error made at T, as 0.1 cos(sum x) e^(..), is within its reach.

    20000 draws, false positives 6 in 10^5 (4 s.e.); a zero estimator and the wrong sign are more than 10 s.e. away.
    """
    problem = equation("linear_convection_diffusion", 4)
    law, dim = problem.law, problem.dim

    def wave(t: Tensor, total: Tensor) -> Tensor:
        elapsed = problem.horizon - t
        return 0.1 * torch.exp(-0.5 * law.sigma**2 * dim * elapsed) * torch.cos(total + dim * law.mu * elapsed)

    surrogate = OneFeature(lambda t, w: t + w + wave(t, w), meets_terminal=False)
    t, x = one_point(problem)
    found = estimate(small("feynman_kac"), defect(problem, surrogate), t, x, 20_000, 3)
    v = -wave(t, x.sum(-1)).item()
    assert found.agrees_with(v)
    assert not found.agrees_with(-v, 10.0) and not found.agrees_with(0.0, 10.0)


def test_what_feynman_kac_misses_is_the_integral_of_f_at_zero_and_is_printed() -> None:
    """g = 0: it says 0. For f = -0.2 (1 + y) u is -0.2 (T - t) to first order; for f = 0.1 and u^ = 0 it is v = 0.1 (T - t).

    20000 draws, false positives 6 in 10^5 (4 s.e.); a bias of 0 or of the wrong sign is more than 10 s.e. away.
    """
    error = defect(written(lambda t, x, y, z: 0.1 + 0.0 * y), Zero())
    for problem, truth in ((written(lambda t, x, y, z: -0.2 * (1.0 + y)), -0.2), (error, 0.1)):
        found = estimate(small("feynman_kac"), problem, *at_zero(), 20_000, 5)
        assert not found.value.mean.any()
        assert found.agrees_with(truth)
        assert not found.agrees_with(0.0, 10.0) and not found.agrees_with(-truth, 10.0)


def error_of_the_mean(method: Any, problem: SemilinearPDE, term: str, draws: int) -> float:
    return Mean.of(method.sample(problem, *one_point(problem), term, draws, Stream(2, draws))).error.item()


@every_term
def test_four_times_the_draws_halve_the_standard_error(name: str, term: str) -> None:
    """The s.d. of 4000 draws of tails such as these is known to some 6 %: 25 % is seen, as one that falls like 1/draws is."""
    problem, method = burgers(), small(name)
    few, many = (error_of_the_mean(method, problem, term, draws) for draws in (4000, 16_000))
    if few > 1e-12:
        assert few / many == pytest.approx(2.0, rel=0.25)
        assert (few / many) ** 2 != pytest.approx(2.0, rel=0.25)


@every_term
def test_draws_at_different_points_and_neighbours_at_one_are_uncorrelated(name: str, term: str) -> None:
    """4000 pairs at one and the same (t, x): |correlation| < 4/sqrt n has false positives 6 in 10^5, catches shared noise."""
    plain = burgers()
    problem = replace(plain, driver=lambda t, x, y, z: plain.driver(t, x, y, z) + torch.cos(3.0 * x.sum(-1)))
    draws = small(name).sample(problem, *one_point(problem, 2), term, 4000, Stream(8, 0))

    def correlation(a: Tensor, b: Tensor) -> float:
        return abs(torch.corrcoef(torch.stack((a, b)))[0, 1].item())

    assert correlation(draws[0], draws[1]) < 4.0 / math.sqrt(4000)
    assert correlation(draws[0, 1:], draws[0, :-1]) < 4.0 / math.sqrt(3999)
    assert correlation(draws[0], draws[1] + draws[1].std() / draws[0].std() * 0.15 * draws[0]) > 4.0 / math.sqrt(4000)


def metered(count: Counter, cost: Cost, problem: SemilinearPDE) -> SemilinearPDE:
    """The problem whose terminal and local count the rows they see, together and at once."""

    def saw(kind: str, rows: int) -> None:
        count[kind] += rows
        count["at once"] = max(count["at once"], rows)

    def terminal(x: Tensor) -> Tensor:
        saw("terminal", len(x))
        return problem.terminal(x)

    def local(t: Tensor, x: Tensor, stream: Stream, with_source: bool) -> Any:
        saw("source" if with_source else "driver", len(t))
        at = problem.at(t, x, stream, with_source=with_source)
        increment = at.increment

        def counted(y: Tensor, z: Tensor) -> Tensor:
            saw("increment", len(y))
            return increment(y, z)

        at.increment = counted  # type: ignore[method-assign]
        return at

    return replace(problem, terminal=terminal, local=local, cost=cost)


def booked(method: Any, problem: SemilinearPDE, term: str, draws: int) -> dict[str, float]:
    """Rows of each kind in flop(), which is linear in their costs; and single normals."""
    one = Cost(driver=1.0, source=1.0, terminal=1.0)

    def total(cost: Cost) -> float:
        return method.flop(metered(Counter(), cost, problem), term, draws)

    base = total(one)
    rows = {name: total(replace(one, **{name: 2.0})) - base for name in ("driver", "source", "terminal")}
    return rows | {"normals": (base - sum(rows.values())) / NORMAL_FLOP}


def evaluated(method: Any, problem: SemilinearPDE, term: str, draws: int) -> Counter:
    """Rows of each kind that a sample at one point really visits; and single normals."""
    count: Counter = Counter()
    counted = metered(count, Cost(driver=1.0, source=1.0, terminal=1.0), problem)
    method.sample(counted, torch.zeros(1), torch.zeros(1, problem.dim), term, draws, Meter(count, 1, 0))
    return count


def vanishing(problem: SemilinearPDE) -> SemilinearPDE:
    """The problem with g = 0, and known to be so."""
    return replace(problem, terminal=lambda x: torch.zeros_like(x[:, 0]), zero_terminal=True)


@every_term
@pytest.mark.parametrize("zero_terminal", [False, True], ids=["g", "g = 0"])
def test_the_books_equal_the_rows_that_were_evaluated(name: str, term: str, zero_terminal: bool) -> None:
    """Sources, ends and normals to the row; what a random refinement costs in the mean, to 10 % (measured 3 %).

    A visit of the driver without its source is booked once, and the increments taken there at most once each.
    """
    method, problem = small(name), vanishing(burgers(3)) if zero_terminal else burgers(3)
    draws = 20_000 if term == "time step" else 64
    books, visits = booked(method, problem, term, draws), evaluated(method, problem, term, draws)
    within = 0.1 if term == "time step" else 1e-9
    for kind in ("source", "normals"):
        assert books[kind] == pytest.approx(visits[kind], rel=within), kind
    if not zero_terminal:
        assert books["terminal"] == pytest.approx(visits["terminal"], rel=within)
    most = visits["driver"] + visits["increment"]
    assert (1.0 - within) * visits["driver"] <= books["driver"] <= (1.0 + within) * most
    assert visits["at once"] <= method.rows(term, draws)


@pytest.mark.parametrize("term", ["remainder", "higher order"])
@pytest.mark.parametrize("zero_terminal", [False, True], ids=["g", "g = 0"])
@pytest.mark.parametrize("name", ["linearised", "telescoped"])
def test_the_books_of_cumulants_equal_the_rows_that_were_evaluated(name: str, term: str, zero_terminal: bool) -> None:
    quadratic = equation("lqg", 3)
    method, problem = small(name), vanishing(quadratic) if zero_terminal else quadratic
    books, visits = booked(method, problem, term, 64), evaluated(method, problem, term, 64)
    for kind in ("source", "normals", "driver"):
        # The slopes at the beginning are booked once a path, as they are taken.
        assert books[kind] == pytest.approx(visits[kind], rel=1e-9), kind
    if not zero_terminal:
        assert books["terminal"] == pytest.approx(visits["terminal"], rel=1e-9)
    assert visits["at once"] <= method.rows(term, 64)


@every_term
def test_the_meter_sees_a_draw_more(name: str, term: str) -> None:
    method, problem = small(name), burgers(3)
    if term != "time step":
        assert evaluated(method, problem, term, 65)["normals"] > booked(method, problem, term, 64)["normals"]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_exact_surrogate_has_no_error_at_the_horizon_either(name: str) -> None:
    problem, method = burgers(3), small(name)
    t, x = some_points(problem, 2)
    t = torch.full_like(t, problem.horizon)
    error = defect(problem, exact_surrogate(problem))
    for i, term in enumerate((*method.terms, *method.biases)):
        assert (method.sample(error, t, x, term, 9, Stream(1, i)).abs() < 1e-6).all()
