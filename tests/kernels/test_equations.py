"""Every equation against its own PDE, terminal condition, closed forms and published values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracles import EQUATIONS, Differenced, equation, exact_surrogate, linear, literal_jet, solution_of
from rows import row_by_row
from torch import Tensor

from kernels.contracts import Linearisable, SemilinearPDE
from kernels.defect import residual
from kernels.streams import Stream
from kernels.surrogates._ansatz import profile

DIMS = (2, 5, 20)


@pytest.fixture(params=[(name, dim) for name in EQUATIONS for dim in DIMS], ids=lambda p: f"{p[0]}-{p[1]}d")
def problem(request: pytest.FixtureRequest) -> SemilinearPDE:
    return equation(*request.param)


def points(problem: SemilinearPDE, n: int = 12) -> tuple[Tensor, Tensor]:
    t, x = problem.sample_points(n, Stream(3, 0))
    return t.double(), x.double()


def along_drivers(problem: SemilinearPDE, n: int = 12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points with values of the size of g there and z of the size of its differences."""
    t, x = points(problem, n)
    level = problem.terminal(x)
    size = level.std() if level.std() > 0.0 else 1.0
    wave = torch.sin(torch.arange(x.numel(), dtype=x.dtype)).reshape(x.shape)
    return t, x, level + 0.3 * size * torch.cos(torch.arange(n, dtype=x.dtype)), size * wave


def pde_error(problem: SemilinearPDE, within: float = 1e-8) -> bool:
    """Whether the residual of the solution is ``within`` its largest term: rounding, or what differences make of it."""
    surrogate, (t, x) = exact_surrogate(problem), points(problem)
    # Away from the ends, where a solution is differenced in time.
    t = 0.05 * problem.horizon + 0.9 * t
    directions, factor = problem.law.directions(t, x, None)
    jet = surrogate.jet(t, x, directions)
    scale = (jet.dt.abs() + (0.5 * factor * jet.laplacian).abs() + jet.value.abs()).max()
    if isinstance(surrogate, Differenced):
        within = max(within, 10.0 * problem.dim * solution_of(problem).error / surrogate.STEP**2)
    return bool(residual(problem, surrogate, t, x).abs().max() > within * scale)


def test_the_solution_satisfies_the_pde(problem: SemilinearPDE) -> None:
    assert not pde_error(problem)


def test_the_pde_check_fails_where_z_is_off_by_a_hundredth_or_y_by_a_tenth(problem: SemilinearPDE) -> None:
    """Planted in the driver alone, wherever it takes notice; a z that is grad u instead of sigma^T grad u is off by more."""
    solution_of(problem)
    t, x = points(problem)
    y, z = exact_surrogate(problem).value_and_gradient(t, x)
    z = problem.law.pull(t, x, z)
    driver = problem.driver
    for y_scale, z_scale in ((1.1, 1.0), (1.0, 1.01)):
        if (driver(t, x, y_scale * y, z_scale * z) - driver(t, x, y, z)).abs().max() > 1e-3 * y.abs().max():
            wrong = replace(problem, driver=lambda t, x, y, z, a=y_scale, b=z_scale: driver(t, x, a * y, b * z))
            assert pde_error(wrong)


def test_the_solution_meets_the_terminal_condition(problem: SemilinearPDE) -> None:
    solution = solution_of(problem)
    _, x = points(problem)
    end = torch.full((len(x),), problem.horizon, dtype=torch.float64)
    torch.testing.assert_close(solution.value(end, x), problem.terminal(x), rtol=1e-9, atol=max(1e-9, solution.error))


def test_a_solution_and_its_gradient_come_in_double_precision_and_agree(problem: SemilinearPDE) -> None:
    solution = solution_of(problem)
    t, x = points(problem)
    value = solution.value(t.float(), x.float())
    assert value.dtype == torch.float64 and value.shape == t.shape
    assert solution.source and solution.error >= 0.0
    if solution.gradient is None:
        return
    alone = Differenced(replace(solution, gradient=None), problem.horizon)
    inside = 0.05 * problem.horizon + 0.9 * t
    scale = solution.gradient(inside, x).abs().max().item()
    within = max(1e-7 * scale, 10.0 * solution.error / alone.STEP)
    ours, differenced = solution.gradient(inside, x), alone.value_and_gradient(inside, x)[1]
    assert (ours - differenced).abs().max() < within
    assert not (1.01 * ours - differenced).abs().max() < within


def functions_of(problem: SemilinearPDE) -> dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]]:
    """Everything in the record that works row by row, with arguments for it, in single precision where it may be."""
    t, x, y, z = (v.float() for v in along_drivers(problem))
    found: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
        "driver": (problem.driver, (t, x, y, z)),
        "terminal": (problem.terminal, (x,)),
        "mu": (problem.law.advect, (t, x, z)),
        "sigma": (problem.law.pull, (t, x, z)),
    }
    if problem.profile is not None:
        found["profile"] = problem.profile, (t, x)
    if (jet := problem.profile_jet) is not None:
        found["profile jet"] = lambda t, x: tuple(vars(jet(t, x)).values()), (t, x)
    if problem.solution is not None:
        found["solution"] = problem.solution.value, (t, x)
        if problem.solution.gradient is not None:
            found["gradient"] = problem.solution.gradient, (t, x)
    return found


