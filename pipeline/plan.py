"""What a pilot chooses before the correction: estimator, Laplacian, variance reduction; and its file.

Everything here follows from the job and its surrogate, through streams of its own, and never from
the truth. Rank 0 decides once and stores the decision with the run.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.contracts import Estimator, Surrogate
from kernels.coupled_streams import MAX_DIM
from kernels.intervals import rms_interval
from kernels.moments import Moments
from kernels.streams import Purpose, Stream
from kernels.unsummed import unsummed
from kernels.variance_reduction import antithetic, quasi
from pipeline import catalogue
from pipeline.fanout import ALONE, Communicator, spread
from pipeline.files import commit
from pipeline.job import Job, RunFolder, digest
from pipeline.progress import log

PILOT_POINTS = 8
PILOT_DRAWS = 64
"""Draws at each of so many points; up to MORE times as many where there are fewer: a few miss the tail of a refinement."""
MORE = 4

FINER: tuple[dict[str, Any], ...] = (
    {"name": "linearised", "times": 16, "steps": 1},
    {"name": "linearised", "times": 16, "steps": 16},
)
"""Tried in this order while the steps of all before are too coarse, as for a driver steep in z: the last takes a pilot
many seconds."""

ESTIMATORS: tuple[dict[str, Any], ...] = (
    {"name": "linearised", "times": 4, "steps": 1},
    {"name": "linearised", "times": 1, "steps": 1},
    *FINER,
    {"name": "telescoped", "steps": 8},
)
"""What ``estimator: auto`` chooses from, in this order: one is taken if it is clearly better than those before."""

LAPLACIANS: tuple[int | str, ...] = (8, 2, "exact")
NO_LAPLACIAN = ""
"""Where nothing takes one."""
PAIRS = ("none", "antithetic", "quasi")
NET = 16
"""Points of a randomised Sobol' net."""

DEAR = 2.0
SURE = 0.95
AIM = 1e-4
CLEARLY = 0.8
"""A later candidate is taken where its work is below this part of the best one's before it."""

MLP_LEVELS = (1, 2, 3)
MLP_SAMPLES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Candidate:
    """One way to correct, and the work it needs: (sum_l sqrt(V_l C_l))^2 (1 + b^2/a^2), in FLOP.

    The first factor is the FLOP for a unit variance of the estimate; b is what its printed biases are
    sure to amount to, and a is AIM |u|. Neither tolerance nor budget counts: they may be changed later.
    """

    estimator: dict[str, Any]
    laplacian: int | str
    pairs: str
    work: float | None = None
    printed: tuple[str, ...] = ()
    """Terms that are printed as biases, their noise being too dear to sum them."""
    coarse: bool = False
    """Whether draws that remove the bias of time steps vary more than those of the base term.

    Their law then has a tail that a pilot does not see, and neither do standard errors: any other way is taken before.
    """

    def build(self) -> Estimator:
        """The estimator with its variance reduction."""
        options = {k: v for k, v in self.estimator.items() if k != "name"}
        made: Estimator = catalogue.factory("estimators", self.estimator["name"], "correction.estimator")(**options)
        coupled = {"none": lambda e: e, "antithetic": antithetic, "quasi": lambda e: quasi(e, size=NET)}[self.pairs](made)
        return unsummed(coupled, self.printed)

    @property
    def coupled(self) -> int:
        """Paths of which a draw of the base term is the mean."""
        return {"none": 1, "antithetic": 2, "quasi": NET}[self.pairs]

    def problem(self, job: Job, surrogate: Surrogate) -> Any:
        """The defect, its trace exact or sampled."""
        return job.defect(surrogate, None if isinstance(self.laplacian, str) else self.laplacian)

    def __str__(self) -> str:
        options = ", ".join(f"{k} {v}" for k, v in self.estimator.items() if k != "name")
        trace = "exact Laplacian" if isinstance(self.laplacian, str) else f"{self.laplacian} probes"
        trace = "" if self.estimator["name"] == "telescoped" or not self.laplacian else f", {trace}"
        pairs = "" if self.pairs == "none" else f", {self.pairs}"
        return f"{self.estimator['name']}{f' ({options})' if options else ''}{trace}{pairs}" + "".join(
            f", {term} printed" for term in self.printed
        )


@dataclass(frozen=True)
class Plan:
    """The decision, what was tried, and the (levels, samples) of plain MLP for the budget it was asked for."""

    chosen: Candidate
    tried: tuple[Candidate, ...]
    mlp: tuple[int, int] | None = None
    mlp_budget: float = 0.0
    seconds: float = 0.0
    """Of the pilot of the correction."""
    mlp_seconds: float = 0.0
    """Of the pilots of plain MLP."""


@dataclass(frozen=True)
class Trial:
    """What a pilot tries at its points: so many draws of every term and bias, from streams of this address."""

    estimator: Estimator
    problem: Any
    draws: int
    address: tuple[int, ...]


