"""Every equation against its own PDE, terminal condition, closed forms and published values."""

from dataclasses import replace

import pytest
import torch
from oracles import EQUATIONS, equation, exact_surrogate, literal_jet

from kernels.contracts import SemilinearPDE
from kernels.defect import residual
from kernels.streams import Stream

DIMS = (2, 5, 20)


@pytest.fixture(params=[(name, dim) for name in EQUATIONS for dim in DIMS], ids=lambda p: f"{p[0]}-{p[1]}d")
def problem(request: pytest.FixtureRequest) -> SemilinearPDE:
    return equation(*request.param)


def points(problem: SemilinearPDE, n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    t, x = problem.sample_points(n, Stream(3, 0))
    return t.double(), x.double()


def pde_error(problem: SemilinearPDE) -> float:
    t, x = points(problem)
    # Away from the ends, where the radial reference is differenced in time.
    t = (0.05 + 0.9 * t / problem.horizon) * problem.horizon
    return residual(problem, exact_surrogate(problem), t, x).abs().max().item()


def test_the_solution_satisfies_the_pde(problem: SemilinearPDE) -> None:
    tolerance = 5e-4 if problem.name == "allen_cahn" else 1e-8
    assert pde_error(problem) < tolerance


@pytest.mark.parametrize("name", ["lqg", "viscous_burgers"])
def test_the_pde_check_fails_where_grad_u_stands_for_sigma_grad_u(name: str) -> None:
    right = equation(name, 5)
    sigma = right.law.sigma
    wrong = replace(right, driver=lambda t, x, y, z: right.driver(t, x, y, z / sigma))
    assert pde_error(right) < 1e-8 < 1e-3 < pde_error(wrong)


def test_the_solution_meets_the_terminal_condition(problem: SemilinearPDE) -> None:
    assert problem.solution is not None
    _, x = points(problem)
    end = torch.full((len(x),), problem.horizon, dtype=torch.float64)
    torch.testing.assert_close(problem.solution.value(end, x), problem.terminal(x), rtol=1e-9, atol=1e-9)


def test_values_do_not_depend_on_the_batch_a_point_stands_in(problem: SemilinearPDE) -> None:
    assert problem.solution is not None and problem.terminal_jet is not None
    t, x = (v.float() for v in points(problem))
    y, z = torch.linspace(-1, 1, len(t)), torch.sin(x)
    order = torch.randperm(len(t), generator=torch.Generator().manual_seed(0))
    for function in (
        lambda i: problem.driver(t[i], x[i], y[i], z[i]),
        lambda i: problem.terminal(x[i]),
        lambda i: problem.terminal_jet(x[i])[2],
        lambda i: problem.solution.value(t[i], x[i]),
    ):
        whole = function(slice(None))
        alone = torch.cat([function(slice(i, i + 1)) for i in range(len(t))])
        torch.testing.assert_close(alone, whole, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(function(order), whole[order], rtol=1e-6, atol=1e-7)


def test_the_terminal_jet_equals_automatic_differentiation(problem: SemilinearPDE) -> None:
    assert problem.terminal_jet is not None
    t, x = points(problem)
    oracle = literal_jet(lambda t, x: problem.terminal(x), t, x)
    for ours, literal in zip(problem.terminal_jet(x), (oracle.value, oracle.gradient, oracle.laplacian), strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-10, atol=1e-10)


def test_points_come_from_the_stream_alone_and_lie_in_time(problem: SemilinearPDE) -> None:
    t, x = problem.sample_points(100, Stream(1, 2))
    again = problem.sample_points(100, Stream(1, 2))
    assert t.equal(again[0]) and x.equal(again[1])
    assert x.shape == (100, problem.dim) and t.shape == (100,)
    assert (t >= 0).all() and (t <= problem.horizon).all()
    assert not problem.sample_points(100, Stream(1, 3))[1].equal(x)


def test_slopes_equal_finite_differences_of_the_driver(problem: SemilinearPDE) -> None:
    t, x = points(problem)
    at = problem.at(t, x, Stream(0), with_source=True)
    f_y, f_z = at.slopes()
    h = 1e-6
    y, z = torch.full_like(t, h), torch.zeros_like(x)
    torch.testing.assert_close((at.increment(y, z) - at.increment(-y, z)) / (2 * h), f_y, rtol=1e-6, atol=1e-6)
    z[:, 1] = h
    torch.testing.assert_close((at.increment(0 * y, z) - at.increment(0 * y, -z)) / (2 * h), f_z[:, 1], rtol=1e-6, atol=1e-6)


LQG_AT_0 = {100: 4.590161724605, 120: 4.77498538331, 140: 4.93092321383, 160: 5.06579490322}
LQG_BY_STRENGTH = {5: 4.548505253344, 10: 4.492929491346, 20: 4.367139028314, 50: 3.724175922814}
ALLEN_CAHN = {
    20: 0.206354819865,
    50: 0.099081170655,
    100: 0.052781357410,
    120: 0.044453240368,
    140: 0.038392443861,
    160: 0.033784730646,
}


def at_origin(problem: SemilinearPDE) -> float:
    assert problem.solution is not None
    return problem.solution.value(torch.zeros(1), torch.zeros(1, problem.dim)).item()


@pytest.mark.parametrize(("dim", "value"), LQG_AT_0.items())
def test_lqg_has_its_published_values(dim: int, value: float) -> None:
    assert at_origin(equation("lqg", dim, isotropic=True)) == pytest.approx(value, rel=1e-11)


@pytest.mark.parametrize(("strength", "value"), LQG_BY_STRENGTH.items())
def test_lqg_has_its_values_at_every_strength(strength: int, value: float) -> None:
    assert at_origin(equation("lqg", 100, isotropic=True, strength=float(strength))) == pytest.approx(value, rel=1e-11)


@pytest.mark.parametrize(("dim", "value"), ALLEN_CAHN.items())
def test_allen_cahn_has_its_radial_values(dim: int, value: float) -> None:
    assert at_origin(equation("allen_cahn", dim)) == pytest.approx(value, rel=1e-9)


def test_allen_cahn_has_its_value_at_a_longer_horizon() -> None:
    assert at_origin(equation("allen_cahn", 100, horizon=1.0)) == pytest.approx(0.033775571830, rel=2e-8)


def test_the_gradient_of_lqg_is_that_of_its_value() -> None:
    problem = equation("lqg", 8, strength=3.0)
    assert problem.solution is not None and problem.solution.gradient is not None
    t, x = points(problem)
    oracle = literal_jet(problem.solution.value, t, x)
    torch.testing.assert_close(problem.solution.gradient(t, x), oracle.gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "dim", "options", "named"),
    [
        ("lqg", 5, {"strength": -1.0}, "-1.0"),
        ("lqg", 1, {}, "dim = 1"),
        ("viscous_burgers", 5, {"sigma": 0.0}, "0.0"),
        ("allen_cahn", 5, {"horizon": -0.3}, "-0.3"),
        ("diffusion_reaction", 0, {}, "dim = 0"),
    ],
)
def test_impossible_parameters_are_refused_by_value(name: str, dim: int, options: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        equation(name, dim, **options)
