"""Several networks, each for a window of time, with the terminal condition built in."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from kernels.contracts import Jet, Paths, SemilinearPDE, Vectors
from kernels.streams import Purpose, Stream
from kernels.surrogates._ansatz import clock, profile
from kernels.surrogates._network import Network, Phi, require_size
from kernels.surrogates.mlp import mlp


class WindowedNetwork(nn.Module):
    """u^(t, x) = sum_j w_j(h(t)) u_j(t, x), w_j(h) = cos^2(pi (n-1)(h - c_j)/2) within 1/(n-1) of c_j = j/(n-1), else 0.

    Finite basis PINN (Moseley, Markham, Nissen-Meyer 2023, arXiv 2107.07871, eq. 13) with windows in time alone, even in
    the problem's clock h: windows in space would be 2^d and more. The w_j sum to 1, so that u^ = p + s h sum_j w_j N_j is the
    ansatz of one network. Two windows at most reach a time, and only these are evaluated there. As the sum is
    smooth to first order in time, which is all a parabolic equation asks for, nothing joins the windows.
    """

    meets_terminal = True

    def __init__(self, problem: SemilinearPDE, networks: list[Network]) -> None:
        super().__init__()
        self.problem, self.networks = problem, nn.ModuleList(networks)

    def _window(self, j: int, t: Paths) -> tuple[Int[Tensor, "rows"], Float[Tensor, "rows"], Float[Tensor, "rows"]]:
        """Rows in a window, one at least, and there w_j and its derivative in t."""
        h, h_t = clock(self.problem, t)
        steps = len(self.networks) - 1
        angle = 0.5 * math.pi * (steps * h - j).clamp(-1.0, 1.0)
        # One row that weighs nothing still gives every parameter a gradient.
        rows = torch.nonzero((angle.abs() < 0.5 * math.pi) | (torch.arange(len(t), device=t.device) == 0))[:, 0]
        angle = angle[rows]
        inside = angle.abs() < 0.5 * math.pi
        weight = torch.where(inside, torch.cos(angle).square(), 0.0)
        return rows, weight, torch.where(inside, -0.5 * math.pi * steps * torch.sin(2.0 * angle) * h_t[rows], 0.0)

    def _windows(self, t: Paths) -> Iterator[tuple[Network, Tensor, Tensor, Tensor]]:
        """Every network with its window."""
        for j, network in enumerate(self.networks):
            assert isinstance(network, Network)
            yield network, *self._window(j, t)

    def forward(self, t: Paths, x: Vectors) -> Paths:
        value = torch.zeros_like(t)
        for network, rows, w, _ in self._windows(t):
            value = value.index_add(0, rows, w * network(t[rows], x[rows]))
        return value

    def value_and_gradient(self, t: Paths, x: Vectors) -> tuple[Paths, Vectors]:
        value, gradient = torch.zeros_like(t), torch.zeros_like(x)
        for network, rows, w, _ in self._windows(t):
            part, slope = network.value_and_gradient(t[rows], x[rows])
            value, gradient = value.index_add(0, rows, w * part), gradient.index_add(0, rows, w[:, None] * slope)
        return value, gradient

    def jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        value, dt, gradient, laplacian = torch.zeros_like(t), torch.zeros_like(t), torch.zeros_like(x), torch.zeros_like(t)
        # The derivatives of the w_j sum to 0: without p, which all u_j hold, no rounding of p is multiplied by them.
        p = profile(self.problem, t, x)
        for network, rows, w, w_t in self._windows(t):
            part = network.jet(t[rows], x[rows], None if directions is None else directions[rows])
            value = value.index_add(0, rows, w * part.value)
            dt = dt.index_add(0, rows, w * part.dt + w_t * (part.value - p[rows]))
            gradient = gradient.index_add(0, rows, w[:, None] * part.gradient)
            laplacian = laplacian.index_add(0, rows, w * part.laplacian)
        return Jet(value, dt, gradient, laplacian)

    def flop(self, probes: int | None) -> tuple[float, float]:
        network = self.networks[0]
        assert isinstance(network, Network)
        first_order, full = network.flop(probes)
        return 2.0 * first_order, 2.0 * full


def windowed_network(
    problem: SemilinearPDE,
    *,
    seed: int,
    windows: int = 3,
    width: int = 128,
    depth: int = 4,
    activation: Phi = "tanh",
    factorised: bool = False,
    frequencies: int = 0,
) -> WindowedNetwork:
    """One ``mlp`` for each of several overlapping windows of time (arXiv 2107.07871), at the cost of two a point; g is met exactly at T.

    :param windows: number of networks, at least 2
    :param width: units of a hidden layer of each, at least 1
    :param depth: number of hidden layers of each, at least 1
    :param activation: of the hidden layers
    :param factorised: whether weights are products of a factor a unit and a matrix, both trained (arXiv 2210.01274)
    :param frequencies: of cosines and sines of time beside time itself, 0 for none
    """
    if windows < 2:
        raise ValueError(f"windows = {windows}: windows overlap, so that there are two at least; one network is 'mlp'")
    parameters = (problem.dim + 2 + 2 * frequencies) * width + (depth - 1) * width**2
    require_size({"windows": windows, "width": width, "depth": depth}, frequencies, windows * parameters)
    seeds, networks = Stream(seed, Purpose.INITIALISATION, 3), []
    for j in range(windows):
        network = mlp(
            problem,
            seed=seeds.integer(2**31),
            width=width,
            depth=depth,
            activation=activation,
            factorised=factorised,
            frequencies=frequencies,
        )
        with torch.no_grad():
            # The network's own time (n-1)(h - c_j) runs from -1 to 1, as in the paper, before training.
            of_time = network.layers[0][0][:, 0]
            network.biases[0] -= j * of_time
            network.weights[0][:, 0] *= windows - 1
        networks.append(network)
    return WindowedNetwork(problem, networks)
