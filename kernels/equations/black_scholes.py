"""A semilinear Black-Scholes equation."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import GeometricBrownianMotion, Reference, SemilinearPDE, along_paths

START = 50.0
HORIZON = 1.0


def black_scholes(dim: int, *, horizon: float = HORIZON) -> SemilinearPDE:
    """u_t + x.grad u + (1/2) sum_i x_i^2 d_ii u + u/(1 + u^2) = 0, g = log((1 + |x|^2)/2).

    Becker, Braunwarth, Hutzenthaler, Jentzen, von Wurstemberger (Commun. Comput. Phys. 2020), x0 = 50.
    In (mu, sigma, f): x, x, y/(1 + y^2), which is neither concave nor convex.

    :param horizon: final time T, > 0
    """
    law = GeometricBrownianMotion(mu=1.0, sigma=1.0)

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        return y / (1.0 + y.square())

    def terminal(x: Tensor, /) -> Tensor:
        return torch.log(0.5 * (1.0 + x.square().sum(-1)))

    # The mean of X_T^2 is x^2 exp(rate (T - t)).
    rate = 2.0 * law.mu + law.sigma**2

    def profile(t: Tensor, x: Tensor, /) -> Tensor:
        return torch.log(0.5 * (1.0 + torch.exp(rate * (horizon - t)) * x.square().sum(-1)))

    def hessian_form(t: Tensor, x: Tensor, /) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        growth = torch.exp(rate * (horizon - t))
        q = 1.0 + growth * x.square().sum(-1)
        slope = 2.0 * growth / q
        return torch.log(0.5 * q), rate * (1.0 / q - 1.0), slope[:, None] * x, slope[:, None].expand_as(x), -slope.square(), x

    known = dim == 100 and horizon == HORIZON
    return SemilinearPDE(
        name="black_scholes",
        dim=dim,
        horizon=horizon,
        law=law,
        driver=driver,
        terminal=terminal,
        profile=profile,
        hessian_form=hessian_form,
        sample_points=along_paths(dim, horizon, law, START),
        start=START,
        reference=Reference(value=14.68713, error=0.00036, source="Monte Carlo, one standard error") if known else None,
    )
