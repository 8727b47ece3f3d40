"""Integrals by regression-adjusted control variates, from one function and a number of evaluations."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor

from kernels.contracts import Integral, Integrand, Purpose, Stream
from kernels.defect import integral_defect
from kernels.intervals import student_quantile, welch
from kernels.surrogates._regression import SCRAMBLES, Regression
from kernels.tails import FEWEST, doubts, hill


@dataclass(frozen=True)
class Estimate:
    """int f^q with its 95 % interval: ``plug_in``, the surrogate's own integral, plus ``correction``."""

    value: float
    se: float
    """Standard error: that of the correction and ``plug_in_error``."""
    ci: tuple[float, float]
    plug_in: float
    correction: float
    n_evals: int
    """Values of f in all."""
    plug_in_error: float
    """Standard error of the quadrature of f^^q; 0 where it is exact."""
    gain: float
    """Standard error of plain Monte Carlo from as many values of f over ``se``: below 1 the surrogate does not pay."""
    tail_index: float
    """Of f^q (``kernels.tails``): at most 2 where it has no variance, of which f^ cannot rid it."""
    warning: str
    """Why the control variate does not help, or the interval is not earned; empty where neither is so."""


def racv_integrate(
    f: Integrand,
    dim: int,
    n: int,
    surrogate: str = "multilinear",
    q: int = 1,
    crossfit: bool = True,
    seed: int = 0,
    *,
    noise: float = 0.0,
    **options: float | None,
) -> Estimate:
    """int over [0,1]^dim of f^q from n values of f: int f^^q + mean of f^q - f^^q over points that f^ has not seen.

    Half of the values make the surrogate f^, one of ``kernels.surrogates`` that serve integrals, with its ``options``; the
    other half correct it. ``crossfit`` exchanges the halves and takes the mean, unbiased too, where the surrogate's points are
    drawn: a grid (multilinear) has nothing to exchange, and does with at most half of the values. Its standard error is the
    mean of the halves' own, an upper bound however they depend on each other: for nearest neighbours the true one is
    1/sqrt 2 of it, for smooth kernels 0.85. The interval is that of means of many draws: where a few of them make the
    variance, as for kernels with less than some hundred, it covers less than it says.
    Error n^(-1/2-s/d) for s derivatives and s as the surrogate has it (arXiv 2305.16527), against n^(-1/2) and n^(-s/d).

    f works row by row on float64 tensors (rows, dim); ``noise`` is the standard deviation of what is added to its values.
    Raises ValueError for an unknown surrogate and for fewer values than it needs.

    >>> from kernels.integrands import sine_product
    >>> problem = sine_product(2)
    >>> found = racv_integrate(problem.integrand, 2, 2000)
    >>> found.ci[0] < problem.value < found.ci[1], found.gain > 50.0, found.warning
    (True, True, '')
    """
    problem = Integral(name="f", dim=dim, integrand=f, power=q, noise=noise)
    make = _factory(surrogate)
    first: Regression = make(problem, seed=seed, points=n // 2, **options)
    if n - first.evaluations < FEWEST:
        raise ValueError(f"n = {n}: a correction and its error bar take at least {FEWEST} values beside those of the surrogate")
    halves = [Stream(seed, Purpose.TRAINING), Stream(seed, Purpose.CORRECTION)]
    x = [first.design(halves[0]), problem.points(n - first.evaluations, halves[1])]
    y = [problem.observe(places, half) for places, half in zip(x, halves, strict=True)]
    fits = [first]
    if crossfit and first.random_design:
        fits.append(make(problem, seed=seed, points=len(y[1]), **options))
    for fit, places, seen, half in zip(fits, x, y, halves, strict=False):
        fit.fit_to(places, seen, half)
    with torch.no_grad():
        parts = [integral_defect(problem, fit).draws(x[1 - i], y[1 - i]) for i, fit in enumerate(fits)]
    return _estimate(fits, parts, problem.powers(torch.cat(y) if first.random_design else y[1]), sum(map(len, y)))


def _factory(name: str) -> Callable[..., Regression]:
    room: Any = importlib.import_module("kernels.surrogates")

    def serves(each: str) -> bool:
        return get_type_hints(getattr(room, each)).get("problem") is Integral

    if name not in room.__all__ or not serves(name):
        raise ValueError(f"surrogate = '{name}': of the surrogates, {', '.join(filter(serves, room.__all__))} serve integrals")
    made: Callable[..., Regression] = getattr(room, name)
    return made


def _estimate(fits: Sequence[Regression], parts: Sequence[Tensor], plain: Tensor, count: int) -> Estimate:
    """The mean over the folds. ``parts`` are the draws of each correction, ``plain`` those of f^q itself."""
    row = torch.zeros(1, dtype=torch.float64), torch.zeros(1, fits[0].problem.dim, dtype=torch.float64)
    plug_in = float(np.mean([float(fit.plug_in(*row)) for fit in fits]))
    correction = float(np.mean([float(part.mean()) for part in parts]))
    nets = np.array([float(fit.plug_in_error(*row)) for fit in fits])
    own = np.array([math.sqrt(float(part.var()) / len(part)) for part in parts])
    errors = np.hypot(own, nets)
    freedom = welch([(own**2, len(parts[0]) - 1.0), (nets**2, SCRAMBLES - 1.0)])
    # A mean of dependent estimates is off by no more than the mean of their errors.
    se, quadrature = float(errors.mean()), float(nets.mean())
    half = float((student_quantile(0.95, freedom) * errors).mean())
    value = plug_in + correction
    alone = math.sqrt(float(plain.var()) / count)
    gain = alone / se if se > 0.0 else math.inf
    return Estimate(
        value=value,
        se=se,
        ci=(value - half, value + half),
        plug_in=plug_in,
        correction=correction,
        n_evals=count,
        plug_in_error=quadrature,
        gain=gain,
        tail_index=hill(plain)[0],
        warning=_warning(doubts(plain), gain, quadrature / se if se > 0.0 else 0.0),
    )


def _warning(said: list[str], gain: float, share: float) -> str:
    out = [*said]
    if gain < 1.0:
        out.append(f"gain {gain:.2f}: plain Monte Carlo with as many values of f has a smaller error")
    if share > 0.5:
        out.append(f"the quadrature of f^^q makes {100.0 * share:.0f} % of the error: the correction outran its nets")
    return "; ".join(out)
