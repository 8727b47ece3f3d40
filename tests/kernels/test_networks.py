"""Every architecture with every option: exact derivatives, gradients, cost, and training by either objective."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracles import equation, factory, literal_jet
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.contracts import Jet, SemilinearPDE, Surrogate
from kernels.defect import defect, residual
from kernels.optimizers._layers import by_role
from kernels.optimizers.adam import adam
from kernels.streams import Purpose, Stream
from kernels.surrogates._ansatz import clock, time_features
from kernels.surrogates._network import SHARES, Network

DIM = 5
SHAPES: dict[str, dict[str, int]] = {
    "mlp": {"depth": 3},
    "residual_network": {"blocks": 2},
    "modified_mlp": {"depth": 3},
    "pirate_net": {"blocks": 2},
    "windowed_network": {"windows": 3},
    "separable_network": {"rank": 4},
}
ONE = [name for name in SHAPES if name not in ("windowed_network", "separable_network")]
"""A single network of layers each."""

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sin, factorised, frequencies": {"activation": "sin", "factorised": True, "frequencies": 2},
    "gelu, frequencies": {"activation": "gelu", "frequencies": 1},
}
KINDS = {
    "coordinates": lambda x: None,
    "scaled coordinates": lambda x: 0.5 + 0.3 * torch.cos(3.0 * x),
    "vectors": lambda x: torch.stack([torch.sin((k + 1.0) * x + k) for k in range(3)], 1),
}


def made(name: str, problem: SemilinearPDE, *, width: int = 12, moved: float = 0.3, **options: Any) -> Any:
    """A network whose parameters, those that begin at 0 too, are ``moved`` from their start, in double precision."""
    if name == "separable_network":
        # It has no matrix whose rows are units of one layer, and takes bounded activations alone.
        options = {k: v for k, v in options.items() if k != "factorised" and v != "gelu"}
    net = factory("surrogates", name)(problem, seed=1, width=width, **SHAPES[name], **options).double()
    for parameter in net.parameters():
        parameter.data += moved * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return net


def points(problem: SemilinearPDE, n: int = 7) -> tuple[Tensor, Tensor]:
    t, x = problem.sample_points(n, Stream(2, 0))
    return t.double(), x.double()


def parts(jet: Jet) -> tuple[Tensor, ...]:
    return jet.value, jet.dt, jet.gradient, jet.laplacian


def close(ours: Jet, oracle: Jet, tolerance: float = 1e-10) -> bool:
    """Every part to ``tolerance`` of the largest entry, or of 1."""
    pairs = zip(parts(ours), parts(oracle), strict=True)
    return all((a - b).abs().max().item() <= tolerance * max(b.abs().max().item(), 1.0) for a, b in pairs)


@pytest.mark.parametrize("recorded", [False, True], ids=["correcting", "training"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_all_derivatives_equal_nested_autograd(name: str, options: str, recorded: bool) -> None:
    """In a problem whose profile is not g; planted: a Laplacian without what the gates' product rule adds, off by 1e-3."""
    problem = equation("black_scholes", DIM)
    net, (t, x) = made(name, problem, **OPTIONS[options]), points(problem)
    assert isinstance(net, Surrogate)
    for along in KINDS.values():
        directions = along(x)
        oracle = literal_jet(net.forward, t, x, directions)
        with torch.set_grad_enabled(recorded):
            jet, (value, gradient) = net.jet(t, x, directions), net.value_and_gradient(t, x)
        assert value.requires_grad == gradient.requires_grad == jet.laplacian.requires_grad == recorded
        assert close(jet, oracle)
        assert close(Jet(value, jet.dt, gradient, jet.laplacian), oracle)
        assert not close(Jet(value, jet.dt, gradient, jet.laplacian * 1.001 + 1e-3), oracle)


