"""Of an integral: what its surrogate gained, and whether f^q has the variance that it needs to gain anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kernels.contracts import Integral
from kernels.control_gain import control_gain
from kernels.streams import Purpose, Stream
from kernels.tails import FEWEST, doubts, hill
from pipeline.baselines import plain_method
from pipeline.errors import InputError
from pipeline.family import one_row
from pipeline.job import Job
from pipeline.report import Array, GainReport
from pipeline.tally import Outcome

SAMPLE = 2**14
"""Most values of f that are drawn for its tail, which is then known to 9 % ..."""

SHARE = 32
"""... and one for so many draws of the correction, f being what an integral costs."""

FOUR_MOMENTS = 4.0
"""Tail index up to which a variance is not known to any standard error."""


@torch.no_grad()
def measured_gain(job: Job, surrogate: Any, outcome: Outcome, error: Array | None, freedom: float) -> GainReport | None:
    """The gain over plain Monte Carlo, and what the tail of f^q says of it; None for other problems, and where the tail is cut off.

    ``error`` is the standard error of the surrogate's own integral, with so many degrees of ``freedom``.
    """
    # A variance of what is cut off at a level is none of f^q's.
    if not isinstance(job.problem, Integral) or (method := plain_method(job, 1)).estimator.biases:
        return None
    tally, chunks = outcome.tally, outcome.counts[0][0]
    # Chunks hold moments, and a tail is read off values: a few of f are drawn here, from a stream of their own, the same
    # whichever ranks and runs made the chunks, and not charged to the correction, whose FLOP set the budget of its baseline.
    draws = chunks * tally.method.layout.draws[0]
    term, count = method.terms[0], max(FEWEST, min(SAMPLE, draws // SHARE))
    try:
        stream = Stream(job.model.seed, Purpose.TAIL)
        (plain,) = method.estimator.sample(method.problem, *one_row(job.problem), term, count, stream)
    except ValueError as wrong:
        raise InputError(f"problem: {wrong}") from wrong
    variances = np.array([float(tally.have[0, 0, index].variance[0]) for index in range(chunks)])
    net = 0.0 if error is None else float(error[0])
    value, se = control_gain(plain, variances, draws, surrogate.evaluations, (net, freedom))
    tail, tail_se = hill(plain)
    return GainReport(
        value=value,
        se=se if tail > FOUR_MOMENTS else None,
        tail_index=tail,
        tail_index_se=tail_se,
        draws=count,
        flop=method.estimator.flop(method.problem, term, count),
        warnings=tuple(doubts(plain)),
    )
