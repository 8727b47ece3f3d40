"""Layers of the forward Laplacian: gradients against finite differences and plain autograd, and what they keep for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import forward_laplacian
from kernels.activations import ACTIVATIONS, Activation
from kernels.forward_laplacian import Streams, activated_layer
from kernels.streams import Stream


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_laplacian, "WIDE", 1)


def streams(paths: int = 3, count: int = 5, width: int = 4, address: int = 0) -> Tensor:
    return Stream(1, address).normal(paths, count, width).double().requires_grad_()


def a_layer(width: int = 4, out: int = 3) -> tuple[Tensor, Tensor]:
    stream = Stream(2, 0)
    return stream.normal(out, width).double().requires_grad_(), stream.normal(out).double().requires_grad_()


def plainly(a: Tensor, layer: tuple[Tensor, Tensor], extra: int, phi: Activation) -> tuple[Tensor, Tensor]:
    """The same in operations that autograd knows, each of which keeps what it likes."""
    value, second, tangents = a[:, 0], a[:, 1], a[:, 2:]
    y = phi.value(value)
    slope = phi.slope(value, y)
    bend = phi.curvature(value, y, slope) * tangents[:, extra:].square().sum(1)
    out = torch.cat((y[:, None], (slope * second + bend)[:, None], tangents * slope[:, None]), 1) @ layer[0].T
    return torch.cat((out[:, :1] + layer[1], out[:, 1:]), 1), slope


def gradients(function: Any, phi: Activation, extra: int, *, of_slope: bool) -> list[Tensor]:
    a, layer = streams(), a_layer()
    out, slope = function(a, layer, extra, phi)
    loss = (out * Stream(3, 0).normal(*out.shape).double()).sum()
    if of_slope:
        loss = loss + (slope * Stream(3, 1).normal(*slope.shape).double()).sum()
    return [out.detach(), *torch.autograd.grad(loss, (a, *layer))]


@pytest.mark.parametrize("of_slope", [False, True], ids=["streams", "and slope"])
@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_of_a_layer_are_those_of_plain_autograd_to_rounding(name: str, extra: int, of_slope: bool) -> None:
    phi = ACTIVATIONS[name]
    ours, theirs = (gradients(f, phi, extra, of_slope=of_slope) for f in (activated_layer, plainly))
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-12, atol=1e-13)
    wrong = Activation(phi.value, phi.slope, phi.curvature, lambda *known: 1.01 * phi.third(*known))
    assert not gradients(activated_layer, wrong, extra, of_slope=of_slope)[1].allclose(theirs[1], rtol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_narrow_layers_keep_more_and_have_the_same_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wide, least = gradients(activated_layer, ACTIVATIONS[name], 1, of_slope=True), kept(activated_layer)
    monkeypatch.setattr(forward_laplacian, "WIDE", 5)
    for narrow, ours in zip(gradients(activated_layer, ACTIVATIONS[name], 1, of_slope=True), wide, strict=True):
        torch.testing.assert_close(narrow, ours, rtol=1e-12, atol=1e-13)
    monkeypatch.setattr(forward_laplacian, "WIDE", 33)
    assert kept(activated_layer) > 2 * least


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_of_an_activation_alone_are_those_of_finite_differences(name: str) -> None:
    def both(a: Tensor) -> tuple[Tensor, Tensor]:
        return activated_layer(a, None, 1, ACTIVATIONS[name])

    assert torch.autograd.gradcheck(both, (streams(),))
    assert torch.autograd.gradcheck(lambda a: both(a)[1], (streams(),))


def test_a_layer_of_fixed_weights_still_has_the_gradient_of_its_input() -> None:
    fixed = tuple(part.detach() for part in a_layer())
    a = streams()
    out, _ = activated_layer(a, (fixed[0], fixed[1]), 0, ACTIVATIONS["tanh"])
    expected, _ = plainly(a, (fixed[0], fixed[1]), 0, ACTIVATIONS["tanh"])
    weights = Stream(3, 0).normal(*out.shape).double()
    ours, theirs = (torch.autograd.grad((o * weights).sum(), a)[0] for o in (out, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("extra", [0, 1])
def test_outside_autograd_the_streams_are_overwritten_with_the_same_numbers(extra: int) -> None:
    a, layer, phi = streams(), a_layer(), ACTIVATIONS["gelu"]
    recorded = activated_layer(a, layer, extra, phi)
    given = a.detach().clone()
    with torch.no_grad():
        found = activated_layer(given, layer, extra, phi)
    assert all(f.equal(r) for f, r in zip(found, recorded, strict=True))
    assert not given.equal(a)


def kept(function: Any) -> int:
    """Numbers that autograd keeps between the sweeps, each storage once."""
    seen: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        seen[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes() // saved.element_size()
        return saved

    a, layer = streams(64, 50, 32), a_layer(32, 32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        held = function(a, layer, 1, ACTIVATIONS["tanh"])
    del held
    return sum(seen.values())


def test_a_layer_keeps_its_streams_and_weight_alone() -> None:
    """64 x 50 x 32 streams and 32 x 32 weights; plain autograd keeps the activated streams too, and more of the size of one."""
    assert kept(activated_layer) == 64 * 50 * 32 + 32 * 32
    assert kept(plainly) > 2 * 64 * 50 * 32


def identity(a: Tensor) -> Tensor:
    return a


PLAIN = Activation(
    identity,
    lambda a, y: torch.ones_like(a),
    lambda a, y, slope: torch.zeros_like(a),
    lambda a, y, slope, curvature: torch.zeros_like(a),
)
"""phi(a) = a: a gate is then a product."""


@pytest.mark.parametrize("extra", [0, 1])
def test_streams_through_a_gate_are_those_of_a_product(extra: int) -> None:
    """a(s) = a + sum_i J_i s_i + S s_2^2/2 has the streams (a, S, J), s_0 standing apart where ``extra`` is 1."""
    a, base, b = (streams(address=i).detach() for i in (1, 2, 3))
    unit = torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)

    def polynomial(c: Tensor, s: Tensor) -> Tensor:
        return c[1, 0, 2] + (c[1, 2:, 2] * s).sum() + 0.5 * c[1, 1, 2] * s[2].square()

    def along(s: Tensor) -> Tensor:
        return polynomial(base, s) + polynomial(a, s) * polynomial(b, s)

    zero = torch.zeros(3, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(along, zero)  # type: ignore[no-untyped-call]
    slopes = torch.autograd.functional.jacobian(along, zero)  # type: ignore[no-untyped-call]
    expected = torch.cat((along(zero)[None], hessian.diagonal()[extra:].sum()[None], slopes))
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            found = Streams(PLAIN, extra).gate(a.clone(), base, b, unit)[1, :, 2]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_of_a_gate_are_those_of_finite_differences(name: str, extra: int) -> None:
    gated = (streams(2, 5, 3, address=i) for i in (1, 2, 3))
    weight, bias = a_layer(3, 2)

    def gate(a: Tensor, base: Tensor, difference: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return Streams(ACTIVATIONS[name], extra).gate(a, base, difference, (weight, bias))

    assert torch.autograd.gradcheck(gate, (*gated, weight, bias))


def test_a_gate_keeps_no_stream_of_its_own_beside_those_it_is_given() -> None:
    """Three streams and the weight; a base and a difference shared by all gates of a network count once there."""

    def gate(a: Tensor, layer: tuple[Tensor, Tensor], extra: int, phi: Activation) -> Tensor:
        base, difference = (streams(64, 50, 32, address=i) for i in (1, 2))
        return Streams(phi, extra).gate(a, base, difference, layer)

    assert kept(gate) == 3 * 64 * 50 * 32 + 32 * 32
