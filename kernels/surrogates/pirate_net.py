"""A gated network that begins shallow and deepens as it learns, with the terminal condition built in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels.activations import ACTIVATIONS
from kernels.contracts import SemilinearPDE
from kernels.forward_laplacian import Layer, Operations
from kernels.surrogates._composed import Composed
from kernels.surrogates._network import Block, Network, Phi, require_size


class AdaptiveBlocks(nn.Module):
    """Blocks of three layers, the first two gated, each mixed with its input y by a weight alpha that begins at 0.

        f = phi(W_1 y + b_1)      z_1 = f U + (1 - f) V
        g = phi(W_2 z_1 + b_2)    z_2 = g U + (1 - g) V
        h = phi(W_3 z_2 + b_3)    y <- alpha h + (1 - alpha) y

    U = phi(a_1), V = phi(a_2), y = phi(a_3) at first, N = W y + b at last.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(blocks))

    def forward(self, operations: Operations, layers: Sequence[Layer], a: Tensor, /) -> Tensor:
        u, v, y = operations.activate(a).chunk(3, dim=-1)
        difference = u - v
        *inner, last = layers
        for alpha, one, two, three in zip(self.alpha, inner[::3], inner[1::3], inner[2::3], strict=True):
            first = operations.gate(operations.dense(y, one), v, difference, two)
            h = operations.activate(operations.gate(first, v, difference, three))
            y = y + alpha * (h - y)
        return operations.dense(y, last)


def pirate_net(
    problem: SemilinearPDE,
    *,
    seed: int,
    width: int = 128,
    blocks: int = 2,
    activation: Phi = "tanh",
    factorised: bool = True,
    frequencies: int = 0,
) -> Network:
    """PirateNet (Wang, Li, Chen, Perdikaris 2024, arXiv 2402.00326, eqs. 4.1-4.9): N is linear in its first layer at first; g is met exactly at T.

    Departures: the embedding that the first block is given is a layer of the inputs, as the inputs are no Fourier features
    of x, and the gates' encoders read the inputs too. The last layer is not fitted to the data at first: the
    ansatz meets the terminal condition already, and there are no other data.

    :param width: units of a hidden layer, of the embedding and of each encoder, at least 1
    :param blocks: number of blocks, each of three hidden layers, at least 1
    :param activation: of all of them
    :param factorised: whether weights are products of a factor a unit and a matrix, both trained (arXiv 2210.01274)
    :param frequencies: of cosines and sines of time beside time itself, 0 for none
    """
    entry = 3 * (problem.dim + 2 + 2 * frequencies) * width
    require_size({"width": width, "blocks": blocks}, frequencies, entry + 3 * blocks * width**2)
    inner = [Block(width, width)] * (3 * blocks)
    core = Composed(AdaptiveBlocks(blocks), ACTIVATIONS[activation])
    return Network(problem, core, seed=seed, width=width, inner=inner, entry=3, factorised=factorised, frequencies=frequencies)
