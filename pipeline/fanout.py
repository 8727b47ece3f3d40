"""Chunks over ranks: the only door to MPI.

Rank 0 decides which chunks are missing, every rank takes the next one from a one-sided counter,
and the moments of a wave are gathered and committed as one file. What is computed depends on
moments folded in chunk order, never on ranks, time or history.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.contracts import Estimator, SemilinearPDE
from kernels.moments import Moments
from kernels.streams import Purpose, Stream
from pipeline import store
from pipeline.chunks import POINTS_PER_BLOCK, Chunk, Layout, grow, waves
from pipeline.errors import InputError
from pipeline.job import RunFolder
from pipeline.progress import log

WAVE_FLOP_PER_RANK = 4e11
"""Work between two commits: some ten to thirty seconds, what a crash can cost."""

SETTLED = 0.1
"""A baseline stops when its standard error is this share of its distance from the corrected value."""


class Communicator(Protocol):
    """What the fan-out needs of MPI; one rank alone needs no library."""

    rank: int
    size: int

    def take(self, total: int) -> Iterator[int]:
        """Indices 0 .. total - 1, each given to exactly one rank, whichever is free."""
        ...

    def gather(self, item: Any) -> list[Any] | None: ...

    def share(self, item: Any) -> Any: ...


class Alone:
    """One rank in this process."""

    rank, size = 0, 1

    def take(self, total: int) -> Iterator[int]:
        return iter(range(total))

    def gather(self, item: Any) -> list[Any] | None:
        return [item]

    def share(self, item: Any) -> Any:
        return item


class World:
    """MPI_COMM_WORLD with a counter that any rank increments without rank 0's help."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._comm = MPI.COMM_WORLD
        self.rank, self.size = self._comm.rank, self._comm.size
        self._window = MPI.Win.Allocate(8 if self.rank == 0 else 0, 8, comm=self._comm)
        if self.rank == 0:
            self._counter = np.asarray(self._window.tomemory()).view(np.int64)

    def take(self, total: int) -> Iterator[int]:
        if self.rank == 0:
            self._window.Lock(0)
            self._counter[0] = 0
            self._window.Unlock(0)
        self._comm.Barrier()
        one, got = np.ones(1, dtype=np.int64), np.empty(1, dtype=np.int64)
        while True:
            self._window.Lock(0, self._mpi.LOCK_SHARED)
            self._window.Fetch_and_op(one, got, 0, op=self._mpi.SUM)
            self._window.Unlock(0)
            if got[0] >= total:
                return
            yield int(got[0])

    def gather(self, item: Any) -> list[Any] | None:
        return self._comm.gather(item, root=0)

    def share(self, item: Any) -> Any:
        return self._comm.bcast(item, root=0)

    def close(self) -> None:
        """Give the counter back; every rank calls it, last."""
        if self.rank == 0:
            del self._counter
        self._window.Free()


