"""Fractions of this machine's matrix-product rate that correction and training reach.

    python tests/benchmarks/rates.py [--processes 2] [--seconds 3] [--dim 100] [--width 128] [--depth 4] [--workers 1] [--compile]

All figures come from one run, in which every measurement runs in simultaneous one-thread
processes. The numerator counts the FLOP of the matrix products of one call, as torch executes them
(the optimizer's own excluded); the denominator is the rate of float32 products of the same number
of rows by width x width, taken by turns with the calls, as a machine's clock is no more even than its load.
A training step takes the part of a job's batch that falls to one of so many workers; with --compile its loss is that of
``training.compile: true``.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.contracts import SemilinearPDE
from kernels.defect import defect
from kernels.equations.lqg import lqg
from kernels.estimators.linearised import linearised
from kernels.jets import STREAM_ROWS
from kernels.objectives.path import PathLoss, path
from kernels.objectives.residual import residual
from kernels.optimizers.soap import soap
from kernels.streams import Stream
from kernels.surrogates.mlp import mlp
from pipeline.compiling import compiled

OBJECTIVES = {"path": path, "residual": residual}
BATCHES = {"path": 256, "residual": 64}
"""Paths, and points, of a step in the jobs."""

POINTS, DRAWS = 16, 64
NORMALS = 1_000_000

TURNS = 8
"""Of a workload and its matrix product."""


@dataclass(frozen=True)
class Workload:
    """One call, its work, and the rows of the matrix product it is held against (None: not in FLOP)."""

    call: Callable[[], Any]
    work: float
    rows: int | None = None


def products(call: Callable[[], Any]) -> float:
    """FLOP of the matrix products that a call executes."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def product(rows: int, width: int) -> Workload:
    """The matrix product itself."""
    a, b, out = torch.randn(rows, width), torch.randn(width, width), torch.empty(rows, width)
    return Workload(lambda: torch.mm(a, b, out=out), 2.0 * rows * width * width)


def training(problem: SemilinearPDE, name: str, width: int, depth: int, workers: int, compile: bool) -> dict[str, Workload]:
    """A step of SOAP on one objective, samples included, and its loss and gradient alone."""
    surrogate = mlp(problem, seed=0, width=width, depth=depth)
    objective = OBJECTIVES[name](problem, surrogate)
    optimizer = soap(surrogate.parameters())
    samples = BATCHES[name] // workers
    batch = objective.sample(samples, Stream(0, 1))
    rows = samples * (objective.steps if isinstance(objective, PathLoss) else problem.dim + 3)
    loss = compiled(objective) if compile else objective

    def differentiate() -> None:
        optimizer.zero_grad()
        loss(*batch).backward()

    def train() -> None:
        optimizer.zero_grad()
        loss(*objective.sample(samples, Stream(0, 1))).backward()
        optimizer.step()

    flop = products(lambda: objective(*batch).backward())
    return {
        f"training step ({name}, SOAP)": Workload(train, flop, rows),
        f"  its loss and gradient ({name})": Workload(differentiate, flop, rows),
    }


def workloads(dim: int, width: int, depth: int, workers: int = 1, compile: bool = False) -> dict[str, Workload]:
    """Everything that is measured, by name."""
    problem = lqg(dim)
    frozen = mlp(problem, seed=0, width=width, depth=depth).requires_grad_(False)
    t, x = problem.sample_points(POINTS, Stream(0, 0))

    def correction(times: int, probes: int | None) -> Workload:
        estimator, error = linearised(times=times), defect(problem, frozen, probes=probes)

        def call() -> Any:
            return estimator.sample(error, t, x, "linear", DRAWS, Stream(0, 2))

        return Workload(call, products(call), STREAM_ROWS)

    steps = {name: load for o in OBJECTIVES for name, load in training(problem, o, width, depth, workers, compile).items()}
    return {
        **steps,
        "correction (8 probes)": correction(4, 8),
        "correction (exact Laplacian)": correction(1, None),
        "normals": Workload(lambda: Stream(0, 3).normal(NORMALS), float(NORMALS)),
    }


def rate_of(load: Workload, seconds: float, width: int) -> tuple[float, float]:
    """Work a second of repeated calls, and of the matrix product's that it is held against, by turns."""
    done, spent = [0.0, 0.0], [0.0, 0.0]
    loads = [load] if load.rows is None else [load, product(load.rows, width)]
    for _ in range(TURNS):
        for n, one in enumerate(loads):
            began = time.perf_counter()
            while (took := time.perf_counter() - began) < seconds / TURNS:
                one.call()
                done[n] += one.work
            spent[n] += took
    return done[0] / spent[0], done[1] / spent[1] if load.rows is not None else math.nan


def measure(barrier: Any, results: Any, seconds: float, shape: tuple[int, int, int, int, bool]) -> None:
    """One process: rate of every workload while the others run the same."""
    torch.set_num_threads(1)
    for name, load in workloads(*shape).items():
        load.call()
        barrier.wait()
        results.put((name, *rate_of(load, seconds, shape[1])))


def rates(processes: int, seconds: float, shape: tuple[int, int, int, int, bool]) -> dict[str, tuple[float, float]]:
    """name -> (summed rate of simultaneous one-thread processes, that of the matrix product in turn with it)."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    count = processes * len(workloads(*shape))
    started = [context.Process(target=measure, args=(barrier, results, seconds, shape)) for _ in range(processes)]
    for process in started:
        process.start()
    total: dict[str, tuple[float, float]] = {}
    for _ in range(count):
        name, rate, of_product = results.get(timeout=300 + 20 * seconds)
        before = total.get(name, (0.0, 0.0))
        total[name] = before[0] + rate, before[1] + of_product
    for process in started:
        process.join()
    return total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("processes", 2), ("dim", 100), ("width", 128), ("depth", 4), ("workers", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    found = rates(given.processes, given.seconds, (given.dim, given.width, given.depth, given.workers, given.compile))
    for name, (rate, of_product) in found.items():
        if name == "normals":
            print(f"{name:36} {rate / 1e6:8.1f} M/s")
        else:
            print(f"{name:36} {rate / 1e9:8.1f} of {of_product / 1e9:6.1f} GFLOP/s   {rate / of_product:5.2f}")


if __name__ == "__main__":
    main()
