"""The report of a correction that is iterated: its values with their residuals, step by step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline import store
from pipeline.errors import InputError
from pipeline.figures import COLOURS, LABELS, PAGE_STYLE, axes, encode
from pipeline.files import commit
from pipeline.iteration import Iteration, problem_of, read_iteration
from pipeline.job import Job, RunFolder
from pipeline.owned import owner_of
from pipeline.points import points_of
from pipeline.report import FIGURES, finite, rms
from pipeline.report_files import attributes
from pipeline.tables import cell, columns, notes
from pipeline.training import trained_surrogate, training_flop

Array = NDArray[np.float64]

PAGE = jinja2.Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>{{ style|safe }}</style></head><body>
<h1>{{ title }}</h1>
<p>{{ values }} values. {{ truth }}{% for note in notes %} {{ note|capitalize }}.{% endfor %}</p>
<table><tr>{% for h in header %}<th>{{ h }}</th>{% endfor %}</tr>
{% for row in rows %}<tr{% if row[0] == "scasml" %} class="best"{% endif %}>{% for c in row %}<td>{{ c }}</td>{% endfor %}</tr>{% endfor %}
</table>
{% for image, caption in figures %}<figure><img alt="{{ caption }}" src="data:image/png;base64,{{ image }}"><figcaption>{{ caption }}</figcaption></figure>{% endfor %}
<h2>Job</h2><pre>{{ job }}</pre>
</body></html>
""")


@dataclass(frozen=True)
class IteratedMethod:
    """A fixed-point method: where it ended, and the FLOP of its steps and of its surrogate."""

    iteration: Iteration
    flop: float
    detail: str


@dataclass(frozen=True)
class IterationReport:
    """A finished run of a fixed-point correction; "surrogate" is where "scasml" begins."""

    job: dict[str, Any]
    hashes: dict[str, str]
    methods: dict[str, IteratedMethod]
    reference: Array | None
    reference_source: str
    losses: Array
    seconds: dict[str, float]
    device: str
    train_seconds: float
    streams: bool
    """Whether every step has a truth of its own."""
    resumed: int

    def _figures(self, value: Array, residual: Array) -> dict[str, Any]:
        out: dict[str, Any] = dict.fromkeys(FIGURES)
        if self.reference is not None and len(value) == len(self.reference):
            error = value - self.reference
            out |= {
                "rel_l2": rms(error) / (rms(self.reference) or 1.0),
                "linf": float(np.abs(error).max()),
                "l1": float(np.abs(error).mean()),
            }
        return {**out, "residual": float(residual.max())}

    def summary(self) -> dict[str, Any]:
        """The content of report.json; a figure that does not apply or is not finite is null."""
        corrected = self.methods["scasml"].iteration
        alone = {"seconds": self.train_seconds, "flop": None, "paths": None, "steps": 0, "detail": "surrogate alone"}
        methods = {"surrogate": {**self._figures(corrected.values[0], corrected.residuals[0]), **alone}}
        for name, method in self.methods.items():
            found = method.iteration
            methods[name] = {
                **self._figures(found.values[-1], found.residuals[-1]),
                "seconds": found.seconds,
                "flop": method.flop,
                "paths": None,
                "steps": found.steps,
                "detail": method.detail,
            }
        wanted = (*self.job["report"]["baselines"], "scasml")
        return finite(
            {
                "job": self.job,
                "hash": self.hashes["correction"],
                "problem": self.job["problem"]["name"],
                "dim": self.job["problem"]["dim"],
                "points": corrected.values.shape[1],
                "stages": {stage: {"seconds": seconds} for stage, seconds in self.seconds.items()},
                "methods": {name: methods[name] for name in wanted if name in methods},
                "biases": {},
                "ended": corrected.ended,
                "reference": None if self.reference is None else self.reference_source,
                "tolerance_met": None if self.job["correction"]["rtol"] is None else corrected.ended == "met",
                "resumed": self.resumed,
            }
        )


