"""A rare event: nothing but one high bump that about one point in n meets."""

from __future__ import annotations

import math

from torch import Tensor

from kernels.contracts import Integral


def bump(
    dim: int,
    *,
    rarity: float = 1000.0,
    p: float = 3.0,
    s: float = 0.05,
    order: int = 2,
    centre: float = 0.5,
    power: int = 2,
    noise: float = 0.0,
) -> Integral:
    """int over [0,1]^dim of f^power, f = n^(1/p - s/d) (1 - |u|^2)_+^order, u = 2 (x - centre) n^(1/d), n = ``rarity``.

    The hardest function for n values of f where W^(s,p) is not in L^(2 power): its norm there is of order 1 for every n,
    and of n uniform points at most about one sees it. By the Beta integral
    int_{|u|<1} (1 - |u|^2)^b du = pi^(d/2) Gamma(b + 1)/Gamma(b + 1 + d/2).

    :param rarity: n, at least 1; the bump has width n^(-1/d) and height n^(1/p - s/d)
    :param p: moments that stay bounded, > 0
    :param s: derivatives of which they do, >= 0
    :param order: smoothness of the bump at its edge, at least 1
    :param centre: each coordinate of its centre; the bump should lie in the cube
    :param power: q, at least 1
    :param noise: standard deviation of the noise on every value of f, >= 0
    """
    if not (rarity >= 1.0 and p > 0.0 and s >= 0.0 and order >= 1 and math.isfinite(rarity + p + s)):
        raise ValueError(
            f"rarity = {rarity}, p = {p}, s = {s}, order = {order}: a bump needs finite rarity >= 1, p > 0, s >= 0 and order >= 1"
        )
    radius, height = 0.5 * rarity ** (-1.0 / dim), rarity ** (1.0 / p - s / dim)
    if not radius <= centre <= 1.0 - radius:
        raise ValueError(f"centre = {centre}: a bump of radius {radius:.3g} leaves the cube; move it within, or raise rarity")

    def integrand(x: Tensor, /) -> Tensor:
        return height * (1.0 - ((x - centre) / radius).square().sum(-1)).clamp_min(0.0) ** order

    b = order * power
    volume = math.pi ** (0.5 * dim) * math.exp(math.lgamma(b + 1.0) - math.lgamma(b + 1.0 + 0.5 * dim))
    return Integral(
        name="bump",
        dim=dim,
        integrand=integrand,
        power=power,
        noise=noise,
        value=height**power * radius**dim * volume,
        source="Beta integral",
    )
