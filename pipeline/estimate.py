"""What a job will cost, before anything runs; and, once its surrogate is trained, what its tolerance will."""

from __future__ import annotations

import itertools
import math
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from kernels.contracts import Surrogate
from pipeline import store
from pipeline.allocation import forecast, met
from pipeline.baselines import linear_method, plain_method
from pipeline.card import card
from pipeline.chunks import POINTS_PER_BLOCK
from pipeline.correction import base_error, base_values, scasml_method
from pipeline.fanout import compute
from pipeline.job import Job, RunFolder
from pipeline.plan import Candidate, Plan, allowed, choose, load_plan
from pipeline.points import count, points_of
from pipeline.tally import Array, Method, Tally, within
from pipeline.training import one_thread, trained_surrogate, training_flop, working_memory

SHARE_OF_GEMM = 0.5
"""Share of the matrix-product rate that training and correction reach (tests/benchmarks)."""

PREDICTION_BLOCKS = 8

CHUNK_BYTES = 700.0
"""Of one chunk, in its file and in the memory of rank 0."""

STATES = 2.0
"""States of an iteration in memory at once, the last one and the next; in files as many, the correction's and its baseline's."""

CHECKPOINT_BYTES = 24.0
"""Of one parameter, the optimizer's share included."""


def gemm_rate() -> float:
    """FLOP a second of one thread at the shapes of a jet, over a tenth of a second."""
    a, b = torch.randn(2048, 128), torch.randn(128, 128)
    with one_thread():
        torch.mm(a, b)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < 0.1:
            torch.mm(a, b)
            count += 1
        return count * 2.0 * a.shape[0] * b.numel() / (time.perf_counter() - began)


def dearest_method(job: Job, surrogate: Surrogate, points: int) -> Method:
    """The candidate that needs most paths for an error bar: what is known of a correction before its pilot."""
    candidates = (Candidate(*choice) for choice in itertools.product(*allowed(job)))
    methods = (scasml_method(job, surrogate, points, candidate, nameless=True) for candidate in candidates)
    return max(methods, key=Method.pilot_price)


def chunks_needed(job: Job) -> float:
    """Chunks that the budget pays for."""
    points = count(job)
    method = dearest_method(job, job.surrogate(), points)
    return job.model.correction.max_paths / method.coupled / method.layout.draws[0] / min(POINTS_PER_BLOCK, points)


def states(job: Job, surrogate: Any) -> float:
    """Bytes of the STATES of an iteration."""
    return STATES * 8.0 * job.estimator().size(job.defect(surrogate, None))


def disk_needed(job: Job) -> float:
    """Bytes that a run is sure to write: checkpoint, points, and the chunks of a budget that no tolerance cuts short."""
    surrogate = job.surrogate()
    assert isinstance(surrogate, nn.Module)
    size = CHECKPOINT_BYTES * sum(p.numel() for p in surrogate.parameters()) + 8.0 * count(job) * (2.0 * job.problem.dim + 40.0)
    size += sum(float(b.numel() * b.element_size()) for b in surrogate.buffers())
    if job.family.iterated:
        return size + states(job, surrogate)
    return size if _tolerant(job) else size + CHUNK_BYTES * chunks_needed(job)


def memory_needed(job: Job, *, on_ray: bool = False) -> float:
    """Bytes on this machine at the peak of the larger stage: its workers of a training, or its ranks of a correction."""
    surrogate = job.surrogate()
    assert isinstance(surrogate, nn.Module)
    training, correction = job.model.training, job.model.correction
    held = sum(4.0 * 6.0 * p.numel() for p in surrogate.parameters())
    held += sum(2.0 * b.numel() * b.element_size() for b in surrogate.buffers())
    if job.family.iterated:
        return held + working_memory(job, surrogate) + states(job, surrogate)
    points = count(job)
    method = dearest_method(job, surrogate, points)
    rows = POINTS_PER_BLOCK * max(
        method.estimator.rows(term, draws) for term, draws in zip(method.terms, method.layout.draws, strict=True)
    )
    chunk = 4.0 * rows * job.problem.dim * (16.0 + (job.probes or 1))
    folded = 0.0 if _tolerant(job) else CHUNK_BYTES * chunks_needed(job)
    rank = held + chunk + 8.0 * points * (2.0 * job.problem.dim + 40.0)
    at_once = min(training.workers, len(os.sched_getaffinity(0))) if on_ray and not os.environ.get("RAY_ADDRESS") else 1
    nodes = os.environ.get("SLURM_NNODES", "1")
    ranks = math.ceil(correction.ranks / max(1, int(nodes) if nodes.isdigit() else 1))
    return max((held + working_memory(job, surrogate)) * max(1, at_once), rank * ranks + folded)


def _tolerant(job: Job) -> bool:
    return job.model.correction.rtol is not None or job.model.correction.atol is not None


def costs(job: Job) -> list[tuple[str, str, str, str, str, str]]:
    """Rows (stage, evaluations, FLOP, memory, disk, time) of the table that `scasml check` prints."""
    rate = SHARE_OF_GEMM * gemm_rate()
    training = job.model.training
    surrogate = job.surrogate()
    assert isinstance(surrogate, nn.Module)
    parameters = sum(p.numel() for p in surrogate.parameters())
    train_flop = training_flop(job, surrogate)
    memory = f"{memory_needed(job) / 1e9:.2f} GB"
    train = (
        "train",
        f"{sum(p.steps * p.batch for p in training.phases):,} samples" if job.learns == "steps" else "-",
        f"{train_flop:.1e}",
        memory,
        f"{CHECKPOINT_BYTES * parameters / 1e6:.1f} MB",
        _seconds(train_flop, rate, max(1, training.workers)),
    )
    return [train, *(_iterated_cost if job.family.iterated else _sampled_costs)(job, surrogate, rate, memory)]


