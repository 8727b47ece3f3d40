"""A multilayer perceptron with the terminal condition built in."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels.contracts import Jet, Paths, SemilinearPDE, Vectors
from kernels.jets import STREAM_ROWS, jet_in_parts, network_gradient, network_laplacian, network_value, reverse_sweep
from kernels.streams import Purpose, Stream
from kernels.surrogates._ansatz import clock, profile, profile_flop, profile_gradient, profile_laplacian

NORMALISATION_POINTS = 4096

SHARES = 0.25, 0.1, 0.25
"""Standard deviation of the parts of h (at 1), x and p(t, x) in a first pre-activation before training.

u follows (t, p) first; with equal weights d coordinates would drown these two, and training
would begin by unlearning x. Larger weights of h and p make for rougher residuals."""

MAX_PARAMETERS = 500_000_000
"""Two gigabytes of weights, and six times that while training."""


class MLP(nn.Module):
    """u^(t, x) = p(t, x) + s h(t) N(h(t), (x - m)/c, (p(t, x) - g0)/s), N a tanh network.

    p is the problem's profile, g itself where it has none, and g at T. h = log(1 + l (T-t)/T) / log(1 + l)
    vanishes at T, so that u^(T, .) = g whatever the parameters; l is the problem's ``layer``. The
    scales m, c, g0, s are the means and standard deviations of x and g(x) along the problem's own
    paths, from ``seed``; p varies less than g, but what u adds to it may not.
    """

    meets_terminal = True

    mean: Tensor
    spread: Tensor
    terminal_mean: Tensor
    terminal_spread: Tensor

    def __init__(self, problem: SemilinearPDE, *, seed: int, width: int, depth: int) -> None:
        super().__init__()
        self.problem = problem
        sizes = [problem.dim + 2, *[width] * depth, 1]
        generator = torch.Generator().manual_seed(Stream(seed, Purpose.INITIALISATION).integer(2**31))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            weight = torch.randn(fan_out, fan_in, generator=generator)
            if self.weights:
                weight *= math.sqrt(2.0 / (fan_in + fan_out))
            else:
                of_h, of_x, of_g = SHARES
                weight[:, 0] *= of_h
                weight[:, 1:-1] *= of_x / math.sqrt(problem.dim)
                weight[:, -1] *= of_g
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(fan_out)))
        stream = Stream(seed, Purpose.INITIALISATION, 1)
        t, x = problem.sample_points(NORMALISATION_POINTS, stream)
        elapsed = (problem.horizon - t) * stream.uniform(t.shape[0])
        x, _ = problem.law.travel(t, x, elapsed, stream)
        with torch.no_grad():
            g = problem.terminal(x)
        self.register_buffer("mean", x.mean())
        self.register_buffer("spread", (x.var(0).mean() + 1e-12).sqrt())
        self.register_buffer("terminal_mean", g.mean())
        self.register_buffer("terminal_spread", (g.var() + 1e-12).sqrt())

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.weights, self.biases, strict=True))

    def first(self, h: Paths, x: Vectors, p: Paths) -> Float[Tensor, "paths width"]:
        """First pre-activation, (paths, width)."""
        features = torch.cat(
            (
                h[:, None],
                (x - self.mean) / self.spread,
                ((p - self.terminal_mean) / self.terminal_spread)[:, None],
            ),
            dim=1,
        )
        return torch.addmm(self.biases[0], features, self.weights[0].T)

    def forward(self, t: Paths, x: Vectors) -> Paths:
        p = profile(self.problem, t, x)
        h, _ = clock(self.problem, t)
        return p + self.terminal_spread * h * network_value(self.layers, self.first(h, x, p))

    def value_and_gradient(self, t: Paths, x: Vectors) -> tuple[Paths, Vectors]:
        p, grad_p = profile_gradient(self.problem, t, x)
        h, _ = clock(self.problem, t)
        n, delta = network_gradient(self.layers, self.first(h, x, p))
        inputs = delta @ self.weights[0]
        scale = (self.terminal_spread * h)[:, None]
        grad_n = inputs[:, 1:-1] / self.spread + inputs[:, -1:] / self.terminal_spread * grad_p
        return p + scale[:, 0] * n, grad_p + scale * grad_n

    def jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        count = self.problem.dim if directions is None or directions.ndim == 2 else directions.shape[1]
        return jet_in_parts(self._jet, t, x, directions, max(1, STREAM_ROWS // (count + 3)))

    def _jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        p = profile_laplacian(self.problem, t, x, directions)
        h, h_t = clock(self.problem, t)
        first, layers = self.first(h, x, p.value), self.layers
        w_h, w_x, w_p = self.weights[0].split((1, self.problem.dim, 1), dim=1)
        w_h, w_x, w_p = w_h.T, w_x.T / self.spread, w_p.T / self.terminal_spread
        head = first[:, None], (p.laplacian[:, None] * w_p)[:, None]
        if directions is None:
            tangents = torch.addcmul(w_x, p.gradient[:, :, None], w_p)
            # Along the clock, on which the profile moves by p_t/h_t.
            streams = torch.cat((*head, torch.addcmul(w_h, (p.dt / h_t)[:, None], w_p)[:, None], tangents), dim=1)
            out, _ = network_laplacian(layers, streams, extra=1)
            n_h, grad_n = out[:, 2], out[:, 3:]
        else:
            if directions.ndim == 2:
                tangents = directions[:, :, None] * torch.addcmul(w_x, p.gradient[:, :, None], w_p)
            else:
                tangents = torch.addcmul(directions @ w_x, torch.bmm(directions, p.gradient[:, :, None]), w_p)
            out, slopes = network_laplacian(layers, torch.cat((*head, tangents), dim=1))
            inputs = reverse_sweep(layers, slopes) @ torch.cat((w_h, w_x, w_p)).T
            n_h = inputs[:, 0] + inputs[:, -1] * (p.dt / h_t)
            grad_n = inputs[:, 1:-1] + inputs[:, -1:] * p.gradient
        n, lap_n = out[:, 0], out[:, 1]
        s = self.terminal_spread
        return Jet(
            value=p.value + s * h * n,
            dt=p.dt + s * (h_t * n + h * h_t * n_h),
            gradient=p.gradient + (s * h)[:, None] * grad_n,
            laplacian=p.laplacian + s * h * lap_n,
        )

    def flop(self, probes: int | None) -> tuple[float, float]:
        inner = sum(2.0 * w.numel() for w in self.weights[1:])
        entry = 2.0 * self.weights[0].numel()
        first_order = 2.0 * (inner + entry)
        terminal = profile_flop(self.problem, probes)
        if probes is None:
            return first_order, terminal + entry + (self.problem.dim + 3) * inner
        return first_order, terminal + (probes + 2) * entry + (probes + 3) * inner


def mlp(problem: SemilinearPDE, *, seed: int, width: int = 128, depth: int = 4) -> MLP:
    """tanh network of ``depth`` hidden layers of ``width`` units; g is met exactly at T.

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
