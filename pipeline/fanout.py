"""Chunks over ranks: the only door to MPI.

Rank 0 decides which chunks are missing, every rank takes the next one from a one-sided counter,
and the moments of a wave are gathered and committed, in one file or several that are each whole. What is computed depends on
moments folded in chunk order, never on ranks, time or history.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from kernels.moments import Moments
from kernels.streams import Stream
from pipeline import store
from pipeline.chunks import POINTS_PER_BLOCK, Chunk
from pipeline.errors import InputError
from pipeline.job import RunFolder
from pipeline.progress import log
from pipeline.tally import Method, Outcome, Tally, Tolerance, is_met

WAVE_SECONDS = 15.0
"""Time between two commits: what a crash can cost. It decides when to save, never what is computed."""

LOOK_IN_SECONDS = 0.001
"""How long a rank may wait for its next chunk while rank 0 computes: a small part of a chunk's time."""

FIRST_WAVE_FLOP = 2e10
"""Work of the first wave per rank, from which the speed is measured."""

MAX_FILE_CHUNKS = 4096
"""Most chunks of one file."""

CHUNKS_PER_RANK = 256
"""Most chunks of one wave for every rank, where that is more than one file holds: waves of fewer would end in waiting."""


class Communicator(Protocol):
    """What the fan-out needs of MPI; one rank alone needs no library."""

    rank: int
    size: int
    place: int
    """Which of the ranks of its machine this is."""

    def take(self, total: int) -> Iterator[int]:
        """Indices 0 .. total - 1, each given to exactly one rank, whichever is free."""
        ...

    def gather(self, item: Any) -> list[Any] | None: ...

    def share(self, item: Any) -> Any: ...


class Alone:
    """One rank in this process."""

    rank, size = 0, 1
    place = 0

    def take(self, total: int) -> Iterator[int]:
        return iter(range(total))

    def gather(self, item: Any) -> list[Any] | None:
        return [item]

    def share(self, item: Any) -> Any:
        return item


ALONE = Alone()


class World:
    """MPI_COMM_WORLD with a counter in the memory of rank 0 that any rank increments while rank 0 computes.

    Many MPI libraries carry out a one-sided call only while its target is inside MPI itself, so that
    every rank would wait for the end of rank 0's chunk: a thread of rank 0 looks in now and then.
    """

    def __init__(self) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._comm = MPI.COMM_WORLD
        self.rank, self.size = self._comm.rank, self._comm.size
        machine = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.place = machine.rank
        machine.Free()
        self._window = MPI.Win.Allocate(8 if self.rank == 0 else 0, 8, comm=self._comm)
        if self.rank == 0:
            self._counter = np.asarray(self._window.tomemory()).view(np.int64)
        self._aside, self._ended = self._comm.Dup(), threading.Event()
        self._helper: threading.Thread | None = None
        self._threaded = MPI.Query_thread() == MPI.THREAD_MULTIPLE

    def _look_in(self) -> None:
        while not self._ended.wait(LOOK_IN_SECONDS):
            self._aside.Iprobe()

    def take(self, total: int) -> Iterator[int]:
        # A rank may still be drawing from the counter for the last time.
        self._comm.Barrier()
        if self.rank == 0:
            self._window.Lock(0)
            self._counter[0] = 0
            self._window.Unlock(0)
        self._comm.Barrier()
        if self.rank == 0 and self.size > 1 and self._threaded and self._helper is None:
            self._helper = threading.Thread(target=self._look_in, daemon=True)
            self._helper.start()
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
        self._comm.Barrier()
        self._ended.set()
        if self._helper is not None:
            self._helper.join()
        self._aside.Free()
        if self.rank == 0:
            del self._counter
        self._window.Free()


