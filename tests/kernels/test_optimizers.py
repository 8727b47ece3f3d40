"""Every optimizer goes downhill and refuses a learning rate that would not."""

from __future__ import annotations

import pytest
import torch
from oracles import factory, room

OPTIMIZERS = room("optimizers")


def quadratic(weight: torch.Tensor) -> torch.Tensor:
    """Curvatures from 0.1 to 10, smallest value 0 at 1."""
    curvature = torch.logspace(-1, 1, weight.numel()).reshape(weight.shape)
    return (curvature * (weight - 1.0).square()).sum()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_reduces_a_quadratic(name: str) -> None:
    weight = torch.nn.Parameter(torch.zeros(6, 4))
    optimizer = factory("optimizers", name)([weight], learning_rate=0.03)
    first = quadratic(weight).item()
    for _ in range(150):
        optimizer.zero_grad()
        quadratic(weight).backward()
        optimizer.step()
    assert quadratic(weight).item() < 0.02 * first


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_leaves_a_minimum_alone(name: str) -> None:
    """No weight decay: at the minimum the gradient is 0 and nothing moves."""
    weight = torch.nn.Parameter(torch.ones(6, 4))
    optimizer = factory("optimizers", name)([weight], learning_rate=0.03)
    for _ in range(5):
        optimizer.zero_grad()
        quadratic(weight).backward()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.ones(6, 4))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rate", [0.0, -0.5])
def test_a_learning_rate_that_is_not_positive_is_refused_by_value(name: str, rate: float) -> None:
    with pytest.raises(ValueError, match=f"learning_rate = {rate}"):
        factory("optimizers", name)([torch.nn.Parameter(torch.zeros(2, 2))], learning_rate=rate)


def test_soap_refuses_an_eigenbasis_that_is_never_updated() -> None:
    with pytest.raises(ValueError, match="every = 0"):
        factory("optimizers", "soap")([torch.nn.Parameter(torch.zeros(2, 2))], every=0)