def measured(
    trials: Sequence[Trial], t: Tensor, x: Tensor, seed: int, comm: Communicator
) -> list[tuple[dict[str, Moments], dict[str, float]]]:
    """Moments of the draws of every trial's terms, and FLOP a draw; the same on every rank, each of which does a part."""

    def piece(trial: Trial, number: int, term: str) -> Callable[[], Moments]:
        stream = Stream(seed, Purpose.PILOT, *trial.address, number, device=t.device)
        return lambda: Moments.of(trial.estimator.sample(trial.problem, t, x, term, trial.draws, stream).cpu().numpy())

    terms = [(*trial.estimator.terms, *trial.estimator.biases) for trial in trials]
    pieces = [piece(trial, *numbered) for trial, own in zip(trials, terms, strict=True) for numbered in enumerate(own)]
    found = iter(spread(comm, pieces))
    return [
        ({term: next(found) for term in own}, {term: t.estimator.flop(t.problem, term, t.draws) / t.draws for term in own})
        for t, own in zip(trials, terms, strict=True)
    ]


def needed(estimator: Estimator, moments: dict[str, Moments], work: dict[str, float]) -> float:
    """FLOP for a unit variance of the estimate, at the best allocation over its terms."""
    return sum(math.sqrt(float(np.mean(moments[term].variance)) * work[term]) for term in estimator.terms) ** 2


def sure_bias(estimator: Estimator, moments: dict[str, Moments], printed: tuple[str, ...]) -> float:
    """Root mean square over the points of what the biases amount to: the low end of its interval, 0 where noise explains it."""
    if not estimator.biases:
        return 0.0
    # Of a term that is left out, the bias is what it would have added.
    mean = sum((-1.0 if bias in printed else 1.0) * moments[bias].mean for bias in estimator.biases)
    square = sum(np.square(moments[bias].standard_error) for bias in estimator.biases)
    return rms_interval(np.asarray(mean), np.sqrt(square), SURE)[0]


def too_dear(estimator: Estimator, moments: dict[str, Moments], work: dict[str, float]) -> tuple[str, ...]:
    """Optional terms whose share of the work would be DEAR times that of all others: to be printed, not summed."""
    parts = {term: math.sqrt(float(np.mean(moments[term].variance)) * work[term]) for term in estimator.terms}
    return tuple(term for term in estimator.optional if parts[term] > DEAR * (sum(parts.values()) - parts[term]))


def too_coarse(moments: dict[str, Moments], base: str, coupled: int) -> bool:
    """Whether halving the time steps moves a path by more than paths of the base term vary, ``coupled`` of which make a draw."""
    refined = moments.get("time step")
    return refined is not None and float(np.mean(refined.variance)) > coupled * float(np.mean(moments[base].variance))


def allowed(job: Job) -> tuple[tuple[dict[str, Any], ...], tuple[int | str, ...], tuple[str, ...]]:
    """Estimators, Laplacians and pairs that the job lets a pilot choose from."""
    options = job.model.correction
    if "laplacian" not in job.family.own:
        return (job.resolved["correction"]["estimator"],), (NO_LAPLACIAN,), ("none",)
    fixed = options.estimator.name != "auto"
    estimators = (job.resolved["correction"]["estimator"],) if fixed else ESTIMATORS
    laplacians = LAPLACIANS if options.laplacian == "auto" else (options.laplacian,)
    pairs = tuple(pair for pair in PAIRS if pair != "quasi" or job.problem.dim <= MAX_DIM)
    return estimators, laplacians, pairs if options.pairs == "auto" else (options.pairs,)


