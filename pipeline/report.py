"""Fold -> a frozen Report: every method at every point with its error, and what the correction was made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.bounds import Bound, reading
from kernels.contracts import SemilinearPDE, Surrogate
from kernels.intervals import Estimated, noise_interval, rms_interval, student_quantile, summed, welch
from pipeline import store
from pipeline.correction import base_values, baseline_methods, companions, scasml_method
from pipeline.errors import InputError
from pipeline.job import Job, RunFolder
from pipeline.plan import Plan, load_plan
from pipeline.tally import Method, Outcome, Tally, replay, within, within_distance
from pipeline.training import trained_surrogate

Array = NDArray[np.float64]
FIGURES = ("rel_l2", "linf", "l1", "rel_se", "coverage", "bias_estimate", "rel_l2_low", "rel_l2_estimate", "rel_l2_high", "merit")


@dataclass(frozen=True)
class MethodReport(Estimated):
    """One method at every point, and what it spent."""

    flop: float | None
    paths: int | None
    seconds: float
    """Core seconds, of the surrogate the seconds of its training."""
    wall: float
    """Seconds that passed."""
    detail: str
    trace: tuple[tuple[float, float], ...]
    """(FLOP, relative L2 error) after each round of draws; empty without a reference."""


@dataclass(frozen=True)
class TermReport:
    """One term of the correction, its mean and standard error averaged over the points, in units of rms(u)."""

    name: str
    role: str
    """base, removes a bias, or left: a bias that is estimated and printed."""
    mean: float
    se: float
    paths: int
    flop: float


@dataclass(frozen=True)
class BoundReport:
    """A one-sided bound at every point: its value, and its end of the confidence interval away from the solution."""

    method: str
    value: Array
    safe: Array
    paths: int
    flop: float
    seconds: float


@dataclass(frozen=True)
class GradientReport:
    """grad u at every point with standard error and estimated bias, (points, dim) each, and the surrogate's."""

    surrogate: Array
    value: Array
    se: Array
    freedom: Array
    """Degrees of freedom of ``se``."""
    bias: Array
    reference: Array | None


@dataclass(frozen=True)
class Report:
    """A finished run: points, truth where known, methods, and the training curve."""

    job: dict[str, Any]
    hashes: dict[str, str]
    t: Array
    x: Array
    draws: Array
    reference: Array | None
    reference_error: float
    reference_source: str
    methods: dict[str, MethodReport]
    terms: tuple[TermReport, ...]
    bounds: dict[str, BoundReport]
    """By side, "lower" and "upper"; empty where the driver's curvature is unknown."""
    gradient: GradientReport | None
    plan: Plan
    tolerance_met: bool | None
    losses: Array
    seconds: dict[str, float]
    """Wall seconds of every stage."""
    confidence: float
    resumed: int

    @property
    def hash(self) -> str:
        """What determines the corrected numbers."""
        return self.hashes["correction"]

    def _scale(self, values: Array) -> float | None:
        """Root mean square of u, or of a method's values where u is unknown; None where it is 0."""
        return _rms(values if self.reference is None else self.reference) or None

    def errors(self, name: str) -> dict[str, float | None]:
        """FIGURES of a method; None where one does not apply.

        rel_l2, linf, l1 are against the truth; rel_l2_low, _estimate, _high bound the relative L2
        error without it: for the corrected value from its own standard errors and biases, for the
        other methods from their distance to it. merit is rel_se^2 times core seconds, which more
        draws do not change: how fast a method buys accuracy.
        """
        method, corrected = self.methods[name], self.methods["scasml"]
        scale = self._scale(method.value)
        out: dict[str, float | None] = dict.fromkeys(FIGURES)
        if scale is None:
            return out
        assert corrected.spread is not None
        if method.se is not None:
            relative = _rms(method.se) / scale
            out |= {"rel_se": relative, "merit": relative**2 * method.seconds}
        if method.bias is not None:
            out["bias_estimate"] = _rms(method.bias) / scale
        if name == "scasml":
            low, middle, high = noise_interval(corrected.shift, corrected.spread, self.confidence)
        else:
            low, middle, high = rms_interval(method.value - corrected.value, corrected.spread, self.confidence)
            slack = _rms(corrected.shift)
            low, high = max(0.0, low - slack), high + slack
        out |= {"rel_l2_low": low / scale, "rel_l2_estimate": middle / scale, "rel_l2_high": high / scale}
        if self.reference is not None:
            error = method.value - self.reference
            out["rel_l2"] = _rms(error) / scale
            out["linf"] = float(np.abs(error).max())
            out["l1"] = float(np.abs(error).mean())
            half = method.half_width(self.confidence)
            if half is not None:
                slack = float(student_quantile(self.confidence, np.inf)) * self.reference_error
                out["coverage"] = float(np.mean(np.abs(error) <= half + slack))
        return out

    def intervals(self) -> dict[str, tuple[Array, Array]]:
        """Pointwise and simultaneous intervals of the corrected value; NaN for those that the job does not ask for."""
        scasml, out = self.methods["scasml"], {}
        together = len(self.t) if self.job["report"]["simultaneous"] else None
        for kind, intervals in (("ci", 1), ("simultaneous", together)):
            half = np.full_like(self.t, np.nan) if intervals is None else scasml.half_width(self.confidence, intervals)
            assert half is not None
            out[kind] = scasml.value - half, scasml.value + half
        return out

    def _bounds_summary(self) -> dict[str, Any]:
        corrected = self.methods["scasml"]
        scale = self._scale(corrected.value) or np.nan
        out: dict[str, Any] = {}
        for side, bound in self.bounds.items():
            sign, known = 1.0 if side == "upper" else -1.0, np.isfinite(bound.safe)
            holds = None
            if self.reference is not None and known.any():
                holds = float(np.mean(sign * (bound.safe - self.reference)[known] >= 0.0))
            out[side] = {
                "method": bound.method,
                "points": int(known.sum()),
                "gap": float(np.mean(sign * (bound.value - corrected.value)[known])) / scale if known.any() else None,
                "holds": holds,
                "paths": bound.paths,
                "flop": bound.flop,
                "seconds": bound.seconds,
            }
        return out

    def _gradient_summary(self) -> dict[str, Any] | None:
        found = self.gradient
        if found is None:
            return None
        truth = found.reference
        half = student_quantile(self.confidence, found.freedom) * found.se + np.abs(found.bias)
        return {
            "rel_se": _relative(found.se, found.value),
            "bias_estimate": _relative(found.bias, found.value),
            "rel_l2_surrogate": None if truth is None else _relative(found.surrogate - truth, truth),
            "rel_l2": None if truth is None else _relative(found.value - truth, truth),
            "coverage": None if truth is None else float(np.mean(np.abs(found.value - truth) <= half)),
        }

    def summary(self) -> dict[str, Any]:
        """The content of report.json; a figure that does not apply or is not finite is null."""
        return finite(
            {
                "job": self.job,
                "hash": self.hash,
                "problem": self.job["problem"]["name"],
                "dim": self.job["problem"]["dim"],
                "points": len(self.t),
                "stages": {stage: {"seconds": seconds} for stage, seconds in self.seconds.items()},
                "methods": {
                    name: {
                        **self.errors(name),
                        "seconds": m.seconds,
                        "wall_seconds": m.wall,
                        "flop": m.flop,
                        "paths": m.paths,
                        "detail": m.detail,
                    }
                    for name, m in self.methods.items()
                },
                "terms": {t.name: {k: v for k, v in vars(t).items() if k != "name"} for t in self.terms},
                "biases": {t.name: {"mean": t.mean, "se": t.se} for t in self.terms if t.role == "left"},
                "bounds": self._bounds_summary(),
                "gradient": self._gradient_summary(),
                "pilot": [{"candidate": str(c), "work": c.work} for c in self.plan.tried],
                "reference": None if self.reference is None else self.reference_source,
                "tolerance_met": self.tolerance_met,
                "resumed": self.resumed,
            }
        )


