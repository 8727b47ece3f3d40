"""A user's own network: derivatives against torch's own model, and what is refused about its arrays."""

import math

import pytest
import torch
from oracles import equation, literal_jet
from torch import Tensor, nn

from kernels.activations import ACTIVATIONS
from kernels.contracts import Fitted, Surrogate
from kernels.defect import residual
from kernels.streams import Stream
from kernels.surrogates.given_network import GivenNetwork, given_network

DIM = 4
PROBLEM = equation("viscous_burgers", DIM)


class Sine(nn.Module):
    """sin as a layer."""

    def forward(self, a: Tensor) -> Tensor:
        return torch.sin(a)


LAYERS = {"tanh": nn.Tanh, "sin": Sine, "gelu": nn.GELU, "softplus": nn.Softplus}


def model(activation: str, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    phi = LAYERS[activation]
    return nn.Sequential(nn.Linear(1 + DIM, 9), phi(), nn.Linear(9, 7), phi(), nn.Linear(7, 1)).to(dtype)


def arrays_of(model: nn.Sequential) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


def given(activation: str = "tanh", dtype: torch.dtype = torch.float64) -> GivenNetwork:
    return given_network(PROBLEM, arrays_of(model(activation, dtype)), seed=0, activation=activation)


def points() -> tuple[Tensor, Tensor]:
    t, x = PROBLEM.sample_points(6, Stream(1, 0))
    return t.double(), 2.0 * x.double()


@pytest.mark.parametrize("activation", LAYERS)
def test_every_derivative_equals_nested_autograd_of_the_model_it_came_from(activation: str) -> None:
    torch_model, network, (t, x) = model(activation), given(activation), points()
    oracle = literal_jet(lambda t, x: torch_model(torch.cat((t[:, None], x), 1))[:, 0], t, x)
    jet, (value, gradient) = network.jet(t, x, None), network.value_and_gradient(t, x)
    for ours, theirs in (
        (jet.value, oracle.value),
        (jet.dt, oracle.dt),
        (jet.gradient, oracle.gradient),
        (jet.laplacian, oracle.laplacian),
        (value, oracle.value),
        (gradient, oracle.gradient),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", LAYERS)
def test_second_derivatives_along_scaled_axes_and_along_vectors_equal_the_literal_hessian(activation: str) -> None:
    torch_model, network, (t, x) = model(activation), given(activation), points()
    hessians = torch.stack(
        [
            torch.autograd.functional.hessian(lambda y, s=t[i : i + 1]: torch_model(torch.cat((s, y)))[0], x[i])  # type: ignore[misc]
            for i in range(len(t))
        ]
    )
    scales = 0.5 + Stream(5, 0).uniform(len(t), DIM).double()
    vectors = Stream(6, 0).normal(len(t), 3, DIM).double()
    for directions, explicit in ((scales, torch.diag_embed(scales)), (vectors, vectors)):
        jet, exact = network.jet(t, x, directions), network.jet(t, x, None)
        truth = torch.einsum("nki,nij,nkj->n", explicit, hessians, explicit)
        torch.testing.assert_close(jet.laplacian, truth, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(jet.dt, exact.dt, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(jet.gradient, exact.gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", LAYERS)
def test_the_derivatives_of_an_activation_are_those_of_its_value(activation: str) -> None:
    phi = ACTIVATIONS[activation]
    a = torch.linspace(-4.0, 4.0, 41, dtype=torch.float64, requires_grad=True)
    value = LAYERS[activation]()(a)
    (first,) = torch.autograd.grad(value.sum(), a, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), a)
    a = a.detach()
    y, slope = phi.value(a), phi.slope(a, phi.value(a))
    torch.testing.assert_close(y, value.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, first.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(phi.curvature(a, y, slope), second, rtol=1e-12, atol=1e-12)


def test_float32_arrays_and_rows_give_the_float64_answer_to_rounding() -> None:
    t, x = points()
    single, double = given(dtype=torch.float32).jet(t.float(), x.float(), None), given().jet(t, x, None)
    for name in ("value", "dt", "gradient", "laplacian"):
        found = getattr(single, name)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), getattr(double, name), rtol=1e-4, atol=1e-5)


def test_arrays_may_be_numbered_layers_and_of_mixed_precision() -> None:
    sequential, (t, x) = arrays_of(model("tanh")), points()
    kinds = {"weight": "weight_{}", "bias": "bias_{}"}
    numbered = {kinds[n.split(".")[1]].format(int(n.split(".")[0]) // 2): a for n, a in sequential.items()}
    assert set(numbered) == {f"{kind}_{i}" for kind in kinds for i in range(3)}
    network = given_network(PROBLEM, numbered, seed=0)
    assert network.value_and_gradient(t, x)[0].equal(given().value_and_gradient(t, x)[0])
    numbered["bias_1"] = numbered["bias_1"].float()
    mixed = given_network(PROBLEM, numbered, seed=0)
    assert all(part.dtype == torch.float64 for pair in mixed.layers for part in pair)


def test_it_has_a_defect_a_state_and_nothing_to_train() -> None:
    network, (t, x) = given(), points()
    assert isinstance(network, Surrogate) and not isinstance(network, Fitted)
    assert not network.meets_terminal and not list(network.parameters())
    other = given_network(PROBLEM, {n: torch.zeros_like(a) for n, a in arrays_of(model("tanh")).items()}, seed=3)
    other.load_state_dict(network.state_dict())
    assert other.jet(t, x, None).laplacian.equal(network.jet(t, x, None).laplacian)
    jet = network.jet(t, x, None)
    sigma, mu = 0.25, PROBLEM.law.mu  # type: ignore[attr-defined]
    by_hand = jet.dt + mu * jet.gradient.sum(1) + 0.5 * sigma**2 * jet.laplacian
    by_hand += PROBLEM.driver(t, x, jet.value, sigma * jet.gradient)
    torch.testing.assert_close(residual(PROBLEM, network, t, x), by_hand)


def test_flop_count_the_products_of_every_stream() -> None:
    entry, inner = 2.0 * (1 + DIM) * 9, 2.0 * (9 * 7 + 7)
    assert given().flop(None) == (2.0 * (entry + inner), 2.0 * entry + (DIM + 3) * inner)
    assert given().flop(2) == (2.0 * (entry + inner), 4.0 * entry + 5 * inner)


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    found = {**arrays_of(model("tanh")), **{name.replace("_", ".", 1): array for name, array in changes.items()}}
    return {name: array for name, array in found.items() if array is not None}


FULL = torch.ones
REFUSED = {
    "another name": ({**changed(), "scale": FULL(1)}, "array 'scale': should be named weight_0, bias_0"),
    "both names": ({**changed(), "weight_0": FULL(9, 5)}, "array 'weight_0': layer 0 has its weight twice"),
    "half precision": (changed(_0_weight=None, **{"0_weight": FULL(9, 5).half()}), "array '0.weight' is of type torch.float16"),
    "not finite": (changed(**{"2_bias": FULL(7) * math.nan}), "array '2.bias' holds numbers that are not finite"),
    "a vector for a matrix": (changed(**{"2_weight": FULL(7)}), r"array '2.weight' has shape \(7,\): weights are \(out, in\)"),
    "an empty layer": (changed(**{"2_weight": FULL(0, 9)}), r"array '2.weight' has shape \(0, 9\).*none empty"),
    "no bias": (changed(**{"2_bias": None}), "layer 2 has no bias: every layer needs both; save zeros"),
    "another dimension": (
        changed(**{"0_weight": FULL(9, 6)}),
        r"weight of layer 0 has shape \(9, 6\).*\(outputs, 5\).*t, x_1, ..., x_4",
    ),
    "layers that do not fit": (
        changed(**{"2_weight": FULL(7, 8)}),
        r"layer 2 has shape \(7, 8\).*\(outputs, 9\).*the 9 outputs of",
    ),
    "two outputs": (changed(**{"4_weight": FULL(2, 7)}), r"layer 4 has shape \(2, 7\): should be \(1, 7\)"),
    "a bias that does not fit": (changed(**{"0_bias": FULL(8)}), r"bias of layer 0 has shape \(8,\): should be \(9,\)"),
    "one layer": ({"weight_0": FULL(1, 5), "bias_0": FULL(1)}, "1 layers: a network needs two at least"),
    "no arrays": ({}, "0 layers"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_arrays_that_are_no_network_of_the_problem_are_refused_by_name(what: str) -> None:
    arrays, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        given_network(PROBLEM, arrays, seed=0)


def test_relu_is_refused_because_its_laplacian_says_nothing_and_others_by_the_list() -> None:
    with pytest.raises(ValueError, match=r"relu.*Laplacian 0 almost everywhere.*tanh, sin, gelu, softplus"):
        given_network(PROBLEM, changed(), seed=0, activation="relu")
    with pytest.raises(ValueError, match="activation = 'swish': should be one of tanh, sin, gelu, softplus"):
        given_network(PROBLEM, changed(), seed=0, activation="swish")
