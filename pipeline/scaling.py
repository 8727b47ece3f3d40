"""The scaling law of finished runs: error of the trained surrogate in parameters, samples and compute, by optimizer."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kernels import scaling_law
from kernels.contracts import Searching
from kernels.intervals import student_quantile, welch
from kernels.scaling_law import Array, Index, ScalingLaw
from kernels.streams import Purpose, Stream
from pipeline.comparison import equation, total_samples
from pipeline.errors import InputError
from pipeline.job import job_from
from pipeline.merit import Summary
from pipeline.training import training_flop

CONFIDENCE = 0.9
REPLICATES = 400
WIDTHS, AMOUNTS, SEEDS = 4, 3, 3
"""Fewest sizes of a law, of which one is held out, amounts of data, and seeds of a cell."""

ASKED = 0.25
"""Relative error within which the errors of the held-out width are to be predicted."""

BUDGETS = 3
"""At which two optimizers are compared, from the smallest to the largest that both reach."""

FREE = {"steps", "batch", "workers", "accumulate", "checkpoint_every", "then"}
"""Keys of a training in which the runs of one law, by one optimizer, may differ."""

SIZES = {"width", "depth", "blocks", "rank"}
"""Options of a surrogate in which they may."""


@dataclass(frozen=True)
class Trained:
    """One finished run as a law sees it."""

    name: str
    equation: str
    optimizer: str
    seed: int
    N: int
    """Parameters."""
    D: int
    """Training samples, over all phases."""
    flop: float
    """Model FLOP of the training; the optimizer's own algebra is not counted."""
    seconds: float
    """Wall seconds of the training."""
    error: float
    """Relative L2 error of the trained surrogate."""
    known: bool
    """Whether against the true solution; else by the correction's own estimate."""
    kind: str
    """What else its runs must share: surrogate and objectives with their options."""


def trained(found: Sequence[tuple[str, Path, Summary]]) -> list[Trained]:
    """The runs (name, folder, summary) of a scaling study. Raises InputError for one that belongs to none."""
    costs: dict[str, tuple[int, float]] = {}
    out = []
    for name, folder, summary in found:
        training, shown = summary["job"]["training"], summary["methods"].get("surrogate")
        if not training:
            raise InputError(f"'{name}': its surrogate is not trained in steps, so that no law in samples applies; leave it out")
        if shown is None:
            raise InputError(f"'{name}' does not report its surrogate: add surrogate to report.baselines and run it again")
        if summary["points"] == 1:
            raise InputError(f"'{name}': the error at one point follows no law; run it with correction.points: 500 or more")
        known = shown["rel_l2"] is not None
        error = shown["rel_l2"] if known else shown["rel_l2_estimate"]
        if not error or not (known or shown["rel_l2_low"]):
            raise InputError(
                f"'{name}': no true solution is known and its correction does not tell the surrogate's error from 0; "
                "raise correction.max_paths and run it again"
            )
        # Neither follows from the seed.
        key = json.dumps([summary["job"][part] for part in ("problem", "surrogate", "training")], sort_keys=True)
        if key not in costs:
            job = job_from(dict(summary["job"]), folder)
            surrogate: Any = job.surrogate()
            for n, phase in enumerate(job.model.training.phases):
                if isinstance(job.optimizer(surrogate.parameters(), n), Searching):
                    raise InputError(
                        f"'{name}': the FLOP of '{phase.optimizer.name}', which takes a step's batch more than once, are not counted, "
                        "so that it cannot be compared at equal FLOP; leave it out, or see tests/benchmarks/optimizers.py"
                    )
            costs[key] = sum(p.numel() for p in surrogate.parameters()), training_flop(job, surrogate)
        phases = [training, *filter(None, [training.get("then")])]
        samples = total_samples(summary, "surrogate")
        assert samples is not None
        out.append(
            Trained(
                name=name,
                equation=equation(summary),
                optimizer=" then ".join(phase["optimizer"]["name"] for phase in phases),
                seed=summary["job"]["seed"],
                N=costs[key][0],
                D=int(samples),
                flop=costs[key][1],
                seconds=summary["stages"]["train"]["seconds"],
                error=error,
                known=known,
                kind=json.dumps(
                    [
                        {k: v for k, v in summary["job"]["surrogate"].items() if k not in SIZES},
                        *({k: v for k, v in phase.items() if k not in FREE} for phase in phases),
                    ]
                ),
            )
        )
    return out


@dataclass(frozen=True)
class Measured:
    """A figure with its interval, None where the runs do not determine it."""

    value: float | None
    low: float | None
    high: float | None

    def holds(self, value: float) -> bool | None:
        """Whether the interval holds a value; None without an interval."""
        return None if self.low is None or self.high is None else self.low <= value <= self.high