def spread(comm: Communicator, pieces: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of the pieces, in order, on every rank; each piece is done by the rank that is free for it."""
    parts = comm.gather([(index, pieces[index]()) for index in comm.take(len(pieces))])
    done = None if parts is None else dict(entry for part in parts for entry in part)
    done = comm.share(done)
    return [done[index] for index in range(len(pieces))]


def compute(method: Method, chunk: Chunk, t: torch.Tensor, x: torch.Tensor, seed: int) -> Moments:
    """Moments of one chunk, over its draws."""
    stream = Stream(seed, method.purpose, chunk.block, chunk.term, chunk.index, device=t.device)
    rows = slice(chunk.start, chunk.stop)
    try:
        draws = method.estimator.sample(method.problem, t[rows], x[rows], method.terms[chunk.term], chunk.draws, stream)
    except ValueError as error:
        raise InputError(f"correction.estimator: {error}") from error
    return Moments.of(draws.cpu().numpy())


def drive(
    folder: RunFolder,
    method: Method,
    t: torch.Tensor,
    x: torch.Tensor,
    seed: int,
    named: Mapping[str, Any],
    comm: Communicator,
    budget: float,
    tolerance: Tolerance | None,
) -> Outcome:
    """Compute chunks until every block meets its ``tolerance`` or the ``budget`` is spent.

    ``named`` tells whose the chunks are, for the message that refuses them elsewhere. All ranks call this together; rank 0 decides, and its outcome is the one to use.
    """
    tally = Tally.read(folder, method) if comm.rank == 0 else Tally(method)
    reused = len(tally.have)
    counts, stages = tally.start(), []
    work = FIRST_WAVE_FLOP * comm.size
    while True:
        grown, missing = None, deque[Chunk]()
        if comm.rank == 0 and (grown := tally.next(counts, tolerance, budget)) is not None:
            missing = deque(method.layout.chunk(*key) for key in tally.missing(counts, grown))
        while True:
            wave = comm.share(_take_wave(method, missing, work, comm.size) if comm.rank == 0 else None)
            if not wave:
                break
            began = time.perf_counter()
            mine = []
            for index in comm.take(len(wave)):
                started = time.perf_counter()
                mine.append((wave[index], compute(method, wave[index], t, x, seed), time.perf_counter() - started))
            parts = comm.gather(mine)
            if parts is not None:
                elapsed = time.perf_counter() - began
                entries = sorted((entry for part in parts for entry in part), key=lambda entry: entry[0].key)
                # After the last file there is: a lost one leaves a gap, and none may be overwritten.
                number = max((int(path.stem.removeprefix("wave-")) for path in folder.waves(method.name)), default=-1) + 1
                for first in range(0, len(entries), MAX_FILE_CHUNKS):
                    finished = _as_wave(method, entries[first : first + MAX_FILE_CHUNKS], 0.0 if first else elapsed)
                    tally.add(finished)
                    path = folder.chunks(method.name) / f"wave-{number:06d}.h5"
                    store.save_wave(path, finished, owner=method.owner, named=named)
                    number += 1
                work *= min(4.0, WAVE_SECONDS / max(elapsed, 1e-3))
                whole = sum(map(sum, tally.expected(grown, tolerance, budget))) if not missing and grown else 0
                log(folder.log, f"{method.name} {len(tally.have)}/{max(whole, len(tally.have) + len(missing))} chunks")
        if comm.share(grown is None):
            break
        if comm.rank == 0 and grown is not None:
            counts = grown
            stages.append(counts)
    if comm.rank == 0 and len(tally.have) > reused:
        log(folder.log, f"{method.name}: {len(tally.have) - reused} chunks computed, {reused} reused")
    return Outcome(tally, counts, stages, is_met(tally, counts, tolerance) if comm.rank == 0 else None)


def _take_wave(method: Method, missing: deque[Chunk], work: float, ranks: int) -> list[Chunk]:
    """The next chunks of about ``work`` FLOP, taken off the front of ``missing``."""
    wave: list[Chunk] = []
    while missing and work > 0.0 and len(wave) < max(MAX_FILE_CHUNKS, CHUNKS_PER_RANK * ranks):
        chunk = missing.popleft()
        wave.append(chunk)
        work -= method.prices.work[chunk.term] * chunk.draws * (chunk.stop - chunk.start)
    return wave


def _as_wave(method: Method, entries: list[tuple[Chunk, Moments, float]], wall: float) -> store.Wave:
    mean = np.full((len(entries), POINTS_PER_BLOCK, *method.axes), np.nan)
    m2 = mean.copy()
    for row, (chunk, moments, _) in enumerate(entries):
        mean[row, : chunk.stop - chunk.start] = moments.mean
        m2[row, : chunk.stop - chunk.start] = moments.m2
    return store.Wave(
        keys=np.array([chunk.key for chunk, _, _ in entries], dtype=np.int64),
        count=np.array([moments.count for _, moments, _ in entries], dtype=np.int64),
        mean=mean,
        m2=m2,
        seconds=np.array([seconds for _, _, seconds in entries]),
        wall=wall,
    )
