"""Value, gradient and Laplacian of a fully connected network, each in one pass of matrix products.

Layers are pairs of weight (out, in) and bias (out,), with the activation between them and none after the last; what a
network is given is its first pre-activation, so that no sparse or rank-one input needs a product of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.activations import TANH, Activation
from kernels.contracts import Jet, Paths, Vectors
from kernels.forward_laplacian import Layer, activated_layer

Layers = Sequence[Layer]

STREAM_ROWS = 4096
"""Rows of one matrix product in a jet: large enough for full speed, small enough for the cache."""


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
    return a.squeeze(-1), _reverse_sweep(layers, slopes)


def _reverse_sweep(layers: Layers, slopes: Sequence[Tensor]) -> Float[Tensor, "paths width"]:
    """Gradient of the output with respect to the first pre-activation, from every layer's phi'."""
    delta = layers[-1][0].expand(slopes[0].shape[0], -1)
    for (weight, _), slope in zip(reversed(layers[1:-1]), reversed(slopes[1:]), strict=True):
        delta = (delta * slope) @ weight
    return delta * slopes[0]


def network_laplacian(
    layers: Layers, streams: Float[Tensor, "paths streams width"], extra: int = 0, phi: Activation = TANH
) -> Float[Tensor, "paths streams"]:
    """All streams at the output, from those of the first pre-activation (``kernels.forward_laplacian`` says in what order).

    Outside autograd the given streams are overwritten.
    """
    for layer in layers[1:]:
        streams, _ = activated_layer(streams, layer, extra, phi)
    return streams.squeeze(-1)


def network_laplacian_and_gradient(
    layers: Layers, streams: Float[Tensor, "paths streams width"], phi: Activation = TANH
) -> tuple[Float[Tensor, "paths streams"], Float[Tensor, "paths width"]]:
    """``network_laplacian`` without extra tangents, and the gradient with respect to the first pre-activation."""
    slopes = []
    for layer in layers[1:]:
        streams, slope = activated_layer(streams, layer, 0, phi)
        slopes.append(slope)
    return streams.squeeze(-1), _reverse_sweep(layers, slopes)


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
    columns = (
        [part.value for part in parts],
        [part.dt for part in parts],
        [part.gradient for part in parts],
        [part.laplacian for part in parts],
    )
    return Jet(*(torch.cat(column) for column in columns))
