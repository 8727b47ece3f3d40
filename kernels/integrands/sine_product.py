"""A smooth product of sines, whose powers have integrals in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.contracts import Integral

FREQUENCY, PHASE = 2.0, 0.3


def sine_product(dim: int, *, amplitude: float = 0.9, power: int = 1, noise: float = 0.0) -> Integral:
    """int over [0,1]^dim of f^power, f = prod_j (1 + amplitude sin(2 x_j + 0.3)), smooth and of full effective dimension.

    By the binomial theorem and int sin^k u du = (-sin^(k-1) u cos u + (k - 1) int sin^(k-2) u du)/k, a product of
    integrals over one coordinate.

    :param amplitude: of the sine, finite
    :param power: q, at least 1
    :param noise: standard deviation of the noise on every value of f, >= 0
    """
    if not math.isfinite(amplitude):
        raise ValueError(f"amplitude = {amplitude}: should be a finite number, for example 0.9")

    def integrand(x: Tensor, /) -> Tensor:
        return (1.0 + amplitude * torch.sin(FREQUENCY * x + PHASE)).prod(-1)

    one = sum(math.comb(power, k) * amplitude**k * sines for k, sines in enumerate(_sines(power)))
    return Integral(
        name="sine_product",
        dim=dim,
        integrand=integrand,
        power=power,
        noise=noise,
        value=one**dim,
        source="binomial theorem and the recursion of powers of the sine",
    )


def _sines(power: int) -> list[float]:
    """int_0^1 sin^k(2x + 0.3) dx for k = 0 .. power, at least two of them."""
    low, high = PHASE, PHASE + FREQUENCY
    found = [high - low, math.cos(low) - math.cos(high)]
    for k in range(2, power + 1):
        ends = math.sin(low) ** (k - 1) * math.cos(low) - math.sin(high) ** (k - 1) * math.cos(high)
        found.append((ends + (k - 1) * found[k - 2]) / k)
    return [value / FREQUENCY for value in found]
