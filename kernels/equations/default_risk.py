"""Pricing with default risk: the value of a claim that loses the more likely the less it is worth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.contracts import GeometricBrownianMotion, Reference, SemilinearPDE, along_paths, require_dim

START = 100.0
HORIZON = 1.0
RECOVERY, INTEREST = 2.0 / 3.0, 0.02
LOW, HIGH = 50.0, 70.0
INTENSITY_AT_LOW, INTENSITY_AT_HIGH = 0.2, 0.02

TEMPERATURE = 0.05
"""Of the soft minimum, in spreads sigma sqrt(T) x0 of X_T."""

REFERENCES = {20: (66.858, 0.012), 100: (57.2957, 0.0052), 160: (55.0752, 0.0071)}


def default_risk(dim: int, *, horizon: float = HORIZON) -> SemilinearPDE:
    """u_t + 0.02 x.grad u + (0.2^2/2) sum_i x_i^2 d_ii u - (1-delta) Q(u) u - R u = 0, g = min_i x_i.

    Han, Jentzen, E (PNAS 2018): delta = 2/3, R = 0.02, and the intensity of default Q falls linearly from 0.2 at
    u = 50 to 0.02 at u = 70, constant outside; x0 = 100. In (mu, sigma, f): 0.02 x, 0.2 x, -((1-delta) Q(y) + R) y.
    f has a convex kink at 50, is convex up to 70 and has a concave kink there: neither concave nor convex.

    The profile is a soft minimum -a log sum_i exp(-x_i/a), a = 5 % of the spread of X_T. It is below
    g by at most a log d and, where the components have spread, by some a^2/(gap of the smallest two):
    0.3 % of E g(X_T) at d = 100. Its second derivatives are O(1/a): the generator moves it by the
    order of the spread within time T.

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

    def profile(x: Tensor, /) -> Tensor:
        a = TEMPERATURE * law.sigma * math.sqrt(horizon) * START
        return -a * torch.logsumexp(-x / a, -1)

    def hessian_form(x: Tensor, /) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        a = TEMPERATURE * law.sigma * math.sqrt(horizon) * START
        w = torch.softmax(-x / a, -1)
        return profile(x), w, -w / a, torch.full_like(x[:, 0], 1.0 / a), w

    known = REFERENCES.get(dim) if horizon == HORIZON else None
    return SemilinearPDE(
        name="default_risk",
        dim=dim,
        horizon=horizon,
        law=law,
        driver=driver,
        terminal=terminal,
        profile=profile,
        hessian_form=hessian_form,
        # The smallest of d normals moves once noise exceeds their gap, 1/sqrt(2 log d) of their spread.
        layer=max(3.0, 2.0 * math.log(dim)),
        sample_points=along_paths(dim, horizon, law, START),
        start=START,
        reference=None if known is None else Reference(value=known[0], error=known[1], source="Monte Carlo, one standard error"),
    )
