"""A multilayer perceptron for Poisson's equation, with the boundary values built in."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from kernels.activations import ACTIVATIONS
from kernels.contracts import Paths, Poisson, Positions, Purpose, SpaceJet, Times, Vectors
from kernels.forward_laplacian import Layer
from kernels.jets import STREAM_ROWS
from kernels.streams import Stream
from kernels.surrogates._hard_boundary import met_laplacian, met_value, typical_size
from kernels.surrogates._network import Core, Phi, require_size
from kernels.surrogates.mlp import Perceptron

NORMALISATION_POINTS = 4096


class PoissonNetwork(nn.Module):
    """u^ = g + b (s N((x - m)/c) - g), N a network, b the domain's bump: u^ = g on the boundary whatever the parameters.

    m and c are the mean and standard deviation of the coordinates of uniform points, s is what g and f make expect of u,
    all from ``seed``. Its Laplacian is a forward Laplacian, exact, with the gradient among its streams.
    """

    meets_boundary = True

    mean: Tensor
    spread: Tensor
    scale: Tensor

    def __init__(self, problem: Poisson, core: Core, *, seed: int, width: int, depth: int) -> None:
        super().__init__()
        self.problem, self.core = problem, core
        generator = torch.Generator().manual_seed(Stream(seed, Purpose.INITIALISATION).integer(2**31))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        sizes = (problem.dim, *[width] * depth, 1)
        for fan_in, fan_out in pairwise(sizes):
            weight = torch.randn(fan_out, fan_in, generator=generator)
            # Inputs have variance 1.
            weight *= math.sqrt(2.0 / (fan_in + fan_out)) if self.weights else 1.0 / math.sqrt(fan_in)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(fan_out)))
        _, x = problem.sample_points(NORMALISATION_POINTS, Stream(seed, Purpose.INITIALISATION, 1))
        self.register_buffer("mean", x.mean().float())
        self.register_buffer("spread", x.var(0).mean().sqrt().float())
        with torch.no_grad():
            self.register_buffer("scale", typical_size(problem, x).float())

    @property
    def layers(self) -> list[Layer]:
        return list(zip(self.weights, self.biases, strict=True))

    def _entry(self, x: Vectors) -> Tensor:
        """First pre-activation."""
        return torch.addmm(self.biases[0], (x - self.mean) / self.spread, self.weights[0].T)

    def value(self, x: Vectors) -> Paths:
        near = x.to(self.mean)
        return met_value(self.problem, near, self.scale * self.core.value(self.layers, self._entry(near))).to(x.dtype)

    def laplacian(self, x: Vectors) -> Paths:
        rows = max(1, STREAM_ROWS // (self.problem.dim + 2))
        return torch.cat([self._laplacian(part) for part in x.to(self.mean).split(rows)]).to(x.dtype)

    def _laplacian(self, x: Vectors) -> Paths:
        first = self._entry(x)[:, None]
        tangents = (self.weights[0].T / self.spread).expand(len(x), -1, -1)
        streams = torch.cat((first, torch.zeros_like(first), tangents), dim=1)
        n = self.scale * self.core.laplacian(self.layers, streams, extra=0)
        return met_laplacian(self.problem, x, SpaceJet(n[:, 0], n[:, 2:], n[:, 1]))

    def plug_in(self, t: Times, x: Positions) -> Times:
        """u^ in float64 throughout: a float32 rounding of it would be part of no error bar."""
        with torch.no_grad():
            return copy.deepcopy(self).double().value(x.double())

    def flop(self) -> tuple[float, float]:
        entry, *inner = (2.0 * w.numel() for w in self.weights)
        return entry + sum(inner), entry + (self.problem.dim + 2) * sum(inner)


def poisson_network(problem: Poisson, *, seed: int, width: int = 64, depth: int = 3, activation: Phi = "tanh") -> PoissonNetwork:
    """Fully connected network of ``depth`` hidden layers of ``width`` units; g is met exactly on the boundary.

    :param width: units of a hidden layer, at least 1
    :param depth: number of hidden layers, at least 1
    :param activation: of the hidden layers
    """
    require_size({"width": width, "depth": depth}, 0, (problem.dim + 1) * width + (depth - 1) * width**2)
    return PoissonNetwork(problem, Perceptron(ACTIVATIONS[activation]), seed=seed, width=width, depth=depth)
