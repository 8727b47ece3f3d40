"""Every optimizer goes downhill, stays at a minimum, resumes to the bit and refuses a learning rate that would not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from descent import Quadratic, step, train
from oracles import equation, factory, room

from kernels.contracts import Searching
from kernels.objectives.path import path
from kernels.objectives.residual import residual
from kernels.streams import Stream
from kernels.surrogates.mlp import mlp

OPTIMIZERS = room("optimizers")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_reduces_a_quadratic(name: str) -> None:
    objective = Quadratic(torch.zeros(6, 4))
    optimizer = factory("optimizers", name)(objective.parameters(), learning_rate=0.05)
    searches = isinstance(optimizer, Searching) and optimizer.needs == "loss"
    losses = train(optimizer, objective, [objective.entries] * (10 if searches else 200))
    assert losses[-1] < 0.02 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_leaves_a_minimum_alone(name: str) -> None:
    """No weight decay: at the minimum the gradient is 0 and nothing moves."""
    objective = Quadratic(torch.ones(6, 4))
    train(factory("optimizers", name)(objective.parameters(), learning_rate=0.03), objective, [objective.entries] * 5)
    torch.testing.assert_close(objective.weight.detach(), torch.ones(6, 4))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rate", [0.0, -0.5])
def test_a_learning_rate_that_is_not_positive_is_refused_by_value(name: str, rate: float) -> None:
    with pytest.raises(ValueError, match=f"learning_rate = {rate}"):
        factory("optimizers", name)([torch.nn.Parameter(torch.zeros(2, 2))], learning_rate=rate)


def pinn(dtype: torch.dtype) -> tuple[Any, list[Any]]:
    """The residual objective of a small network, with biases and a last layer of one row, and 6 batches."""
    problem = equation("viscous_burgers", 3)
    objective = residual(problem, mlp(problem, seed=0, width=8, depth=2).to(dtype))
    return objective, [[part.to(dtype) for part in objective.sample(16, Stream(3, n))] for n in range(6)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_that_is_stopped_and_loaded_goes_on_to_the_same_bits(name: str, dtype: torch.dtype) -> None:
    make = factory("optimizers", name)
    objective, batches = pinn(dtype)
    optimizer = make(list(objective.parameters()), learning_rate=0.01)
    for parts in batches[:3]:
        step(optimizer, objective, parts)
    other = copy.deepcopy(objective)
    assert all(a.dtype == dtype for a in other.parameters())
    resumed = make(list(other.parameters()), learning_rate=0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = [p.detach().clone() for p in objective.parameters()]
    for parts in batches[3:]:
        step(optimizer, objective, parts)
        step(resumed, other, parts)
    for a, b, c in zip(objective.parameters(), other.parameters(), before, strict=True):
        assert a.equal(b) and not a.equal(c)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("soap", {"every": 0}, "every = 0"),
        ("shampoo", {"every": 0}, "every = 0"),
        ("shampoo", {"memory": 1.0}, "memory = 1.0"),
        ("shampoo", {"momentum": -0.1}, "momentum = -0.1"),
        ("kron", {"momentum": 1.0}, "momentum = 1.0"),
        ("muon", {"momentum": 1.0}, "momentum = 1.0"),
        ("muon", {"iterations": 0}, "iterations = 0"),
        ("muon", {"biases": 0.0}, "biases = 0.0"),
        ("steepest_descent", {"last": -1.0}, "last = -1.0"),
        ("lbfgs", {"iterations": 0}, "iterations = 0"),
        ("lbfgs", {"history": 0}, "history = 0"),
        ("ssbroyden", {"iterations": 0}, "iterations = 0"),
        ("spring", {"momentum": 1.0}, "momentum = 1.0"),
        ("spring", {"damping": 0.0}, "damping = 0.0"),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_value(name: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        factory("optimizers", name)([torch.nn.Parameter(torch.zeros(2, 2))], **options)


def test_a_dense_inverse_hessian_is_refused_where_it_would_not_fit() -> None:
    with pytest.raises(ValueError, match=r"20001 parameters.*at most 20000.*or use lbfgs"):
        factory("optimizers", "ssbroyden")([torch.nn.Parameter(torch.zeros(20001))])


def test_the_residuals_of_an_objective_have_its_loss_for_mean_square() -> None:
    problem = equation("viscous_burgers", 3)
    for make in (residual, path):
        for drift in (0.0, 0.5):
            objective = make(problem, mlp(problem, seed=0, width=8, depth=2), drift=drift)
            parts = objective.sample(16, Stream(4, 0))
            r = objective.residuals(*parts)
            assert r.ndim == 1 and len(r) % 16 == 0
            assert objective(*parts).equal(r.square().mean())
