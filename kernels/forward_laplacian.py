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

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a b, entry by entry."""
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

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


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

    def product(self, a: StreamTensor, b: StreamTensor) -> StreamTensor:
        out = torch.addcmul(b[:, :1] * a, a[:, :1], b)
        # Right for tangents, twice the value, and short of the last term of S.
        out[:, 0] *= 0.5
        out[:, 1] += 2.0 * (a[:, 2 + self.extra :] * b[:, 2 + self.extra :]).sum(1)
        return out


def activated_layer(
    streams: StreamTensor, layer: Layer | None, extra: int, phi: Activation
) -> tuple[Product, Float[Tensor, "paths width"]]:
    """The streams of W phi(a) + b, or of phi(a) without a layer, and phi'(a).

    Outside autograd the given streams are overwritten. Under it they, the weight, and nothing else are kept.
    """
    if torch.is_grad_enabled():
        return _Layer.apply(streams, *(layer or (None, None)), extra, phi)
    a, y, slope, squares = _pointwise(streams, extra, phi)
    curvature = phi.curvature(a, y, slope)
    _bent(streams.mul_(slope[:, None]), y, curvature, squares)
    return (streams if layer is None else _dense(streams, *layer)), slope


def _pointwise(streams: Tensor, extra: int, phi: Activation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a, phi(a), phi'(a) and sum_i J_i^2."""
    a = streams[:, 0]
    y = phi.value(a)
    return a, y, phi.slope(a, y), streams[:, 2 + extra :].square().sum(1)


def _bent(scaled: Tensor, y: Tensor, curvature: Tensor, squares: Tensor) -> Tensor:
    """The streams of phi(a), in place, from phi'(a) times those of a."""
    scaled[:, 0] = y
    scaled[:, 1].addcmul_(curvature, squares)
    return scaled


def _dense(streams: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = (streams.flatten(0, 1) @ weight.T).unflatten(0, streams.shape[:2])
    out[:, 0] += bias
    return out


class _Layer(torch.autograd.Function):
    """``activated_layer`` with a backward that computes the activated streams again.

    With gradients y~, S~, J~_i after the activation, and c~ that of phi'(a), those before it are

        J_i:  phi' J~_i + 2 phi'' S~ J_i (the second term for summed tangents)
        S:    phi' S~
        a:    phi' y~ + (phi'' S + phi''' sum_i J_i^2) S~ + phi'' (c~ + sum_j J~_j J_j), j over all tangents.
    """

    @staticmethod
    def forward(
        ctx: Any, streams: Tensor, weight: Tensor | None, bias: Tensor | None, extra: int, phi: Activation
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(streams, weight)
        ctx.extra, ctx.phi = extra, phi
        ctx.set_materialize_grads(False)
        a, y, slope, squares = _pointwise(streams, extra, phi)
        out = _bent(streams * slope[:, None], y, phi.curvature(a, y, slope), squares)
        return (out if weight is None or bias is None else _dense(out, weight, bias)), slope

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_slope: Tensor | None) -> tuple[Tensor | None, ...]:
        streams, weight = ctx.saved_tensors
        extra, phi = ctx.extra, ctx.phi
        a, y, slope, squares = _pointwise(streams, extra, phi)
        curvature = phi.curvature(a, y, slope)
        grad_weight = grad_bias = None
        if grad is None:
            along = torch.zeros_like(a) if grad_slope is None else grad_slope
            return torch.cat(((curvature * along)[:, None], torch.zeros_like(streams[:, 1:])), 1), None, None, None, None
        if weight is not None:
            flat = grad.flatten(0, 1)
            if ctx.needs_input_grad[1]:
                grad_weight = flat.T @ _bent(streams * slope[:, None], y, curvature, squares).flatten(0, 1)
                grad_bias = grad[:, 0].sum(0)
            grad = (flat @ weight).unflatten(0, streams.shape[:2])
        second, tangents = streams[:, 1], streams[:, 2:]
        along = (grad[:, 2:] * tangents).sum(1)
        if grad_slope is not None:
            along += grad_slope
        of_second = torch.addcmul(curvature * second, phi.third(a, y, slope, curvature), squares)
        out = grad * slope[:, None]
        out[:, 0] += of_second * grad[:, 1] + curvature * along
        out[:, 2 + extra :].addcmul_((2.0 * curvature * grad[:, 1])[:, None], tangents[:, extra:])
        return out, grad_weight, grad_bias, None, None