def choose(job: Job, surrogate: Surrogate, t: Tensor, x: Tensor, comm: Communicator = ALONE) -> Plan:
    """The cheapest way to correct this surrogate among those the job allows, by variance times cost on a few points.

    The Laplacian is chosen first, with the first estimator, then the estimator, then its variance reduction. One
    whose time steps are too coarse is taken only where all are.

    What a bias is sure to be counts against AIM of u. An optional term is printed as a bias instead
    of summed where its noise is too dear, as a bilinear remainder's is for a surrogate whose gradient is poor.
    """
    estimators, laplacians, pairs = allowed(job)
    if laplacians == (NO_LAPLACIAN,):
        return Plan(Candidate(estimators[0], NO_LAPLACIAN, "none"), ())
    began = time.perf_counter()
    rows = np.unique(np.linspace(0, len(t) - 1, PILOT_POINTS).astype(int))
    t, x, draws = t[rows], x[rows], PILOT_DRAWS * min(MORE, PILOT_POINTS // len(rows))
    scale = AIM * float(surrogate.value_and_gradient(t, x)[0].detach().square().mean().sqrt())
    tried: list[Candidate] = []

    def outcomes(candidates: list[Candidate]) -> list[tuple[Candidate, float]]:
        """Every candidate with its work, and that of its base term alone."""
        trials = [
            Trial(candidate.build(), candidate.problem(job, surrogate), draws, (1, len(tried) + n))
            for n, candidate in enumerate(candidates)
        ]
        found = []
        for candidate, trial, (moments, work) in zip(
            candidates, trials, measured(trials, t, x, job.model.seed, comm), strict=True
        ):
            estimator, base = trial.estimator, trial.estimator.terms[0]
            printed = too_dear(estimator, moments, work)
            summed = unsummed(estimator, printed)
            cost = needed(summed, moments, work)
            if scale > 0.0:
                cost *= 1.0 + (sure_bias(summed, moments, printed) / scale) ** 2
            coarse = too_coarse(moments, base, candidate.coupled)
            alone = float(np.mean(moments[base].variance)) * work[base]
            found.append((replace(candidate, work=cost, printed=printed, coarse=coarse), alone))
        # Rank 0 decides: another type of CPU may round otherwise.
        found = comm.share(found)
        tried.extend(candidate for candidate, _ in found)
        return found

    def best(candidates: list[Candidate], champion: Candidate) -> Candidate:
        for last, _ in outcomes(candidates):
            cheaper = (last.work or 0.0) < CLEARLY * (champion.work or 0.0)
            if champion.coarse if last.coarse != champion.coarse else cheaper:
                champion = last
        return champion

    # By the base term: a trace is little of what halving the steps changes, which has a tail where they are too coarse.
    (found, least), *others = outcomes([Candidate(estimators[0], laplacian, pairs[0]) for laplacian in laplacians])
    for candidate, alone in others:
        if alone < CLEARLY * least:
            found, least = candidate, alone
    for estimator in estimators[1:]:
        if estimator not in FINER or found.coarse:
            found = best([replace(found, estimator=estimator, printed=())], found)
    if found.estimator != FINER[-1]:
        found = best([replace(found, pairs=pair, printed=()) for pair in pairs[1:]], found)
    return Plan(found, tuple(tried), seconds=time.perf_counter() - began)


def _file(folder: RunFolder) -> Path:
    return folder.path / "plan.json"


def _candidate(job: Job, data: dict[str, Any]) -> Candidate:
    """The job's own candidate that ``data`` describes; ValueError where the job allows none such."""
    read = Candidate(**{**data, "printed": tuple(data["printed"])})
    work = None if read.work is None else float(read.work)
    found = work, read.printed, read.coarse
    choices = [Candidate(e, laplacian, pairs, *found) for e, laplacian, pairs in itertools.product(*allowed(job))]
    if read not in choices:
        raise ValueError(f"{read}: not a choice of this job")
    candidate = choices[choices.index(read)]
    candidate.build()
    return candidate


def _sizes(data: list[int] | None) -> tuple[int, int] | None:
    """(n, M) of the MLP baseline; ValueError for sizes that no pilot tries."""
    if data is None:
        return None
    levels, samples = data
    return MLP_LEVELS[MLP_LEVELS.index(levels)], MLP_SAMPLES[MLP_SAMPLES.index(samples)]


def load_plan(folder: RunFolder, job: Job) -> Plan | None:
    """The stored decision of this very correction, or None where there is none that the job allows, whole and unchanged."""
    try:
        data = json.loads(_file(folder).read_text(encoding="utf-8"))
        if data.pop("sha256") != digest(data) or data.pop("correction_hash") != job.correction_hash:
            return None
        return Plan(
            chosen=_candidate(job, data["chosen"]),
            tried=tuple(_candidate(job, c) for c in data["tried"]),
            mlp=_sizes(data["mlp"]),
            mlp_budget=float(data["mlp_budget"]),
            seconds=float(data["seconds"]),
            mlp_seconds=float(data["mlp_seconds"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None


def save_plan(folder: RunFolder, job: Job, plan: Plan) -> None:
    """Store a decision with the run, under the SHA-256 of its content."""
    content = {"correction_hash": job.correction_hash, **asdict(plan)}
    commit(_file(folder), (json.dumps({"sha256": digest(content), **content}, indent=2) + "\n").encode())


def correction_plan(folder: RunFolder, job: Job, surrogate: Surrogate, t: Tensor, x: Tensor, comm: Communicator) -> Plan:
    """The run's decision, made now where it has none; the same on every rank."""
    plan: Plan | None = comm.share(load_plan(folder, job) if comm.rank == 0 else None)
    if plan is None:
        with torch.no_grad():
            plan = choose(job, surrogate, t, x, comm)
        if comm.rank == 0:
            save_plan(folder, job, plan)
            log(
                folder.log, f"pilot of {len(plan.tried)} estimators: {plan.chosen}" if plan.tried else f"estimator: {plan.chosen}"
            )
    return plan
