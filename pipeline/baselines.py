"""The Monte Carlo baselines beside a correction: the driver dropped, and plain multilevel Picard at its best."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import numpy as np
from torch import Tensor

from kernels.contracts import Surrogate
from kernels.estimators.feynman_kac import feynman_kac
from kernels.estimators.picard import picard
from kernels.streams import Purpose
from pipeline.errors import InputError
from pipeline.fanout import ALONE, Communicator
from pipeline.job import Job, RunFolder, digest
from pipeline.owned import on_device
from pipeline.plan import MLP_LEVELS, MLP_SAMPLES, PILOT_POINTS, Plan, Trial, measured, needed, save_plan
from pipeline.tally import Method
from pipeline.training import training_flop

MLP_PILOT_DRAWS = 128
MLP_PILOT_ROWS = 131072


def linear_method(job: Job, points: int) -> Method:
    """Feynman-Kac with the driver dropped; all its FLOP go into the value, none into printing its bias."""
    estimator, owner = replace(feynman_kac(), biases=()), digest(["linear", job.correction_hash, *on_device(job)])
    return Method("linear", Purpose.LINEAR, estimator, job.problem, owner, points)


def mlp_method(job: Job, points: int, levels: int, samples: int) -> Method:
    """Plain multilevel Picard on the problem itself; all its FLOP go into the value, none into printing its bias."""
    owner = digest(["mlp", levels, samples, job.correction_hash, *on_device(job)])
    estimator = replace(picard(levels=levels, samples=samples), biases=())
    return Method(f"mlp-{levels}-{samples}", Purpose.MLP, estimator, job.problem, owner, points)


def plain_method(job: Job, points: int) -> Method:
    """The correction's own estimator on the problem itself: what it does without a surrogate."""
    owner = digest(["plain", job.correction_hash, *on_device(job)])
    return Method("plain", Purpose.PLAIN, job.estimator(), job.problem, owner, points)


def baseline_budget(job: Job, surrogate: Surrogate, budget: float) -> float:
    """FLOP of a baseline beside a correction that takes ``budget``: those of the surrogate count too, but for semilinear equations."""
    return budget + training_flop(job, surrogate) if "plain" in job.family.baselines else budget


def baseline_methods(job: Job, plan: Plan, points: int, budget: float) -> list[Method]:
    """The Monte Carlo baselines the report asks for and the correction's FLOP pay for.

    Raises InputError where the plan has no (n, M) of plain MLP for this ``budget``.
    """
    chosen = []
    if "plain" in job.baselines:
        chosen.append(plain_method(job, points))
    if "linear" in job.baselines:
        chosen.append(linear_method(job, points))
    if "mlp" in job.baselines:
        if plan.mlp is None or plan.mlp_budget != budget:
            raise InputError(
                "report.baselines = [..., mlp]: its n and M are not chosen yet for what this correction spends: "
                "run `scasml correct` first, or leave it out"
            )
        chosen.append(mlp_method(job, points, *plan.mlp))
    return [method for method in chosen if method.pilot_price() <= budget]


def best_mlp(job: Job, points: int, budget: float, t: Tensor, x: Tensor, comm: Communicator = ALONE) -> tuple[int, int]:
    """The (n, M) of plain MLP with the least predicted error within ``budget`` FLOP, from a pilot that never sees the truth.

    Predicted mean square error: the variance that the budget buys at the best allocation, plus the
    square of the next Picard level's mean, which is what truncating at n leaves out (less its own
    noise).
    """
    best, least = (1, 1), math.inf
    t, x = t[: 2 * PILOT_POINTS], x[: 2 * PILOT_POINTS]
    trials = {}
    for n, m in itertools.product(MLP_LEVELS, MLP_SAMPLES):
        draws = min(MLP_PILOT_DRAWS, MLP_PILOT_ROWS // (len(t) * m**n * n))
        if draws >= 8 and mlp_method(job, points, n, m).pilot_price() <= budget:
            trials[n, m] = Trial(picard(levels=n, samples=m), job.problem, draws, (2, n, m))
    results = measured([*trials.values()], t, x, job.model.seed, comm)
    for (sizes, trial), (moments, work) in zip(trials.items(), results, strict=True):
        error = needed(trial.estimator, moments, work) / (budget / points)
        for bias in trial.estimator.biases:
            square = np.mean(np.square(moments[bias].mean)) - np.mean(np.square(moments[bias].standard_error))
            error += max(0.0, float(square))
        if error < least:
            best, least = sizes, error
    # Rank 0 decides: another type of CPU may round otherwise.
    return comm.share(best)


def with_mlp(folder: RunFolder, job: Job, plan: Plan, budget: float, t: Tensor, x: Tensor, comm: Communicator) -> Plan:
    """The plan with the MLP baseline for this budget; the same on every rank."""
    if plan.mlp is None or plan.mlp_budget != budget:
        began = time.perf_counter()
        sizes = best_mlp(job, len(t), budget, t, x, comm)
        plan = replace(plan, mlp=sizes, mlp_budget=budget, mlp_seconds=plan.mlp_seconds + time.perf_counter() - began)
        if comm.rank == 0:
            save_plan(folder, job, plan)
    return plan