def _relative(values: Array, to: Array) -> float | None:
    return _rms(values) / (_rms(to) or np.nan)


def finite(node: Any) -> Any:
    """``node`` with None for every number that JSON has no word for."""
    if isinstance(node, dict):
        return {key: finite(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [finite(value) for value in node]
    return None if isinstance(node, float) and not np.isfinite(node) else node


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def truth(problem: SemilinearPDE, t: Tensor, x: Tensor) -> tuple[Array | None, float, str]:
    """The solution at the points, its accuracy, and where it comes from; None where it is unknown."""
    solution, reference = problem.solution, problem.reference
    if solution is not None:
        return solution.value(t, x).double().numpy(), solution.error, solution.source
    if reference is not None and bool((t == 0.0).all()) and bool((x == problem.start).all()):
        return np.full(len(t), reference.value), reference.error, reference.source
    return None, 0.0, ""


def fold(folder: RunFolder, job: Job, *, resumed: int) -> Report:
    """Everything a report says, from the surrogate, the plan and the chunks of a finished correction."""
    surrogate = trained_surrogate(folder, job)
    checkpoint = store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)
    t, x = store.load_points(folder.points, job.correction_hash)
    plan = load_plan(folder, job)
    if plan is None:
        raise InputError(f"'{folder.path}' holds no pilot of this job: run `scasml correct` first")
    options, confidence = job.model.correction, job.model.report.confidence
    base = base_values(surrogate, t, x)
    reference, reference_error, source = truth(job.problem, t, x)
    method = scasml_method(job, surrogate, len(t), plan.chosen)
    tally = Tally.read(folder, method)
    outcome = replay(tally, within(options.rtol, options.atol, base, method.layout), options.max_paths)
    if not outcome.stages:
        raise InputError("no chunk of the correction exists: run `scasml correct` first")
    corrected = base + tally.table(outcome.counts)[0]
    walls = tally.wall

    def report(method: Method, outcome: Outcome, offset: Array, detail: str) -> MethodReport:
        tally, counts = outcome.tally, outcome.counts
        found = summed(
            [(*tally.term_table(counts, n), tally.freedom(counts, n)) for n in range(len(method.terms))], method.prices.summed
        )
        trace = []
        if reference is not None:
            scale = _rms(reference) or 1.0
            stages = [offset + outcome.tally.table(stage)[0] for stage in outcome.stages]
            trace = [(method.flop(s), _rms(f - reference) / scale) for s, f in zip(outcome.stages, stages, strict=True)]
        return MethodReport(
            **{**vars(found), "value": offset + found.value},
            flop=method.flop(outcome.counts),
            paths=method.paths(outcome.counts),
            seconds=outcome.tally.core_seconds(outcome.counts),
            wall=outcome.tally.wall,
            detail=detail,
            trace=tuple(trace),
        )

    trained = checkpoint.seconds
    methods = {"surrogate": MethodReport(base, None, None, None, None, None, None, trained, trained, "surrogate alone", ())}
    budget = method.flop(outcome.counts)
    for baseline in baseline_methods(job, plan, len(t), budget):
        own = Tally.read(folder, baseline)
        ended = replay(own, within_distance(corrected, baseline.layout), budget)
        walls += own.wall
        name, _, sizes = baseline.name.partition("-")
        n, _, m = sizes.partition("-")
        methods[name] = report(baseline, ended, np.zeros_like(base), f"n = {n}, M = {m}" if n else "driver dropped")
    methods["scasml"] = report(method, outcome, base, str(plan.chosen))
    bounds, gradient = {}, None
    for companion, share in companions(job, surrogate, len(t), budget):
        own = Tally.read(folder, companion)
        ended = replay(own, None, share)
        walls += own.wall
        if companion.name == "gradient":
            gradient = _gradient(job, surrogate, companion, ended, t, x)
        else:
            side, _, name = companion.name.partition("-")
            bounds[side] = _bound(companion, ended, base, name, confidence)
    wanted = {*job.model.report.baselines, "scasml"}
    return Report(
        job=job.resolved,
        hashes={"training": job.training_hash, "correction": job.correction_hash},
        t=t.double().numpy(),
        x=x.double().numpy(),
        draws=_draws(method, outcome),
        reference=reference,
        reference_error=reference_error,
        reference_source=source,
        methods={name: m for name, m in methods.items() if name in wanted},
        bounds=bounds,
        gradient=gradient,
        terms=_terms(method, outcome, _rms(corrected)),
        plan=plan,
        tolerance_met=outcome.met,
        losses=checkpoint.losses,
        seconds={"train": checkpoint.seconds, "correct": walls, "report": 0.0},
        confidence=confidence,
        resumed=resumed,
    )


def _bound(method: Method, outcome: Outcome, base: Array, name: str, confidence: float) -> BoundReport:
    assert isinstance(method.estimator, Bound)
    blocks = [outcome.tally.fold(b, 0, c[0]) for b, c in enumerate(outcome.counts)]
    read = [reading(method.estimator, method.problem, moments, confidence) for moments in blocks]
    return BoundReport(
        method=name,
        value=base + np.concatenate([r.value for r in read]),
        safe=base + np.concatenate([r.safe for r in read]),
        paths=method.paths(outcome.counts),
        flop=method.flop(outcome.counts),
        seconds=outcome.tally.core_seconds(outcome.counts),
    )


def _gradient(job: Job, surrogate: Surrogate, method: Method, outcome: Outcome, t: Tensor, x: Tensor) -> GradientReport:
    with torch.no_grad():
        base = surrogate.value_and_gradient(t, x)[1].double().numpy()
    value, se = outcome.tally.table(outcome.counts)
    tables = [outcome.tally.term_table(outcome.counts, n) for n in range(len(method.terms))]
    bias = sum(mean for mean, _ in tables[method.prices.summed :])
    freedom = welch(
        (np.square(error), outcome.tally.freedom(outcome.counts, n)[:, None])
        for n, (_, error) in enumerate(tables[: method.prices.summed])
    )
    solution = job.problem.solution
    truth = None if solution is None or solution.gradient is None else solution.gradient(t, x).double().numpy()
    return GradientReport(base, base + value, se, freedom, np.asarray(bias), truth)


def _draws(method: Method, outcome: Outcome) -> Array:
    """Top-level draws at every point, over all terms."""
    each = [method.draws(c) for c in outcome.counts]
    return np.repeat(np.array(each, dtype=np.float64), [method.layout.size(b) for b in range(method.layout.blocks)])


def _terms(method: Method, outcome: Outcome, scale: float) -> tuple[TermReport, ...]:
    out = []
    for number, name in enumerate(method.terms):
        mean, error = outcome.tally.term_table(outcome.counts, number)
        alone = [tuple(n if k == number else 0 for k, n in enumerate(c)) for c in outcome.counts]
        out.append(
            TermReport(
                name=name,
                role="base" if number == 0 else "removes a bias" if number < method.prices.summed else "left",
                mean=float(mean.mean()) / (scale or 1.0),
                se=_rms(error) / np.sqrt(mean.size) / (scale or 1.0),
                paths=method.paths(alone),
                flop=method.flop(alone),
            )
        )
    return tuple(out)
