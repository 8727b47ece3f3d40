"""Fold -> a frozen Report -> HDF5, JSON, HTML and a table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from kernels.moments import normal_quantile, shrink
from pipeline import store
from pipeline.correction import baseline_methods, scasml_method
from pipeline.errors import InputError
from pipeline.fanout import Method, Tally, grow, read_tally, spent_flop, within_distance, within_rtol
from pipeline.job import Job, RunFolder
from pipeline.training import trained_surrogate

Array = NDArray[np.float64]

LONG_NAMES = {
    "t": "time of the evaluation point",
    "x": "position of the evaluation point",
    "u_surrogate": "trained surrogate",
    "u_linear": "Feynman-Kac value with the driver dropped",
    "u_linear_se": "standard error of u_linear",
    "u_mlp": "plain multilevel Picard value, no surrogate",
    "u_mlp_se": "standard error of u_mlp",
    "u_scasml": "surrogate plus simulated correction",
    "u_scasml_se": "standard error of u_scasml",
    "u_scasml_bias": "estimated bias of u_scasml (estimate minus truth), from simulation alone",
    "ci_low": "lower end of the confidence interval, widened by the estimated bias",
    "ci_high": "upper end of the confidence interval, widened by the estimated bias",
    "u_reference": "exact or reference solution",
    "u_reference_se": "accuracy of u_reference",
    "paths": "top-level draws of the correction",
}


@dataclass(frozen=True)
class MethodReport:
    """One method at every point, and what it spent. ``bias`` and ``half_width`` are per point."""

    value: Array
    se: Array | None
    bias: Array | None
    half_width: Array | None
    flop: float | None
    paths: int | None
    seconds: float
    detail: str
    trace: tuple[tuple[float, float], ...]
    """(FLOP, relative L2 error) after each doubling of the draws; empty without a reference."""


@dataclass(frozen=True)
class Report:
    """A finished run: points, truth where known, methods, and the training curve."""

    job: dict[str, Any]
    hash: str
    t: Array
    x: Array
    draws: Array
    reference: Array | None
    reference_error: float
    reference_source: str
    methods: dict[str, MethodReport]
    biases: dict[str, tuple[float, float]]
    """Cause -> mean over the points and its standard error, both over the root mean square of u."""
    tolerance_met: bool | None
    losses: Array
    seconds: dict[str, float]
    confidence: float
    resumed: int

    def errors(self, name: str) -> dict[str, float | None]:
        """rel_l2, linf, l1 against the truth; rel_se; coverage; bias estimate; None where one does not apply."""
        method = self.methods[name]
        scale = float(np.sqrt(np.mean(np.square(method.value if self.reference is None else self.reference))))
        out: dict[str, float | None] = dict.fromkeys(("rel_l2", "linf", "l1", "rel_se", "coverage", "bias_estimate"))
        if method.se is not None:
            out["rel_se"] = _rms(method.se) / scale
        if method.bias is not None:
            out["bias_estimate"] = _rms(method.bias) / scale
        if self.reference is not None:
            error = method.value - self.reference
            out["rel_l2"] = _rms(error) / scale
            out["linf"] = float(np.abs(error).max())
            out["l1"] = float(np.abs(error).mean())
            if method.half_width is not None:
                slack = normal_quantile(self.confidence) * self.reference_error
                out["coverage"] = float(np.mean(np.abs(error) <= method.half_width + slack))
        return out

    def summary(self) -> dict[str, Any]:
        """The content of report.json."""
        return {
            "job": self.job,
            "hash": self.hash,
            "problem": self.job["problem"]["name"],
            "dim": self.job["problem"]["dim"],
            "points": len(self.t),
            "stages": {stage: {"seconds": seconds} for stage, seconds in self.seconds.items()},
            "methods": {
                name: {**self.errors(name), "seconds": m.seconds, "flop": m.flop, "paths": m.paths, "detail": m.detail}
                for name, m in self.methods.items()
            },
            "biases": {cause: {"mean": mean, "se": se} for cause, (mean, se) in self.biases.items()},
            "reference": None if self.reference is None else self.reference_source,
            "tolerance_met": self.tolerance_met,
            "resumed": self.resumed,
        }


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def replay(tally: Tally, max_paths: int, settled: Any) -> tuple[list[int], list[list[int]], bool | None]:
    """Where ``drive`` stopped, found again from the chunks alone: counts, every stage of them, and met.

    Raises InputError where a chunk that is needed is missing.
    """
    layout = tally.layout
    counts, stages = [0] * layout.blocks, []
    met = [False] * layout.blocks
    while (grown := grow(layout, counts, [not m for m in met], max_paths)) is not None:
        lost = [(b, i) for b in range(layout.blocks) for i in range(counts[b], grown[b]) if (b, i) not in tally.have]
        if lost:
            raise InputError(f"chunk {lost[0][1]} of point block {lost[0][0]} is missing: finish the run with `scasml correct`")
        counts = grown
        stages.append(counts)
        if settled is not None:
            met = [met[b] or settled(b, tally.fold(b, counts[b])) for b in range(layout.blocks)]
    if not stages:
        raise InputError("no chunk of the correction exists: run `scasml correct` first")
    if settled is None:
        return counts, stages, None
    return counts, stages, all(settled(b, tally.fold(b, counts[b])) for b in range(layout.blocks))


def fold(folder: RunFolder, job: Job, *, resumed: int) -> Report:
    """Everything a report says, from the surrogate and the chunks of a finished correction."""
    surrogate = trained_surrogate(folder, job)
    checkpoint = store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)
    t, x = store.load_points(folder.points, job.correction_hash)
    options, quantile = job.model.correction, normal_quantile(job.model.report.confidence)
    with torch.no_grad():
        base = surrogate.value_and_gradient(t, x)[0].double().numpy()
    solution = job.problem.solution
    reference = None if solution is None else solution.value(t, x).double().numpy()

    def trace(method: Method, tally: Tally, stages: list[list[int]], offset: Array) -> tuple[tuple[float, float], ...]:
        if reference is None:
            return ()
        whole = [s for s in stages if min(s) > 0]
        values = [offset + tally.table(s)[1][0] for s in whole]
        return tuple((spent_flop(method, s), _rms(v - reference) / _rms(reference)) for s, v in zip(whole, values, strict=True))

    method = scasml_method(job, surrogate, len(t))
    tally = read_tally(folder, method)
    settled = None if options.rtol is None else within_rtol(options.rtol, base)
    counts, stages, met = replay(tally, options.max_paths, settled)
    draws, means, errors = tally.table(counts)
    corrected = base + means[0]
    scale = _rms(corrected)
    bias = np.zeros_like(base)
    biases = {}
    for c, cause in enumerate(method.estimator.biases, start=1):
        bias = bias + shrink(means[c], errors[c])
        biases[cause] = (float(means[c].mean()) / scale, _rms(errors[c]) / np.sqrt(len(t)) / scale)
    methods = {}
    training = checkpoint.seconds
    methods["surrogate"] = MethodReport(base, None, None, None, None, None, training, "trained network alone", ())
    budget = spent_flop(method, counts)
    for baseline in baseline_methods(job, len(t), budget, t, x):
        name = baseline.name.partition("-")[0]
        paths = int(budget / baseline.flop_per_draw())
        if paths < baseline.layout.draws * len(t):
            continue
        own = read_tally(folder, baseline)
        own_counts, own_stages, _ = replay(own, paths, within_distance(corrected))
        own_draws, own_means, own_errors = own.table(own_counts)
        estimator: Any = baseline.estimator
        methods[name] = MethodReport(
            own_means[0],
            own_errors[0],
            None,
            quantile * own_errors[0],
            spent_flop(baseline, own_counts),
            int(own_draws.sum()),
            _seconds(own, own_counts),
            "driver dropped" if name == "linear" else f"n = {estimator.levels}, M = {estimator.samples}",
            trace(baseline, own, own_stages, np.zeros_like(base)),
        )
    methods["scasml"] = MethodReport(
        corrected,
        errors[0],
        bias,
        quantile * errors[0] + np.abs(bias),
        budget,
        int(draws.sum()),
        _seconds(tally, counts),
        f"{options.estimator.name} on the defect",
        trace(method, tally, stages, base),
    )
    wanted = {*job.model.report.baselines, "scasml"}
    return Report(
        job=job.resolved,
        hash=job.correction_hash,
        t=t.double().numpy(),
        x=x.double().numpy(),
        draws=draws.astype(np.float64),
        reference=reference,
        reference_error=0.0 if solution is None else solution.error,
        reference_source="" if solution is None else solution.source,
        methods={name: m for name, m in methods.items() if name in wanted},
        biases=biases,
        tolerance_met=met,
        losses=checkpoint.losses,
        seconds={"train": training, "correct": sum(m.seconds for n, m in methods.items() if n != "surrogate"), "report": 0.0},
        confidence=job.model.report.confidence,
        resumed=resumed,
    )


def _seconds(tally: Tally, counts: list[int]) -> float:
    """Rank-seconds spent in the first ``counts[b]`` chunks of every block."""
    return sum(tally.seconds[b, i] for b, c in enumerate(counts) for i in range(c))


def save(report: Report, folder: RunFolder) -> None:
    """Commit report.h5, report.json and report.html; the HDF5 file last: it marks the run finished."""
    from pipeline.figures import page

    store.commit(folder.summary, (json.dumps(report.summary(), indent=2) + "\n").encode())
    store.commit(folder.page, page(report).encode())
    columns = variables(report)

    def fill(file: Any) -> None:
        for name, size in (("point", len(report.t)), ("axis", report.x.shape[1])):
            node = store.put(file, name, np.arange(size), long_name=f"index of the {name}", units="1")
            node.make_scale(name)
        for name, values in columns.items():
            node = store.put(file, name, values, long_name=LONG_NAMES[name], units="1")
            node.dims[0].attach_scale(file["point"])
            if values.ndim == 2:
                node.dims[1].attach_scale(file["axis"])

    attributes = {
        "job": report.job,
        "correction_hash": report.hash,
        "seed": report.job["seed"],
        "device": "cpu",
        "seconds": report.seconds,
        "summary": report.summary(),
        "title": f"{report.job['name']}: {report.job['problem']['name']} in {report.job['problem']['dim']} dimensions",
        "Conventions": "CF-1.11",
    }
    store.write(folder.report, "report", fill, attributes)


def variables(report: Report) -> dict[str, Array]:
    """Every variable of report.h5; NaN where there is no value."""
    nothing = np.full(len(report.t), np.nan)
    out: dict[str, Array] = {"t": report.t, "x": report.x}
    for name in ("surrogate", "linear", "mlp", "scasml"):
        method = report.methods.get(name)
        out[f"u_{name}"] = nothing if method is None else method.value
        if name != "surrogate":
            out[f"u_{name}_se"] = nothing if method is None or method.se is None else method.se
    scasml = report.methods["scasml"]
    assert scasml.bias is not None and scasml.half_width is not None
    out["u_scasml_bias"] = scasml.bias
    out["ci_low"], out["ci_high"] = scasml.value - scasml.half_width, scasml.value + scasml.half_width
    out["u_reference"] = nothing if report.reference is None else report.reference
    out["u_reference_se"] = nothing if report.reference is None else np.full_like(nothing, report.reference_error)
    out["paths"] = report.draws
    return {name: out[name] for name in LONG_NAMES}


def finished(folder: RunFolder, job: Job) -> dict[str, Any] | None:
    """The summary of this very job if the folder holds its finished report."""
    if not folder.report.exists():
        return None
    with store.opened(folder.report, "report") as file:
        same = json.loads(file.attrs["job"]) == job.resolved and str(file.attrs["correction_hash"]) == job.correction_hash
        return json.loads(file.attrs["summary"]) if same else None


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a finished run, from its folder or its report.h5."""
    file = path / "report.h5" if path.is_dir() else path
    with store.opened(file, "report") as opened:
        return json.loads(opened.attrs["summary"])


