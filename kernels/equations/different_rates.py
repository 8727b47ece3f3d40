"""Pricing where money is borrowed at a higher rate than it is lent at."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import GeometricBrownianMotion, Reference, SemilinearPDE, along_paths, require_dim
from kernels.equations._soft_maximum import soft_maximum, temperature

START = 100.0
HORIZON = 0.5
LENDING, BORROWING = 0.04, 0.06
LOWER_STRIKE, UPPER_STRIKE = 120.0, 150.0


def different_rates(dim: int, *, horizon: float = HORIZON) -> SemilinearPDE:
    """u_t + 0.06 x.grad u + (0.2^2/2) sum_i x_i^2 d_ii u + f = 0, g = (max_i x_i - 120)^+ - 2 (max_i x_i - 150)^+.

    Bergman (1995); Gobet, Lemor, Warin (2005); E, Han, Jentzen (Commun. Math. Stat. 2017): T = 1/2, x0 = 100.
    In (mu, sigma, f): 0.06 x, 0.2 x and, with r = 0.04 and R = 0.06 the rates of lending and borrowing,
    f = -r y - (mu - r)/sigma sum_i z_i + (R - r) (sum_i z_i/sigma - y)^+, which is convex in (y, z).

    The profile takes soft maxima a log sum exp(./a) for the maximum and the positive parts, a following
    sqrt(T - t): g at T, and before it about what the noise that is left makes of g.

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

    def smoothed(t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The profile, its derivative in ln a, its first and second derivatives in the maximum m, m, and its weights; a is of ln x."""
        a = temperature(horizon - t, law.sigma)
        log_m, w, entropy = soft_maximum(x.log(), a)
        m, b = log_m.exp(), START * a
        value, heating, slope, curvature = (torch.zeros_like(t) for _ in range(4))
        for sign, strike in ((1.0, LOWER_STRIKE), (-2.0, UPPER_STRIKE)):
            # (m - K)^+ is the maximum of m - K and 0.
            payoff, shares, own = soft_maximum(torch.stack((m - strike, torch.zeros_like(m)), -1), b)
            share = shares[:, 0]
            value, slope = value + sign * payoff, slope + sign * share
            heating = heating + sign * (b * own + share * m * a * entropy)
            curvature = curvature + sign * share * (1.0 - share) / b
        return value, heating, slope, curvature, m, w

    def profile(t: Tensor, x: Tensor, /) -> Tensor:
        return smoothed(t, x)[0]

    def hessian_form(t: Tensor, x: Tensor, /) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        left = horizon - t
        value, heating, slope, curvature, m, w = smoothed(t, x)
        a, v = temperature(left, law.sigma), w / x
        steep = slope * m
        diagonal = (steep * (1.0 / a - 1.0))[:, None] * v / x
        # a falls by a/(2 (T - t)) in unit time.
        return value, -heating / (2.0 * left), steep[:, None] * v, diagonal, curvature * m.square() + steep * (1.0 - 1.0 / a), v

    known = dim == 100 and horizon == HORIZON
    return SemilinearPDE(
        name="different_rates",
        dim=dim,
        horizon=horizon,
        law=law,
        driver=driver,
        terminal=terminal,
        kinked=True,
        profile=profile,
        hessian_form=hessian_form,
        curvature="convex",
        pieces=((-0.04, -0.1, 0.0), (-0.06, 0.0, 0.0)),
        sample_points=along_paths(dim, horizon, law, START),
        start=START,
        reference=Reference(value=21.299, error=0.213, source="published (E, Han, Jentzen 2017): a cross-check to 1 %")
        if known
        else None,
    )
