"""Pricing with default risk: the value of a claim that loses the more likely the less it is worth."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import GeometricBrownianMotion, Reference, SemilinearPDE, along_paths, require_dim
from kernels.equations._soft_maximum import soft_maximum, temperature

START = 100.0
HORIZON = 1.0
RECOVERY, INTEREST = 2.0 / 3.0, 0.02
LOW, HIGH = 50.0, 70.0
INTENSITY_AT_LOW, INTENSITY_AT_HIGH = 0.2, 0.02

REFERENCES = {20: (66.858, 0.012), 100: (57.2957, 0.0052), 160: (55.0752, 0.0071)}


def default_risk(dim: int, *, horizon: float = HORIZON) -> SemilinearPDE:
    """u_t + 0.02 x.grad u + (0.2^2/2) sum_i x_i^2 d_ii u - (1-delta) Q(u) u - R u = 0, g = min_i x_i.

    Han, Jentzen, E (PNAS 2018): delta = 2/3, R = 0.02, and the intensity of default Q falls linearly from 0.2 at
    u = 50 to 0.02 at u = 70, constant outside; x0 = 100. In (mu, sigma, f): 0.02 x, 0.2 x, -((1-delta) Q(y) + R) y.
    f has a convex kink at 50, is convex up to 70 and has a concave kink there: neither concave nor convex.

    The profile is a soft minimum -a log sum_i exp(-x_i/a), a following sqrt(T - t): g at T, and before it about
    what the noise that is left makes of a minimum.

    :param horizon: final time T, > 0
    """
    require_dim(dim)
    law = GeometricBrownianMotion(mu=0.02, sigma=0.2)
    slope = (INTENSITY_AT_HIGH - INTENSITY_AT_LOW) / (HIGH - LOW)

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        q = (INTENSITY_AT_LOW + slope * (y - LOW)).clamp(INTENSITY_AT_HIGH, INTENSITY_AT_LOW)
        return -((1.0 - RECOVERY) * q + INTEREST) * y

    def terminal(x: Tensor, /) -> Tensor:
        return x.amin(-1)

    def profile(t: Tensor, x: Tensor, /) -> Tensor:
        return torch.exp(-soft_maximum(-x.log(), temperature(horizon - t, law.sigma))[0])

    def hessian_form(t: Tensor, x: Tensor, /) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        left = horizon - t
        a = temperature(left, law.sigma)
        m, w, entropy = soft_maximum(-x.log(), a)
        p, v = torch.exp(-m), w / x
        c = p * (1.0 + 1.0 / a)
        # a falls by a/(2 (T - t)) in unit time.
        return p, p * entropy * a / (2.0 * left), p[:, None] * v, -c[:, None] * v / x, c, v

    known = REFERENCES.get(dim) if horizon == HORIZON else None
    return SemilinearPDE(
        name="default_risk",
        dim=dim,
        horizon=horizon,
        law=law,
        driver=driver,
        terminal=terminal,
        kinked=True,
        profile=profile,
        hessian_form=hessian_form,
        sample_points=along_paths(dim, horizon, law, START),
        start=START,
        reference=None if known is None else Reference(value=known[0], error=known[1], source="Monte Carlo, one standard error"),
    )
