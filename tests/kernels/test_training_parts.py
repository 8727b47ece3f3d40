"""Objectives and optimizers."""

import importlib
import pkgutil

import pytest
import torch
from oracles import equation, exact_surrogate, perturbed

import kernels.optimizers
from kernels.objectives.path import path
from kernels.objectives.residual import residual
from kernels.streams import Stream
from kernels.surrogates.mlp import mlp

OPTIMIZERS = sorted(m.name for m in pkgutil.iter_modules(kernels.optimizers.__path__))


def optimizer(name: str, parameters: object, **options: float) -> torch.optim.Optimizer:
    return getattr(importlib.import_module(f"kernels.optimizers.{name}"), name)(parameters, **options)


def path_loss(size: float, steps: int) -> float:
    problem = equation("viscous_burgers", 4, sigma=1.0)
    objective = path(problem, perturbed(problem, size), steps=steps)
    return float(objective(*objective.sample(2048, Stream(0, 0))))


def test_the_path_loss_of_the_exact_solution_falls_as_one_over_the_steps() -> None:
    assert path_loss(0.0, 8) / path_loss(0.0, 32) == pytest.approx(4.0, rel=0.35)


def test_the_path_loss_sees_a_wrong_surrogate() -> None:
    assert path_loss(0.3, 32) > 2.0 * path_loss(0.0, 32)


def test_the_residual_loss_of_the_exact_solution_is_zero() -> None:
    problem = equation("viscous_burgers", 4)
    points = residual(problem, exact_surrogate(problem)).sample(64, Stream(0, 0))
    assert float(residual(problem, exact_surrogate(problem))(*points)) < 1e-10
    assert float(residual(problem, perturbed(problem, 0.1))(*points)) > 1e-4


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("objective", [path, residual], ids=["path", "residual"])
def test_forty_steps_of_training_lower_the_loss(name: str, objective: object) -> None:
    problem = equation("viscous_burgers", 4)
    net = mlp(problem, seed=0, width=16, depth=2)
    loss = objective(problem, net)  # type: ignore[operator]
    held_out = loss.sample(512, Stream(9, 9))
    before = float(loss(*held_out))
    step = optimizer(name, net.parameters(), learning_rate=3e-3)
    for k in range(40):
        step.zero_grad()
        loss(*loss.sample(64, Stream(0, 1, k))).backward()
        step.step()
    assert float(loss(*held_out)) < 0.8 * before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learning_rate_that_is_not_positive_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"learning_rate = 0\.0"):
        optimizer(name, [torch.nn.Parameter(torch.ones(2))], learning_rate=0.0)


def test_a_path_without_steps_is_refused() -> None:
    problem = equation("lqg", 4)
    with pytest.raises(ValueError, match="steps = 0"):
        path(problem, mlp(problem, seed=0, width=4, depth=1), steps=0)
