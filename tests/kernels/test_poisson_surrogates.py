"""Surrogates of Poisson's equation: they meet g, know their Laplacian, and are fitted or trained by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from poisson_cases import PROBLEMS, Known, elliptic, off_by, truth
from rows import row_by_row

from kernels.contracts import EllipticSurrogate, Poisson, Purpose
from kernels.objectives.poisson_residual import poisson_residual
from kernels.streams import Stream
from kernels.surrogates.cosine_features import cosine_features
from kernels.surrogates.poisson_network import poisson_network
from pipeline.job import RunFolder, job_from
from pipeline.training import train_here, trained_surrogate

pytestmark = pytest.mark.unchecked


def makers() -> dict[str, Callable[[Poisson], Any]]:
    return {
        "cosine_features": lambda p: cosine_features(p, seed=3, features=24),
        "poisson_network": lambda p: poisson_network(p, seed=3, width=8, depth=2),
    }


def made(name: str, problem: Poisson) -> Any:
    """A surrogate in float64 with parameters that are no 0."""
    surrogate = makers()[name](problem).double()
    for number, tensor in enumerate([*surrogate.parameters(), *([surrogate.coefficients] if name == "cosine_features" else [])]):
        tensor.data += 0.3 * Stream(13, number).normal(*tensor.shape).double()
    return surrogate.requires_grad_(False)


@pytest.mark.parametrize("automatic", [False, True], ids=["closed form", "automatic"])
@pytest.mark.parametrize("problem_name", PROBLEMS)
@pytest.mark.parametrize("name", makers())
def test_a_surrogate_meets_g_and_has_the_laplacian_of_its_value(name: str, problem_name: str, automatic: bool) -> None:
    problem = elliptic(problem_name, 3)
    if automatic:
        problem = replace(problem, boundary_jet=None)
    surrogate = made(name, problem)
    rim, x = problem.domain.rim(20, Stream(14, 0)), problem.domain.interior(20, Stream(14, 1))
    torch.testing.assert_close(surrogate.value(rim), problem.boundary(rim), rtol=1e-9, atol=1e-9)
    assert (surrogate.value(x) - problem.boundary(x)).abs().max() > 1e-3
    literal = Known(surrogate.value).laplacian(x)
    torch.testing.assert_close(surrogate.laplacian(x), literal, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(surrogate.plug_in(x[:, 0], x), surrogate.value(x))
    assert isinstance(surrogate, EllipticSurrogate) and surrogate.meets_boundary
    value, laplacian = surrogate.flop()
    assert laplacian > value > 0.0
    assert row_by_row(surrogate.laplacian, x, rtol=1e-9)


def test_a_boundary_value_that_is_a_constant_needs_no_derivatives() -> None:
    problem = replace(elliptic("constant_source", 3), boundary=lambda x: torch.ones_like(x[:, 0]), zero_boundary=False)
    x = problem.domain.interior(10, Stream(14, 2))
    surrogate = made("poisson_network", problem)
    torch.testing.assert_close(surrogate.laplacian(x), Known(surrogate.value).laplacian(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", makers())
def test_all_that_is_learned_fills_a_fresh_surrogate(name: str) -> None:
    problem = elliptic("cosine_ball", 3)
    learned, fresh = made(name, problem), makers()[name](problem).double()
    x = problem.domain.interior(10, Stream(15, 0))
    assert not fresh.value(x).equal(learned.value(x))
    fresh.load_state_dict(learned.state_dict())
    assert fresh.value(x).equal(learned.value(x)) and fresh.laplacian(x).equal(learned.laplacian(x))


def test_more_cosines_fit_better_and_the_fit_is_the_least_squares_one() -> None:
    problem = elliptic("cosine_ball", 3)
    t, x = problem.sample_points(200, Stream(16, 0))
    errors = []
    for features in (16, 64, 256):
        surrogate = cosine_features(problem, seed=0, features=features)
        before, after = surrogate.fit(Stream(16, 1))
        assert after < before and min(surrogate.fit_cost()) > 0.0
        errors.append(float((surrogate.plug_in(t, x) - truth(problem, x)).square().mean().sqrt()))
    assert errors[0] > 10.0 * errors[1] > 100.0 * errors[2]
    _, seen = problem.sample_points(1024, Stream(16, 1))
    best = (surrogate.laplacian(seen) - problem.source(seen)).square().mean()
    assert after * problem.source(seen).square().mean() == pytest.approx(float(best), rel=1e-3)
    for entry in (0, 100):
        surrogate.coefficients[entry] += 1e-3
        assert (surrogate.laplacian(seen) - problem.source(seen)).square().mean() > best
        surrogate.coefficients[entry] -= 1e-3


def test_the_residual_objective_is_the_literal_one_and_0_at_the_solution() -> None:
    problem = elliptic("exponential_ball", 3)
    net = poisson_network(problem, seed=0, width=8, depth=2)
    objective = poisson_residual(problem, net)
    (x,) = objective.sample(64, Stream(17, 0))
    assert x.dtype == torch.float32 and (problem.domain.distance(x) > -1e-6).all()
    assert x.equal(objective.sample(64, Stream(17, 0), 0.3)[0])
    literal = made_double(net).laplacian(x.double()) - problem.source(x.double())
    assert objective(x).item() == pytest.approx(float(literal.square().mean()), rel=1e-4)
    torch.testing.assert_close(objective.residuals(x).double(), literal, rtol=1e-3, atol=1e-3)
    exact = poisson_residual(problem, off_by(problem, 0.0))
    assert exact(x.double()).item() < 1e-20 and objective.flop(20) == 2.0 * objective.flop(10)


def made_double(net: Any) -> Known:
    wide = poisson_network(net.problem, seed=0, width=8, depth=2).double()
    return Known(wide.value)


def test_the_training_loop_trains_it_as_it_stands(tmp_path: Path) -> None:
    """100 steps halve the error of the network at least, and what is stored is what was trained."""
    data = {
        "name": "poisson",
        "problem": {"name": "cosine_ball", "dim": 3, "frequency": 2.0},
        "surrogate": {"name": "poisson_network", "width": 8, "depth": 2},
        "training": {
            "objective": "poisson_residual",
            "steps": 100,
            "batch": 32,
            "optimizer": {"name": "soap", "learning_rate": 1e-2},
        },
    }
    job, folder = job_from(data, tmp_path), RunFolder(tmp_path)
    train_here(folder, job)
    trained = trained_surrogate(folder, job)
    t, x = job.problem.sample_points(200, Stream(0, Purpose.POINTS))
    before, after = ((s.plug_in(t, x) - truth(job.problem, x)).square().mean().sqrt() for s in (job.surrogate(), trained))
    assert after < 0.5 * before
