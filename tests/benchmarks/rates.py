"""Fractions of this machine's matrix-product rate that correction and training reach.

    python tests/benchmarks/rates.py [--processes 2] [--seconds 3] [--dim 100] [--width 128] [--depth 4]

All figures come from one run, in which every measurement runs in simultaneous one-thread
processes; the denominator is the sum of their float32 matrix-product rates at the same shapes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import torch

from kernels.defect import defect
from kernels.equations.lqg import lqg
from kernels.estimators.linearised import linearised
from kernels.objectives.path import path
from kernels.optimizers.soap import soap
from kernels.streams import Stream
from kernels.surrogates.mlp import STREAM_ROWS, mlp

BATCH = 128
POINTS, DRAWS = 16, 64


def workloads(dim: int, width: int, depth: int) -> dict[str, tuple[Callable[[], Any], float]]:
    """name -> (one call, its model FLOP or count)."""
    problem = lqg(dim)
    surrogate = mlp(problem, seed=0, width=width, depth=depth)
    objective = path(problem, surrogate)
    optimizer = soap(surrogate.parameters())
    frozen = mlp(problem, seed=0, width=width, depth=depth).requires_grad_(False)
    t, x = problem.sample_points(POINTS, Stream(0, 0))
    a, b = torch.randn(STREAM_ROWS, width), torch.randn(width, width)
    out = torch.empty(STREAM_ROWS, width)

    def train() -> None:
        optimizer.zero_grad()
        objective(*objective.sample(BATCH, Stream(0, 1))).backward()
        optimizer.step()

    def correction(times: int, probes: int | None) -> tuple[Callable[[], Any], float]:
        estimator, error = linearised(times=times), defect(problem, frozen, probes=probes)
        flop = POINTS * estimator.flop(error, DRAWS)
        return lambda: estimator.sample(error, t, x, DRAWS, Stream(0, 2)), flop

    return {
        "matrix product": (lambda: torch.mm(a, b, out=out), 2.0 * STREAM_ROWS * width * width),
        "training step (path, SOAP)": (train, objective.flop(BATCH)),
        "correction (8 probes)": correction(4, 8),
        "correction (exact Laplacian)": correction(1, None),
        "normals": (lambda: Stream(0, 3).normal(1_000_000), 1e6),
    }


def rate_of(call: Callable[[], Any], work: float, seconds: float) -> float:
    """Work a second of repeated calls over at least ``seconds``."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        call()
        count += 1
    return count * work / (time.perf_counter() - began)


def measure(barrier: Any, results: Any, seconds: float, shape: tuple[int, int, int]) -> None:
    """One process: rate of every workload while the others run the same."""
    torch.set_num_threads(1)
    for name, (call, work) in workloads(*shape).items():
        call()
        barrier.wait()
        results.put((name, rate_of(call, work, seconds)))


def rates(processes: int, seconds: float, shape: tuple[int, int, int]) -> dict[str, float]:
    """Summed rates of ``processes`` simultaneous one-thread processes."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    started = [context.Process(target=measure, args=(barrier, results, seconds, shape)) for _ in range(processes)]
    for process in started:
        process.start()
    total: dict[str, float] = {}
    for _ in range(processes * 5):
        name, rate = results.get(timeout=120 + 20 * seconds)
        total[name] = total.get(name, 0.0) + rate
    for process in started:
        process.join()
    return total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("processes", 2), ("dim", 100), ("width", 128), ("depth", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    found = rates(given.processes, given.seconds, (given.dim, given.width, given.depth))
    gemm = found["matrix product"]
    for name, rate in found.items():
        if name == "normals":
            print(f"{name:30} {rate / 1e6:8.1f} M/s")
        else:
            print(f"{name:30} {rate / 1e9:8.1f} GFLOP/s   {rate / gemm:5.2f} of the matrix product")


if __name__ == "__main__":
    main()
