"""Time and memory of the exact forward Laplacian against automatic differentiation, on one thread.

    python tests/benchmarks/laplacian.py [--dim 100] [--width 256] [--depth 4] [--points 64] [--seconds 3]

Value and Laplacian of one tanh network by three ways, which are checked to agree: all streams in one pass, torch.func's
vmap(hessian), and one nested gradient a coordinate. "Forward" is what a correction does, "and backward" adds the
gradient of a squared residual by the parameters. Every measurement has a process of its own, one after another: time is
the least CPU time of repeated calls, memory the peak of the first call above what the process held before.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from kernels.jets import STREAM_ROWS, Layers, network_laplacian, network_value

Laplacian = Callable[[Layers, Tensor], tuple[Tensor, Tensor]]
"""Value and Laplacian, each (points,), of a network at x (points, dim)."""


@dataclass(frozen=True)
class Size:
    """Of the network and of the batch."""

    dim: int
    width: int
    depth: int
    points: int


def _first(layers: Layers, x: Tensor) -> Tensor:
    weight, bias = layers[0]
    return torch.addmm(bias, x, weight.T)


def forward_laplacian(layers: Layers, x: Tensor) -> tuple[Tensor, Tensor]:
    """In batches of STREAM_ROWS rows, as surrogates do."""
    parts = []
    for rows in x.split(max(1, STREAM_ROWS // (x.shape[1] + 2))):
        a = _first(layers, rows)[:, None]
        tangents = layers[0][0].T.expand(len(rows), -1, -1)
        parts.append(network_laplacian(layers, torch.cat((a, torch.zeros_like(a), tangents), 1)))
    out = torch.cat(parts)
    return out[:, 0], out[:, 1]


def vmap_hessian(layers: Layers, x: Tensor) -> tuple[Tensor, Tensor]:
    """The trace of torch.func's Hessian: forward over reverse mode."""

    def value(row: Tensor) -> Tensor:
        return network_value(layers, _first(layers, row[None]))[0]

    return torch.func.vmap(value)(x), torch.func.vmap(torch.func.hessian(value))(x).diagonal(dim1=1, dim2=2).sum(1)


def nested_gradients(layers: Layers, x: Tensor) -> tuple[Tensor, Tensor]:
    """One reverse sweep over the gradient for every coordinate, as most physics-informed networks are trained."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = network_value(layers, _first(layers, x))
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        total = torch.zeros_like(value)
        for i in range(x.shape[1]):
            (row,) = torch.autograd.grad(gradient[:, i].sum(), x, create_graph=recorded, retain_graph=True)
            total = total + row[:, i]
    return value, total


WAYS: dict[str, Laplacian] = {
    "forward Laplacian": forward_laplacian,
    "vmap(hessian)": vmap_hessian,
    "nested gradients": nested_gradients,
}
SWEEPS = ("forward", "and backward")


@dataclass(frozen=True)
class Measured:
    """Seconds of CPU time of a call, bytes at its peak, and the mean squared residual that it found."""

    seconds: float
    peak: float
    loss: float


def problem(size: Size, *, training: bool) -> tuple[Layers, Tensor]:
    """Layers with outputs of order 1, and points."""
    generator = torch.Generator().manual_seed(0)
    widths = [size.dim, *[size.width] * size.depth, 1]
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths):
        weight = torch.randn(fan_out, fan_in, generator=generator) / math.sqrt(fan_in)
        layers.append((weight.requires_grad_(training), torch.zeros(fan_out).requires_grad_(training)))
    return layers, torch.randn(size.points, size.dim, generator=generator)


def memory(key: str) -> float:
    """Bytes that the kernel reports of this process under a key of its status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(float(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measure(way: str, sweep: str, size: Size, seconds: float) -> Measured:
    """One cell of the table, in the process that calls it."""
    torch.set_num_threads(1)
    training = sweep == "and backward"

    def call(layers: Layers, x: Tensor) -> float:
        with torch.set_grad_enabled(training):
            value, laplacian = WAYS[way](layers, x)
            loss = (value + laplacian).square().mean()
            if training:
                torch.autograd.grad(loss, [parameter for layer in layers for parameter in layer], allow_unused=True)
        return loss.item()

    layers, x = problem(size, training=training)
    call(layers, x[:1])
    held = memory("VmRSS")
    # The peak counts from here on.
    Path("/proc/self/clear_refs").write_text("5")
    loss = call(layers, x)
    peak = memory("VmHWM") - held
    least, began = math.inf, time.perf_counter()
    while time.perf_counter() - began < seconds or math.isinf(least):
        start = time.process_time()
        call(layers, x)
        least = min(least, time.process_time() - start)
    return Measured(least, peak, loss)


def measurements(size: Size, seconds: float) -> dict[tuple[str, str], Measured]:
    """All cells, each in a fresh process."""
    found = {}
    for sweep in SWEEPS:
        for way in WAYS:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                found[way, sweep] = pool.submit(measure, way, sweep, size, seconds).result()
    return found


def table(found: dict[tuple[str, str], Measured], size: Size) -> Table:
    """Times, peaks, and both as multiples of the forward Laplacian's; ValueError where the ways disagree."""
    losses = [cell.loss for cell in found.values()]
    if max(losses) > 1.001 * min(losses):
        raise ValueError(f"the ways disagree: mean squares from {min(losses)} to {max(losses)}, which are one number")
    out = Table(title=f"Laplacian in {size.dim} dimensions, {size.depth} layers of {size.width}, {size.points} points, 1 thread")
    for title in ("", "", "ms a point", "times", "peak MB", "times"):
        out.add_column(title, justify="right" if title else "left", no_wrap=True)
    for (way, sweep), cell in found.items():
        base = found["forward Laplacian", sweep]
        time_ratio, peak_ratio = cell.seconds / base.seconds, cell.peak / max(base.peak, 1.0)
        each = 1e3 * cell.seconds / size.points
        out.add_row(sweep, way, f"{each:.3f}", f"{time_ratio:.2f}", f"{cell.peak / 1e6:.1f}", f"{peak_ratio:.2f}")
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("dim", 100), ("width", 256), ("depth", 4), ("points", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    size = Size(given.dim, given.width, given.depth, given.points)
    Console().print(table(measurements(size, given.seconds), size))


if __name__ == "__main__":
    main()