@dataclass
class Tally:
    """The chunks of one method that exist, and the fold of each block's first ``counts[b]``."""

    layout: Layout
    channels: int
    have: dict[tuple[int, int], list[Moments]] = field(default_factory=dict)
    folded: dict[int, tuple[int, list[Moments]]] = field(default_factory=dict)
    seconds: dict[tuple[int, int], float] = field(default_factory=dict)

    def add(self, wave: store.Wave) -> None:
        """Take the chunks of a wave; one already there is kept, it has the same bits."""
        for row, (block, index) in enumerate(wave.keys.tolist()):
            size = self.layout.size(block)
            if wave.count[row, 0] != self.layout.draws:
                raise InputError(
                    f"a chunk of {wave.count[row, 0]} draws, where this program makes chunks of {self.layout.draws}: it comes from "
                    "another release; give the run another --out folder"
                )
            moments = [
                Moments(int(wave.count[row, c]), wave.mean[row, c, :size], wave.m2[row, c, :size]) for c in range(self.channels)
            ]
            self.have.setdefault((block, index), moments)
            self.seconds.setdefault((block, index), float(wave.seconds[row]))

    def fold(self, block: int, count: int) -> list[Moments]:
        """Moments per channel of the block's first ``count`` chunks, merged in order."""
        done, moments = self.folded.get(block, (0, []))
        if done > count:
            done, moments = 0, []
        for index in range(done, count):
            chunk = self.have[block, index]
            moments = chunk if not moments else [m.merge(c) for m, c in zip(moments, chunk, strict=True)]
        self.folded[block] = count, moments
        return moments

    def table(self, counts: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Draws (points,), means and standard errors (channels, points) over all blocks."""
        folds = [self.fold(b, c) for b, c in enumerate(counts)]
        draws = np.concatenate([np.full(self.layout.size(b), f[0].count) for b, f in enumerate(folds)])
        means = np.stack([np.concatenate([f[c].mean for f in folds]) for c in range(self.channels)])
        errors = np.stack([np.concatenate([f[c].standard_error for f in folds]) for c in range(self.channels)])
        return draws, means, errors


@dataclass(frozen=True)
class Method:
    """One estimator on one problem at the run's points."""

    name: str
    purpose: Purpose
    estimator: Estimator
    problem: SemilinearPDE
    owner: str
    points: int

    @property
    def layout(self) -> Layout:
        return Layout.of(self.points, self.estimator, self.problem)

    @property
    def channels(self) -> int:
        return 1 + len(self.estimator.biases)

    def flop_per_draw(self) -> float:
        draws = self.layout.draws
        return self.estimator.flop(self.problem, draws) / draws


@dataclass(frozen=True)
class Outcome:
    """Where a method stopped: chunks per block, and whether its tolerance was met (None: none was set)."""

    tally: Tally
    counts: list[int]
    met: bool | None


def compute(method: Method, chunk: Chunk, t: torch.Tensor, x: torch.Tensor, seed: int) -> list[Moments]:
    """Moments of one chunk, one per channel (value, then each bias)."""
    stream = Stream(seed, method.purpose, chunk.block, chunk.index)
    rows = slice(chunk.start, chunk.stop)
    samples = method.estimator.sample(method.problem, t[rows], x[rows], chunk.draws, stream)
    return [Moments.of(samples.value.numpy()), *(Moments.of(samples.bias[name].numpy()) for name in method.estimator.biases)]


def read_tally(folder: RunFolder, method: Method) -> Tally:
    """The chunks of a method that earlier runs committed."""
    tally = Tally(method.layout, method.channels)
    for path in folder.waves(method.name):
        tally.add(store.load_wave(path, owner=method.owner))
    return tally


def drive(
    folder: RunFolder,
    method: Method,
    t: torch.Tensor,
    x: torch.Tensor,
    seed: int,
    comm: Communicator,
    max_paths: int,
    settled: Callable[[int, list[Moments]], bool] | None,
) -> Outcome:
    """Compute chunks until every block is ``settled`` or ``max_paths`` draws are spent.

    All ranks call this together. ``settled(block, moments)`` is asked on rank 0 after each doubling.
    """
    layout = method.layout
    tally = read_tally(folder, method) if comm.rank == 0 else Tally(layout, method.channels)
    reused = len(tally.have)
    counts = [0] * layout.blocks
    met = [False] * layout.blocks
    planned = max_paths // (layout.points * layout.draws) * layout.blocks
    while True:
        if comm.rank == 0:
            grown = grow(layout, counts, [not m for m in met], max_paths)
            missing = []
            if grown is not None:
                wanted = [(b, i) for b in range(layout.blocks) for i in range(counts[b], grown[b])]
                # Blocks side by side, so that an interrupted run has served all of them alike.
                missing = [
                    layout.chunk(b, i) for b, i in sorted(wanted, key=lambda key: (key[1], key[0])) if (b, i) not in tally.have
                ]
        else:
            grown, missing = None, []
        grown, missing = comm.share((grown, missing))
        if grown is None:
            break
        for wave in waves(missing, method.flop_per_draw(), WAVE_FLOP_PER_RANK * comm.size):
            mine = []
            for index in comm.take(len(wave)):
                began = time.perf_counter()
                moments = compute(method, wave[index], t, x, seed)
                mine.append((wave[index], moments, time.perf_counter() - began))
            parts = comm.gather(mine)
            if parts is not None:
                finished = _as_wave([entry for part in parts for entry in part], method.channels)
                # After the last file there is: a lost one leaves a gap, and none may be overwritten.
                number = max((int(path.stem.removeprefix("wave-")) for path in folder.waves(method.name)), default=-1) + 1
                store.save_wave(folder.chunks(method.name) / f"wave-{number:06d}.h5", finished, owner=method.owner)
                tally.add(finished)
                log(folder.log, f"{method.name} {len(tally.have)}/{max(planned, len(tally.have))} chunks")
        counts = grown
        if comm.rank == 0 and settled is not None:
            met = [met[b] or settled(b, tally.fold(b, counts[b])) for b in range(layout.blocks)]
    if comm.rank == 0:
        if len(tally.have) > reused:
            log(folder.log, f"{method.name}: {len(tally.have) - reused} chunks computed, {reused} reused")
        if settled is not None:
            met = [settled(b, tally.fold(b, counts[b])) for b in range(layout.blocks)]
    return Outcome(tally, counts, all(met) if settled is not None else None)


def _as_wave(entries: list[tuple[Chunk, list[Moments], float]], channels: int) -> store.Wave:
    entries = sorted(entries, key=lambda entry: (entry[0].block, entry[0].index))
    mean = np.full((len(entries), channels, POINTS_PER_BLOCK), np.nan)
    m2 = mean.copy()
    for row, (chunk, moments, _) in enumerate(entries):
        size = chunk.stop - chunk.start
        mean[row, :, :size] = [m.mean for m in moments]
        m2[row, :, :size] = [m.m2 for m in moments]
    return store.Wave(
        keys=np.array([[c.block, c.index] for c, _, _ in entries], dtype=np.int64),
        count=np.array([[m.count for m in moments] for _, moments, _ in entries], dtype=np.int64),
        mean=mean,
        m2=m2,
        seconds=np.array([s for _, _, s in entries]),
    )


def within_rtol(rtol: float, base: NDArray[np.float64]) -> Callable[[int, list[Moments]], bool]:
    """Standard error at most rtol |u| at every point of a block, u = base + correction."""

    def settled(block: int, moments: list[Moments]) -> bool:
        value = base[block * POINTS_PER_BLOCK :][: moments[0].mean.size] + moments[0].mean
        return bool((moments[0].standard_error <= rtol * np.abs(value)).all())

    return settled


def within_distance(target: NDArray[np.float64]) -> Callable[[int, list[Moments]], bool]:
    """Standard error a small share of the distance from ``target``: what is left of it is bias."""

    def settled(block: int, moments: list[Moments]) -> bool:
        distance = moments[0].mean - target[block * POINTS_PER_BLOCK :][: moments[0].mean.size]
        error = np.sqrt(np.mean(np.square(moments[0].standard_error)))
        return bool(error <= SETTLED * np.sqrt(np.mean(np.square(distance))))

    return settled


def spent_flop(method: Method, counts: Sequence[int]) -> float:
    """Model FLOP of the first ``counts[b]`` chunks of every block."""
    layout = method.layout
    return sum(c * layout.size(b) for b, c in enumerate(counts)) * method.estimator.flop(method.problem, layout.draws)
