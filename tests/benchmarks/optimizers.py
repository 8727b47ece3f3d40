"""Every optimizer of the room on the same problems, from the same parameters, for equal steps and for equal model FLOP.

    python tests/benchmarks/optimizers.py [--steps 40] [--batch 64] [--dim 20] [--width 32] [--depth 3] [--seed 0] [--only NAME ...]
    python tests/benchmarks/optimizers.py --transfer [--steps 40] [--widths 16 32 64 128] [--seeds 3]

Errors are relative L2 against the exact solution at points never trained on, losses those of a batch kept aside; the learning
rate is the best, by that loss, of a third, once and three times the default, but for line searches, whose rate is a first
trial. FLOP count every loss and gradient that an optimizer asks for, in units of one; the Jacobian of k residuals a sample is
(1 + 2k)/3 of them. A step's time is over that of its own loss and gradient alone, both from one run.

--transfer prints the loss against the learning rate at several widths, and the best rate: for Adam and SOAP at one rate for all
widths and at one that falls as their root, for Muon and steepest descent, whose rates are scaled by shape.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from kernels.contracts import Searching, SemilinearPDE
from kernels.streams import Purpose, Stream
from kernels.surrogates._network import Network
from kernels.surrogates.mlp import mlp
from pipeline.catalogue import factory, names, options_of
from pipeline.gradients import loss_and_gradient
from pipeline.search import batch_of
from pipeline.team import Solo
from pipeline.training import schedule

PROBLEMS = {"viscous_burgers": "residual", "lqg": "path"}
"""Each with the objective it is trained by."""

FACTORS = (1 / 3, 1.0, 3.0)
POINTS = 2000
ASIDE = 8
"""Batches' worth of samples kept aside."""


@dataclass(frozen=True)
class Size:
    """One problem and network."""

    problem: str
    dim: int
    width: int
    depth: int
    batch: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """Of one training: loss kept aside, error, cost of a step in losses and gradients, seconds of a step and over those alone."""

    rate: float
    loss: float
    error: float
    cost: float
    seconds: float
    overhead: float


def error_of(problem: SemilinearPDE, net: Network, seed: int) -> float:
    """Relative L2 against the exact solution at points of their own stream."""
    t, x = problem.sample_points(POINTS, Stream(seed, Purpose.POINTS))
    assert problem.solution is not None
    with torch.no_grad():
        exact = problem.solution.value(t, x)
        return ((net(t, x) - exact).norm() / exact.norm()).item()


def trained(size: Size, name: str, steps: int, rate: float, **options: Any) -> Outcome:
    """Train from the size's own first parameters on its own batches."""
    problem = factory("equations", size.problem, "")(size.dim)
    net = mlp(problem, seed=size.seed, width=size.width, depth=size.depth)
    objective: Any = factory("objectives", PROBLEMS[size.problem], "")(problem, net)
    parameters = list(net.parameters())
    optimizer: Any = factory("optimizers", name, "")(parameters, learning_rate=rate, **options)
    peaks = [group["lr"] for group in optimizer.param_groups]
    aside = objective.sample(ASIDE * size.batch, Stream(size.seed, Purpose.PILOT))
    taken, alone, spent = 0.0, [], []
    for n in range(steps):
        parts = objective.sample(size.batch, Stream(size.seed, Purpose.TRAINING, n))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule(n, steps)
        calls: list[float] = []
        evaluate = timed(partial(_evaluate, objective, parameters, parts), calls)
        began = time.perf_counter()
        loss = evaluate()
        if not math.isfinite(loss):
            return Outcome(rate, math.inf, math.inf, math.nan, math.nan, math.nan)
        if isinstance(optimizer, Searching):
            optimizer.step(batch_of(objective, optimizer.needs, partial(_same, parts), loss, evaluate))
        else:
            optimizer.step()
        spent.append(time.perf_counter() - began)
        alone.append(calls[0])
        taken += len(calls)
        if isinstance(optimizer, Searching) and optimizer.needs == "residuals":
            taken += (1.0 + 2.0 * len(objective.residuals(*parts)) / size.batch) / 3.0
    seconds, base = statistics.median(spent), statistics.median(alone)
    with torch.no_grad():
        left = objective(*aside).item()
    return Outcome(rate, left, error_of(problem, net, size.seed), taken / steps, seconds, seconds / base)


def _same(parts: Sequence[Tensor], part: int, of: int) -> Sequence[Tensor]:
    return parts


def _evaluate(objective: Any, parameters: Sequence[Any], parts: Sequence[Tensor]) -> float:
    return loss_and_gradient(objective, parameters, partial(_same, parts), shards=range(1), of=1, parts=1, team=Solo())