def _seconds(flop: float, rate: float, cores: int) -> str:
    return f"{flop / rate / cores:.0f} s on {cores}"


def _iterated_cost(job: Job, surrogate: Any, rate: float, memory: str) -> list[tuple[str, str, str, str, str, str]]:
    steps = job.max_steps
    flop = steps * job.estimator().flop(job.defect(surrogate, None))
    disk = f"{states(job, surrogate) / 1e6:.1f} MB"
    return [("correct", f"at most {steps:,} steps", f"at most {flop:.1e}", memory, f"about {disk}", _seconds(flop, rate, 1))]


def _sampled_costs(job: Job, surrogate: Any, rate: float, memory: str) -> list[tuple[str, str, str, str, str, str]]:
    correction, points = job.model.correction, count(job)
    method = dearest_method(job, surrogate, points)
    correct_flop = correction.max_paths / method.coupled * method.prices.work[0]
    monte_carlo = [b for b in job.baselines if b != "surrogate"]
    bound = "at most " if _tolerant(job) else ""
    rows = [
        (
            "correct",
            f"{bound}{correction.max_paths:,} paths",
            f"{bound}{correct_flop:.1e}",
            memory,
            f"{CHUNK_BYTES * chunks_needed(job) / 1e6:.1f} MB",
            _seconds(correct_flop, rate, correction.ranks),
        )
    ]
    if monte_carlo:
        flop = correct_flop * len(monte_carlo)
        cheapest = plain_method(job, points) if "plain" in job.family.baselines else linear_method(job, points)
        note, time_ = f"up to {correct_flop / cheapest.prices.work[0]:.1e} paths", _seconds(flop, rate, correction.ranks)
        rows.append((" and ".join(monte_carlo), note, f"at most {flop:.1e}", memory, "as above", time_))
    return rows


@dataclass(frozen=True)
class Prediction:
    """What a correction will take: top-level draws, FLOP, core seconds at the pilot's speed, and whether rtol will be met."""

    paths: float
    flop: float
    core_seconds: float
    met: bool | None


def predict(job: Job, folder: RunFolder) -> Prediction:
    """From a pilot of the trained surrogate in ``folder``: the first chunk of every term at a few blocks of points.

    The same chunks the correction starts with, and the same allocation; nothing is written.
    """
    surrogate = trained_surrogate(folder, job)
    t, x = store.load_points(folder.points, job.correction_hash) if folder.points.exists() else points_of(job)
    base, error, device = base_values(surrogate, t, x), base_error(surrogate, t, x), card(job)
    surrogate, t, x = surrogate.to(device), t.to(device), x.to(device)
    with torch.no_grad():
        plan = load_plan(folder, job) or choose(job, surrogate, t, x)
    return _predict(job, surrogate, plan, t, x, base, error)


def _predict(
    job: Job, surrogate: Surrogate, plan: Plan, t: torch.Tensor, x: torch.Tensor, base: Array, error: Array | None
) -> Prediction:
    options = job.model.correction
    method = scasml_method(job, surrogate, len(t), plan.chosen)
    layout, tally = method.layout, Tally(method)
    blocks = np.unique(np.linspace(0, layout.blocks - 1, PREDICTION_BLOCKS).astype(int)).tolist()
    spent = 0.0
    with one_thread():
        for block in blocks:
            for term in range(len(method.terms)):
                began = time.perf_counter()
                tally.have[block, term, 0] = compute(method, layout.chunk(block, term, 0), t, x, job.model.seed)
                spent += time.perf_counter() - began
    tolerance = within(options.rtol, options.atol, base, layout, error)
    pilot = tuple(1 for _ in method.terms)
    standings = [tally.standing(block, pilot, tolerance) for block in blocks]
    seen = sum(layout.size(b) for b in blocks)
    share = seen / len(t)
    ended = forecast(standings, method.prices, options.max_paths * share, tolerant=tolerance is not None)
    flop = sum(layout.size(b) * method.prices.flop(c) for b, c in zip(blocks, ended, strict=True)) / share
    paths = sum(layout.size(b) * method.draws(c) for b, c in zip(blocks, ended, strict=True)) / share
    speed = seen * method.prices.flop(pilot) / spent
    reached = [met(standing.variance, counts, method.prices) for standing, counts in zip(standings, ended, strict=True)]
    return Prediction(paths, flop, flop / speed, None if tolerance is None else all(reached))


def foreseen(job: Job, folder: RunFolder) -> str:
    """What a correction will take, in words; for a surrogate that is not trained yet, how to learn it."""
    options = job.model.correction
    if job.family.iterated:
        ending = "at max_steps" if options.rtol is None else f"where its residual is below {options.rtol:g}, or at max_steps"
        return f"the correction ends {ending}, or where its residual gets no smaller: how fast it falls is seen as it runs"
    if not _tolerant(job):
        return f"the correction spends its budget of {options.max_paths:,} paths: it has no rtol or atol"
    if not folder.surrogate.exists() or not store.checkpoint_owner(folder.surrogate)[2]:
        return "what rtol or atol will take depends on the surrogate: after `scasml train`, this command measures it by a pilot"
    found = predict(job, folder)
    ending = "meets the tolerance" if found.met else "ends at max_paths before the tolerance is met"
    return (
        f"by a pilot of this surrogate, the correction {ending} after {found.paths:.2g} paths, {found.flop:.1e} FLOP and "
        f"{found.core_seconds:.0f} core seconds, baselines apart"
    )
