"""Networks written once in the operations of a forward Laplacian: values and streams by these, gradients by reverse mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kernels.activations import Activation
from kernels.forward_laplacian import Layer, Operations, Streams, Values


@runtime_checkable
class Body(Protocol):
    """A network from its first pre-activation (rows, ..., width) to one number (rows, ..., 1), given the layers after the first."""

    def __call__(self, operations: Operations, layers: Sequence[Layer], a: Tensor, /) -> Tensor: ...


class Composed(nn.Module):
    """The ``Core`` of a body; where the body is a module, its parameters are trained."""

    sweeps = 2

    def __init__(self, body: Body, phi: Activation) -> None:
        super().__init__()
        self.body, self.phi = body, phi

    def value(self, layers: Sequence[Layer], a: Tensor) -> Tensor:
        return self.body(Values(self.phi), layers[1:], a).squeeze(-1)

    def gradient(self, layers: Sequence[Layer], a: Tensor) -> tuple[Tensor, Tensor]:
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            a = a if a.requires_grad else a.detach().requires_grad_()
            n = self.value(layers, a)
            (delta,) = torch.autograd.grad(n.sum(), a, create_graph=again)
        return (n if again else n.detach()), delta

    def laplacian(self, layers: Sequence[Layer], streams: Tensor, extra: int) -> Tensor:
        return self.body(Streams(self.phi, extra), layers[1:], streams).squeeze(-1)

    def laplacian_and_gradient(self, layers: Sequence[Layer], streams: Tensor) -> tuple[Tensor, Tensor]:
        _, delta = self.gradient(layers, streams[:, 0].clone())
        return self.laplacian(layers, streams, extra=0), delta
