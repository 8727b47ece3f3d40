"""The correction of a run and its baselines, over whatever ranks there are."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.contracts import Surrogate
from kernels.estimators.feynman_kac import feynman_kac
from kernels.estimators.picard import Picard, picard
from kernels.moments import Moments
from kernels.streams import Purpose, Stream
from pipeline import store
from pipeline.errors import InputError
from pipeline.fanout import Communicator, Method, drive, spent_flop, within_distance, within_rtol
from pipeline.job import Job, RunFolder
from pipeline.points import run_points
from pipeline.progress import log
from pipeline.training import trained_surrogate

PILOT_POINTS = 16
PILOT_DRAWS = 64
PILOT_ROWS = 65536
MLP_LEVELS = (1, 2, 3)
MLP_SAMPLES = (1, 2, 4, 8, 16)


def _owner(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def scasml_method(job: Job, surrogate: Surrogate, points: int) -> Method:
    """The job's estimator on the defect of its surrogate."""
    return Method("scasml", Purpose.CORRECTION, job.estimator(), job.defect(surrogate), job.correction_hash, points)


def linear_method(job: Job, points: int) -> Method:
    """Feynman-Kac with the driver dropped."""
    return Method("linear", Purpose.LINEAR, feynman_kac(), job.problem, _owner("linear", job.correction_hash), points)


def mlp_method(job: Job, points: int, levels: int, samples: int) -> Method:
    """Plain multilevel Picard on the problem itself."""
    owner = _owner("mlp", levels, samples, job.correction_hash)
    estimator = picard(levels=levels, samples=samples)
    return Method(f"mlp-{levels}-{samples}", Purpose.MLP, estimator, job.problem, owner, points)


def baseline_methods(job: Job, points: int, budget: float, t: Tensor, x: Tensor) -> list[Method]:
    """The Monte Carlo baselines the report asks for."""
    chosen = []
    if "linear" in job.model.report.baselines:
        chosen.append(linear_method(job, points))
    if "mlp" in job.model.report.baselines:
        chosen.append(mlp_method(job, points, *best_mlp(job, points, budget, t, x)))
    return chosen


def best_mlp(job: Job, points: int, budget: float, t: Tensor, x: Tensor) -> tuple[int, int]:
    """The (n, M) of least predicted error within ``budget`` FLOP, from a pilot that never sees the truth.

    Predicted mean square error: pilot variance over the draws that the budget buys, plus the square
    of the next Picard level's mean, which is what truncating at n leaves out (less its own noise).
    """
    best, least = (1, 1), math.inf
    t, x = t[:PILOT_POINTS], x[:PILOT_POINTS]
    for n in MLP_LEVELS:
        for m in MLP_SAMPLES:
            estimator: Picard = picard(levels=n, samples=m)
            draws = int(budget / points / (estimator.flop(job.problem, PILOT_DRAWS) / PILOT_DRAWS))
            pilot = min(PILOT_DRAWS, PILOT_ROWS // (len(t) * m**n * n))
            if draws < PILOT_DRAWS or pilot < 8:
                continue
            samples = estimator.sample(job.problem, t, x, pilot, Stream(job.model.seed, Purpose.PILOT, n, m))
            value = Moments.of(samples.value.numpy())
            bias = Moments.of(samples.bias["truncation"].numpy())
            truncation = float(np.mean(np.square(bias.mean)))
            if bias.count > 1:
                truncation = max(0.0, truncation - float(np.mean(np.square(bias.standard_error))))
            error = float(np.mean(value.variance)) / draws + truncation
            if error < least:
                best, least = (n, m), error
    return best


def check_paths(job: Job, method: Method) -> None:
    """Refuse a budget that cannot give every point a standard error."""
    minimum = method.layout.draws * method.points
    if job.model.correction.max_paths < minimum:
        raise InputError(
            f"correction.max_paths = {job.model.correction.max_paths}: {method.points} points need at least {minimum} paths, "
            f"{method.layout.draws} each, for a standard error: raise it, or ask for fewer points"
        )


def correct(folder: RunFolder, job: Job, comm: Communicator) -> None:
    """The correction and its baselines, each from whatever chunks exist; needs a finished surrogate."""
    surrogate = trained_surrogate(folder, job)
    if comm.rank == 0:
        run_points(folder, job)
    comm.share(None)
    t, x = store.load_points(folder.points, job.correction_hash)
    seed, options = job.model.seed, job.model.correction
    method = scasml_method(job, surrogate, len(t))
    with torch.no_grad():
        base = surrogate.value_and_gradient(t, x)[0].double().numpy()
    settled = None if options.rtol is None else within_rtol(options.rtol, base)
    outcome = drive(folder, method, t, x, seed, comm, options.max_paths, settled)
    corrected, budget = None, 0.0
    if comm.rank == 0:
        corrected = base + outcome.tally.table(outcome.counts)[1][0]
        budget = spent_flop(method, outcome.counts)
    corrected, budget = comm.share((corrected, budget))
    for baseline in baseline_methods(job, len(t), budget, t, x):
        paths = int(budget / baseline.flop_per_draw())
        if paths >= baseline.layout.draws * len(t):
            drive(folder, baseline, t, x, seed, comm, paths, within_distance(corrected))
        elif comm.rank == 0:
            log(folder.log, f"{baseline.name}: the correction's FLOP do not pay for one chunk of it; left out")
