"""A sum of products of functions of one coordinate each, with the terminal condition built in."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels.activations import ACTIVATIONS
from kernels.contracts import Jet, Paths, SemilinearPDE, Vectors
from kernels.jets import STREAM_ROWS, jet_in_parts
from kernels.streams import Purpose, Stream
from kernels.surrogates._ansatz import (
    Normalised,
    clock,
    composed,
    profile,
    profile_flop,
    profile_gradient,
    profile_laplacian,
    time_features,
)
from kernels.surrogates._network import require_size

Bounded = Literal["tanh", "sin"]
"""Activations whose sums have a bound that no point exceeds, so that no product overflows far from where it was trained."""

Factors = Float[Tensor, "factors paths rank"]

SHARES = 0.25, 0.25
"""Standard deviation of what the time, and all coordinates together, add to the logarithm of a product before training."""


class SeparableNetwork(Normalised):
    """u^(t, x) = p(t, x) + s h(t) N, N = sum_r c_r exp(sum_i psi_ri(y_i)), y_0 the time, y_i = (x_i - m)/c.

    The canonical polyadic form sum_r prod_i phi_ri of a separable PINN (Cho et al. 2023, arXiv 2306.15969, eq. 5), its factors
    exp psi > 0: in a hundred dimensions a product of functions near 0 or above 1 leaves the range of floats, where a sum of
    logarithms does not, and the signs stand in c_r. psi_i has one hidden layer and all r as its outputs. What the paper gains
    by a grid of points is not to be had in a hundred dimensions; here every coordinate has a network of its own, and the
    Laplacian needs derivatives of functions of one variable alone:

        d_i N = sum_r P_r psi'_ri,   d_ij N = sum_r P_r (psi'_ri psi'_rj + [i = j] psi''_ri),   P_r the r-th product.
    """

    meets_terminal = True

    def __init__(
        self, problem: SemilinearPDE, *, seed: int, rank: int, width: int, activation: Bounded, frequencies: int
    ) -> None:
        super().__init__(problem, seed)
        self.phi = ACTIVATIONS[activation]
        self.clocks = 1 + 2 * frequencies
        stream = Stream(seed, Purpose.INITIALISATION)
        of_time, of_x = SHARES
        self.time_in = nn.Parameter(stream.normal(width, self.clocks) / math.sqrt(self.clocks))
        self.time_bias = nn.Parameter(stream.normal(width))
        self.time_out = nn.Parameter(stream.normal(rank, width) * (of_time / math.sqrt(width)))
        self.place_in = nn.Parameter(stream.normal(problem.dim, width, 1))
        self.place_bias = nn.Parameter(stream.normal(problem.dim * width))
        self.place_out = nn.Parameter(stream.normal(problem.dim, rank, width) * (of_x / math.sqrt(problem.dim * width)))
        self.sum = nn.Parameter(stream.normal(1, rank) / math.sqrt(rank))

    def _products(self, of_time: Tensor, of_x: Tensor) -> Float[Tensor, "paths rank"]:
        return self.sum * torch.exp(of_time + of_x.sum(0))

    def _time(self, h: Paths) -> tuple[Tensor, Tensor]:
        """psi_0 and its derivative by h, (paths, rank)."""
        clocks, slopes = time_features(h, self.clocks)
        a = torch.addmm(self.time_bias, clocks, self.time_in.T)
        y = self.phi.value(a)
        return y @ self.time_out.T, (self.phi.slope(a, y) * (slopes @ self.time_in.T)) @ self.time_out.T

    def _place(self, x: Vectors, orders: int) -> list[Factors]:
        """psi_i and its first ``orders`` derivatives by x_i, those of all coordinates in one product each."""
        weight, bias = self.place_in.transpose(1, 2), self.place_bias.reshape(x.shape[1], 1, -1)
        a = torch.addcmul(bias, ((x - self.mean) / self.spread).T[:, :, None], weight)
        y = self.phi.value(a)
        hidden = [y]
        if orders:
            rate = weight / self.spread
            slope = self.phi.slope(a, y)
            hidden.append(slope * rate)
            if orders == 2:
                hidden.append(self.phi.curvature(a, y, slope) * rate.square())
        out = torch.bmm(torch.cat(hidden, 1), self.place_out.transpose(1, 2))
        return list(out.split(x.shape[0], 1))

    def forward(self, t: Paths, x: Vectors) -> Paths:
        h, _ = clock(self.problem, t)
        n = [self._products(self._time(h_part)[0], self._place(x_part, 0)[0]).sum(1) for h_part, x_part in self._parts(h, x)]
        return profile(self.problem, t, x) + self.terminal_spread * h * torch.cat(n)

    def _parts(self, h: Paths, x: Vectors) -> zip[tuple[Tensor, ...]]:
        """Rows whose factors fit into the cache."""
        rows = max(1, STREAM_ROWS // self.problem.dim)
        return zip(h.split(rows), x.split(rows), strict=True)

    def value_and_gradient(self, t: Paths, x: Vectors) -> tuple[Paths, Vectors]:
        p, grad_p = profile_gradient(self.problem, t, x)
        h, _ = clock(self.problem, t)
        values, gradients = [], []
        for h_part, x_part in self._parts(h, x):
            of_x, slopes = self._place(x_part, 1)
            products = self._products(self._time(h_part)[0], of_x)
            values.append(products.sum(1))
            gradients.append((slopes * products).sum(2).T)
        scale = self.terminal_spread * h
        return p + scale * torch.cat(values), grad_p + scale[:, None] * torch.cat(gradients)

    def jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        return jet_in_parts(self._jet, t, x, directions, max(1, STREAM_ROWS // self.problem.dim))

    def _jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        p = profile_laplacian(self.problem, t, x, directions)
        h, h_t = clock(self.problem, t)
        of_time, slope_h = self._time(h)
        of_x, slopes, curvatures = self._place(x, 2)
        products = self._products(of_time, of_x)
        if directions is None:
            seconds = (slopes.square() + curvatures).sum(0)
        elif directions.ndim == 2:
            seconds = ((slopes.square() + curvatures) * directions.square().T[:, :, None]).sum(0)
        else:
            along = torch.bmm(directions, slopes.transpose(0, 1)).square().sum(1)
            seconds = along + (curvatures * directions.square().sum(1).T[:, :, None]).sum(0)
        n = Jet(products.sum(1), (products * slope_h).sum(1), (slopes * products).sum(2).T, (products * seconds).sum(1))
        return composed(p, self.terminal_spread, (h, h_t), n)

    @property
    def units_of_a_point(self) -> int:
        """Of all layers: every coordinate has its own, through which no streams pass."""
        rank, width = self.time_out.shape
        return self.problem.dim * (rank + width)

    def flop(self, probes: int | None) -> tuple[float, float]:
        outputs, time = 2.0 * self.place_out.numel(), 2.0 * (2.0 * self.time_in.numel() + 2.0 * self.time_out.numel())
        directed = 0.0 if probes is None else 2.0 * probes * self.problem.dim * self.sum.numel()
        return 2.0 * outputs + time, 3.0 * outputs + time + directed + profile_flop(self.problem, probes)


def separable_network(
    problem: SemilinearPDE,
    *,
    seed: int,
    rank: int = 64,
    width: int = 32,
    activation: Bounded = "tanh",
    frequencies: int = 0,
) -> SeparableNetwork:
    """Sum of ``rank`` products of functions of one coordinate each (separable PINN, arXiv 2306.15969); g is met exactly at T.

    :param rank: number of products, at least 1
    :param width: units of the hidden layer of each coordinate's network, at least 1
    :param activation: of the hidden layers, a bounded one
    :param frequencies: of cosines and sines of time beside time itself, 0 for none
    """
    require_size({"rank": rank, "width": width}, frequencies, (problem.dim + 1) * width * (rank + 2))
    return SeparableNetwork(problem, seed=seed, rank=rank, width=width, activation=activation, frequencies=frequencies)
