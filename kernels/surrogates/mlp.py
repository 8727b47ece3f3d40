"""A multilayer perceptron with the terminal condition built in."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels.contracts import Jet, Paths, SemilinearPDE, Terminal, Vectors
from kernels.jets import network_gradient, network_laplacian, network_value, reverse_sweep
from kernels.streams import Purpose, Stream

NORMALISATION_POINTS = 4096

MAX_PARAMETERS = 500_000_000
"""Two gigabytes of weights, and six times that while training."""

STREAM_ROWS = 4096
"""Rows of one matrix product in a jet: large enough for full speed, small enough for the cache."""


class MLP(nn.Module):
    """u^(t, x) = g(x) + s h(t) N(h(t), (x - m)/c, (g(x) - g0)/s), N a tanh network.

    h = log(1 + l (T-t)/T) / log(1 + l) vanishes at T, so that u^(T, .) = g whatever the
    parameters; l is the problem's ``layer``. The scales m, c, g0, s are the means and standard
    deviations of x and g(x) along the problem's own paths, from ``seed``. Where g has kinks, the
    problem's smooth profile stands for g and the factor h(t) before N is left out: what u^ misses
    at T is for training to learn and for a correction to sample.
    """

    mean: Tensor
    spread: Tensor
    terminal_mean: Tensor
    terminal_spread: Tensor

    def __init__(self, problem: SemilinearPDE, *, seed: int, width: int, depth: int) -> None:
        super().__init__()
        self.problem = problem
        self.meets_terminal = problem.profile is None
        self.profile = problem.profile or problem.terminal
        sizes = [problem.dim + 2, *[width] * depth, 1]
        generator = torch.Generator().manual_seed(Stream(seed, Purpose.INITIALISATION).integer(2**31))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            weight = torch.randn(fan_out, fan_in, generator=generator) * math.sqrt(2.0 / (fan_in + fan_out))
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(fan_out)))
        stream = Stream(seed, Purpose.INITIALISATION, 1)
        t, x = problem.sample_points(NORMALISATION_POINTS, stream)
        elapsed = (problem.horizon - t) * stream.uniform(t.shape[0])
        x, _ = problem.law.travel(t, x, elapsed, stream)
        with torch.no_grad():
            g = self.profile(x)
        self.register_buffer("mean", x.mean())
        self.register_buffer("spread", (x.var(0).mean() + 1e-12).sqrt())
        self.register_buffer("terminal_mean", g.mean())
        self.register_buffer("terminal_spread", (g.var() + 1e-12).sqrt())

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.weights, self.biases, strict=True))

    def clock(self, t: Paths) -> tuple[Paths, Paths]:
        """h(t) and h'(t), both (paths,)."""
        layer, horizon = self.problem.layer, self.problem.horizon
        inner = 1.0 + layer * (horizon - t) / horizon
        return torch.log(inner) / math.log1p(layer), -layer / (horizon * math.log1p(layer) * inner)

    def gate(self, h: Paths, h_t: Paths) -> tuple[Paths, Paths]:
        """The factor before N and its time derivative."""
        return (h, h_t) if self.meets_terminal else (torch.ones_like(h), torch.zeros_like(h))

    def first(self, h: Paths, x: Vectors, g: Paths) -> Float[Tensor, "paths width"]:
        """First pre-activation, (paths, width)."""
        features = torch.cat(
            (
                h[:, None],
                (x - self.mean) / self.spread,
                ((g - self.terminal_mean) / self.terminal_spread)[:, None],
            ),
            dim=1,
        )
        return torch.addmm(self.biases[0], features, self.weights[0].T)

    def profile_gradient(self, x: Vectors) -> tuple[Paths, Vectors]:
        if self.problem.terminal_jet is not None:
            g, gradient, _ = self.problem.terminal_jet(x)
            return g, gradient
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            g = self.profile(leaf)
            (gradient,) = torch.autograd.grad(g.sum(), leaf)
        return g.detach(), gradient

    def profile_laplacian(self, x: Vectors, directions: Tensor | None) -> tuple[Paths, Vectors, Paths]:
        # Along signs of an isotropic law the exact Laplacian is what its samples have for a mean.
        if self.problem.terminal_jet is not None and self.problem.law.isotropic:
            return self.problem.terminal_jet(x)
        g, gradient = self.profile_gradient(x)
        return g, gradient, curvature_by_autodiff(self.profile, x, None if self.problem.law.isotropic else directions)

    def forward(self, t: Paths, x: Vectors) -> Paths:
        g = self.profile(x)
        h, h_t = self.clock(t)
        return g + self.terminal_spread * self.gate(h, h_t)[0] * network_value(self.layers, self.first(h, x, g))

    def value_and_gradient(self, t: Paths, x: Vectors) -> tuple[Paths, Vectors]:
        g, grad_g = self.profile_gradient(x)
        h, h_t = self.clock(t)
        n, delta = network_gradient(self.layers, self.first(h, x, g))
        inputs = delta @ self.weights[0]
        scale = (self.terminal_spread * self.gate(h, h_t)[0])[:, None]
        grad_n = inputs[:, 1:-1] / self.spread + inputs[:, -1:] / self.terminal_spread * grad_g
        return g + scale[:, 0] * n, grad_g + scale * grad_n

    def jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        count = self.problem.dim if directions is None or directions.ndim == 2 else directions.shape[1]
        rows = max(1, STREAM_ROWS // (count + 3))
        if t.shape[0] <= rows:
            return self._jet(t, x, directions)
        parts = [
            self._jet(t[i : i + rows], x[i : i + rows], None if directions is None else directions[i : i + rows])
            for i in range(0, t.shape[0], rows)
        ]
        return Jet(*(torch.cat([getattr(part, name.name) for part in parts]) for name in fields(Jet)))

    def _jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        g, grad_g, lap_g = self.profile_laplacian(x, directions)
        h, h_t = self.clock(t)
        first, layers = self.first(h, x, g), self.layers
        w_h, w_x, w_g = self.weights[0].split((1, self.problem.dim, 1), dim=1)
        w_h, w_x, w_g = w_h.T, w_x.T / self.spread, w_g.T / self.terminal_spread
        head = first[:, None], (lap_g[:, None] * w_g)[:, None]
        if directions is None:
            tangents = torch.addcmul(w_x, grad_g[:, :, None], w_g)
            streams = torch.cat((*head, w_h.expand(t.shape[0], 1, -1), tangents), dim=1)
            out, _ = network_laplacian(layers, streams, extra=1)
            n_h, grad_n = out[:, 2], out[:, 3:]
        else:
            if directions.ndim == 2:
                tangents = directions[:, :, None] * torch.addcmul(w_x, grad_g[:, :, None], w_g)
            else:
                tangents = torch.addcmul(directions @ w_x, torch.bmm(directions, grad_g[:, :, None]), w_g)
            out, activations = network_laplacian(layers, torch.cat((*head, tangents), dim=1))
            inputs = reverse_sweep(layers, activations) @ torch.cat((w_h, w_x, w_g)).T
            n_h, grad_n = inputs[:, 0], inputs[:, 1:-1] + inputs[:, -1:] * grad_g
        n, lap_n = out[:, 0], out[:, 1]
        s, (gate, gate_t) = self.terminal_spread, self.gate(h, h_t)
        return Jet(
            value=g + s * gate * n,
            dt=s * (gate_t * n + gate * h_t * n_h),
            gradient=grad_g + (s * gate)[:, None] * grad_n,
            laplacian=lap_g + s * gate * lap_n,
        )

    def flop(self, probes: int | None) -> tuple[float, float]:
        inner = sum(2.0 * w.numel() for w in self.weights[1:])
        entry = 2.0 * self.weights[0].numel()
        first_order = 2.0 * (inner + entry)
        if probes is None:
            return first_order, entry + (self.problem.dim + 3) * inner
        return first_order, (probes + 2) * entry + (probes + 3) * inner


def curvature_by_autodiff(function: Terminal, x: Vectors, directions: Tensor | None) -> Paths:
    """sum_k d_k.Hess d_k of a function of x, (paths,), one forward-over-reverse product a direction."""

    def total(point: Tensor) -> Tensor:
        return function(point).sum()

    gradient = torch.func.grad(total)
    curvature = torch.zeros_like(x[:, 0])
    explicit = directions is not None and directions.ndim == 3
    for k in range(directions.shape[1] if directions is not None else x.shape[1]):
        if explicit:
            direction = directions[:, k].contiguous()  # type: ignore[index]
        else:
            direction = torch.zeros_like(x)
            direction[:, k] = 1.0 if directions is None else directions[:, k]
        curvature += (torch.func.jvp(gradient, (x,), (direction,))[1] * direction).sum(-1)
    return curvature.detach()


def mlp(problem: SemilinearPDE, *, seed: int, width: int = 128, depth: int = 4) -> MLP:
    """tanh network of ``depth`` hidden layers of ``width`` units; a smooth g is met exactly at T.

    :param width: units of a hidden layer, at least 1
    :param depth: number of hidden layers, at least 1
    """
    if width < 1 or depth < 1:
        raise ValueError(f"width = {width}, depth = {depth}: a network needs at least one hidden layer of one unit")
    count = (problem.dim + 2) * width + (depth - 1) * width**2
    if count > MAX_PARAMETERS:
        raise ValueError(
            f"width = {width}, depth = {depth}: {count:.1e} parameters, and at most {MAX_PARAMETERS:.0e} are served: lower either"
        )
    return MLP(problem, seed=seed, width=width, depth=depth)