COLUMNS = (
    ("relative L2", "rel_l2"),
    ("L-infinity", "linf"),
    ("L1", "l1"),
    ("rel. s.e.", "rel_se"),
    ("coverage", "coverage"),
    ("est. bias", "bias_estimate"),
    ("paths", "paths"),
    ("FLOP", "flop"),
    ("core s", "seconds"),
)


def cell(key: str, value: Any) -> str:
    """One figure of a table; a dash where it does not apply."""
    if value is None:
        return "-"
    if key == "coverage":
        return f"{100.0 * value:.1f} %"
    if key == "paths":
        return f"{value:,}"
    if key == "seconds":
        return f"{value:.1f}"
    return f"{value:.2e}"


def table(summaries: list[tuple[str, dict[str, Any]]]) -> Table:
    """Methods side by side, one block of rows a run."""
    out = Table(box=None, pad_edge=False)
    if len(summaries) > 1:
        out.add_column("run")
    out.add_column("method")
    for title, _ in COLUMNS:
        out.add_column(title, justify="right")
    for label, summary in summaries:
        for name, method in summary["methods"].items():
            row = [name if name != "mlp" else f"mlp ({method['detail']})", *(cell(key, method[key]) for _, key in COLUMNS)]
            out.add_row(*([label, *row] if len(summaries) > 1 else row))
    return out