def _measured(value: float, *samples: Array) -> Measured:
    """With the hull of the intervals of several bootstraps."""
    found = [scaling_law.interval(replicates, CONFIDENCE) for replicates in samples]
    known = [pair for pair in found if pair is not None]
    low, high = (min(a for a, _ in known), max(b for _, b in known)) if len(known) == len(found) else (None, None)
    return Measured(float(value) if np.isfinite(value) else None, low, high)


@dataclass(frozen=True)
class HeldOut:
    """What the law without the largest width says of that width's cells."""

    law: ScalingLaw
    rows: Index
    """Its cells among those of the study."""
    off: Array
    """Predicted over measured error, minus 1, of each of them."""
    spread: float
    """Relative standard deviation of its seeds."""

    @property
    def rms(self) -> float:
        """Root mean square of the relative errors."""
        return float(np.sqrt(np.mean(self.off**2)))


@dataclass(frozen=True)
class Study:
    """The law of one equation and optimizer. Arrays are over cells, equal N and D, but for ``runs`` and ``cell`` of each run."""

    equation: str
    optimizer: str
    runs: list[Trained]
    cell: Index
    N: Array
    D: Array
    flop: Array
    seconds: Array
    mean: Array
    """Mean log error."""
    seeds: Array
    law: ScalingLaw
    figures: dict[str, Measured]
    """E, A, B, alpha, beta, optimal (alpha beta / (alpha + beta)) and gamma (error ~ C^-gamma on the frontier)."""
    deviation: float
    """Standard deviation of log errors between seeds."""
    misfit: float
    """Birge's ratio; the intervals are widened by it where it is above 1."""
    held_out: HeldOut

    @property
    def known(self) -> bool:
        return self.runs[0].known

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the deviation."""
        return float(len(self.runs) - len(self.N))


def studies(runs: Sequence[Trained]) -> list[Study]:
    """A law for each equation and optimizer, in alphabetical order. Raises InputError where the runs of one do not make a study."""
    groups: dict[tuple[str, str], list[Trained]] = {}
    for run in runs:
        groups.setdefault((run.equation, run.optimizer), []).append(run)
    for key, group in groups.items():
        _check(" by ".join(key), group)
    return [_study(groups[key]) for key in sorted(groups)]


def _check(label: str, runs: Sequence[Trained]) -> None:
    """Refuse runs that differ in more than size, data and seed, or are too few."""
    for what, told in (
        ("kind", "surrogates, objectives or options of the optimizer"),
        ("known", "errors, some of them estimates"),
    ):
        if len({getattr(run, what) for run in runs}) > 1:
            first, other = runs[0], next(run for run in runs if getattr(run, what) != getattr(runs[0], what))
            raise InputError(f"{label}: '{first.name}' and '{other.name}' have different {told}: name the runs of one study")
    for (N, D, seed), times in Counter((run.N, run.D, run.seed) for run in runs).items():
        if times > 1:
            same = ", ".join(f"'{run.name}'" for run in runs if (run.N, run.D, run.seed) == (N, D, seed))
            raise InputError(f"{label}: {times} runs of N = {N:,}, D = {D:,} and seed {seed} ({same}): name one of them")
    cells = Counter((run.N, run.D) for run in runs)
    widths, amounts = {N for N, _ in cells}, {D for _, D in cells}
    rest = [cell for cell in cells if cell[0] < max(widths)]
    if len(widths) < WIDTHS or len(amounts) < AMOUNTS or len(rest) < 6 or len({D for _, D in rest}) < AMOUNTS:
        raise InputError(
            f"{label}: {len(cells)} cells of {len(widths)} sizes and {len(amounts)} amounts of data: a law with its largest size held "
            f"out needs {WIDTHS} sizes and {AMOUNTS} amounts of data, in 6 cells or more below the largest; "
            "sweep surrogate.width and training.steps further"
        )
    (N, D), fewest = min(cells.items(), key=lambda item: item[1])
    if fewest < SEEDS:
        raise InputError(
            f"{label}: N = {N:,}, D = {D:,} has {fewest} of the {SEEDS} seeds that a cell needs; sweep seed over {SEEDS} or more"
        )


def _bootstraps(logs: Array, cell: Index, seeds: Index, widen: float) -> list[Array]:
    """Data sets whose seeds are drawn in each cell by itself; and, where all cells have the same seeds, in all cells alike."""
    drawn = [scaling_law.redrawn(logs, cell, Stream(0, Purpose.RESAMPLING), REPLICATES, widen=widen)]
    if len({tuple(sorted(seeds[cell == one])) for one in np.unique(cell)}) == 1:
        stream = Stream(0, Purpose.RESAMPLING, 1)
        drawn.append(scaling_law.redrawn(logs, cell, stream, REPLICATES, widen=widen, seeds=seeds))
    return drawn


def _study(runs: list[Trained]) -> Study:
    runs = sorted(runs, key=lambda run: (run.N, run.D, run.seed))
    keys = sorted({(run.N, run.D) for run in runs})
    cell = np.array([keys.index((run.N, run.D)) for run in runs])
    counts = np.bincount(cell)
    N, D = np.array([(run.N, run.D) for run in runs], dtype=np.float64).T
    logs, seconds, flop = np.log([(run.error, run.seconds, run.flop) for run in runs]).T
    mean, cell_N, cell_D = (np.bincount(cell, part) / counts for part in (logs, N, D))
    cost = np.exp(np.bincount(cell, flop) / counts)
    deviation = scaling_law.deviation(logs, cell)
    delta = float(np.clip(deviation, *scaling_law.HUBER))
    law = scaling_law.fit(N, D, np.exp(logs), delta=delta)
    misfit = scaling_law.misfit(law, N, D, logs, cell)
    again = _bootstraps(logs, cell, np.array([run.seed for run in runs]), float(np.fmax(1.0, misfit)))
    laws = [scaling_law.fit(N, D, np.exp(each), delta=delta, start=law) for each in again]
    figures = {
        name: _measured(float(getattr(law, name)), *(getattr(each, name) for each in laws))
        for name in ("E", "A", "B", "alpha", "beta", "optimal")
    }
    gammas = [
        np.array([scaling_law.compute_exponent(cost, np.exp(np.bincount(cell, row) / counts)) for row in each]) for each in again
    ]
    figures["gamma"] = _measured(scaling_law.compute_exponent(cost, np.exp(mean)), *gammas)

    largest = float(N.max())
    fitted, rows = largest > N, np.flatnonzero(cell_N == largest)
    without = scaling_law.fit(N[fitted], D[fitted], np.exp(logs[fitted]), delta=delta)
    off = without(cell_N[rows], cell_D[rows]) / np.exp(mean[rows]) - 1.0
    own = scaling_law.deviation(logs[~fitted], cell[~fitted] - rows[0])
    return Study(
        equation=runs[0].equation,
        optimizer=runs[0].optimizer,
        runs=runs,
        cell=cell,
        N=cell_N,
        D=cell_D,
        flop=cost,
        seconds=np.exp(np.bincount(cell, seconds) / counts),
        mean=mean,
        seeds=counts.astype(np.float64),
        law=law,
        figures=figures,
        deviation=deviation,
        misfit=misfit,
        held_out=HeldOut(without, rows, off, float(np.expm1(own))),
    )


@dataclass(frozen=True)
class Difference:
    """Error of one optimizer over that of another at a cost, each at its best cells, with an interval from the seeds."""

    budget: float
    ratio: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether it exceeds the spread of the seeds."""
        return not self.low <= 1.0 <= self.high