def fold_iteration(folder: RunFolder, job: Job, *, resumed: int) -> IterationReport:
    """Everything a report says, from the surrogate and the states of a finished correction."""
    surrogate, estimator = trained_surrogate(folder, job), job.estimator()
    checkpoint = store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)
    methods = {}
    for name, detail in (("scasml", job.model.correction.estimator.name), ("plain", "no surrogate")):
        found = read_iteration(folder, job, name, owner_of(job, surrogate, name))
        if found is not None and (name == "scasml" or name in job.baselines):
            steps = found.steps * estimator.flop(problem_of(job, surrogate, name))
            methods[name] = IteratedMethod(found, steps + (training_flop(job, surrogate) if name == "scasml" else 0.0), detail)
    if "scasml" not in methods or not methods["scasml"].iteration.ended:
        raise InputError(f"'{folder.path}' holds no finished iteration of this job: run `scasml correct` first")
    reference, _, source = job.family.truth(job.problem, *points_of(job))
    ended = methods["scasml"].iteration
    moving = job.family.streams and ended.ended != "complete"
    if moving or (reference is not None and len(reference) != ended.values.shape[1]):
        reference = None
    return IterationReport(
        job=job.resolved,
        hashes={"training": job.training_hash, "correction": job.correction_hash},
        methods=methods,
        reference=reference,
        reference_source=source,
        losses=checkpoint.losses,
        seconds={
            "train": checkpoint.seconds,
            "correct": sum(m.iteration.seconds for m in methods.values()),
            "report": 0.0,
        },
        device=f"training on {checkpoint.device}, correction on cpu",
        train_seconds=checkpoint.core_seconds,
        streams=job.family.streams,
        resumed=resumed,
    )


def page(report: IterationReport) -> str:
    """report.html: table, plots and job in one file."""
    summary = report.summary()
    shown = columns([summary])
    rows = [
        [name, *(cell(key, method[key]) for _, key in shown), method["detail"]] for name, method in summary["methods"].items()
    ]
    return PAGE.render(
        style=PAGE_STYLE,
        title=f"{report.job['name']}: {report.job['problem']['name']}, d = {report.job['problem']['dim']}",
        values=summary["points"],
        truth=f"Truth: {report.reference_source}." if report.reference is not None else "No reference solution is known.",
        notes=notes(summary),
        header=["method", *(title for title, _ in shown), ""],
        rows=rows,
        figures=[(encode(figure), caption) for _, figure, caption in figures(report)],
        job=json.dumps(report.job, indent=2),
    )


def figures(report: IterationReport) -> list[tuple[str, Figure, str]]:
    """Every plot that applies to a report: name, figure, caption."""
    out = [("residual", _against_steps(report, residuals=True), "Largest relative residual after each step.")]
    found = report.methods["scasml"].iteration
    if report.reference is not None and not report.streams and len(found.values) == len(found.residuals):
        out.append(
            ("error", _against_steps(report, residuals=False), "Relative L2 error after each step, against the known truth.")
        )
    return out


def _against_steps(report: IterationReport, *, residuals: bool) -> Figure:
    figure, plot = axes()
    for name, method in report.methods.items():
        found = method.iteration
        if residuals:
            height = found.residuals.max(axis=1)
        else:
            assert report.reference is not None
            scale = rms(report.reference) or 1.0
            height = np.array([rms(value - report.reference) / scale for value in found.values])
        steps = np.arange(found.steps + 1)[-len(height) :]
        plot.semilogy(steps, np.maximum(height, np.finfo(float).tiny), "o-", ms=3, color=COLOURS[name], label=LABELS[name])
    plot.set(xlabel="step", ylabel="largest relative residual" if residuals else "relative L2 error")
    plot.legend(frameon=False)
    return figure


def save_iteration_report(report: IterationReport, folder: RunFolder) -> None:
    """Commit report.json, report.html and report.h5; the HDF5 file last: it marks the run finished."""
    summary, found = report.summary(), report.methods["scasml"].iteration
    commit(folder.summary, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    commit(folder.page, page(report).encode())
    sizes = {"value": found.values.shape[1], "iteration": len(found.residuals), "certificate": found.residuals.shape[1]}
    reference = np.full(sizes["value"], np.nan) if report.reference is None else report.reference
    named: dict[str, tuple[Array, tuple[str, ...], str]] = {
        "solution": (found.values[-1], ("value",), "corrected values"),
        "reference": (reference, ("value",), "exact or reference values"),
        "residual": (found.residuals, ("iteration", "certificate"), "relative residuals after each step, the surrogate's first"),
    }
    if len(found.values) == len(found.residuals):
        named["iterates"] = (found.values, ("iteration", "value"), "values after each step, the surrogate's first")

    def fill(file: Any) -> None:
        for name, size in sizes.items():
            store.put(file, name, np.arange(size), long_name=f"index of the {name}", units="1").make_scale(name)
        for name, (values, dimensions, said) in named.items():
            node = store.put(file, name, values, long_name=said, units="1")
            for number, dimension in enumerate(dimensions):
                node.dims[number].attach_scale(file[dimension])

    store.write(folder.report, "report", fill, attributes(report, summary))
