"""The chunks of a finished run -> its Report."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from kernels.bounds import Bound, reading
from kernels.contracts import Experiment, Surrogate
from kernels.intervals import Estimated, summed
from kernels.rates import slope
from pipeline import store
from pipeline.baselines import baseline_budget, baseline_methods
from pipeline.correction import base_and_gradient, base_error, base_values, companions, scasml_method
from pipeline.errors import InputError
from pipeline.gain import measured_gain
from pipeline.job import Job, RunFolder
from pipeline.plan import load_plan
from pipeline.report import Array, BoundReport, GradientReport, MethodReport, RateReport, Report, TermReport, rms
from pipeline.tally import Method, Outcome, Tally, replay, within, within_distance
from pipeline.training import trained_surrogate

PLUG_IN_FREEDOM = 15.0
"""Degrees of freedom of a plug-in's error: it is the spread of SCRAMBLES = 16 nets."""

DETAIL = {"linear": "driver dropped", "plain": "no surrogate"}


def fold(folder: RunFolder, job: Job, *, resumed: int) -> Report:
    """Everything a report says, from the surrogate, the plan and the chunks of a finished correction."""
    surrogate = trained_surrogate(folder, job)
    checkpoint = store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)
    t, x = store.load_points(folder.points, job.correction_hash)
    plan = load_plan(folder, job)
    if plan is None:
        raise InputError(f"'{folder.path}' holds no pilot of this job: run `scasml correct` first")
    options, confidence = job.model.correction, job.model.report.confidence
    base, error = base_values(surrogate, t, x), base_error(surrogate, t, x)
    reference, reference_error, source = job.family.truth(job.problem, t, x)
    method = scasml_method(job, surrogate, len(t), plan.chosen)
    tally = Tally.read(folder, method)
    outcome = replay(tally, within(options.rtol, options.atol, base, method.layout, error), options.max_paths)
    if not outcome.stages:
        raise InputError("no chunk of the correction exists: run `scasml correct` first")
    corrected = base + tally.table(outcome.counts)[0]
    walls = plan.seconds + plan.mlp_seconds + tally.wall

    def report(
        method: Method, outcome: Outcome, offset: Array, detail: str, pilot: float = 0.0, error: Array | None = None
    ) -> MethodReport:
        found = _estimated(method, outcome, error)
        trace = []
        if reference is not None:
            scale = rms(reference) or 1.0
            stages = [offset + outcome.tally.table(stage)[0] for stage in outcome.stages]
            trace = [(method.flop(s), rms(f - reference) / scale) for s, f in zip(outcome.stages, stages, strict=True)]
        return MethodReport(
            **{**vars(found), "value": offset + found.value},
            flop=method.flop(outcome.counts),
            paths=method.paths(outcome.counts),
            seconds=outcome.tally.core_seconds(outcome.counts),
            wall=pilot + outcome.tally.wall,
            detail=detail,
            trace=tuple(trace),
        )

    alone = (checkpoint.core_seconds, checkpoint.seconds, "surrogate alone", ())
    methods = {"surrogate": MethodReport(base, None, None, None, None, None, None, *alone)}
    budget = baseline_budget(job, surrogate, method.flop(outcome.counts))
    for baseline in baseline_methods(job, plan, len(t), budget):
        own = Tally.read(folder, baseline)
        ended = replay(own, within_distance(corrected, baseline.layout), budget)
        walls += own.wall
        name, _, sizes = baseline.name.partition("-")
        n, _, m = sizes.partition("-")
        detail, pilot = (f"n = {n}, M = {m}", plan.mlp_seconds) if n else (DETAIL[name], 0.0)
        methods[name] = report(baseline, ended, np.zeros_like(base), detail, pilot)
    methods["scasml"] = report(method, outcome, base, str(plan.chosen), plan.seconds, error)
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
    wanted = {*job.baselines, "scasml"}
    return Report(
        family=job.family,
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
        rates=_rates(job.problem, methods["scasml"]) if isinstance(job.problem, Experiment) else (),
        gain=measured_gain(job, surrogate, outcome, error, PLUG_IN_FREEDOM),
        terms=_terms(method, outcome, rms(corrected)),
        plan=plan,
        tolerance_met=outcome.met,
        losses=checkpoint.losses,
        seconds={"train": checkpoint.seconds, "correct": walls, "report": 0.0},
        device=f"training on {checkpoint.device}, correction on {options.device}",
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
    base, found = base_and_gradient(surrogate, t, x)[1], _estimated(method, outcome)
    solution = job.problem.solution
    truth = None if solution is None or solution.gradient is None else solution.gradient(t, x).double().numpy()
    return GradientReport(**{**vars(found), "value": base + found.value}, surrogate=base, reference=truth)


def _estimated(method: Method, outcome: Outcome, offset: Array | None = None) -> Estimated:
    """The sum of a method's terms over all points, with its biases, and with the standard error of what it is added to."""
    tally, counts = outcome.tally, outcome.counts
    terms = []
    if uncertain := offset is not None and bool(offset.any()):
        assert offset is not None
        terms.append((np.zeros_like(offset), offset, np.full_like(offset, PLUG_IN_FREEDOM)))
    for number in range(len(method.terms)):
        mean, error = tally.term_table(counts, number)
        terms.append((mean, error, tally.freedom(counts, number).reshape(-1, *[1] * len(method.axes))))
    return summed(terms, method.prices.summed + uncertain)


def _rates(study: Experiment, found: MethodReport) -> tuple[RateReport, ...]:
    assert found.se is not None
    shape = len(study.methods), len(study.sizes)
    mean, se = found.value.reshape(shape).T, found.se.reshape(shape).T
    slopes, errors = slope(study.sizes, mean, se)
    ns = np.array(study.sizes, dtype=np.float64)
    return tuple(
        RateReport(name, ns, mean[:, m], se[:, m], float(slopes[m]), float(errors[m]), study.theory[m])
        for m, name in enumerate(study.methods)
    )


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
                se=rms(error) / np.sqrt(mean.size) / (scale or 1.0),
                paths=method.paths(alone),
                flop=method.flop(alone),
            )
        )
    return tuple(out)
