"""Points x draws -> chunks with addresses, and the order in which they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kernels.contracts import Estimator, SemilinearPDE

POINTS_PER_BLOCK = 16
MIN_DRAWS = 32
CHUNK_FLOP = 1.5e9
"""Work of one chunk: some fifty milliseconds, far above the cost of handing it out. Part of the random
address: see FORMAT in pipeline/job.py before changing it."""

CHUNK_ROWS = 32768
"""Most rows (t, x) alive at once in a chunk."""


@dataclass(frozen=True)
class Chunk:
    """``draws`` draws at the points ``start`` .. ``stop``; its stream is addressed (block, index)."""

    block: int
    index: int
    start: int
    stop: int
    draws: int


@dataclass(frozen=True)
class Layout:
    """How the points and draws of one method are cut. It depends on the method, never on a budget.

    >>> layout = Layout(points=20, draws=64)
    >>> [(c.start, c.stop) for c in (layout.chunk(0, 0), layout.chunk(1, 0))]
    [(0, 16), (16, 20)]
    """

    points: int
    draws: int

    @classmethod
    def of(cls, points: int, estimator: Estimator, problem: SemilinearPDE) -> Layout:
        """Chunks of about CHUNK_FLOP, within CHUNK_ROWS rows and with at least MIN_DRAWS draws."""
        size = min(points, POINTS_PER_BLOCK)
        draws = MIN_DRAWS
        while (
            2 * draws * size * estimator.rows(MIN_DRAWS) / MIN_DRAWS <= CHUNK_ROWS
            and size * estimator.flop(problem, 2 * draws) <= CHUNK_FLOP
        ):
            draws *= 2
        return cls(points, draws)

    @property
    def blocks(self) -> int:
        return -(-self.points // POINTS_PER_BLOCK)

    def size(self, block: int) -> int:
        """Points of a block."""
        return min(POINTS_PER_BLOCK, self.points - block * POINTS_PER_BLOCK)

    def chunk(self, block: int, index: int) -> Chunk:
        start = block * POINTS_PER_BLOCK
        return Chunk(block, index, start, start + self.size(block), self.draws)


def grow(layout: Layout, counts: Sequence[int], active: Sequence[bool], max_paths: int) -> list[int] | None:
    """The next number of chunks of every block, or None where nothing is left to do.

    Blocks that have not met their tolerance double; where the budget is too small for that, they
    share what is left evenly. Doubling looks at the error a few times only, so that stopping
    early hardly favours lucky draws. Depends on counts alone, never on time or ranks.

    >>> layout = Layout(points=32, draws=64)
    >>> grow(layout, [0, 0], [True, True], 10_000), grow(layout, [4, 4], [True, False], 10_000)
    ([1, 1], [5, 4])
    """
    weight = [layout.size(b) * layout.draws for b in range(layout.blocks)]
    left = max_paths - sum(c * w for c, w in zip(counts, weight, strict=True))
    chosen = [b for b in range(layout.blocks) if active[b]]
    if not chosen:
        return None
    extra = {b: max(1, counts[b]) for b in chosen}
    if sum(extra[b] * weight[b] for b in chosen) > left:
        share = left // sum(weight[b] for b in chosen)
        extra = {b: min(extra[b], share) for b in chosen}
        if share == 0:
            return None
    return [c + extra.get(b, 0) for b, c in enumerate(counts)]


def waves(chunks: Sequence[Chunk], flop_per_draw: float, wave_flop: float) -> Iterator[list[Chunk]]:
    """``chunks`` in order, cut into lists of about ``wave_flop`` work each."""
    wave: list[Chunk] = []
    work = 0.0
    for chunk in chunks:
        wave.append(chunk)
        work += flop_per_draw * chunk.draws * (chunk.stop - chunk.start)
        if work >= wave_flop:
            yield wave
            wave, work = [], 0.0
    if wave:
        yield wave
