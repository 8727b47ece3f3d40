"""A point singularity |x - c|^(-a): powers of it leave L2, and with it the reach of control variates."""

from __future__ import annotations

from torch import Tensor

from kernels.contracts import Integral


def power_singularity(dim: int, *, exponent: float = 0.1, centre: float = 0.37, power: int = 2, noise: float = 0.0) -> Integral:
    """int over [0,1]^dim of f^power, f = |x - c|^(-exponent), c = (centre, ..., centre).

    f^power is in L2 for 2 power exponent < dim, and integrable for half of that. In one dimension, with b = power exponent,
    the integral is (c^(1-b) + (1 - c)^(1-b))/(1 - b); in more it is not known here.

    :param exponent: a, > 0 and below dim/power
    :param centre: each coordinate of the singularity, in [0, 1]
    :param power: q, at least 1
    :param noise: standard deviation of the noise on every value of f, >= 0
    """
    b = exponent * power
    if not (exponent > 0.0 and b < dim):
        raise ValueError(
            f"exponent = {exponent}: |x - c|^(-{b:g}) is integrable in {dim} dimensions for 0 < exponent < {dim}/{power}"
        )
    if not 0.0 <= centre <= 1.0:
        raise ValueError(f"centre = {centre}: the singularity should lie in the cube, from 0 to 1")

    def integrand(x: Tensor, /) -> Tensor:
        return (x - centre).square().sum(-1).pow(-0.5 * exponent)

    exact = (centre ** (1.0 - b) + (1.0 - centre) ** (1.0 - b)) / (1.0 - b) if dim == 1 else None
    return Integral(
        name="power_singularity",
        dim=dim,
        integrand=integrand,
        power=power,
        noise=noise,
        value=exact,
        source="" if exact is None else "antiderivative",
    )
