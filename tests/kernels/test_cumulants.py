"""The expansion in cumulants of drivers quadratic in z against exact solutions and against nested estimates."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from estimates import Mean
from oracles import equation, solution_of
from torch import Tensor

from kernels.contracts import SemilinearPDE
from kernels.defect import defect
from kernels.estimators import _cumulants
from kernels.estimators.linearised import linearised
from kernels.streams import Stream
from kernels.surrogates.mlp import mlp

PROBLEMS = {"lqg": {"strength": 2.0}, "quadratic_gradient": {}}
T, X = torch.full((1,), 0.2), torch.full((1, 3), 0.6)


@cache
def rough(name: str) -> tuple[SemilinearPDE, float]:
    """The defect of an untrained network, and what the error is at (T, X)."""
    problem = equation(name, 3, **PROBLEMS[name])
    net = mlp(problem, seed=0, width=8, depth=2)
    with torch.no_grad():
        value = net.value_and_gradient(T, X)[0].double().item()
    return defect(problem, net), solution_of(problem).value(T, X).item() - value


def draws(problem: SemilinearPDE, term: str, count: int = 12_000, seed: int = 3) -> Tensor:
    return linearised(times=4, steps=4).sample(problem, T, X, term, count, Stream(seed, 0)).flatten()


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_cumulant_comes_closer_to_the_truth(name: str) -> None:
    """Errors of v by one, two and three orders, each below half of the one before or within 4 s.e. of 0."""
    problem, truth = rough(name)
    first = [Mean.of(draws(problem, term)[None]) for term in ("linear", "time step")]
    value, error = sum(m.mean.item() for m in first), sum(m.error.item() ** 2 for m in first)
    off = [abs(value - truth)]
    for term, sign in (("remainder", 1.0), ("higher order", -1.0)):
        more = Mean.of(draws(problem, term)[None])
        value, error = value + sign * more.mean.item(), error + more.error.item() ** 2
        off.append(abs(value - truth))
        assert off[-1] < max(0.5 * off[-2], 4.0 * error**0.5)
    assert off[0] > 4.0 * error**0.5


def test_the_second_cumulant_is_what_nested_estimates_find_with_less_noise() -> None:
    problem, _ = rough("lqg")
    ours = draws(problem, "remainder", 40_000)
    nested = draws(replace(problem, quadratic=None), "remainder", 40_000)
    a, b = Mean.of(ours[None]), Mean.of(nested[None])
    assert abs(a.mean - b.mean) < 4.0 * (a.error**2 + b.error**2).sqrt()
    assert abs(2.0 * a.mean - b.mean) > 4.0 * (a.error**2 + b.error**2).sqrt()
    assert ours.var() < 0.1 * nested.var()


def test_estimates_on_one_path_share_the_path_and_nothing_else() -> None:
    """f = x_1 along dX = sigma dW, g = 0: R = int X_1 has variance T^3/3, a copy more than that, and two copies covary as R does.

    40 000 paths; the covariance has a relative standard error below 2 %.
    """
    problem = replace(
        equation("lqg", 2, isotropic=True),
        driver=lambda t, x, y, z: x[:, 0] + 0.0 * z.sum(-1),
        terminal=lambda x: torch.zeros_like(x[:, 0]),
        zero_terminal=True,
    )
    t, x = torch.zeros(40_000), torch.zeros(40_000, 2)
    r = _cumulants.copies(problem, t, x, 2, 2, 1, Stream(1, 0))
    exact = 2.0 * problem.horizon**3 / 3.0
    covariance = torch.cov(r)
    assert abs(covariance[0, 1].item() / exact - 1.0) < 0.08
    assert covariance[0, 0] > 1.1 * covariance[0, 1] and covariance[1, 1] > 1.1 * covariance[0, 1]


def test_the_terminal_condition_is_gathered_by_every_copy() -> None:
    """f = 0, g = x_1: R = X_1(T), of variance 2 T; every copy holds the same."""
    problem = replace(equation("lqg", 2, isotropic=True), driver=lambda t, x, y, z: 0.0 * z.sum(-1), terminal=lambda x: x[:, 0])
    r = _cumulants.copies(problem, torch.zeros(4000), torch.zeros(4000, 2), 3, 1, 2, Stream(1, 1))
    assert r[0].equal(r[1]) and r[1].equal(r[2])
    assert r[0].var().item() == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_stated_curvature_of_a_quadratic_driver_is_its_own(name: str) -> None:
    problem = equation(name, 3, **PROBLEMS[name])
    t, x = torch.rand(5), torch.rand(5, 3)
    y, z, step = torch.rand(5), torch.rand(5, 3), torch.rand(5, 3)
    at = replace(problem, driver=lambda t, x, dy, dz: problem.driver(t, x, y + dy, z + dz)).at(t, x, Stream(0), with_source=True)
    excess = at.increment(torch.zeros(5), step) - (at.slopes()[1] * step).sum(-1)
    assert problem.quadratic is not None and problem.z_curvature == abs(problem.quadratic)
    torch.testing.assert_close(excess, 0.5 * problem.quadratic * step.square().sum(-1), rtol=1e-4, atol=1e-4)
    assert not at.slopes()[0].any()
