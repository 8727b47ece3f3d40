"""Derivatives of surrogates against literal nested automatic differentiation, along every kind of directions."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import pytest
import torch
from oracles import EQUATIONS, equation, literal_jet, of_semilinear
from rows import row_by_row
from torch import Tensor

from kernels.contracts import GeometricBrownianMotion, Jet, SemilinearPDE
from kernels.objectives.residual import residual as residual_objective
from kernels.streams import Stream
from kernels.surrogates import _network, modified_mlp, pirate_net, residual_network, separable_network, windowed_network
from kernels.surrogates._network import Network
from kernels.surrogates.gaussian_process import gaussian_process
from kernels.surrogates.given_network import given_network
from kernels.surrogates.mlp import mlp

DIM = 5


def network(problem: SemilinearPDE) -> Network:
    """A network whose parameters are far from their start, in double precision."""
    net = mlp(problem, seed=1, width=12, depth=3).double()
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return net


def points(problem: SemilinearPDE, n: int = 9) -> tuple[Tensor, Tensor]:
    t, x = problem.sample_points(n, Stream(2, 0))
    return t.double(), x.double()


def same(ours: Jet, oracle: Jet, tolerance: float = 1e-9) -> bool:
    """Every part to ``tolerance`` of the largest entry, or of 1."""
    pairs = zip(astuple(ours), astuple(oracle), strict=True)
    return all((a - b).abs().max().item() <= tolerance * max(b.abs().max().item(), 1.0) for a, b in pairs)


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_jet_along_the_directions_of_the_law_equals_nested_autograd(name: str) -> None:
    problem = equation(name, DIM)
    net, (t, x) = network(problem), points(problem)
    directions, _ = problem.law.directions(t, x, None)
    oracle = literal_jet(net.forward, t, x, directions)
    with torch.no_grad():
        jet = net.jet(t, x, directions)
        value, gradient = net.value_and_gradient(t, x)
    assert same(jet, oracle)
    assert same(Jet(value, jet.dt, gradient, jet.laplacian), oracle)
    assert not same(replace(jet, dt=1.001 * jet.dt + 1e-3), oracle)


def elsewhere(problem: SemilinearPDE) -> SemilinearPDE:
    """The problem under a law for which one number does not stand for the whole trace of g."""
    return replace(problem, law=GeometricBrownianMotion(mu=0.1, sigma=0.3))


KINDS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "coordinates": lambda x: None,
    "scaled coordinates": lambda x: 0.5 + 0.3 * torch.cos(3.0 * x),
    "vectors": lambda x: torch.stack([torch.sin((k + 1.0) * x + k) for k in range(3)], 1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("closed", [True, False], ids=["closed form", "autodiff"])
def test_the_jet_along_any_directions_equals_nested_autograd(name: str, kind: str, closed: bool) -> None:
    """Whether the derivatives of the profile have a closed form or not. Planted: twice the trace."""
    problem = elsewhere(equation(name, DIM))
    if not closed:
        problem = replace(problem, profile_jet=None, hessian_form=None)
    net, (t, x) = network(problem), points(problem)
    directions = KINDS[kind](x)
    oracle = literal_jet(net.forward, t, x, directions)
    with torch.no_grad():
        jet = net.jet(t, x, directions)
    assert same(jet, oracle)
    assert not same(replace(jet, laplacian=2.0 * jet.laplacian), oracle)


def test_the_exact_jet_equals_nested_autograd_in_float32_to_its_rounding() -> None:
    problem = equation("lqg", 20)
    net, (t, x) = network(problem), points(problem)
    oracle = literal_jet(net.forward, t, x)
    single = copy.deepcopy(net).float()
    with torch.no_grad():
        assert same(single.jet(t.float(), x.float(), None), oracle, 1e-5)


@pytest.mark.parametrize("name", [name for name in EQUATIONS if equation(name, 4).law.isotropic])
@pytest.mark.parametrize("probes", [1, 2])
def test_over_all_signs_the_mean_is_the_exact_laplacian(name: str, probes: int) -> None:
    """All 2^(4 probes) sets, without sampling: 10^-9. Planted: K signs that are not divided by sqrt K, as the law divides."""
    problem = equation(name, 4)
    net, (t, x) = network(problem), points(problem, 2)
    sets = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4 * probes)), dtype=torch.float64).reshape(-1, probes, 4)
    for i in range(2):
        many_t, many_x = t[i].expand(len(sets)), x[i].expand(len(sets), -1)
        directions, _ = problem.law.directions(many_t, many_x, sets)
        with torch.no_grad():
            exact = net.jet(t[i : i + 1], x[i : i + 1], None).laplacian
            mean, planted = (net.jet(many_t, many_x, d).laplacian.mean(0, keepdim=True) for d in (directions, sets))
        torch.testing.assert_close(mean, exact, rtol=1e-9, atol=1e-9)
        assert probes == 1 or not torch.allclose(planted, exact, rtol=1e-3)


def test_probes_shared_by_a_batch_would_make_its_standard_error_a_lie() -> None:
    """100 paths of one point: own probes, the spread of the mean is what s.e. says; shared, more than five times it."""
    problem = equation("viscous_burgers", 12)
    net, (t, x) = network(problem), points(problem)
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_jet_in_parts_equals_the_jet_in_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = elsewhere(equation("lqg", DIM))
    net, (t, x) = network(problem), points(problem)
    with torch.no_grad():
        whole = net.jet(t, x, KINDS[kind](x))
        monkeypatch.setattr(_network, "STREAM_ROWS", 20)
        assert same(net.jet(t, x, KINDS[kind](x)), whole, 1e-14)


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_terminal_condition_is_met_exactly_whatever_the_parameters(name: str) -> None:
    problem = equation(name, DIM)
    net, (t, x) = network(problem), points(problem)
    end = torch.full_like(t, problem.horizon)
    with torch.no_grad():
        value, (again, _) = net(end, x), net.value_and_gradient(end, x)
    assert net.meets_terminal
    torch.testing.assert_close(value, problem.terminal(x), rtol=1e-13, atol=0.0)
    torch.testing.assert_close(again, value, rtol=1e-14, atol=1e-14 * value.abs().max().item())


def a_network(problem: SemilinearPDE) -> Any:
    return mlp(problem, seed=1, width=12, depth=3)


def a_residual_network(problem: SemilinearPDE) -> Any:
    return residual_network(problem, seed=1, width=12, activation="gelu", frequencies=2)


def a_modified_mlp(problem: SemilinearPDE) -> Any:
    return modified_mlp(problem, seed=1, width=12, activation="sin", factorised=True)


def a_pirate_net(problem: SemilinearPDE) -> Any:
    net = pirate_net(problem, seed=1, width=12)
    dict(net.named_parameters())["core.body.alpha"].data.fill_(0.3)
    return net


def a_windowed_network(problem: SemilinearPDE) -> Any:
    return windowed_network(problem, seed=1, width=12, depth=2)


def a_separable_network(problem: SemilinearPDE) -> Any:
    return separable_network(problem, seed=1, rank=5, width=12)


def a_gaussian_process(problem: SemilinearPDE) -> Any:
    process = gaussian_process(problem, seed=0, points=20, length_scale=2.0)
    process.fit(Stream(3, 0))
    return process


def a_given_network(problem: SemilinearPDE) -> Any:
    sizes = [(9, 1 + problem.dim), (1, 9)]
    arrays = {f"weight_{i}": 0.1 * Stream(4, 0, i).normal(*size) for i, size in enumerate(sizes)}
    arrays |= {f"bias_{i}": 0.1 * Stream(4, 1, i).normal(size[0]) for i, size in enumerate(sizes)}
    return given_network(problem, arrays, seed=0)


MAKERS = {
    "mlp": a_network,
    "residual_network": a_residual_network,
    "modified_mlp": a_modified_mlp,
    "pirate_net": a_pirate_net,
    "windowed_network": a_windowed_network,
    "separable_network": a_separable_network,
    "gaussian_process": a_gaussian_process,
    "given_network": a_given_network,
}


def test_every_surrogate_of_the_room_is_made_here() -> None:
    assert set(MAKERS) == set(of_semilinear("surrogates"))


@pytest.mark.parametrize("problem_name", ["viscous_burgers", "lqg", "default_risk"])
@pytest.mark.parametrize("name", MAKERS)
def test_no_derivative_depends_on_the_batch_a_row_stands_in(name: str, problem_name: str) -> None:
    problem = equation(problem_name, DIM)
    surrogate = MAKERS[name](problem)
    t, x = (v.float() for v in points(problem))

    def along(kind: str) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
        return lambda t, x: astuple(surrogate.jet(t, x, KINDS[kind](x)))

    with torch.no_grad():
        assert row_by_row(surrogate.value_and_gradient, t, x, rtol=1e-4, atol=1e-5)
        for kind in KINDS:
            assert row_by_row(along(kind), t, x, rtol=1e-4, atol=1e-5), kind
        jet = along("vectors")
        assert not row_by_row(lambda t, x: (*jet(t, x)[:3], jet(t, x)[3] + 1e-2 * x.mean()), t, x, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_residual_loss_equals_finite_differences() -> None:
    problem = equation("lqg", DIM)
    net, (t, x) = network(problem), points(problem)
    loss = residual_objective(problem, net)
    loss(t, x).backward()
    weight, h = net.weights[1], 1e-6
    assert weight.grad is not None
    analytic = weight.grad[2, 3].item()
    with torch.no_grad():
        weight[2, 3] += h
        up = loss(t, x).item()
        weight[2, 3] -= 2 * h
        down = loss(t, x).item()
    assert analytic == pytest.approx((up - down) / (2 * h), rel=1e-5)


def test_flop_grows_with_the_directions_and_the_network() -> None:
    problem = equation("lqg", 100)
    small, large = mlp(problem, seed=0, width=32, depth=2), mlp(problem, seed=0, width=64, depth=2)
    first, exact = small.flop(None)
    assert small.flop(8) == (first, small.flop(8)[1])
    assert first < small.flop(1)[1] < small.flop(8)[1] < exact
    assert large.flop(8)[1] > small.flop(8)[1]
    # science: a K-probe trace costs (K + 3)/(d + 3) of the exact one, where the inner layers decide.
    wide = mlp(problem, seed=0, width=1024, depth=4)
    assert wide.flop(8)[1] / wide.flop(None)[1] == pytest.approx(11 / 103, rel=0.1)


def test_a_network_beyond_memory_is_refused_before_it_is_built() -> None:
    with pytest.raises(ValueError, match="width = 1000000"):
        mlp(equation("lqg", 5), seed=0, width=1_000_000, depth=3)
    with pytest.raises(ValueError, match="depth = 0"):
        mlp(equation("lqg", 5), seed=0, depth=0)
    assert math.isfinite(mlp(equation("lqg", 5), seed=0, width=8, depth=1).flop(None)[1])
