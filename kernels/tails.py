"""Tails of draws: whether they have the variance that an error bar is made of."""

from __future__ import annotations

import math

from torch import Tensor

FEWEST = 8
"""Draws that a tail can be read off, roughly."""


def hill(draws: Tensor) -> tuple[float, float]:
    """Tail index alpha of |draws|, P(|X| > x) about x^-alpha, and its standard error (Hill 1975).

    k/alpha = sum_(i<=k) log(X_(i)/X_(k+1)) over the k = sqrt(n) largest, error alpha/sqrt k. Draws with alpha <= 2 have no
    variance. inf where the largest are all equal, 0 where fewer than k + 1 are not 0: one of them is the mean.
    Raises ValueError for fewer than 8 draws.

    >>> import torch
    >>> [round(v, 1) for v in hill(torch.arange(1, 10_001) ** -0.5)]
    [2.0, 0.2]
    """
    if draws.numel() < FEWEST:
        raise ValueError(f"{draws.numel()} draws: a tail is read off at least {FEWEST}")
    k = math.isqrt(draws.numel())
    largest = draws.double().abs().flatten().topk(k + 1).values
    if float(largest[-1]) == 0.0:
        return (math.inf, 0.0) if float(largest[0]) == 0.0 else (0.0, 0.0)
    mean = float((largest[:-1] / largest[-1]).log().mean())
    return (1.0 / mean, 1.0 / (mean * math.sqrt(k))) if mean > 0.0 else (math.inf, 0.0)
