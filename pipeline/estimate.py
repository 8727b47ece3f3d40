"""What a job will cost, before anything runs."""

from __future__ import annotations

import time

import torch

from pipeline.correction import linear_method, scasml_method
from pipeline.job import Job
from pipeline.points import count
from pipeline.training import memory_needed, one_thread

SHARE_OF_GEMM = 0.5
"""Share of the matrix-product rate that training and correction reach (tests/benchmarks)."""


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


def costs(job: Job) -> list[tuple[str, str, str, str, str, str]]:
    """Rows (stage, evaluations, FLOP, memory, disk, time) of the table that `scasml check` prints."""
    rate = SHARE_OF_GEMM * gemm_rate()
    training, correction = job.model.training, job.model.correction
    surrogate = job.surrogate()
    parameters = sum(p.numel() for p in surrogate.parameters())  # type: ignore[attr-defined]
    train_flop = training.steps * job.objective(surrogate).flop(training.batch)
    points = count(job)
    method = scasml_method(job, surrogate, points)
    correct_flop = correction.max_paths * method.flop_per_draw()
    chunks = correction.max_paths / method.layout.draws / min(16, points)
    monte_carlo = [b for b in job.model.report.baselines if b != "surrogate"]
    linear = linear_method(job, points)

    def seconds(flop: float, cores: int) -> str:
        return f"{flop / rate / cores:.0f} s on {cores}"

    memory = f"{memory_needed(job) / 1e9:.2f} GB"
    bound = "" if correction.rtol is None else "at most "
    rows = [
        (
            "train",
            f"{training.steps * training.batch:,} samples",
            f"{train_flop:.1e}",
            memory,
            f"{24e-6 * parameters:.1f} MB",
            seconds(train_flop, max(1, training.workers)),
        ),
        (
            "correct",
            f"{bound}{correction.max_paths:,} paths",
            f"{bound}{correct_flop:.1e}",
            memory,
            f"{chunks * 700e-6:.1f} MB",
            seconds(correct_flop, correction.ranks),
        ),
    ]
    if monte_carlo:
        flop = correct_flop * len(monte_carlo)
        note = f"up to {correct_flop / linear.flop_per_draw():.1e} paths"
        rows.append((" and ".join(monte_carlo), note, f"at most {flop:.1e}", memory, "as above", seconds(flop, correction.ranks)))
    return rows
