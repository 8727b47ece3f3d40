"""The moments of a method's chunks, folded in chunk order, and where its allocation stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.moments import Moments
from kernels.streams import Purpose
from pipeline import store
from pipeline.allocation import Prices, Standing, forecast, grow
from pipeline.chunks import Layout, Sampled
from pipeline.errors import InputError
from pipeline.job import RunFolder

Array = NDArray[np.float64]
Tolerance = Callable[[int, Array], Array]
"""(block, mean of its points) -> the standard error that is small enough at each of them."""

Counts = list[tuple[int, ...]]
"""Chunks of every term, block by block."""


@dataclass(frozen=True)
class Method:
    """One estimator on one problem at the run's points.

    ``axes`` are the axes of one draw beside points, such as dim for a gradient; ``bounded`` says
    what a budget counts, "flop" or "paths"; a draw of the base term is the mean over ``coupled`` paths.
    """

    name: str
    purpose: Purpose
    estimator: Sampled
    problem: Any
    owner: str
    points: int
    axes: tuple[int, ...] = ()
    bounded: str = "flop"
    coupled: int = 1

    @cached_property
    def layout(self) -> Layout:
        return Layout.of(self.points, self.estimator, self.problem, coupled=self.coupled)

    @cached_property
    def terms(self) -> tuple[str, ...]:
        """Summed terms first, then the biases."""
        return (*self.estimator.terms, *self.estimator.biases)

    @cached_property
    def prices(self) -> Prices:
        draws = self.layout.draws
        work = tuple(self.estimator.flop(self.problem, term, n) / n for term, n in zip(self.terms, draws, strict=True))
        paths = tuple(float(self.coupled if number == 0 else 1) for number in range(len(work)))
        price = work if self.bounded == "flop" else paths
        return Prices(draws, work, price, len(self.estimator.terms))

    def pilot_price(self) -> float:
        """Price of one chunk of every term at all points: the least that gives an error bar."""
        return self.points * self.prices.cost([1] * len(self.terms))

    def flop(self, counts: Counts) -> float:
        """Model FLOP of so many chunks."""
        return sum(self.layout.size(b) * self.prices.flop(c) for b, c in enumerate(counts))

    def draws(self, counts: Sequence[int]) -> int:
        """Top-level paths of so many chunks a term at one point, biases included."""
        each = [n * d for n, d in zip(counts, self.layout.draws, strict=True)]
        return sum(each) + (self.coupled - 1) * each[0]

    def paths(self, counts: Counts) -> int:
        """Top-level draws of so many chunks at all points."""
        return sum(self.layout.size(b) * self.draws(c) for b, c in enumerate(counts))


@dataclass
class Tally:
    """The chunks of one method that exist."""

    method: Method
    have: dict[tuple[int, int, int], Moments] = field(default_factory=dict)
    seconds: dict[tuple[int, int, int], float] = field(default_factory=dict)
    wall: float = 0.0
    folded: dict[tuple[int, int], tuple[int, Moments]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: RunFolder, method: Method) -> Tally:
        """The chunks that earlier runs committed."""
        tally = cls(method)
        for path in folder.waves(method.name):
            tally.add(store.load_wave(path, owner=method.owner))
        return tally

    def add(self, wave: store.Wave) -> None:
        """Take the chunks of a wave; one already there is kept, it has the same bits.

        Raises InputError for a chunk of another layout, or one that holds no finite numbers.
        """
        layout = self.method.layout
        self.wall += wave.wall
        for row, (block, term, index) in enumerate(wave.keys.tolist()):
            name = self.method.terms[term]
            if wave.count[row] != layout.draws[term]:
                raise InputError(
                    f"a chunk of {wave.count[row]} draws, where this program makes chunks of {layout.draws[term]}: it comes from "
                    "another release; give the run another --out folder"
                )
            size = layout.size(block)
            moments = Moments(int(wave.count[row]), wave.mean[row, :size], wave.m2[row, :size])
            if not (np.isfinite(moments.mean).all() and np.isfinite(moments.m2).all()):
                place = layout.rows(block)
                raise InputError(
                    f"{self.method.name}: the draws of '{name}' at points {place.start} to {place.stop - 1} are not finite. Look for a "
                    "driver or terminal condition that overflows float32 where the paths go, or take a surrogate nearer to u"
                )
            self.have.setdefault((block, term, index), moments)
            self.seconds.setdefault((block, term, index), float(wave.seconds[row]))

    def fold(self, block: int, term: int, count: int) -> Moments:
        """Moments of the first ``count`` >= 1 chunks of a term, merged in order."""
        done, moments = self.folded.get((block, term), (0, None))
        if moments is None or done > count:
            done, moments = 1, self.have[block, term, 0]
        for index in range(done, count):
            moments = moments.merge(self.have[block, term, index])
        self.folded[block, term] = count, moments
        return moments

    def estimate(self, block: int, counts: Sequence[int]) -> tuple[Array, Array]:
        """Sum of the summed terms' means and its standard error, (points of the block, *axes) each."""
        folds = [self.fold(block, term, counts[term]) for term in range(self.method.prices.summed)]
        return sum(f.mean for f in folds), np.sqrt(sum(np.square(f.standard_error) for f in folds))  # type: ignore[return-value]

    def standing(self, block: int, counts: tuple[int, ...], tolerance: Tolerance | None) -> Standing:
        """Where a block stands: variances of a draw over the squared tolerance, and whether it needs more."""
        size = self.method.layout.size(block)
        if not sum(counts):
            return Standing(size, counts, None, True)
        small: Array | float = 1.0
        active = True
        if tolerance is not None:
            mean, error = self.estimate(block, counts)
            small = tolerance(block, mean)
            active = bool((error > small).any())
        scale = np.square(np.maximum(small, np.finfo(float).tiny))
        variance = np.array([(self.fold(block, term, n).variance / scale).max() for term, n in enumerate(counts)])
        return Standing(size, counts, variance, active)

    def standings(self, counts: Counts, tolerance: Tolerance | None) -> list[Standing]:
        return [self.standing(b, c, tolerance) for b, c in enumerate(counts)]

    def next(self, counts: Counts, tolerance: Tolerance | None, budget: float) -> Counts | None:
        """The chunks to have next, or None at the end. Depends on moments alone, never on time or ranks."""
        return grow(self.standings(counts, tolerance), self.method.prices, budget, tolerant=tolerance is not None)

    def expected(self, counts: Counts, tolerance: Tolerance | None, budget: float) -> Counts:
        """The chunks at the end, if the variances stay what they are."""
        return forecast(self.standings(counts, tolerance), self.method.prices, budget, tolerant=tolerance is not None)

    def missing(self, counts: Counts, grown: Counts) -> Iterator[tuple[int, int, int]]:
        """Keys between the two that do not exist, blocks side by side, so that an interrupted run has served all alike."""
        wanted = [
            (block, term, index)
            for block, (old, new) in enumerate(zip(counts, grown, strict=True))
            for term in range(len(new))
            for index in range(old[term], new[term])
        ]
        yield from (key for key in sorted(wanted, key=lambda k: (k[2], k[1], k[0])) if key not in self.have)

    def start(self) -> Counts:
        """No chunk of any term."""
        return [tuple(0 for _ in self.method.terms) for _ in range(self.method.layout.blocks)]

    def table(self, counts: Counts) -> tuple[Array, Array]:
        """Estimate and standard error over all points, (points, *axes) each."""
        parts = [self.estimate(b, c) for b, c in enumerate(counts)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def term_table(self, counts: Counts, term: int) -> tuple[Array, Array]:
        """Mean and standard error of one term over all points."""
        folds = [self.fold(b, term, c[term]) for b, c in enumerate(counts)]
        return np.concatenate([f.mean for f in folds]), np.concatenate([f.standard_error for f in folds])

    def freedom(self, counts: Counts, term: int) -> Array:
        """Degrees of freedom of one term's standard error at every point, (points,)."""
        layout = self.method.layout
        each = [self.fold(b, term, c[term]).count - 1.0 for b, c in enumerate(counts)]
        return np.repeat(each, [layout.size(b) for b in range(layout.blocks)])

    def core_seconds(self, counts: Counts) -> float:
        """Rank-seconds spent in these chunks."""
        return sum(self.seconds[b, t, i] for b, c in enumerate(counts) for t, n in enumerate(c) for i in range(n))


@dataclass(frozen=True)
class Outcome:
    """Where a method stopped: chunks, every stage on the way, and whether its tolerance was met (None: none was set)."""

    tally: Tally
    counts: Counts
    stages: list[Counts]
    met: bool | None


def replay(tally: Tally, tolerance: Tolerance | None, budget: float) -> Outcome:
    """Where the fan-out stopped, found again from the chunks alone.

    Raises InputError where a chunk that is needed is missing.
    """
    counts, stages = tally.start(), []
    while (grown := tally.next(counts, tolerance, budget)) is not None:
        lost = next(tally.missing(counts, grown), None)
        if lost is not None:
            name = tally.method.name
            raise InputError(
                f"{name}: chunk {lost[2]} of '{tally.method.terms[lost[1]]}' at point block {lost[0]} is missing: "
                "finish the run with `scasml correct`"
            )
        counts = grown
        stages.append(counts)
    return Outcome(tally, counts, stages, is_met(tally, counts, tolerance))


def is_met(tally: Tally, counts: Counts, tolerance: Tolerance | None) -> bool | None:
    """Whether every point has a small enough standard error; None without a tolerance."""
    return None if tolerance is None else not any(s.active for s in tally.standings(counts, tolerance))


OUT_OF_REACH = 1e-6
"""Share of a tolerance that no number of draws comes down to."""


def within(rtol: float | None, atol: float | None, base: Array, layout: Layout, error: Array | None = None) -> Tolerance | None:
    """Standard error at most max(atol, rtol |u|) at every point, u = base + mean; None where neither is given.

    ``error`` is that of the base itself, which leaves less for the mean; where it is larger, what no budget meets.
    """
    if rtol is None and atol is None:
        return None

    def tolerance(block: int, mean: Array) -> Array:
        small = np.maximum(atol or 0.0, (rtol or 0.0) * np.abs(base[layout.rows(block)] + mean))
        if error is None:
            return small
        left = np.square(small) - np.square(error[layout.rows(block)])
        return np.sqrt(np.maximum(left, np.square(OUT_OF_REACH * small)))

    return tolerance


SETTLED = 0.1
"""A baseline stops when its standard error is this share of its distance from the corrected value."""


def within_distance(target: Array, layout: Layout) -> Tolerance:
    """Standard error a small share of the root mean square distance from ``target``: what is left of it is bias."""

    def tolerance(block: int, mean: Array) -> Array:
        distance = mean - target[layout.rows(block)]
        return np.full_like(mean, SETTLED * np.sqrt(np.mean(np.square(distance))))

    return tolerance
