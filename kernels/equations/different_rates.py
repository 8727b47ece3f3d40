"""Pricing where money is borrowed at a higher rate than it is lent at."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from kernels.contracts import GeometricBrownianMotion, Reference, SemilinearPDE, along_paths, require_dim

START = 100.0
HORIZON = 0.5
LENDING, BORROWING = 0.04, 0.06
LOWER_STRIKE, UPPER_STRIKE = 120.0, 150.0

TEMPERATURE = 0.05
"""Of the soft maximum and positive parts, in spreads sigma sqrt(T) x0 of X_T."""


def different_rates(dim: int, *, horizon: float = HORIZON) -> SemilinearPDE:
    """u_t + 0.06 x.grad u + (0.2^2/2) sum_i x_i^2 d_ii u + f = 0, g = (max_i x_i - 120)^+ - 2 (max_i x_i - 150)^+.

    Bergman (1995); Gobet, Lemor, Warin (2005); E, Han, Jentzen (Commun. Math. Stat. 2017): T = 1/2, x0 = 100.
    In (mu, sigma, f): 0.06 x, 0.2 x and, with r = 0.04 and R = 0.06 the rates of lending and borrowing,
    f = -r y - (mu - r)/sigma sum_i z_i + (R - r) (sum_i z_i/sigma - y)^+, which is convex in (y, z).

    The profile takes the soft maximum a log sum_i exp(x_i/a) and softplus of temperature a for the
    positive parts, a = 5 % of the spread of X_T: E g(X_T) to 1 % at d = 100, second derivatives O(1/a).

    :param horizon: final time T, > 0
    """
    require_dim(dim)
    law = GeometricBrownianMotion(mu=0.06, sigma=0.2)
    premium = (law.mu - LENDING) / law.sigma

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        total = z.sum(-1)
        return -LENDING * y - premium * total + (BORROWING - LENDING) * (total / law.sigma - y).clamp_min(0.0)

    def terminal(x: Tensor, /) -> Tensor:
        top = x.amax(-1)
        return (top - LOWER_STRIKE).clamp_min(0.0) - 2.0 * (top - UPPER_STRIKE).clamp_min(0.0)

    def profile(x: Tensor, /) -> Tensor:
        a = TEMPERATURE * law.sigma * math.sqrt(horizon) * START
        top = torch.logsumexp(x / a, -1)
        return a * (softplus(top - LOWER_STRIKE / a) - 2.0 * softplus(top - UPPER_STRIKE / a))

    def hessian_form(x: Tensor, /) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        a = TEMPERATURE * law.sigma * math.sqrt(horizon) * START
        w, top = torch.softmax(x / a, -1), torch.logsumexp(x / a, -1)
        low, high = torch.sigmoid(top - LOWER_STRIKE / a), torch.sigmoid(top - UPPER_STRIKE / a)
        slope, second = low - 2.0 * high, low * (1.0 - low) - 2.0 * high * (1.0 - high)
        return profile(x), slope[:, None] * w, slope[:, None] * w / a, (second - slope) / a, w

    known = dim == 100 and horizon == HORIZON
    return SemilinearPDE(
        name="different_rates",
        dim=dim,
        horizon=horizon,
        law=law,
        driver=driver,
        terminal=terminal,
        profile=profile,
        hessian_form=hessian_form,
        curvature="convex",
        pieces=((-0.04, -0.1, 0.0), (-0.06, 0.0, 0.0)),
        # The largest of d normals moves once noise exceeds their gap, 1/sqrt(2 log d) of their spread.
        layer=max(3.0, 2.0 * math.log(dim)),
        sample_points=along_paths(dim, horizon, law, START),
        start=START,
        reference=Reference(value=21.299, error=0.213, source="published (E, Han, Jentzen 2017): a cross-check to 1 %")
        if known
        else None,
    )
