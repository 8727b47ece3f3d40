"""Tails of draws: whether they have the variance that an error bar is made of."""

from __future__ import annotations

import math

from torch import Tensor

FEWEST = 8
"""Draws that a tail can be read off, roughly."""

NO_VARIANCE = 2.0
"""Tail index up to which draws have no variance."""


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


def doubts(plain: Tensor) -> list[str]:
    """What draws of f^q say against a control variate and its error bar: sentences, none where nothing speaks against them.

    Of f^q itself and not of f^q - f^^q, whose tail is the same at a singularity, where f^ is bounded: of a nearest neighbour
    the largest differences are one value of f^ seen again and again, and an index read off them misleads.
    """
    if not bool((plain != plain.flatten()[0]).any()):
        return ["f^q took one value only: an event rarer than one in as many points would not have been seen"]
    tail, error = hill(plain)
    if tail > NO_VARIANCE:
        return []
    # An index off few draws comes below 2 by chance: within two errors of it nothing is settled.
    known = (
        f"no variance up to {NO_VARIANCE:g}"
        if tail + 2.0 * error <= NO_VARIANCE
        else f"perhaps no variance ({NO_VARIANCE:g} and less)"
    )
    return [
        f"f^q has tail index {tail:.2f} +- {error:.2f}, {known}: a control variate then does not improve the rate and the interval "
        "is not earned; truncated_monte_carlo reaches the best rate"
    ]