@dataclass(frozen=True)
class Contest:
    """Two optimizers on one equation at equal cost: model FLOP or wall seconds of training. Empty where no cost is common."""

    equation: str
    one: str
    other: str
    cost: str
    differences: list[Difference]


def contests(found: Sequence[Study]) -> list[Contest]:
    """Every two optimizers of an equation, at equal FLOP and at equal wall time."""
    return [
        Contest(one.equation, one.optimizer, other.optimizer, cost, _differences(one, other, cost))
        for one, other in itertools.combinations(found, 2)
        if one.equation == other.equation
        for cost in ("flop", "seconds")
    ]


def _differences(one: Study, other: Study, cost: str) -> list[Difference]:
    costs = [getattr(study, cost) for study in (one, other)]
    ends = [c[scaling_law.frontier(c, s.mean)] for c, s in zip(costs, (one, other), strict=True)]
    low, high = max(e[0] for e in ends), min(e[-1] for e in ends)
    if low > high:
        return []
    out = []
    for budget in np.unique(np.geomspace(low, high, BUDGETS)):
        # The deviation is pooled over all cells: three seeds of one tell little.
        best = [
            scaling_law.at_budget(c, s.mean, s.deviation**2 / s.seeds, float(np.clip(budget, low, high)))
            for c, s in zip(costs, (one, other), strict=True)
        ]
        freedom = welch([(np.array(square), s.freedom) for (_, square), s in zip(best, (one, other), strict=True)])
        half = float(student_quantile(CONFIDENCE, freedom)) * np.sqrt(best[0][1] + best[1][1])
        gap = best[0][0] - best[1][0]
        out.append(Difference(float(budget), *(float(np.exp(gap + shift)) for shift in (0.0, -half, half))))
    return out
