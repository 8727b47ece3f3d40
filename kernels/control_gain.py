"""What a control variate gains over plain Monte Carlo, measured."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kernels.axes import Paths


def control_gain(
    plain: Paths, variances: NDArray[np.float64], draws: int, evaluations: int, plug_in: tuple[float, float]
) -> tuple[float, float]:
    """How many times as many values of f plain Monte Carlo takes for the same standard error, and the standard error of that.

        G = (V/(m + n)) / (W/n + e^2),

    V the variance of f^q, from the draws ``plain``; W that of f^q - f^^q, the mean of its estimates ``variances`` (groups,) from
    as many draws each, n ``draws`` in all; m the ``evaluations`` of f that f^ was made from; e the first of ``plug_in``, the
    standard error of int f^^q, known to as many degrees of freedom as the second says. Below 1 the surrogate does not pay.
    The error is to first order in those of V (from the fourth moment), W (from the spread of the groups) and e^2; NaN for one
    group. It is earned where f^q has four moments. NaN, both, where there is nothing to divide by.

    >>> import torch
    >>> round(control_gain(torch.tensor([-1.0, 1.0] * 50), np.array([0.02, 0.02]), 100, 100, (0.0, 15.0))[0], 2)
    25.25
    """
    variance, error = _variance(plain)
    n, w = draws, float(variances.mean())
    net, freedom = plug_in
    left = w / n + net**2
    if not (left > 0.0 and variance > 0.0):
        return math.nan, math.nan
    gain = variance / (evaluations + n) / left
    of_w = float(variances.std(ddof=1)) / math.sqrt(len(variances)) / n if len(variances) > 1 else math.nan
    of_net = net**2 * math.sqrt(2.0 / freedom)
    return gain, gain * math.sqrt((error / variance) ** 2 + (of_w**2 + of_net**2) / left**2)


def _variance(draws: Tensor) -> tuple[float, float]:
    """The sample variance and its standard error, sqrt((m_4 - m_2^2)/n)."""
    wide = draws.double().flatten().numpy()
    squares = np.square(wide - wide.mean())
    n = len(wide)
    return float(squares.sum()) / (n - 1), float(squares.std()) / math.sqrt(n)
