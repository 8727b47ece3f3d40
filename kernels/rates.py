"""The rate of convergence that replicates show: least squares in logarithms, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.contracts import Experiment, Purpose, Stream
from kernels.moments import Moments

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RateFit:
    """log E[squared error] = intercept + slope log n, method by method (methods,).

    ``se`` is the standard error of ``slope`` from the spread of the replicates alone: a curve that is no line has more.
    """

    methods: tuple[str, ...]
    slope: Array
    se: Array
    theory: Array
    """NaN where none is known."""
    ns: tuple[int, ...]
    mean: Array
    """Mean squared errors, (sizes, methods), and below their standard errors."""
    mean_se: Array


def slope(ns: Sequence[float], mean: Array, mean_se: Array) -> tuple[Array, Array]:
    """Slope of log mean in log n over the first axis of ``mean`` (sizes, ...), and its standard error.

    slope = sum_k w_k log mean_k, w_k = (log n_k - average)/sum of squares of these; by the delta method
    se^2 = sum_k (w_k mean_se_k / mean_k)^2, the sizes being independent. It holds where mean_se is well below mean.

    Raises ValueError for fewer than two sizes and for means that are not positive, which have no logarithm.
    """
    if len(set(ns)) < 2:
        raise ValueError(f"ns = {tuple(ns)}: a slope needs at least two sizes")
    if not (mean > 0.0).all():
        raise ValueError(f"mean squared error {mean.min():.3g}: a rate takes logarithms; leave out methods that make no error")
    logs = np.log(np.asarray(ns, dtype=np.float64))
    w = (logs - logs.mean()) / np.square(logs - logs.mean()).sum()
    return np.tensordot(w, np.log(mean), 1), np.sqrt(np.tensordot(w**2, np.square(mean_se / mean), 1))


def fit(experiment: Experiment, ns: Sequence[int] = (), reps: int = 20, *, seed: int = 0) -> RateFit:
    """The rates of an experiment's methods, from ``reps`` replicates at each of the sizes ``ns`` (its own where none are given).

    Replicates are independent, also between sizes; the methods of a replicate see the same data.
    Raises ValueError where :func:`slope` does, and for fewer than two replicates, which have no spread.
    """
    if reps < 2:
        raise ValueError(f"reps = {reps}: the interval comes from the spread of replicates; take at least two, better twenty")
    sizes = tuple(ns) or experiment.sizes
    streams = [Stream(seed, Purpose.CORRECTION, place) for place in range(len(sizes))]
    found = [
        Moments.of(np.stack([experiment.errors(n, stream).numpy() for _ in range(reps)], -1))
        for n, stream in zip(sizes, streams, strict=True)
    ]
    mean, error = np.stack([m.mean for m in found]), np.stack([m.standard_error for m in found])
    theory = np.array([math.nan if t is None else t for t in experiment.theory])
    return RateFit(experiment.methods, *slope(sizes, mean, error), theory, sizes, mean, error)
