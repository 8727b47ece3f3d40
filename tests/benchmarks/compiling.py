"""CPU time of a training's loss and gradient as torch.compile makes it, over that of the loss as it stands, on one thread.

    python tests/benchmarks/compiling.py [--dim 100] [--width 128] [--depth 4] [--batch 64] [--calls 10]

LQG, both objectives; the time of compiling stands beside. The least of the calls counts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from pipeline.compiling import compiled
from pipeline.job import job_from
from pipeline.training import sample


def seconds(dim: int, width: int, depth: int, batch: int, calls: int, objective: str) -> tuple[float, float, float]:
    """Least CPU seconds of a call as it stands and compiled, and those of compiling."""
    job = job_from(
        {
            "name": "compiling",
            "problem": {"name": "lqg", "dim": dim},
            "surrogate": {"name": "mlp", "width": width, "depth": depth},
            "training": {"objective": objective, "batch": batch},
        },
        Path(),
    )
    surrogate = job.surrogate()
    loss = job.objective(surrogate)
    draw = sample(loss, job, batch, 0.5, 0, 0, 1)

    def call(function: torch.nn.Module) -> float:
        surrogate.zero_grad()
        began = time.process_time()
        function(*draw).sum().backward()
        return time.process_time() - began

    first = call(fast := compiled(loss))
    return min(call(loss) for _ in range(calls)), (best := min(call(fast) for _ in range(calls))), first - best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("dim", 100), ("width", 128), ("depth", 4), ("batch", 64), ("calls", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = vars(parser.parse_args())
    torch.set_num_threads(1)
    for objective in ("path", "residual"):
        plain, fast, once = seconds(**sizes, objective=objective)
        print(f"{objective}: {1e3 * plain:.1f} ms, compiled {fast / plain:.2f} of that, after {once:.0f} s of compiling")


if __name__ == "__main__":
    main()
