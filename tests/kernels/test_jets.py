"""Derivatives of the network against literal nested automatic differentiation."""

import copy
import importlib
import math
from dataclasses import replace

import pytest
import torch
from oracles import EQUATIONS, equation, literal_jet

from kernels.contracts import Jet
from kernels.objectives.residual import residual as residual_objective
from kernels.streams import Stream
from kernels.surrogates.mlp import MLP, mlp

module = importlib.import_module("kernels.surrogates.mlp")
NAMES = ("value", "dt", "gradient", "laplacian")


def network(name: str = "lqg", dim: int = 7) -> tuple[MLP, torch.Tensor, torch.Tensor]:
    problem = equation(name, dim)
    net = mlp(problem, seed=1, width=12, depth=3).double()
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t, x = problem.sample_points(9, Stream(2, 0))
    return net, t.double(), x.double()


def assert_same(ours: Jet, oracle: Jet, tolerance: float) -> None:
    for name in NAMES:
        scale = getattr(oracle, name).abs().max().item() + 1e-30
        assert (getattr(ours, name) - getattr(oracle, name)).abs().max().item() <= tolerance * max(scale, 1.0), name


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_exact_jet_equals_nested_autograd_in_float64(name: str) -> None:
    net, t, x = network(name)
    oracle = literal_jet(net.forward, t, x)
    with torch.no_grad():
        assert_same(net.jet(t, x, None), oracle, 1e-10)
        value, gradient = net.value_and_gradient(t, x)
    torch.testing.assert_close(value, oracle.value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, oracle.gradient, rtol=1e-10, atol=1e-12)


def test_the_exact_jet_equals_nested_autograd_in_float32_to_its_rounding() -> None:
    net, t, x = network(dim=20)
    oracle = literal_jet(net.forward, t, x)
    single = copy.deepcopy(net).float()
    with torch.no_grad():
        assert_same(single.jet(t.float(), x.float(), None), oracle, 1e-5)


def test_a_full_set_of_coordinate_probes_gives_the_exact_laplacian() -> None:
    net, t, x = network()
    probes = torch.eye(7, dtype=torch.float64).expand(len(t), -1, -1).contiguous()
    with torch.no_grad():
        assert_same(net.jet(t, x, probes), net.jet(t, x, None), 1e-10)


def test_random_signs_give_the_laplacian_in_the_mean() -> None:
    """Seed fixed; false positives 9 in 10^4 over 9 points (4 s.e.); catches a missing 1/K or off-diagonal bias of 1 s.e. x 5."""
    net, t, x = network()
    stream = Stream(5, 0)
    with torch.no_grad():
        exact = net.jet(t, x, None).laplacian
        signs = (stream.signs(len(t), 2, 7).double() for _ in range(2000))
        draws = torch.stack([net.jet(t, x, net.problem.law.directions(t, x, s)[0]).laplacian for s in signs])
    error = draws.std(0) / math.sqrt(len(draws))
    assert (error > 0).all()
    assert ((draws.mean(0) - exact).abs() <= 4 * error).all()
    # Planted: the number of probes is not divided by.
    lap_g = net.problem.terminal_jet(x)[2]
    assert not (((draws - lap_g).mean(0) * 2.0 + lap_g - exact).abs() <= 4 * error).all()


def test_probes_shared_by_a_batch_would_make_its_standard_error_a_lie() -> None:
    """500 paths of one point: own probes, the spread of the mean is what s.e. says; shared, more than five times it."""
    net, t, x = network("viscous_burgers", 12)
    t, x = t[:1].expand(100), x[:1].expand(100, -1)
    stream = Stream(6, 0)
    means: dict[str, list[float]] = {"own": [], "shared": []}
    said = []
    with torch.no_grad():
        for _ in range(40):
            own = net.jet(t, x, stream.signs(100, 1, 12).double()).laplacian
            shared = net.jet(t, x, stream.signs(1, 1, 12).double().expand(100, -1, -1).contiguous()).laplacian
            means["own"].append(own.mean().item())
            means["shared"].append(shared.mean().item())
            said.append(own.std().item() / 10.0)
    spread = {kind: torch.tensor(values).std().item() / (sum(said) / len(said)) for kind, values in means.items()}
    assert 0.6 < spread["own"] < 1.5 < 5.0 < spread["shared"]


def test_a_jet_in_parts_equals_the_jet_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    net, t, x = network()
    with torch.no_grad():
        whole = net.jet(t, x, None)
        monkeypatch.setattr(module, "STREAM_ROWS", 20)
        assert_same(net.jet(t, x, None), whole, 1e-14)


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_terminal_condition_is_met_exactly_whatever_the_parameters(name: str) -> None:
    net, t, x = network(name)
    end = torch.full_like(t, net.problem.horizon)
    with torch.no_grad():
        assert net.meets_terminal == (net.problem.profile is None)
        if not net.meets_terminal:
            assert not net(end, x).equal(net.problem.terminal(x))
            return
        assert net(end, x).equal(net.problem.terminal(x))
        torch.testing.assert_close(net.value_and_gradient(end, x)[0], net.problem.terminal(x), rtol=1e-14, atol=0.0)


def test_a_problem_without_closed_form_terminal_jet_gets_the_same_jet() -> None:
    net, t, x = network()
    with torch.no_grad():
        closed = net.jet(t, x, None)
        net.problem = replace(net.problem, terminal_jet=None)
        assert_same(net.jet(t, x, None), closed, 1e-10)


def test_the_gradient_of_a_residual_loss_equals_finite_differences() -> None:
    net, t, x = network()
    loss = residual_objective(net.problem, net)
    loss(t, x).backward()
    weight, h = net.weights[1], 1e-6
    analytic = weight.grad[2, 3].item()
    with torch.no_grad():
        weight[2, 3] += h
        up = loss(t, x).item()
        weight[2, 3] -= 2 * h
        down = loss(t, x).item()
    assert analytic == pytest.approx((up - down) / (2 * h), rel=1e-5)


def test_a_network_beyond_memory_is_refused_before_it_is_built() -> None:
    with pytest.raises(ValueError, match="width = 1000000"):
        mlp(equation("lqg", 5), seed=0, width=1_000_000, depth=3)
    with pytest.raises(ValueError, match="depth = 0"):
        mlp(equation("lqg", 5), seed=0, depth=0)