@pytest.mark.parametrize("name", SHAPES)
def test_in_float32_the_jet_is_exact_to_rounding(name: str) -> None:
    problem = equation("lqg", 20)
    net, (t, x) = made(name, problem), points(problem)
    oracle = literal_jet(net.forward, t, x)
    with torch.no_grad():
        assert close(net.float().jet(t.float(), x.float(), None), oracle, 1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_the_terminal_condition_is_met_whatever_the_parameters(name: str) -> None:
    problem = equation("black_scholes", DIM)
    net, (t, x) = made(name, problem, frequencies=2), points(problem)
    end = torch.full_like(t, problem.horizon)
    with torch.no_grad():
        torch.testing.assert_close(net.value_and_gradient(end, x)[0], problem.terminal(x), rtol=1e-13, atol=0.0)
        assert not net(0.9 * end, x).allclose(problem.terminal(x), rtol=1e-4)


def finite_difference(loss: Any, entry: Tensor, h: float = 1e-6) -> float:
    with torch.no_grad():
        entry += h
        up = loss().item()
        entry -= 2.0 * h
        down = loss().item()
        entry += h
    return (up - down) / (2.0 * h)


@pytest.mark.parametrize("objective", ["path", "residual"])
@pytest.mark.parametrize("name", SHAPES)
def test_gradients_of_both_objectives_equal_finite_differences(name: str, objective: str) -> None:
    """One entry of every parameter. Black-Scholes has directions that are not the coordinates: slopes have gradients too."""
    problem = equation("black_scholes", DIM)
    net = made(name, problem, **OPTIONS["sin, factorised, frequencies"])
    loss = factory("objectives", objective)(problem, net)
    batch = tuple(v.double() for v in loss.sample(8, Stream(4, 0)))
    loss(*batch).backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
        there = parameter.grad.flatten().abs().argmax()
        expected = finite_difference(lambda: loss(*batch), parameter.data.flatten()[there : there + 1])
        assert parameter.grad.flatten()[there].item() == pytest.approx(expected, rel=1e-4, abs=1e-7), parameter_name


@pytest.mark.parametrize("objective", ["path", "residual"])
@pytest.mark.parametrize("name", SHAPES)
def test_thirty_steps_lower_the_loss(name: str, objective: str) -> None:
    """By a fifth on a batch kept aside, from the network's own start; a loss that does not move or climbs is not."""
    problem = equation("viscous_burgers", 4)
    net = factory("surrogates", name)(problem, seed=0, width=16, **SHAPES[name])
    loss = factory("objectives", objective)(problem, net)
    optimizer = adam(net.parameters(), learning_rate=1e-2)
    aside = loss.sample(128, Stream(6, 0))
    before = loss(*aside).item()
    for step in range(30):
        optimizer.zero_grad()
        loss(*loss.sample(64, Stream(6, 1 + step))).backward()
        optimizer.step()
    assert loss(*aside).item() < 0.8 * before


@pytest.mark.parametrize("name", SHAPES)
def test_a_correction_records_nothing_and_sees_the_residual(name: str) -> None:
    problem = equation("lqg", DIM)
    net, (t, x) = made(name, problem), points(problem)
    source = defect(problem, net).at(t, x, Stream(0, 0), with_source=True).source()
    assert not source.requires_grad
    torch.testing.assert_close(source, residual(problem, net, t, x).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("probes", [None, 3])
@pytest.mark.parametrize("options", [{}, {"frequencies": 3}], ids=str)
@pytest.mark.parametrize("name", ONE)
def test_the_flop_booked_are_those_executed(name: str, options: dict[str, Any], probes: int | None) -> None:
    """To a tenth at width 64, where what enters through vectors of rank one is little."""
    problem = equation("lqg", 20)
    net, (t, x) = made(name, problem, width=64, **options).requires_grad_(False), points(problem, 32)
    directions = None if probes is None else Stream(1, 0).signs(32, probes, 20).double()
    calls = (lambda: net.value_and_gradient(t, x), lambda: net.jet(t, x, directions))
    for call, booked in zip(calls, net.flop(probes), strict=True):
        with torch.no_grad(), torch.profiler.profile(with_flops=True) as seen:
            call()
        executed = sum(event.flops for event in seen.key_averages() if event.key in ("aten::mm", "aten::addmm", "aten::bmm"))
        assert 32.0 * booked == pytest.approx(executed, rel=0.1)


def literally(problem: SemilinearPDE, width: int, depth: int) -> tuple[Iterator[Tensor], Any]:
    """Parameters and value of the network without options, written out in float32."""
    generator = torch.Generator().manual_seed(Stream(1, Purpose.INITIALISATION).integer(2**31))
    sizes = [problem.dim + 2, *[width] * depth, 1]
    weights = [torch.randn(b, a, generator=generator) for a, b in itertools.pairwise(sizes)]
    weights[0] *= torch.tensor([SHARES[0], *[SHARES[1] / math.sqrt(problem.dim)] * problem.dim, SHARES[2]])
    for weight in weights[1:]:
        weight *= math.sqrt(2.0 / sum(weight.shape))

    def value(net: Network, t: Tensor, x: Tensor) -> Tensor:
        assert problem.profile is not None
        p = problem.profile(t, x)
        h = torch.log(1.0 + problem.layer * (problem.horizon - t) / problem.horizon) / math.log1p(problem.layer)
        features = (h[:, None], (x - net.mean) / net.spread, ((p - net.terminal_mean) / net.terminal_spread)[:, None])
        y = torch.cat(features, 1) @ weights[0].T
        for weight in weights[1:]:
            y = (2.0 * torch.sigmoid(2.0 * y) - 1.0) @ weight.T
        return p + net.terminal_spread * h * y[:, 0]

    return iter(weights), value


def test_without_options_the_perceptron_is_the_one_it_was_to_the_bit() -> None:
    problem = equation("lqg", 20)
    net = factory("surrogates", "mlp")(problem, seed=1, width=32, depth=3)
    weights, value = literally(problem, 32, 3)
    t, x = problem.sample_points(64, Stream(2, 0))
    assert all(mine.equal(literal) for mine, literal in zip(net.weights, weights, strict=True))
    assert not any(bias.any() for bias in net.biases) and len(net.factors) == 0
    with torch.no_grad():
        assert net(t, x).equal(value(net, t, x))
    assert list(net.state_dict())[4:6] == ["weights.0", "weights.1"]


@pytest.mark.parametrize("name", ONE)
def test_factorised_weights_begin_as_they_would_without_and_learn_at_rates_of_their_own(name: str) -> None:
    """Products equal to rounding; the logarithms have the mean and deviation of the paper: 6 standard errors."""
    problem = equation("lqg", DIM)
    plain, factorised = (
        factory("surrogates", name)(problem, seed=1, width=200, factorised=f, **SHAPES[name]) for f in (False, True)
    )
    for (weight, _), (product, _) in zip(plain.layers, factorised.layers, strict=True):
        torch.testing.assert_close(weight, product, rtol=1e-6, atol=0.0)
    logarithms = torch.cat(list(factorised.factors))
    assert abs(logarithms.mean().item() - 0.5) < 6.0 * 0.1 / math.sqrt(len(logarithms))
    assert logarithms.std().item() == pytest.approx(0.1, rel=6.0 / math.sqrt(2.0 * len(logarithms)))
    assert len(factorised.factors) == len(factorised.weights) and not len(plain.factors)


def test_frequencies_are_read_of_time_alone() -> None:
    """A weight on cos(2 pi h) alone makes the first pre-activation a function of h with that period, whatever x."""
    problem = equation("lqg", DIM)
    net = made("mlp", problem, moved=0.0, frequencies=2)
    net.weights[0].data.zero_()
    net.weights[0].data[:, 2] = 1.0
    h = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    x = Stream(1, 0).normal(4, DIM).double()
    first = net._first(net.layers[0], time_features(h, net.clocks)[0], x, problem.terminal(x))
    torch.testing.assert_close(first[:, 0], torch.cos(2.0 * math.pi * h))
    with pytest.raises(ValueError, match="frequencies = -1"):
        factory("surrogates", "mlp")(problem, seed=0, frequencies=-1)


def test_a_pirate_net_begins_as_its_last_layer_of_its_embedding() -> None:
    """Whatever the blocks hold, and the weights of its blocks learn as soon as alpha moves."""
    problem = equation("lqg", DIM)
    net = factory("surrogates", "pirate_net")(problem, seed=1, width=12, blocks=2)
    alpha = dict(net.named_parameters())["core.body.alpha"]
    assert not alpha.any() and alpha.shape == (2,)
    t, x = problem.sample_points(9, Stream(2, 0))
    before = net(t, x)
    before.sum().backward()
    assert alpha.grad is not None and alpha.grad.all()
    with torch.no_grad():
        for weight in list(net.weights)[1:-1]:
            weight *= 2.0
        assert net(t, x).equal(before)
        alpha += 0.1
        assert not net(t, x).allclose(before, rtol=1e-4)


@pytest.mark.parametrize("name", ONE)
def test_a_network_without_units_or_beyond_memory_is_refused_before_it_is_built(name: str) -> None:
    make, problem = factory("surrogates", name), equation("lqg", DIM)
    (deep,) = SHAPES[name]
    with pytest.raises(ValueError, match=f"{deep} = 0: a network needs"):
        make(problem, seed=0, **{deep: 0})
    with pytest.raises(ValueError, match=r"width = 1000000, .*parameters, and at most"):
        make(problem, seed=0, width=1_000_000)


def test_windows_sum_to_one_meet_smoothly_and_reach_two_networks_at_most() -> None:
    """Constant networks 1, 2, 3 make of s h N the interpolant of these by cos^2; its u_t is that of the windows too."""
    problem = equation("lqg", DIM)
    net = made("windowed_network", problem, moved=0.0)
    for j, network in enumerate(net.networks):
        for parameter in network.parameters():
            parameter.data.zero_()
        network.biases[-1].data.fill_((j + 1.0) / network.terminal_spread)
        assert network.terminal_spread > 0.0
    t = torch.linspace(0.0, 1.0, 41, dtype=torch.float64) * problem.horizon
    x = Stream(1, 0).normal(41, DIM).double()
    assert problem.profile is not None
    h, _ = clock(problem, t)
    corrected = net.jet(t, x, None).value - problem.profile(t, x)
    share = torch.sin(math.pi * h).square()
    torch.testing.assert_close(corrected, h * torch.where(h < 0.5, 1.0 + share, 3.0 - share), rtol=1e-9, atol=1e-9)
    reached = torch.stack([torch.zeros(41).index_fill(0, net._window(j, t)[0], 1.0) for j in range(3)]).sum(0)
    assert reached[1:].max() == 2.0 and reached.min() >= 1.0
    with pytest.raises(ValueError, match="windows = 1"):
        factory("surrogates", "windowed_network")(problem, seed=0, windows=1)


def test_the_networks_of_windows_differ_and_read_a_time_of_their_own() -> None:
    """(n - 1)(h - c_j) is 0 at the middle of each window: there a weight on time and the bias cancel."""
    net = factory("surrogates", "windowed_network")(equation("lqg", DIM), seed=1, width=12, windows=4)
    weights = [network.weights[0] for network in net.networks]
    assert not any(one.equal(other) for one, other in itertools.combinations(weights, 2))
    for j, network in enumerate(net.networks):
        torch.testing.assert_close(network.biases[0], -network.weights[0][:, 0] * j / 3.0)


def test_a_batch_within_one_window_still_gives_every_parameter_a_gradient() -> None:
    """Workers add up their gradients entry by entry. The profile is differentiated by autograd, which takes no empty batch."""
    problem = replace(equation("black_scholes", DIM), profile_jet=None, hessian_form=None)
    net, (t, x) = made("windowed_network", problem), points(problem)
    early = torch.zeros_like(t)
    net.jet(early, x, None).laplacian.sum().backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients) and not all(gradient.any() for gradient in gradients)


def test_a_separable_network_is_a_sum_of_products() -> None:
    """N h s at (t, x) by the definition of its paper, from functions of one coordinate each."""
    problem = equation("lqg", DIM)
    net, (t, x) = made("separable_network", problem), points(problem)
    h, _ = clock(problem, t)
    of_time = torch.tanh(h[:, None] @ net.time_in.T + net.time_bias) @ net.time_out.T
    y, bias = (x - net.mean) / net.spread, net.place_bias.reshape(DIM, -1)
    one = [torch.tanh(y[:, i, None] * net.place_in[i].T + bias[i]) @ net.place_out[i].T for i in range(DIM)]
    literal = sum(net.sum[0, r] * of_time[:, r].exp() * math.prod(psi[:, r].exp() for psi in one) for r in range(4))
    assert problem.profile is not None
    torch.testing.assert_close(net(t, x), problem.profile(t, x) + net.terminal_spread * h * literal)
    with pytest.raises(ValueError, match="rank = 0"):
        factory("surrogates", "separable_network")(problem, seed=0, rank=0)


@pytest.mark.parametrize("probes", [None, 16])
def test_the_flop_of_a_separable_network_are_those_of_its_products(probes: int | None) -> None:
    """To a thousandth, with as many directions as make them a third of all."""
    problem = equation("lqg", 20)
    net = factory("surrogates", "separable_network")(problem, seed=0, rank=64, width=4).requires_grad_(False)
    t, x = problem.sample_points(32, Stream(2, 0))
    directions = None if probes is None else Stream(1, 0).signs(32, probes, 20)
    for call, booked in zip(
        (lambda: net.value_and_gradient(t, x), lambda: net.jet(t, x, directions)), net.flop(probes), strict=True
    ):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call()
        assert 32.0 * booked == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_a_separable_network_meets_g_and_stays_finite_far_from_where_it_was_made() -> None:
    """At points and weights a thousand and thirty times as large; unbounded activations would overflow there."""
    problem = equation("lqg", 100)
    net = factory("surrogates", "separable_network")(problem, seed=0)
    t, x = problem.sample_points(50, Stream(2, 0))
    with torch.no_grad():
        net.place_out *= 30.0
        far = 1000.0 * x
        assert net(torch.full_like(t, problem.horizon), far).equal(problem.terminal(far))
        assert all(part.isfinite().all() for part in parts(net.jet(t, far, None)))


@pytest.mark.parametrize("name", ["mlp", "separable_network"])
def test_rows_in_parts_are_those_of_one_piece(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = equation("lqg", DIM)
    net, (t, x) = made(name, problem), points(problem)
    whole = net(t, x), *net.value_and_gradient(t, x), *parts(net.jet(t, x, None))
    for module in ("separable_network", "_network"):
        monkeypatch.setattr(importlib.import_module(f"kernels.surrogates.{module}"), "STREAM_ROWS", 2 * DIM)
    for one, other in zip(whole, (net(t, x), *net.value_and_gradient(t, x), *parts(net.jet(t, x, None))), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("frequencies", [0, 2])
def test_roles_of_a_separable_network_begin_at_the_time_and_end_at_the_sum(frequencies: int) -> None:
    net = made("separable_network", equation("lqg", DIM), moved=0.0, frequencies=frequencies)
    groups = {g["role"]: g["params"] for g in by_role(net.parameters(), 1.0)}
    assert [id(p) for p in (*groups["first"], *groups["last"])] == [id(net.time_in), id(net.sum)]
    assert {id(p) for p in groups["biases"]} == {id(net.time_bias), id(net.place_bias)} and len(groups["hidden"]) == 3
