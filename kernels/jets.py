"""Value, first derivatives and Laplacian of a fully connected network in one forward pass.

The forward Laplacian (Li et al., Nature Machine Intelligence 2024) pushes through each layer a
value, tangents J_i along several directions, and the summed second derivative S = sum_i d_i d_i:

    y = phi(a),   J_i -> phi'(a) J_i,   S -> phi'(a) S + phi''(a) sum_i J_i^2

All streams of a layer go through one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.contracts import Jet, Paths, Vectors

Layers = Sequence[tuple[Tensor, Tensor]]
"""Pairs (weight (out, in), bias (out,)); the activation between them, none after the last."""

STREAM_ROWS = 4096
"""Rows of one matrix product in a jet: large enough for full speed, small enough for the cache."""


@dataclass(frozen=True)
class Activation:
    """phi, phi' from (a, phi(a)), and phi'' from (a, phi(a), phi'(a)): what was computed is used again."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[Tensor, Tensor, Tensor], Tensor]


def tanh(a: Tensor) -> Tensor:
    """2 sigmoid(2a) - 1: to float rounding of an O(1) activation, and twice as fast as torch.tanh on a CPU."""
    return torch.sigmoid(2.0 * a).mul(2.0).sub_(1.0)


TANH = Activation(
    value=tanh,
    slope=lambda a, y: torch.addcmul(y.new_ones(()), y, y, value=-1.0),
    curvature=lambda a, y, slope: -2.0 * y * slope,
)
SIN = Activation(value=torch.sin, slope=lambda a, y: torch.cos(a), curvature=lambda a, y, slope: -y)
GELU = Activation(
    value=torch.nn.functional.gelu,
    slope=lambda a, y: torch.special.ndtr(a) + a * _normal_density(a),
    curvature=lambda a, y, slope: (2.0 - a.square()) * _normal_density(a),
)
SOFTPLUS = Activation(
    value=torch.nn.functional.softplus,
    slope=lambda a, y: torch.sigmoid(a),
    curvature=lambda a, y, slope: slope * (1.0 - slope),
)


def _normal_density(a: Tensor) -> Tensor:
    return torch.exp(-0.5 * a.square()) / math.sqrt(2.0 * math.pi)


def network_value(layers: Layers, a: Float[Tensor, "paths width"], phi: Activation = TANH) -> Float[Tensor, "paths"]:
    """Output of the network whose first pre-activation is ``a``."""
    for weight, bias in layers[1:]:
        a = torch.addmm(bias, phi.value(a), weight.T)
    return a.squeeze(-1)


def network_gradient(
    layers: Layers, a: Float[Tensor, "paths width"], phi: Activation = TANH
) -> tuple[Float[Tensor, "paths"], Float[Tensor, "paths width"]]:
    """Value, and its gradient with respect to the first pre-activation, by an explicit reverse sweep.

    Being plain tensor algebra, both can be differentiated again with respect to the parameters.
    """
    slopes = []
    for weight, bias in layers[1:]:
        y = phi.value(a)
        slopes.append(phi.slope(a, y))
        a = torch.addmm(bias, y, weight.T)
    return a.squeeze(-1), reverse_sweep(layers, slopes)


def reverse_sweep(layers: Layers, slopes: Sequence[Tensor]) -> Float[Tensor, "paths width"]:
    """Gradient of the output with respect to the first pre-activation, from every layer's phi'."""
    delta = layers[-1][0].expand(slopes[0].shape[0], -1)
    for (weight, _), slope in zip(reversed(layers[1:-1]), reversed(slopes[1:]), strict=True):
        delta = (delta * slope) @ weight
    return delta * slopes[0]


def network_laplacian(
    layers: Layers, streams: Float[Tensor, "paths streams width"], extra: int = 0, phi: Activation = TANH
) -> tuple[Float[Tensor, "paths streams"], list[Float[Tensor, "paths width"]]]:
    """All streams at the output, and every layer's phi'.

    Streams of the first pre-activation: the value, the summed second derivative, ``extra``
    tangents that stay out of the sum (time does not belong to the Laplacian), and the tangents
    that are summed over. Outside autograd the streams are overwritten.
    """
    slopes = []
    for weight, bias in layers[1:]:
        a = streams[:, 0]
        y = phi.value(a)
        slope = phi.slope(a, y)
        slopes.append(slope)
        squares = streams[:, 2 + extra :].square().sum(1)
        second = torch.addcmul(slope * streams[:, 1], phi.curvature(a, y, slope), squares)
        if torch.is_grad_enabled():
            streams = torch.cat((y[:, None], second[:, None], streams[:, 2:] * slope[:, None]), dim=1)
        else:
            streams[:, 0], streams[:, 1] = y, second
            streams[:, 2:] *= slope[:, None]
        streams = (streams.flatten(0, 1) @ weight.T).unflatten(0, streams.shape[:2])
        streams[:, 0] += bias
    return streams.squeeze(-1), slopes


def jet_in_parts(
    jet: Callable[[Tensor, Tensor, Tensor | None], Jet], t: Paths, x: Vectors, directions: Tensor | None, rows: int
) -> Jet:
    """``jet`` of at most ``rows`` rows at a time."""
    if t.shape[0] <= rows:
        return jet(t, x, directions)
    parts = [
        jet(t[i : i + rows], x[i : i + rows], None if directions is None else directions[i : i + rows])
        for i in range(0, t.shape[0], rows)
    ]
    return Jet(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Jet)))
