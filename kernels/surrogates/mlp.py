"""A multilayer perceptron with the terminal condition built in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from kernels.activations import ACTIVATIONS, Activation
from kernels.contracts import SemilinearPDE
from kernels.forward_laplacian import Layer
from kernels.jets import network_gradient, network_laplacian, network_laplacian_and_gradient, network_value
from kernels.surrogates._network import Block, Network, Phi, require_size


@dataclass(frozen=True)
class Perceptron:
    """N = W_n phi(... phi(W_1 phi(a) + b_1) ...) + b_n; its gradient by an explicit reverse sweep."""

    phi: Activation
    sweeps: int = 1

    def value(self, layers: Sequence[Layer], a: Tensor) -> Tensor:
        return network_value(layers, a, self.phi)

    def gradient(self, layers: Sequence[Layer], a: Tensor) -> tuple[Tensor, Tensor]:
        return network_gradient(layers, a, self.phi)

    def laplacian(self, layers: Sequence[Layer], streams: Tensor, extra: int) -> Tensor:
        return network_laplacian(layers, streams, extra, self.phi)

    def laplacian_and_gradient(self, layers: Sequence[Layer], streams: Tensor) -> tuple[Tensor, Tensor]:
        return network_laplacian_and_gradient(layers, streams, self.phi)


def mlp(
    problem: SemilinearPDE,
    *,
    seed: int,
    width: int = 128,
    depth: int = 4,
    activation: Phi = "tanh",
    factorised: bool = False,
    frequencies: int = 0,
) -> Network:
    """Fully connected network of ``depth`` hidden layers of ``width`` units; g is met exactly at T.

    :param width: units of a hidden layer, at least 1
    :param depth: number of hidden layers, at least 1
    :param activation: of the hidden layers
    :param factorised: whether weights are products of a factor a unit and a matrix, both trained (arXiv 2210.01274)
    :param frequencies: of cosines and sines of time beside time itself, 0 for none
    """
    entry = (problem.dim + 2 + 2 * frequencies) * width
    require_size({"width": width, "depth": depth}, frequencies, entry + (depth - 1) * width**2)
    inner = [Block(width, width)] * (depth - 1)
    core = Perceptron(ACTIVATIONS[activation])
    return Network(problem, core, seed=seed, width=width, inner=inner, factorised=factorised, frequencies=frequencies)
