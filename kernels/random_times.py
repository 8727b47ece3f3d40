"""Random times between a point's own and the horizon."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def arcsine_times(left: Tensor, quantile: Tensor) -> tuple[Tensor, Tensor]:
    """Times elapsed after t at the given quantiles of q(s) = 1/(pi sqrt((s-t)(T-s))), and q there.

    A surrogate's residual is largest in the layer at T and around the evaluation points, where
    its training data are thinnest; where it is flat, the arcsine law costs a factor pi/2 at most.
    Shapes: left = T - t (paths,), quantile (times, paths); returns (times, paths) twice.
    """
    sine, cosine = torch.sin(0.5 * math.pi * quantile), torch.cos(0.5 * math.pi * quantile)
    density = 1.0 / (math.pi * left * (sine * cosine).abs().clamp_min(torch.finfo(left.dtype).tiny))
    return left * sine.square(), density
