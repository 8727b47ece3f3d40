"""What handing out, gathering and writing chunks costs, and what that lets one expect of many ranks.

    python tests/benchmarks/fanout.py [--chunks 400] [--figure fanout.png]

The same chunks of a correction in 100 dimensions are computed by one rank, by two, and by two runs of one
rank side by side, whose rate is what two cores can do without a fan-out. The model has three measured
figures: the time of a chunk, what rank 0 needs to hand one out, and what it needs to gather and write
one. What it says of more than two ranks is extrapolation: a network's latency is not in it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kernels.defect import defect
from kernels.equations.lqg import lqg
from kernels.estimators.linearised import linearised
from kernels.streams import Purpose, Stream
from kernels.surrogates.mlp import mlp
from pipeline import store
from pipeline.fanout import CHUNKS_PER_RANK, MAX_FILE_CHUNKS, WAVE_SECONDS, World, drive
from pipeline.job import RunFolder
from pipeline.tally import Method

POINTS = 160
LEAST = 200
BURST = 4000
RANKS = (1, 2, 10, 100, 1_000, 10_000)


class Timed:
    """A communicator that adds up the time a rank spends waiting for it, by call."""

    def __init__(self, world: World) -> None:
        self.world, self.rank, self.size = world, world.rank, world.size
        self.spent = {"hand-out": 0.0, "waiting": 0.0, "gather": 0.0}

    def _timed(self, name: str, call: Any, *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.spent[name] += time.perf_counter() - began

    def take(self, total: int) -> Iterator[int]:
        indices = self.world.take(total)
        while (index := self._timed("hand-out", next, indices, None)) is not None:
            yield index

    def gather(self, item: Any) -> list[Any] | None:
        # Rank 0 has to wait for the others here; what comes after is the gathering itself.
        self._timed("waiting", self.world.gather, None)
        return self._timed("gather", self.world.gather, item)

    def share(self, item: Any) -> Any:
        return self.world.share(item)


@dataclass(frozen=True)
class Measured:
    """Seconds of one run: wall, those of all ranks in chunks, and of rank 0 those handing out, waiting for the last chunks of a
    wave, gathering and writing; a hand-out in a burst."""

    chunks: int
    wall: float
    computing: float
    handing: float
    waiting: float
    gathering: float
    writing: float
    service: float


def rank_program(folder: Path, chunks: int) -> None:
    """What one rank does; rank 0 leaves what it measured in measured.json."""
    torch.set_num_threads(1)
    world = World()
    comm = Timed(world)
    problem = lqg(100)
    surrogate = mlp(problem, seed=0, width=128, depth=4).requires_grad_(False)
    method = Method("scasml", Purpose.CORRECTION, linearised(), defect(problem, surrogate, probes=8), "none", POINTS)
    t, x = problem.sample_points(POINTS, Stream(0, Purpose.POINTS))
    writing = 0.0
    save = store.save_wave

    def timed_save(*arguments: Any, **more: Any) -> None:
        nonlocal writing
        began = time.perf_counter()
        save(*arguments, **more)
        writing += time.perf_counter() - began

    store.save_wave = timed_save
    # The base term's chunks are nearly all there are; the first stage is one of every term and block.
    budget = chunks * method.prices.work[0] * method.layout.draws[0] * 16
    with torch.no_grad():
        began = time.perf_counter()
        outcome = drive(RunFolder(folder), method, t, x, 0, {"job": {}, "correction_hash": "none"}, comm, budget, None)
        wall = time.perf_counter() - began
    began = time.perf_counter()
    for _ in world.take(BURST):
        pass
    service = (time.perf_counter() - began) / BURST
    if world.rank == 0:
        done, spent = outcome.tally.seconds.values(), comm.spent
        found = Measured(len(done), wall, sum(done), spent["hand-out"], spent["waiting"], spent["gather"], writing, service)
        (folder / "measured.json").write_text(json.dumps(asdict(found)))
    world.close()


def launched(folder: Path, ranks: int, chunks: int) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True)
    (folder / "log.txt").touch()
    mpiexec = Path(sys.executable).with_name("mpiexec")
    line = [str(mpiexec if mpiexec.exists() else "mpiexec"), "-n", str(ranks), sys.executable, "-m", "mpi4py", __file__]
    return subprocess.Popen([*line, "--rank-of", str(folder), "--chunks", str(chunks)])


def measure(chunks: int) -> dict[str, list[Measured]]:
    """By one rank, by two, and by two runs of one side by side."""
    out = {}
    with tempfile.TemporaryDirectory() as place:
        for name, sizes in (("one rank", [1]), ("two runs of one", [1, 1]), ("two ranks", [2])):
            folders = [Path(place) / f"{name} {n}".replace(" ", "-") for n in range(len(sizes))]
            processes = [launched(f, ranks, chunks) for f, ranks in zip(folders, sizes, strict=True)]
            assert all(process.wait() == 0 for process in processes)
            out[name] = [Measured(**json.loads((f / "measured.json").read_text())) for f in folders]
    return out


def model(ranks: int, chunk: float, service: float, gathering: float) -> float:
    """Efficiency of ``ranks`` ranks on waves of WAVE_SECONDS: the part of their time that goes into chunks.

    Rank 0 hands out one chunk after another, and gathers and writes them while all wait; at the end of a wave a
    rank waits for the last chunk, half a chunk's time on average and a whole one for the slowest.
    """
    wanted = ranks * WAVE_SECONDS / chunk
    count = min(wanted, max(MAX_FILE_CHUNKS, CHUNKS_PER_RANK * ranks))
    computing = count * chunk / ranks
    wave = max(computing + chunk / 2, count * service) + count * gathering
    return computing / wave


def main() -> None:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=400, help="of the run that is timed, about")
    parser.add_argument("--figure", type=Path, help="draw the model into this PNG file")
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.chunks < LEAST:
        parser.error(f"--chunks {given.chunks}: a first stage of every term and block takes the budget of {LEAST}")
    if given.rank_of is not None:
        return rank_program(given.rank_of, given.chunks)
    found = measure(given.chunks)
    alone, (pair,) = found["two runs of one"], found["two ranks"]
    for name, runs in found.items():
        for run in runs:
            print(
                f"{name:16} {run.chunks} chunks of {1e3 * run.computing / run.chunks:.1f} ms in {run.wall:.2f} s; "
                f"handing out {1e2 * run.handing / run.wall:.2f} %, waiting {1e2 * run.waiting / run.wall:.2f} %, gathering {1e2 * run.gathering / run.wall:.2f} %, "
                f"writing {1e2 * run.writing / run.wall:.2f} % of rank 0's time"
            )
    rate = sum(run.chunks / run.wall for run in alone)
    (one,) = found["one rank"]
    print(f"two ranks over two runs of one at once: {pair.chunks / pair.wall / rate:.3f}")
    print(f"two ranks over twice one rank alone:    {pair.chunks / pair.wall / (2 * one.chunks / one.wall):.3f}")
    chunk = pair.computing / pair.chunks
    gathering = (pair.writing + pair.gathering) / pair.chunks
    print(f"a hand-out takes {1e6 * pair.service:.1f} us in a burst, gathering and writing a chunk {1e6 * gathering:.1f} us")
    efficiencies = [model(ranks, chunk, pair.service, gathering) for ranks in RANKS]
    for ranks, value in zip(RANKS, efficiencies, strict=True):
        print(f"model, {ranks:6,} ranks: {value:.3f}" + ("" if ranks <= 2 else "  (extrapolated)"))
    if given.figure:
        draw(given.figure, efficiencies, pair.chunks / pair.wall / rate)


def draw(path: Path, efficiencies: list[float], measured: float) -> None:
    from pipeline.figures import axes, png

    figure, plot = axes()
    plot.semilogx(RANKS, efficiencies, "--", color="#999")
    plot.semilogx(RANKS[:2], efficiencies[:2], "-", color="#1f77b4", label="model")
    plot.plot([], [], "--", color="#999", label="model, extrapolated")
    plot.plot([2], [measured], "o", color="#d62728", label="measured")
    plot.set(xlabel="MPI ranks", ylabel="efficiency", ylim=(0.0, 1.05))
    plot.legend(frameon=False)
    path.write_bytes(png(figure))


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