def timed(call: Callable[[], float], seconds: list[float]) -> Callable[[], float]:
    """The call, which leaves how long it took."""

    def timed_call() -> float:
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
        return result

    return timed_call


def default_rate(name: str) -> float:
    return float(options_of(factory("optimizers", name, ""))["learning_rate"][0])


def searches(name: str) -> bool:
    """Whether the optimizer searches a line, so that its rate is a first trial."""
    optimizer = factory("optimizers", name, "")([torch.nn.Parameter(torch.zeros(2, 2))])
    return isinstance(optimizer, Searching) and optimizer.needs == "loss"


def compare(size: Size, steps: int, name: str) -> tuple[Outcome, Outcome]:
    """The best of its rates for so many steps, and for as many FLOP as so many steps of a plain optimizer take."""
    rates = [default_rate(name) * factor for factor in ((1.0,) if searches(name) else FACTORS)]
    best = min((trained(size, name, steps, rate) for rate in rates), key=lambda o: o.loss)
    if best.cost == 1.0 or not math.isfinite(best.cost):
        return best, best
    return best, trained(size, name, max(2, round(steps / best.cost)), best.rate)


def room(size: Size, steps: int, only: Sequence[str]) -> Table:
    """The table of one problem."""
    title = f"{size.problem} {size.dim}d, {PROBLEMS[size.problem]} objective, {size.depth} x {size.width}, {steps} steps of {size.batch}"
    table = Table(title=title)
    for column in (
        "optimizer",
        "rate",
        "loss",
        "error",
        "FLOP/step",
        "loss, equal FLOP",
        "error, equal FLOP",
        "ms/step",
        "over loss+gradient",
    ):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for name in only:
        steps_alike, flop_alike = compare(size, steps, name)
        table.add_row(
            name,
            f"{steps_alike.rate:.1e}",
            *(f"{value:.2e}" for value in (steps_alike.loss, steps_alike.error)),
            f"{steps_alike.cost:.1f}",
            *(f"{value:.2e}" for value in (flop_alike.loss, flop_alike.error)),
            f"{1e3 * steps_alike.seconds:.1f}",
            f"{steps_alike.overhead:.2f}",
        )
    return table


TRANSFER: list[tuple[str, float, dict[str, Any]]] = [
    ("adam", 1e-3, {}),
    ("adam", 1e-3, {"base_width": 32}),
    ("soap", 1e-3, {}),
    ("soap", 1e-3, {"base_width": 32}),
    ("muon", 1e-2, {}),
    ("steepest_descent", 1e-2, {}),
]
"""Optimizers whose best rate is sought at several widths, with the smallest of the rates, each twice the one before, and options."""


def transfer(
    size: Size, steps: int, name: str, widths: Sequence[int], rates: Sequence[float], seeds: int, options: dict[str, Any]
) -> Table:
    """Geometric mean over seeds of the loss kept aside, against the rate at each width; the best rate last."""
    told = " ".join([name, *(f"{key} {value}" for key, value in options.items())])
    table = Table(title=f"{told} on {size.problem} {size.dim}d, {steps} steps of {size.batch}, {seeds} seeds: loss by rate")
    table.add_column("width")
    for column in (*(f"{rate:.1e}" for rate in rates), "best"):
        table.add_column(column, justify="right")
    for width in widths:
        losses = []
        for rate in rates:
            sizes = [Size(size.problem, size.dim, width, size.depth, size.batch, size.seed + n) for n in range(seeds)]
            losses.append(statistics.geometric_mean(min(trained(s, name, steps, rate, **options).loss, 1e9) for s in sizes))
        table.add_row(str(width), *(f"{loss:.2e}" for loss in losses), f"{rates[losses.index(min(losses))]:.1e}")
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("steps", 40),
        ("batch", 64),
        ("dim", 20),
        ("width", 32),
        ("depth", 3),
        ("seed", 0),
        ("seeds", 3),
        ("rates", 7),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", nargs="+", default=None, choices=names("optimizers"))
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--widths", nargs="+", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--transfer", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=140)
    began = time.perf_counter()
    for problem in given.problems:
        size = Size(problem, given.dim, given.width, given.depth, given.batch, given.seed)
        if given.transfer:
            for name, least, options in TRANSFER:
                if name in (given.only or names("optimizers")):
                    rates = [least * 2.0**n for n in range(given.rates)]
                    console.print(transfer(size, given.steps, name, given.widths, rates, given.seeds, options))
        else:
            console.print(room(size, given.steps, given.only or names("optimizers")))
    console.print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
