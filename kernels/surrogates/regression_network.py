"""A small network fitted to values of the integrand by a quasi-Newton method."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels.contracts import Batch, Integral, Paths, Vectors
from kernels.optimizers.ssbroyden import ssbroyden
from kernels.streams import Stream
from kernels.surrogates._regression import Regression

HELD_OUT = 10
"""One value in so many chooses among the steps."""

ITERATIONS = 4
"""Of the optimizer, a step."""

EVALUATIONS = 2
"""Losses and gradients an iteration, by experience."""


class RegressionNetwork(Regression):
    """f^ = m + s N(2x - 1), N a tanh network, m and s the mean and standard deviation of the values.

    All weights are float64 buffers. ``fit`` minimises the mean square error over all but a tenth of the values by a fixed
    number of full-batch steps of self-scaled Broyden, and keeps the weights of the step with the least error at that tenth.
    """

    centre: Tensor

    def __init__(self, problem: Integral, points: int, width: int, depth: int, steps: int) -> None:
        super().__init__(problem, points)
        self.steps = steps
        self.sizes = [problem.dim, *[width] * depth, 1]
        self.register_buffer("centre", torch.tensor([0.0, 1.0], dtype=torch.float64))
        for i, (low, high) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            self.register_buffer(f"weight_{i}", torch.zeros(high, low, dtype=torch.float64))
            self.register_buffer(f"bias_{i}", torch.zeros(high, dtype=torch.float64))

    def _weights(self) -> list[Tensor]:
        """Matrix and bias of every layer in turn."""
        return [self.get_buffer(f"{kind}_{i}") for i in range(len(self.sizes) - 1) for kind in ("weight", "bias")]

    def regress(self, x: Vectors, y: Paths, stream: Stream) -> list[float]:
        mean, spread = y.mean(), y.std(correction=0)
        self.centre.copy_(torch.stack((mean, spread if spread > 0.0 else torch.ones_like(spread))))
        target = (y - self.centre[0]) / self.centre[1]
        out = len(x) // HELD_OUT
        start = [self._first(w, stream) for w in self._weights()]
        best, losses = _trained(start, (x[out:], target[out:]), (x[:out], target[:out]), self.steps)
        for weight, found in zip(self._weights(), best, strict=True):
            weight.copy_(found)
        variance = float(self.centre[1].square())
        return [float(y.var(correction=0)), *(variance * loss for loss in losses)]

    def _first(self, weight: Tensor, stream: Stream) -> nn.Parameter:
        """Normal weights of variance 1/inputs, biases of variance 1: kinks of a first layer spread over the cube."""
        drawn = stream.normal(*weight.shape, dtype=torch.float64)
        return nn.Parameter(drawn / math.sqrt(weight.shape[1]) if weight.ndim == 2 else drawn)

    def values(self, x: Vectors) -> Paths:
        return self.centre[0] + self.centre[1] * _network(self._weights(), self.inside(x))

    def integral(self) -> float | None:
        return None

    def flop(self) -> float:
        # Booked twice: a product in float64 takes the time of two in float32.
        return 4.0 * sum(a * b for a, b in zip(self.sizes[:-1], self.sizes[1:], strict=True)) + 20.0 * sum(self.sizes[1:])

    def fit_cost(self) -> tuple[float, float]:
        """Model FLOP of ``fit`` and the bytes at its peak."""
        parameters = sum(w.numel() for w in self._weights())
        iteration = EVALUATIONS * 3.0 * self.evaluations * self.flop() + 16.0 * parameters**2
        fitted = self.evaluations * self.problem.flop() + self.steps * (ITERATIONS * iteration)
        return fitted + self.net_flop(), 8.0 * (4.0 * parameters**2 + 3.0 * self.evaluations * sum(self.sizes))


def _network(weights: Sequence[Tensor], x: Vectors) -> Paths:
    a = 2.0 * x - 1.0
    for w, b in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        a = torch.tanh(torch.addmm(b, a, w.T))
    return torch.addmm(weights[-1], a, weights[-2].T)[:, 0]


def _trained(
    weights: list[nn.Parameter], data: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], steps: int
) -> tuple[list[Tensor], list[float]]:
    """Weights of the step with the least mean square error at what was held out, and that error after every step."""
    optimizer = ssbroyden(weights, iterations=ITERATIONS)
    judged = held_out if len(held_out[1]) else data

    def residuals(weights: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        return _network(weights, x) - y

    def evaluate() -> float:
        with torch.enable_grad():
            loss = residuals(weights, *data).square().mean()
            for w, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                w.grad = slope
        return float(loss)

    best, least, losses = [w.detach().clone() for w in weights], math.inf, []
    for _ in range(steps):
        optimizer.step(Batch(loss=evaluate(), evaluate=evaluate, parts=data, residuals=residuals))  # type: ignore[call-overload]
        losses.append(float(residuals(weights, *judged).square().mean()))
        if losses[-1] < least:
            best, least = [w.detach().clone() for w in weights], losses[-1]
    return best, [*losses, least]


def regression_network(
    problem: Integral, *, seed: int, points: int = 1000, width: int = 32, depth: int = 2, steps: int = 100
) -> RegressionNetwork:
    """Small tanh network, for smooth f in more dimensions than a grid reaches; its integral is by scrambled Sobol' nets.

    ``seed`` is unused: all that is random is drawn by ``fit``.

    :param points: values of f, uniform in the cube, at least 2
    :param width: units of a hidden layer, at least 1
    :param depth: hidden layers, at least 1
    :param steps: of self-scaled Broyden on all values, four iterations each, at least 1
    """
    if points < 2 or width < 1 or depth < 1 or steps < 1:
        raise ValueError(
            f"points = {points}, width = {width}, depth = {depth}, steps = {steps}: a network needs points >= 2 and the others >= 1"
        )
    return RegressionNetwork(problem, points, width, depth, steps)
