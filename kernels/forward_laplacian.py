"""The operations of a network on values, and on all streams of an exact forward Laplacian at once.

The forward Laplacian (Li et al., Nature Machine Intelligence 2024, arXiv 2307.08214) carries through every
operation the value a, tangents J_i along several directions, and the summed second derivative S = sum_i d_i d_i:

    y = phi(a)     J_i -> phi'(a) J_i               S -> phi'(a) S + phi''(a) sum_i J_i^2
    y = W a + b    J_i -> W J_i                     S -> W S
    y = a b        J_i -> a J_i(b) + b J_i(a)       S -> a S(b) + b S(a) + 2 sum_i J_i(a) J_i(b)

Streams are one tensor (paths, streams, width), in the order value, S, ``extra`` tangents that stay out of the
sums (time does not belong to the Laplacian), and the tangents that are summed over: a layer is one matrix product.
Sums and multiples of streams are those of the tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.activations import Activation

Layer = tuple[Tensor, Tensor]
"""Weight (out, in) and bias (out,)."""

StreamTensor = Float[Tensor, "paths streams width"]
Product = Float[Tensor, "paths streams out"]


@runtime_checkable
class Operations(Protocol):
    """What a network is written in, so that one text serves values and streams; addition is ``+``."""

    def activate(self, a: Tensor) -> Tensor:
        """phi(a); ``a`` is not to be used again, as it may be overwritten."""
        ...

    def dense(self, y: Tensor, layer: Layer) -> Tensor:
        """W y + b."""
        ...

    def layer(self, a: Tensor, layer: Layer) -> Tensor:
        """W phi(a) + b; ``a`` is not to be used again, as it may be overwritten."""
        ...

    def gate(self, a: Tensor, base: Tensor, difference: Tensor, layer: Layer) -> Tensor:
        """W (base + phi(a) difference) + b; ``a`` is not to be used again, as it may be overwritten."""
        ...


@dataclass(frozen=True)
class Values:
    """Operations on values (paths, width)."""

    phi: Activation

    def activate(self, a: Tensor) -> Tensor:
        return self.phi.value(a)

    def dense(self, y: Tensor, layer: Layer) -> Tensor:
        return torch.addmm(layer[1], y, layer[0].T)

    def layer(self, a: Tensor, layer: Layer) -> Tensor:
        return self.dense(self.activate(a), layer)

    def gate(self, a: Tensor, base: Tensor, difference: Tensor, layer: Layer) -> Tensor:
        return self.dense(torch.addcmul(base, self.activate(a), difference), layer)


@dataclass(frozen=True)
class Streams:
    """Operations on streams (paths, streams, width), ``extra`` of whose tangents stay out of the sums."""

    phi: Activation
    extra: int

    def activate(self, a: StreamTensor) -> StreamTensor:
        return activated_layer(a, None, self.extra, self.phi)[0]

    def dense(self, y: StreamTensor, layer: Layer) -> Product:
        return _dense(y, *layer)

    def layer(self, a: StreamTensor, layer: Layer) -> Product:
        return activated_layer(a, layer, self.extra, self.phi)[0]

    def gate(self, a: StreamTensor, base: StreamTensor, difference: StreamTensor, layer: Layer) -> Product:
        if torch.is_grad_enabled():
            return _Gate.apply(a, base, difference, *layer, self.extra, self.phi)
        return _dense(_product(self.activate(a), difference, self.extra).add_(base), *layer)


WIDE = 256
"""Width from which a layer under autograd keeps its pre-activations alone: narrower ones leave memory to spare, and are as
fast with autograd's own backward."""


def activated_layer(
    streams: StreamTensor, layer: Layer | None, extra: int, phi: Activation
) -> tuple[Product, Float[Tensor, "paths width"]]:
    """The streams of W phi(a) + b, or of phi(a) without a layer, and phi'(a).

    Outside autograd the given streams are overwritten. Under it they and the weight are kept, and nothing else where they are
    ``WIDE``.
    """
    if torch.is_grad_enabled() and streams.shape[-1] >= WIDE:
        return _Layer.apply(streams, *(layer or (None, None)), extra, phi)
    if torch.is_grad_enabled():
        # Autograd adds up gradients in the order of these lines, on which the last bits of trainings depend.
        a = streams[:, 0]
        y = phi.value(a)
        slope = phi.slope(a, y)
        squares = streams[:, 2 + extra :].square().sum(1)
        second = torch.addcmul(slope * streams[:, 1], phi.curvature(a, y, slope), squares)
        streams = torch.cat((y[:, None], second[:, None], streams[:, 2:] * slope[:, None]), dim=1)
    else:
        known = _Known.of(streams, extra, phi)
        slope = known.slope
        _bent(streams.mul_(slope[:, None]), known)
    return (streams if layer is None else _dense(streams, *layer)), slope


@dataclass(frozen=True)
class _Known:
    """a, phi and its first derivatives there, and sum_i J_i^2: (paths, width)."""

    a: Tensor
    y: Tensor
    slope: Tensor
    curvature: Tensor
    squares: Tensor

    @classmethod
    def of(cls, streams: Tensor, extra: int, phi: Activation) -> _Known:
        a = streams[:, 0]
        y = phi.value(a)
        slope = phi.slope(a, y)
        return cls(a, y, slope, phi.curvature(a, y, slope), streams[:, 2 + extra :].square().sum(1))