def test_values_do_not_depend_on_the_batch_a_row_stands_in(problem: SemilinearPDE) -> None:
    for name, (function, arguments) in functions_of(problem).items():
        assert row_by_row(function, *arguments), name


def test_the_jet_of_a_profile_equals_automatic_differentiation(problem: SemilinearPDE) -> None:
    if problem.profile_jet is None:
        pytest.skip(f"{problem.name} has no profile in closed form whose Laplacian is enough")
    t, x = points(problem)
    oracle = literal_jet(lambda t, x: profile(problem, t, x), t, x)
    for ours, literal in zip(vars(problem.profile_jet(t, x)).values(), vars(oracle).values(), strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-10, atol=1e-10 * literal.abs().max().item())


def test_a_profile_ends_in_the_terminal_condition_to_rounding(problem: SemilinearPDE) -> None:
    if problem.profile is None:
        pytest.skip(f"{problem.name} has no profile but its terminal condition")
    t, x = points(problem)
    end = torch.full_like(t, problem.horizon)
    torch.testing.assert_close(problem.profile(end, x), problem.terminal(x), rtol=1e-13, atol=0.0)
    assert not torch.allclose(problem.profile(0.5 * end, x), problem.terminal(x), rtol=1e-3)


def test_points_come_from_the_stream_alone_and_lie_in_time(problem: SemilinearPDE) -> None:
    for sampler in (problem.sample_points, problem.boundary_points):
        if sampler is None:
            continue
        (t, x), again, other = (sampler(100, Stream(1, seed)) for seed in (2, 2, 3))
        assert t.equal(again[0]) and x.equal(again[1]) and not other[1].equal(x)
        assert x.shape == (100, problem.dim) and t.shape == (100,)
        assert (t >= 0).all() and (t <= problem.horizon).all()


def test_slopes_equal_finite_differences_of_the_driver(problem: SemilinearPDE) -> None:
    """Around values as they occur: at (0, 0) a driver may have a kink. Differences are exact to 1e-6 of the slopes."""
    t, x, y, z = along_drivers(problem)
    at = Linearisable(problem.driver, t, x, y, z)
    f_y, f_z = at.slopes()
    size = 1e-5 * max(1.0, y.abs().max().item())
    h, still = torch.full_like(t, size), torch.zeros_like(x)
    along_y = (at.increment(h, still) - at.increment(-h, still)) / (2.0 * size)
    torch.testing.assert_close(along_y, f_y, rtol=1e-5, atol=1e-6)
    still[:, 1] = size
    along_z = (at.increment(0.0 * h, still) - at.increment(0.0 * h, -still)) / (2.0 * size)
    torch.testing.assert_close(along_z, f_z[:, 1], rtol=1e-5, atol=1e-6)


def bent_away(problem: SemilinearPDE, kind: str | None) -> bool:
    """Whether some chord of f in (y, z) lies on the wrong side of it for a driver that is ``kind``."""
    t, x, y, z = along_drivers(problem, 200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    f, y_2, z_2 = problem.driver, y[order], -2.0 * z[order]
    chord = 0.5 * (f(t, x, y, z) + f(t, x, y_2, z_2)) - f(t, x, 0.5 * (y + y_2), 0.5 * (z + z_2))
    rounding = 1e-9 * (1.0 + chord.abs().max())
    return bool((chord < -rounding).any() if kind == "convex" else (chord > rounding).any())


def test_a_driver_is_curved_as_its_record_says(problem: SemilinearPDE) -> None:
    """What two-sided bounds rest on; the opposite is refuted by the same chords, unless f = 0."""
    if problem.curvature is None:
        pytest.skip(f"{problem.name} states no curvature")
    opposite = {"convex": "concave", "concave": "convex"}[problem.curvature]
    assert not bent_away(problem, problem.curvature)
    assert bent_away(problem, opposite) or linear(problem)


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


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("dim", [0, -1])
def test_a_space_without_dimension_is_refused_by_value(name: str, dim: int) -> None:
    with pytest.raises(ValueError, match=f"dim = {dim}"):
        equation(name, dim)


@pytest.mark.parametrize(
    ("name", "dim", "options", "named"),
    [
        ("lqg", 5, {"strength": -1.0}, "-1.0"),
        ("lqg", 1, {}, "dim = 1"),
        ("viscous_burgers", 5, {"sigma": 0.0}, "0.0"),
        ("allen_cahn", 5, {"horizon": -0.3}, "-0.3"),
        ("lqg", -1, {"isotropic": True}, "dim = -1"),
    ],
)
def test_impossible_parameters_are_refused_by_value(name: str, dim: int, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        equation(name, dim, **options)
