"""A network of blocks with skip connections, with the terminal condition built in."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kernels.activations import ACTIVATIONS
from kernels.contracts import SemilinearPDE
from kernels.forward_laplacian import Layer, Operations
from kernels.surrogates._composed import Composed
from kernels.surrogates._network import Block, Network, Phi, require_size


def _skipping(operations: Operations, layers: Sequence[Layer], a: Tensor, /) -> Tensor:
    """y_0 = phi(a), y_k = y_{k-1} + phi(W phi(V y_{k-1} + c) + b), N = W y_n + b."""
    y = operations.activate(a)
    *inner, last = layers
    for one, two in zip(inner[::2], inner[1::2], strict=True):
        y = y + operations.activate(operations.layer(operations.dense(y, one), two))
    return operations.dense(y, last)


def residual_network(
    problem: SemilinearPDE,
    *,
    seed: int,
    width: int = 128,
    blocks: int = 2,
    activation: Phi = "tanh",
    factorised: bool = False,
    frequencies: int = 0,
) -> Network:
    """One hidden layer, then blocks of two that add to what they are given (E, Yu 2018, arXiv 1710.00211, eq. 5); g is met exactly at T.

    :param width: units of a hidden layer, at least 1
    :param blocks: number of blocks, each of two hidden layers, at least 1
    :param activation: of the hidden layers
    :param factorised: whether weights are products of a factor a unit and a matrix, both trained (arXiv 2210.01274)
    :param frequencies: of cosines and sines of time beside time itself, 0 for none
    """
    entry = (problem.dim + 2 + 2 * frequencies) * width
    require_size({"width": width, "blocks": blocks}, frequencies, entry + 2 * blocks * width**2)
    inner = [Block(width, width)] * (2 * blocks)
    core = Composed(_skipping, ACTIVATIONS[activation])
    return Network(problem, core, seed=seed, width=width, inner=inner, factorised=factorised, frequencies=frequencies)
