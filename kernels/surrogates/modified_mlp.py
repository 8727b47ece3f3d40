"""The gated network of Wang, Teng and Perdikaris, with the terminal condition built in."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kernels.activations import ACTIVATIONS
from kernels.contracts import SemilinearPDE
from kernels.forward_laplacian import Layer, Operations
from kernels.surrogates._composed import Composed
from kernels.surrogates._network import Block, Network, Phi, require_size


def _gated(operations: Operations, layers: Sequence[Layer], a: Tensor, /) -> Tensor:
    """H = phi(a_3); Z = phi(W H + b), H = (1 - Z) U + Z V for every layer, U = phi(a_1), V = phi(a_2); N = W H + b."""
    u, v, h = operations.activate(a).chunk(3, dim=-1)
    difference = v - u
    a = operations.dense(h, layers[0])
    for layer in layers[1:]:
        a = operations.gate(a, u, difference, layer)
    return a


def modified_mlp(
    problem: SemilinearPDE,
    *,
    seed: int,
    width: int = 128,
    depth: int = 4,
    activation: Phi = "tanh",
    factorised: bool = False,
    frequencies: int = 0,
) -> Network:
    """Fully connected network whose layers are gates between two encoders of the inputs; g is met exactly at T.

    Wang, Teng, Perdikaris 2020, arXiv 2001.04536, eqs. 43-47. Encoders and first layer are one product.

    :param width: units of a hidden layer and of each encoder, at least 1
    :param depth: number of hidden layers, all but the first of them gates, at least 1
    :param activation: of hidden layers and encoders
    :param factorised: whether weights are products of a factor a unit and a matrix, both trained (arXiv 2210.01274)
    :param frequencies: of cosines and sines of time beside time itself, 0 for none
    """
    entry = 3 * (problem.dim + 2 + 2 * frequencies) * width
    require_size({"width": width, "depth": depth}, frequencies, entry + (depth - 1) * width**2)
    inner = [Block(width, width)] * (depth - 1)
    core = Composed(_gated, ACTIVATIONS[activation])
    return Network(problem, core, seed=seed, width=width, inner=inner, entry=3, factorised=factorised, frequencies=frequencies)