def _bent(scaled: Tensor, known: _Known) -> Tensor:
    """The streams of phi(a), in place, from phi'(a) times those of a."""
    scaled[:, 0] = known.y
    scaled[:, 1].addcmul_(known.curvature, known.squares)
    return scaled


def _activation_gradient(
    grad: Tensor, grad_slope: Tensor | None, streams: Tensor, known: _Known, extra: int, phi: Activation
) -> Tensor:
    """Gradient by the streams of a. With y~, S~, J~_i those by the streams of phi(a), and c~ that by phi'(a), it is

    J_i:  phi' J~_i + 2 phi'' S~ J_i, the second term for summed tangents
    S:    phi' S~
    a:    phi' y~ + (phi'' S + phi''' sum_i J_i^2) S~ + phi'' (c~ + sum_j J~_j J_j), j over all tangents.
    """
    along = (grad[:, 2:] * streams[:, 2:]).sum(1)
    if grad_slope is not None:
        along += grad_slope
    third = phi.third(known.a, known.y, known.slope, known.curvature)
    of_second = torch.addcmul(known.curvature * streams[:, 1], third, known.squares)
    out = grad * known.slope[:, None]
    out[:, 0] += of_second * grad[:, 1] + known.curvature * along
    out[:, 2 + extra :].addcmul_((2.0 * known.curvature * grad[:, 1])[:, None], streams[:, 2 + extra :])
    return out


def _product(a: Tensor, b: Tensor, extra: int) -> Tensor:
    out = torch.addcmul(b[:, :1] * a, a[:, :1], b)
    # Right for tangents, twice the value, and short of the last term of S.
    out[:, 0] *= 0.5
    out[:, 1] += 2.0 * (a[:, 2 + extra :] * b[:, 2 + extra :]).sum(1)
    return out


def _product_gradient(grad: Tensor, b: Tensor, extra: int) -> Tensor:
    """Gradient of ``_product`` by its other factor."""
    out = grad * b[:, :1]
    out[:, 0] += (grad[:, 1:] * b[:, 1:]).sum(1)
    out[:, 2 + extra :].addcmul_(2.0 * grad[:, 1:2], b[:, 2 + extra :])
    return out


def _dense(streams: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = (streams.flatten(0, 1) @ weight.T).unflatten(0, streams.shape[:2])
    out[:, 0] += bias
    return out


def _dense_gradient(grad: Tensor, streams: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``_dense`` by streams, weight and bias."""
    # torch has no rule for flatten where gradients are taken in batches.
    flat, rows = grad.reshape(-1, grad.shape[-1]), streams.reshape(-1, streams.shape[-1])
    return (flat @ weight).reshape(streams.shape), flat.T @ rows, grad[:, 0].sum(0)


class _Layer(torch.autograd.Function):
    """``activated_layer``, the activated streams computed again in the backward."""

    @staticmethod
    def forward(
        ctx: Any, streams: Tensor, weight: Tensor | None, bias: Tensor | None, extra: int, phi: Activation
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(streams, weight)
        ctx.extra, ctx.phi = extra, phi
        ctx.set_materialize_grads(False)
        known = _Known.of(streams, extra, phi)
        out = _bent(streams * known.slope[:, None], known)
        return (out if weight is None or bias is None else _dense(out, weight, bias)), known.slope

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_slope: Tensor | None) -> tuple[Tensor | None, ...]:
        streams, weight = ctx.saved_tensors
        known = _Known.of(streams, ctx.extra, ctx.phi)
        of_weight = of_bias = None
        if grad is None:
            grad = torch.zeros_like(streams)
        elif weight is not None:
            grad, of_weight, of_bias = _dense_gradient(grad, _bent(streams * known.slope[:, None], known), weight)
        return _activation_gradient(grad, grad_slope, streams, known, ctx.extra, ctx.phi), of_weight, of_bias, None, None


class _Gate(torch.autograd.Function):
    """``Streams.gate``, the gate and what it lets through computed again in the backward."""

    @staticmethod
    def forward(
        ctx: Any, streams: Tensor, base: Tensor, difference: Tensor, weight: Tensor, bias: Tensor, extra: int, phi: Activation
    ) -> Tensor:
        ctx.save_for_backward(streams, base, difference, weight)
        ctx.extra, ctx.phi = extra, phi
        known = _Known.of(streams, extra, phi)
        gate = _bent(streams * known.slope[:, None], known)
        return _dense(_product(gate, difference, extra).add_(base), weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        streams, base, difference, weight = ctx.saved_tensors
        extra, phi = ctx.extra, ctx.phi
        known = _Known.of(streams, extra, phi)
        gate = _bent(streams * known.slope[:, None], known)
        grad, of_weight, of_bias = _dense_gradient(grad, _product(gate, difference, extra).add_(base), weight)
        of_gate = _product_gradient(grad, difference, extra)
        of_streams = _activation_gradient(of_gate, None, streams, known, extra, phi)
        return of_streams, grad, _product_gradient(grad, gate, extra), of_weight, of_bias, None, None
