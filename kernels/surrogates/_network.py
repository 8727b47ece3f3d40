"""Networks with the terminal condition built in: what all architectures share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels.contracts import Jet, Paths, SemilinearPDE, Vectors
from kernels.forward_laplacian import Layer
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

SHARES = 0.25, 0.1, 0.25
"""Standard deviation of the parts of h (at 1), x and p(t, x) in a first pre-activation before training.

u follows (t, p) first; with equal weights d coordinates would drown these two, and training
would begin by unlearning x. Larger weights of h and p make for rougher residuals."""

FACTOR = 0.5, 0.1
"""Mean and standard deviation of the logarithms of the factors before training (arXiv 2210.01274, section 4)."""

MAX_PARAMETERS = 500_000_000
"""Two gigabytes of weights, and six times that while training."""

Phi = Literal["tanh", "sin", "gelu"]


@runtime_checkable
class Core(Protocol):
    """A network as a function of its first pre-activation a, row by row, given the layers after a."""

    @property
    def sweeps(self) -> int:
        """Passes through the layers that a gradient costs beside the streams."""
        ...

    def value(self, layers: Sequence[Layer], a: Float[Tensor, "paths width"]) -> Paths:
        """N."""
        ...

    def gradient(self, layers: Sequence[Layer], a: Float[Tensor, "paths width"]) -> tuple[Paths, Float[Tensor, "paths width"]]:
        """N and dN/da; under autograd to be differentiated again."""
        ...

    def laplacian(
        self, layers: Sequence[Layer], streams: Float[Tensor, "paths streams width"], extra: int
    ) -> Float[Tensor, "paths streams"]:
        """All streams of N from those of a (``kernels.forward_laplacian``), which may be overwritten."""
        ...

    def laplacian_and_gradient(
        self, layers: Sequence[Layer], streams: Float[Tensor, "paths streams width"]
    ) -> tuple[Float[Tensor, "paths streams"], Float[Tensor, "paths width"]]:
        """The streams of N without extra tangents, and dN/da."""
        ...


@dataclass(frozen=True)
class Block:
    """``copies`` layers of (fan_in, fan_out) side by side, multiplied in one product."""

    fan_in: int
    fan_out: int
    copies: int = 1


class Network(Normalised):
    """u^(t, x) = p(t, x) + s h(t) N(h(t), (x - m)/c, (p(t, x) - g0)/s), N a network.

    p is the problem's profile, g itself where it has none, and g at T. h = log(1 + l (T-t)/T) / log(1 + l)
    vanishes at T, so that u^(T, .) = g whatever the parameters; l is the problem's ``layer``. The
    scales m, c, g0, s are those of ``Normalised``; p varies less than g, but what u adds to it may not.

    With ``frequencies`` = F, N reads cos(k pi h) and sin(k pi h), k = 1..F, beside h: of time alone, as in x
    frequencies would have to fall like 1/sqrt(d). ``factorised`` weights are W = diag(exp s) V with s and V trained
    (random weight factorisation, Wang, Wang, Seidman, Perdikaris 2022, arXiv 2210.01274): every unit has a rate
    of learning of its own; W begins as it would without.

    The Laplacian is exact, all streams of a layer in one product. The layers are ``entry`` copies of one of ``width``
    from the inputs, those of ``inner``, and one to N.
    """

    meets_terminal = True

    def __init__(
        self,
        problem: SemilinearPDE,
        core: Core,
        *,
        seed: int,
        width: int,
        inner: Sequence[Block],
        entry: int = 1,
        factorised: bool,
        frequencies: int,
    ) -> None:
        super().__init__(problem, seed)
        self.core = core
        self.clocks = 1 + 2 * frequencies
        generator = torch.Generator().manual_seed(Stream(seed, Purpose.INITIALISATION).integer(2**31))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for block in (Block(self.clocks + problem.dim + 1, width, entry), *inner, Block(width, 1)):
            weight = torch.randn(block.copies * block.fan_out, block.fan_in, generator=generator)
            if self.weights:
                weight *= math.sqrt(2.0 / (block.fan_in + block.fan_out))
            else:
                of_h, of_x, of_g = SHARES
                weight[:, 0] *= of_h
                weight[:, 1 : self.clocks] *= of_h / math.sqrt(max(1, frequencies))
                weight[:, self.clocks : -1] *= of_x / math.sqrt(problem.dim)
                weight[:, -1] *= of_g
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(weight.shape[0])))
        self.factors = nn.ParameterList()
        if factorised:
            logarithms, (mean, deviation) = Stream(seed, Purpose.INITIALISATION, 2), FACTOR
            for weight in self.weights:
                factor = mean + deviation * logarithms.normal(weight.shape[0])
                weight.data /= factor.exp()[:, None]
                self.factors.append(nn.Parameter(factor))

    @property
    def layers(self) -> list[Layer]:
        weights = list(self.weights)
        if self.factors:
            weights = [factor.exp()[:, None] * weight for factor, weight in zip(self.factors, weights, strict=True)]
        return list(zip(weights, self.biases, strict=True))

    def _first(self, entry: Layer, clocks: Tensor, x: Vectors, p: Paths) -> Float[Tensor, "paths width"]:
        """First pre-activation."""
        of_p = ((p - self.terminal_mean) / self.terminal_spread)[:, None]
        return torch.addmm(entry[1], torch.cat((clocks, (x - self.mean) / self.spread, of_p), dim=1), entry[0].T)

    def forward(self, t: Paths, x: Vectors) -> Paths:
        p = profile(self.problem, t, x)
        (h, _), layers = clock(self.problem, t), self.layers
        first = self._first(layers[0], time_features(h, self.clocks)[0], x, p)
        return p + self.terminal_spread * h * self.core.value(layers, first)

    def value_and_gradient(self, t: Paths, x: Vectors) -> tuple[Paths, Vectors]:
        p, grad_p = profile_gradient(self.problem, t, x)
        (h, _), layers = clock(self.problem, t), self.layers
        n, delta = self.core.gradient(layers, self._first(layers[0], time_features(h, self.clocks)[0], x, p))
        inputs = delta @ layers[0][0]
        scale = (self.terminal_spread * h)[:, None]
        grad_n = inputs[:, self.clocks : -1] / self.spread + inputs[:, -1:] / self.terminal_spread * grad_p
        return p + scale[:, 0] * n, grad_p + scale * grad_n

    def jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        count = self.problem.dim if directions is None or directions.ndim == 2 else directions.shape[1]
        return jet_in_parts(self._jet, t, x, directions, max(1, STREAM_ROWS // (count + 3)))

    def _jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        p = profile_laplacian(self.problem, t, x, directions)
        (h, h_t), layers = clock(self.problem, t), self.layers
        clocks, slopes = time_features(h, self.clocks)
        first = self._first(layers[0], clocks, x, p.value)
        w_h, w_x, w_p = layers[0][0].split((self.clocks, self.problem.dim, 1), dim=1)
        w_h, w_x, w_p = w_h.T, w_x.T / self.spread, w_p.T / self.terminal_spread
        head = first[:, None], (p.laplacian[:, None] * w_p)[:, None]
        # Along the clock, on which the profile moves by p_t/h_t.
        p_h = p.dt / h_t
        if directions is None:
            tangents = torch.addcmul(w_x, p.gradient[:, :, None], w_p)
            along_h = torch.addcmul(w_h if self.clocks == 1 else slopes @ w_h, p_h[:, None], w_p)
            out = self.core.laplacian(layers, torch.cat((*head, along_h[:, None], tangents), dim=1), extra=1)
            n_h, grad_n = out[:, 2], out[:, 3:]
        else:
            if directions.ndim == 2:
                tangents = directions[:, :, None] * torch.addcmul(w_x, p.gradient[:, :, None], w_p)
            else:
                tangents = torch.addcmul(directions @ w_x, torch.bmm(directions, p.gradient[:, :, None]), w_p)
            out, delta = self.core.laplacian_and_gradient(layers, torch.cat((*head, tangents), dim=1))
            inputs = delta @ torch.cat((w_h, w_x, w_p)).T
            n_h = (inputs[:, : self.clocks] * slopes).sum(1) + inputs[:, -1] * p_h
            grad_n = inputs[:, self.clocks : -1] + inputs[:, -1:] * p.gradient
        n, lap_n = out[:, 0], out[:, 1]
        return composed(p, self.terminal_spread, (h, h_t), Jet(n, n_h, grad_n, lap_n))

    def flop(self, probes: int | None) -> tuple[float, float]:
        inner = sum(2.0 * w.numel() for w in self.weights[1:])
        entry = 2.0 * self.weights[0].numel()
        first_order = 2.0 * (inner + entry)
        terminal = profile_flop(self.problem, probes)
        if probes is None:
            return first_order, terminal + entry + (self.problem.dim + 3) * inner
        return first_order, terminal + (probes + 2) * entry + (probes + 2 + self.core.sweeps) * inner


def require_size(sizes: Mapping[str, int], frequencies: int, parameters: int) -> None:
    """Refuse a network without a unit, or beyond memory, before it is built."""
    named = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    if min(sizes.values()) < 1:
        raise ValueError(f"{named}: a network needs at least one hidden layer of one unit")
    if frequencies < 0:
        raise ValueError(f"frequencies = {frequencies}: a number of frequencies of time, 0 for none")
    if parameters > MAX_PARAMETERS:
        raise ValueError(f"{named}: {parameters:.1e} parameters, and at most {MAX_PARAMETERS:.0e} are served: lower either")
