"""Poisson's equation: domains, the defect, and estimators that are exact for every surrogate."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracles import literal_jet
from poisson_cases import PROBLEMS, Known, at, elliptic, found, garbage, off_by, truth
from rows import row_by_row
from torch import Tensor

from kernels.contracts import Ball, Box, Domain, Estimator, Poisson, SpaceJet
from kernels.defect import poisson_defect
from kernels.estimators.ball_green import ball_green, green_points, harmonic_points
from kernels.estimators.walk_on_spheres import SHELL, green_radii, walk_on_spheres
from kernels.objectives.poisson_residual import poisson_residual
from kernels.poisson import debias_poisson
from kernels.streams import Stream
from kernels.surrogates.cosine_features import cosine_features
from kernels.surrogates.poisson_network import poisson_network

pytestmark = pytest.mark.unchecked

WAYS = {
    "ball": ("exponential_ball", ball_green()),
    "walk": ("exponential_ball", walk_on_spheres()),
    "box": ("sine_box", walk_on_spheres()),
}
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.mark.parametrize("dim", [1, 2, 3, 6])
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_solution_solves_its_equation(name: str, dim: int) -> None:
    problem = elliptic(name, dim)
    x, rim = problem.domain.interior(20, Stream(0, 1)), problem.domain.rim(20, Stream(0, 2))
    torch.testing.assert_close(Known(lambda y: truth(problem, y)).laplacian(x), problem.source(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(truth(problem, rim), problem.boundary(rim), rtol=0.0, atol=1e-12)
    assert problem.zero_boundary == (not problem.boundary(rim).any()) or dim == 1
    assert row_by_row(problem.source, x) and row_by_row(problem.boundary, x)


@pytest.mark.parametrize("domain", [Ball(1), Ball(3), Ball(4, radius=2.5), Box(1), Box(4)], ids=str)
def test_a_domain_knows_its_boundary(domain: Domain) -> None:
    """Points inside are as far from the boundary as from their projection; a step of that length in any direction stays inside."""
    inside, rim = domain.interior(500, Stream(1, 1)), domain.rim(500, Stream(1, 2))
    distance, on_rim = domain.distance(inside), domain.project(inside)
    assert (distance >= 0.0).all()
    torch.testing.assert_close((inside - on_rim).norm(dim=1), distance)
    for edge in (on_rim, rim):
        torch.testing.assert_close(domain.distance(edge), torch.zeros(500, dtype=torch.float64), rtol=0.0, atol=1e-12)
        assert domain.bump(edge).value.abs().max() < 1e-12
    away = torch.nn.functional.normalize(inside - inside.flip(0), dim=1)
    assert (domain.distance(inside + distance[:, None] * away) >= -1e-12).all()
    assert (domain.distance(rim + 0.1 * (rim - inside)) <= 1e-12).all()
    jet = literal_jet(lambda t, x: domain.bump(x).value, torch.zeros(500, dtype=torch.float64), inside)
    bump = domain.bump(inside)
    torch.testing.assert_close(bump.gradient, jet.gradient)
    torch.testing.assert_close(bump.laplacian, jet.laplacian)
    assert (bump.value >= 0.0).all()


def test_the_middle_of_a_ball_has_a_nearest_point_too() -> None:
    assert Ball(3, radius=2.0).project(torch.zeros(1, 3)).tolist() == [[2.0, 0.0, 0.0]]


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_points_of_greens_function_have_its_second_moment(dim: int) -> None:
    """E r^2 = d/(2(d + 2)); 10^5 draws, false positives 6 in 10^5 (4 s.e.); r = sqrt(U) alone, of moment 1/2, is far off."""
    square = green_radii(100_000, dim, Stream(2, dim)).square()
    error = square.std() / math.sqrt(len(square))
    assert (square.mean() - dim / (2.0 * (dim + 2.0))).abs() < 4.0 * error < 0.01


@pytest.mark.parametrize("size", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("dim", [2, 3, 10])
def test_the_weights_of_a_ball_integrate_greens_function_and_the_harmonic_measure(dim: int, size: float) -> None:
    """int G = (1 - |x|^2)/(2d), int G(x, y) |y|^2 dy = (1 - |x|^4)/(4(d + 2)), E Z = x, E Z_1^2 = (1 - |x|^2)/d + x_1^2.

    20,000 draws, seeds fixed, 4 s.e. each: false positives 2 in 10^3 over all. A point of |x| = 0.99 sees a table's last cells.
    """
    _, x = at(0.6 * size, -0.8 * size, dim=dim)
    y, w = green_points(x.expand(20_000, -1), Stream(3, dim))
    assert (y.norm(dim=1) <= 1.0 + 1e-9).all() and (w >= 0.0).all()
    z, share = harmonic_points(x, 20_000, Stream(4, dim))
    assert ((z.norm(dim=1) - 1.0).abs() < 1e-9).all() and ((share - 1.0).abs() < 0.01).float().mean() > 0.995
    for draws, expected in (
        (w, (1.0 - size**2) / (2.0 * dim)),
        (w * y.square().sum(1), (1.0 - size**4) / (4.0 * (dim + 2.0))),
        (share * z[:, 0], 0.6 * size),
        (share * z[:, 0].square(), (1.0 - size**2) / dim + (0.6 * size) ** 2),
    ):
        assert (draws.mean() - expected).abs() < 4.0 * draws.std() / math.sqrt(len(draws)) + 1e-12


@pytest.mark.parametrize("radius", [1.0, 2.5])
@pytest.mark.parametrize("method", [ball_green(), walk_on_spheres()], ids=["green", "walk"])
def test_a_constant_source_gives_sign_and_factor(method: Any, radius: float) -> None:
    """u = (|x|^2 - R^2)/(2d). 5000 draws, 4 s.e.; the half of standard Brownian motion or another sign is 10 s.e. away."""
    problem = replace(elliptic("constant_source", 3), domain=Ball(3, radius=radius))
    _, x = at(0.5, 0.2, dim=3)
    value, error = found(method, problem, x, 5000)
    exact = (0.29 - radius**2) / 6.0
    assert abs(value - exact) < 4.0 * error < abs(exact) / 10.0


def faults(problem: Poisson) -> dict[str, Poisson]:
    source, boundary = problem.source, problem.boundary
    return {
        "sign": replace(problem, source=lambda x: -source(x)),
        "standard Brownian motion": replace(problem, source=lambda x: 0.5 * source(x)),
        "no boundary term": replace(problem, boundary=lambda x: 0.0 * boundary(x)),
    }


@every_way
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_an_estimator_solves_the_plain_equation_and_no_other(way: str, dim: int) -> None:
    """Seeds fixed, 4 s.e. of 4000 or 20,000 draws: false positives 6 in 10^4 over all; each planted fault is more than 6 s.e. away."""
    name, method = WAYS[way]
    problem = elliptic(name, dim, **({} if way == "box" else {"steepness": 2.0}))
    _, x = at(0.3, -0.2, dim=dim)
    x = x + (0.4 if way == "box" else 0.0)
    draws = 4000 if way != "ball" else 20_000
    value, error = found(method, problem, x, draws, seed=1)
    assert abs(value - truth(problem, x)) < 4.0 * error
    for planted in faults(problem).values():
        wrong, _ = found(method, planted, x, draws, seed=1)
        assert abs(wrong - truth(problem, x)) > 6.0 * error


@every_way
def test_an_exact_surrogate_is_corrected_by_nothing_at_all(way: str) -> None:
    name, method = WAYS[way]
    problem = elliptic(name, 3)
    lookup: dict[str, Any] = {"u": problem.boundary, "laplacian": problem.source}

    class Exact(Known):
        def laplacian(self, x: Tensor) -> Tensor:
            return lookup["laplacian"](x)

    t, x = problem.sample_points(5, Stream(5, 0))
    for term in (*method.terms, *method.biases):
        assert not method.sample(poisson_defect(problem, Exact(lookup["u"])), t, x, term, 50, Stream(5, 1)).any()


@every_way
def test_the_corrected_value_is_the_truth_whatever_the_surrogate(way: str) -> None:
    """Garbage that misses g too. 4000 draws at four points, 4 s.e.: false positives 3 in 10^4; uncorrected, it is far off."""
    name, method = WAYS[way]
    problem = elliptic(name, 3)
    _, x = problem.sample_points(4, Stream(6, 0))
    surrogate = Known(garbage)
    defect = poisson_defect(problem, surrogate)
    value, error = found(method, defect, x, 4000, seed=2)
    missed = truth(problem, x) - surrogate.value(x)
    assert ((value - missed).abs() < 4.0 * error).all() and (missed.abs() > 10.0 * error).all()
    assert defect.costs().source > problem.costs().source and not defect.zero_boundary


@every_way
def test_the_spread_of_a_correction_is_linear_in_the_error_of_its_surrogate(way: str) -> None:
    """Common random numbers: slope 1 to rounding, over four decades."""
    name, method = WAYS[way]
    problem = elliptic(name, 4)
    t, x = at(0.3, -0.2, dim=4)
    x = x + (0.4 if way == "box" else 0.0)
    spreads = []
    for size in (1e-3, 1e1):
        draws = method.sample(poisson_defect(problem, off_by(problem, size)), t, x, method.terms[0], 400, Stream(7, 0))
        spreads.append(float(draws.std()))
    assert math.log(spreads[1] / spreads[0]) / math.log(1e4) == pytest.approx(1.0, abs=1e-6)


def test_a_surrogate_that_meets_g_leaves_no_boundary_term() -> None:
    problem = elliptic("exponential_ball", 3)
    defect = poisson_defect(problem, off_by(problem, 1.0))
    t, x = problem.sample_points(3, Stream(8, 0))
    assert defect.zero_boundary and defect.costs().boundary == 0.0
    assert not ball_green().sample(defect, t, x, "boundary", 4, Stream(8, 1)).any()


def test_the_shell_is_printed_and_taken_off_gives_the_truth() -> None:
    """u = |x|^2 at (0.5, 0, 0): the value is off by about eps (measured 0.18 at 0.2), and halves with eps; less the printed bias it is the truth.

    4000 draws, 4 s.e. and 0.2 eps for the second order: false positives 10^-4; a bias of half the size is more than 4 s.e. away.
    """
    problem = replace(
        elliptic("constant_source", 3),
        source=lambda x: 6.0 + 0.0 * x[:, 0],
        boundary=lambda x: x.square().sum(1),
        zero_boundary=False,
    )
    t, x = at(0.5, dim=3)
    for eps in (0.2, 0.1):
        method = walk_on_spheres(eps=eps)
        value = method.sample(problem, t, x, "walk", 4000, Stream(9, 0))
        shell = method.sample(problem, t, x, SHELL, 4000, Stream(9, 1))
        off = float(value.mean()) - 0.25
        assert 0.8 * eps < off < 1.05 * eps
        error = float((value.var() + shell.var()).sqrt()) / math.sqrt(4000)
        assert abs(off - float(shell.mean())) < 4.0 * error + 0.2 * eps
        assert abs(off - 0.5 * float(shell.mean())) > 4.0 * error


@pytest.mark.parametrize("method", [ball_green(), walk_on_spheres()], ids=["green", "walk"])
def test_any_number_of_draws_comes_out_by_point_and_the_same_from_the_same_stream(method: Any) -> None:
    problem = elliptic("exponential_ball", 3)
    t, x = problem.sample_points(5, Stream(10, 0))
    for term in (*method.terms, *method.biases):
        first, again, other = (method.sample(problem, t, x, term, 7, Stream(10, s)) for s in (1, 1, 2))
        assert first.shape == (5, 7) and first.dtype == torch.float64 and first.equal(again) and not first.equal(other)
        assert first.isfinite().all() and method.rows(term, 7) >= 7
    same = x[:1].expand(2, -1)
    pair = method.sample(problem, t[:2], same, method.terms[0], 2000, Stream(11, 0))
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 4.0 / math.sqrt(2000)
    assert isinstance(method, Estimator) and method.solves is Poisson


@pytest.mark.parametrize(("name", "dim"), [("constant_source", 2), ("constant_source", 10), ("sine_box", 3), ("sine_box", 8)])
def test_the_books_of_a_walk_are_its_steps_to_a_third(name: str, dim: int) -> None:
    seen = [0]

    def source(x: Tensor) -> Tensor:
        seen[0] += len(x)
        return torch.zeros_like(x[:, 0])

    problem = replace(elliptic(name, dim), source=source)
    t, x = problem.sample_points(100, Stream(12, 0))
    method, cost = walk_on_spheres(), problem.costs()
    method.sample(problem, t, x, "walk", 1, Stream(12, 1))
    booked = (method.flop(problem, "walk", 1) - cost.boundary) / (512 * (dim + 2) + cost.source)
    assert booked == pytest.approx(seen[0] / 100, rel=1 / 3)
    assert method.flop(problem, SHELL, 1) > method.flop(problem, "walk", 1)
    assert ball_green().flop(elliptic("exponential_ball", dim), "boundary", 2) > ball_green().flop(
        elliptic("constant_source", dim), "boundary", 2
    )


@pytest.mark.parametrize("domain", [None, Ball(4), Box(4)], ids=str)
def test_a_users_own_surrogate_is_corrected_at_its_points(domain: Any) -> None:
    """The error falls to its error bar and the shell: 10 points, 4 s.e., false positives 6 in 10^4; the intervals hold 95 %."""
    problem = elliptic("sine_box" if isinstance(domain, Box) else "exponential_ball", 4)
    surrogate = off_by(problem, 0.1)
    _, x = problem.sample_points(10, Stream(18, 0))
    got = debias_poisson(
        x, surrogate.value, surrogate.laplacian, problem.source, problem.boundary, domain=domain, n_walks=400, eps=1e-3
    )
    assert ((got.value - truth(problem, x)).abs() < 4.0 * got.se + 1e-3).all()
    assert got.value.equal(got.plug_in + got.correction) and got.plug_in.equal(surrogate.value(x))
    assert (got.value - truth(problem, x)).square().mean().sqrt() < 0.1 * (got.plug_in - truth(problem, x)).square().mean().sqrt()
    torch.testing.assert_close(got.ci[:, 1] - got.ci[:, 0], 2.0 * 1.959963984540054 * got.se)
    assert ((got.ci[:, 0] < truth(problem, x)) & (truth(problem, x) < got.ci[:, 1])).sum() >= 7


def test_batches_of_draws_are_folded_to_the_same_law(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = elliptic("constant_source", 3)
    monkeypatch.setattr(importlib.import_module("kernels.poisson"), "BATCH", 300)
    _, x = problem.sample_points(2, Stream(19, 0))
    zero = problem.boundary
    got = debias_poisson(x, zero, zero, problem.source, zero, n_walks=1001, method="walk", eps=1e-3)
    assert ((got.value - truth(problem, x)).abs() < 4.0 * got.se + 1e-3).all() and (got.se < 0.03).all()


def nan(x: Tensor) -> Tensor:
    return torch.full_like(x[:, 0], math.nan)


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "no dimension": (lambda: Ball(0), "dim = 0"),
    "no edge": (lambda: Box(0), "dim = 0"),
    "no radius": (lambda: Ball(2, radius=-1.0), "radius = -1.0.*> 0"),
    "another domain": (lambda: replace(elliptic("constant_source", 3), domain=Ball(2)), "dim = 3.*2 dimensions"),
    "a shape": (lambda: elliptic("constant_source", 3).inside(torch.zeros(3)), r"shape \(3,\).*\(points, 3\)"),
    "a point outside": (lambda: elliptic("constant_source", 2).inside(torch.ones(1, 2)), "outside.*by 0.414.*closed domain"),
    "a point that is none": (lambda: elliptic("constant_source", 2).inside(torch.full((1, 2), math.nan)), "outside"),
    "eps": (lambda: walk_on_spheres(eps=0.0), "eps = 0.0.*> 0"),
    "a box": (lambda: found(ball_green(), elliptic("sine_box", 2), at(0.5, 0.5, dim=2)[1], 2), "Box.*use walk_on_spheres"),
    "a line": (lambda: found(ball_green(), elliptic("constant_source", 1), at(0.5, dim=1)[1], 2), "dim = 1.*use walk_on_spheres"),
    "steepness": (lambda: elliptic("exponential_ball", 2, steepness=math.inf), "steepness = inf"),
    "frequency": (lambda: elliptic("cosine_ball", 2, frequency=0.0), "frequency = 0.0"),
    "waves": (lambda: elliptic("sine_box", 2, waves=0), "waves = 0"),
    "features": (lambda: cosine_features(elliptic("constant_source", 2), seed=0, features=0), "features = 0"),
    "samples": (lambda: cosine_features(elliptic("constant_source", 2), seed=0, features=9, samples=8), "samples = 8.*9"),
    "spread": (lambda: cosine_features(elliptic("constant_source", 2), seed=0, spread=0.0), "spread = 0.0"),
    "ridge": (lambda: cosine_features(elliptic("constant_source", 2), seed=0, ridge=0.0), "ridge = 0.0"),
    "a source": (
        lambda: cosine_features(replace(elliptic("constant_source", 2), source=nan), seed=0, features=2).fit(Stream(0, 0)),
        "not finite",
    ),
    "width": (lambda: poisson_network(elliptic("constant_source", 2), seed=0, width=0), "width = 0"),
    "a free boundary": (lambda: poisson_residual(elliptic("cosine_ball", 2), Known(garbage)), "does not meet.*poisson_network"),
    "one walk": (
        lambda: debias_poisson(torch.zeros(1, 2), garbage, garbage, garbage, garbage, n_walks=1),
        "n_walks = 1.*at least 2",
    ),
    "a method": (
        lambda: debias_poisson(torch.zeros(1, 2), garbage, garbage, garbage, garbage, n_walks=2, method="euler"),  # type: ignore[arg-type]
        "method = 'euler'",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_bad_input_is_refused_with_the_rule_and_the_remedy(what: str) -> None:
    act, message = REFUSALS[what]
    with pytest.raises(ValueError, match=message):
        act()


def test_a_jet_of_space_names_its_parts() -> None:
    jet = Ball(2).bump(torch.zeros(1, 2))
    assert isinstance(jet, SpaceJet) and jet.value.tolist() == [1.0] and jet.laplacian.tolist() == [-4.0]
