"""Points x terms x draws -> chunks with addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from kernels.bounds import Bound
from kernels.contracts import Estimator
from kernels.gradients import GradientEstimator

Sampled = Estimator | Bound | GradientEstimator
"""What is sampled term by term."""


@runtime_checkable
class InChunks(Protocol):
    """An estimator whose draws are so dear, or so well batched, that a chunk of it has a size of its own."""

    chunk_draws: int
    """Draws of a chunk at one point, of every term, at least 2."""


POINTS_PER_BLOCK = 16
MIN_DRAWS = 32
MIN_COUPLED = 16
"""Fewest draws of a chunk at a point where each is the mean over many coupled paths."""
MIN_BATCH = 256
"""Fewest draws of a chunk over its points: of fewer rows every step of a path is overhead."""

CHUNK_FLOP = 1.5e9
"""Work of one chunk: some fifty milliseconds, far above the cost of handing it out. Part of the random
address: see FORMAT in pipeline/job.py before changing it."""

LATER_SHARE = 0.25
"""A chunk of a term that only removes a bias is this part of the base term's: it gets fewer draws. At one point it takes as
much work, for small ones are all overhead there."""

CHUNK_PATHS = 4096
"""Most top-level draws of a chunk over its points: the smallest budget has to afford one of every term."""

CHUNK_ROWS = 32768
"""Most rows (t, x) alive at once in a chunk."""


@dataclass(frozen=True)
class Chunk:
    """``draws`` draws of one term at the points ``start`` .. ``stop``; its stream is addressed (block, term, index)."""

    block: int
    term: int
    index: int
    start: int
    stop: int
    draws: int

    @property
    def key(self) -> tuple[int, int, int]:
        return self.block, self.term, self.index


@dataclass(frozen=True)
class Layout:
    """How the points and draws of one method are cut. It depends on the method, never on a budget.

    ``draws`` are those of one chunk at one point, term by term.

    >>> layout = Layout(points=20, draws=(64, 32))
    >>> [(c.start, c.stop, c.draws) for c in (layout.chunk(0, 0, 0), layout.chunk(1, 1, 0))]
    [(0, 16, 64), (16, 20, 32)]
    """

    points: int
    draws: tuple[int, ...]

    @classmethod
    def of(cls, points: int, estimator: Sampled, problem: Any, *, coupled: int = 1) -> Layout:
        """Chunks of about CHUNK_FLOP, within CHUNK_PATHS draws and CHUNK_ROWS rows.

        They have MIN_DRAWS draws a point at least, and MIN_BATCH in all, unless the estimator is InChunks.
        A draw of the first term is the mean over ``coupled`` paths.
        """
        size = min(points, POINTS_PER_BLOCK)
        terms = (*estimator.terms, *estimator.biases)
        if isinstance(estimator, InChunks):
            return cls(points, tuple(estimator.chunk_draws for _ in terms))
        sizes = []
        for number, term in enumerate(terms):
            share = 1.0 if number == 0 else LATER_SHARE
            work = (1.0 if size == 1 else share) * CHUNK_FLOP
            draws = MIN_COUPLED if number == 0 and coupled > 2 else MIN_DRAWS
            least = MIN_BATCH // (coupled if number == 0 else 1)
            while 2 * draws * size * estimator.rows(term, MIN_DRAWS) / MIN_DRAWS <= CHUNK_ROWS and (
                draws * size < least
                or (
                    size * estimator.flop(problem, term, 2 * draws) <= work
                    and size * 2 * draws * (coupled if number == 0 else 1) <= share * CHUNK_PATHS
                )
            ):
                draws *= 2
            sizes.append(draws)
        return cls(points, tuple(sizes))

    @property
    def blocks(self) -> int:
        return -(-self.points // POINTS_PER_BLOCK)

    def size(self, block: int) -> int:
        """Points of a block."""
        return min(POINTS_PER_BLOCK, self.points - block * POINTS_PER_BLOCK)

    def rows(self, block: int) -> slice:
        """Where the points of a block stand among all."""
        return slice(block * POINTS_PER_BLOCK, block * POINTS_PER_BLOCK + self.size(block))

    def chunk(self, block: int, term: int, index: int) -> Chunk:
        rows = self.rows(block)
        return Chunk(block, term, index, rows.start, rows.stop, self.draws[term])
