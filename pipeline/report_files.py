"""A report as report.h5, report.json and report.html, and back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.figures import page
from pipeline.files import commit
from pipeline.job import Job, RunFolder
from pipeline.report import Report

if TYPE_CHECKING:
    from pipeline.iteration_report import IterationReport

Array = NDArray[np.float64]

LONG_NAMES = {
    "t": "time of the evaluation point",
    "x": "position of the evaluation point",
    "u_surrogate": "trained surrogate",
    "u_linear": "Feynman-Kac value with the driver dropped",
    "u_linear_se": "standard error of u_linear",
    "u_mlp": "plain multilevel Picard value, no surrogate",
    "u_mlp_se": "standard error of u_mlp",
    "u_plain": "the correction's own estimator on the problem itself, no surrogate",
    "u_plain_se": "standard error of u_plain",
    "u_scasml": "surrogate plus simulated correction",
    "u_scasml_se": "standard error of u_scasml",
    "u_scasml_bias": "estimated bias of u_scasml (estimate minus truth), from simulation alone",
    "ci_low": "lower end of the confidence interval, widened by the estimated bias",
    "ci_high": "upper end of the confidence interval, widened by the estimated bias",
    "simultaneous_low": "lower end of the interval that holds at all points together; NaN where not asked for",
    "simultaneous_high": "upper end of the interval that holds at all points together",
    "u_lower": "lower bound of u, whatever the surrogate; NaN where the driver's curvature is unknown",
    "u_lower_safe": "lower end of the confidence interval of u_lower",
    "u_upper": "upper bound of u, whatever the surrogate",
    "u_upper_safe": "upper end of the confidence interval of u_upper",
    "u_reference": "exact or reference solution",
    "u_reference_se": "accuracy of u_reference",
    "paths": "top-level draws of the correction",
}
GRADIENT_NAMES = {
    "grad_surrogate": "gradient of the surrogate in x",
    "grad_u": "gradient of the surrogate plus simulated correction",
    "grad_u_se": "standard error of grad_u",
    "grad_u_bias": "estimated bias of grad_u (estimate minus truth)",
}
"""Present where the job asks for the gradient."""


def save(report: Report, folder: RunFolder) -> None:
    """Commit report.json, report.html and report.h5; the HDF5 file last: it marks the run finished."""
    summary = report.summary()
    commit(folder.summary, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    commit(folder.page, page(report).encode())
    columns = variables(report)

    first = report.family.dimension

    def fill(file: Any) -> None:
        sizes = {first: len(report.t)} | ({"axis": report.x.shape[1]} if "x" in columns else {})
        for name, size in sizes.items():
            node = store.put(file, name, np.arange(size), long_name=f"index of the {name}", units="1")
            node.make_scale(name)
        for name, values in columns.items():
            node = store.put(file, name, values, long_name=long_name(name), units="1")
            node.dims[0].attach_scale(file[first])
            if values.ndim == 2:
                node.dims[1].attach_scale(file["axis"])

    store.write(folder.report, "report", fill, attributes(report, summary))


def attributes(report: Report | IterationReport, summary: dict[str, Any]) -> dict[str, Any]:
    """What report.h5 says of its run."""
    problem = report.job["problem"]
    return {
        "job": report.job,
        "training_hash": report.hashes["training"],
        "correction_hash": report.hashes["correction"],
        "seed": report.job["seed"],
        "device": report.device,
        "seconds": report.seconds,
        "summary": summary,
        "title": f"{report.job['name']}: {problem['name']} in {problem['dim']} dimensions",
        "Conventions": "CF-1.11",
    }


def long_name(variable: str) -> str:
    """What a variable of report.h5 is; of a problem whose answer is a number, ``value`` stands for u."""
    known = LONG_NAMES | GRADIENT_NAMES
    if variable in known:
        return known[variable]
    said = {_of_value(name): text for name, text in known.items()}[variable]
    return re.sub(r"\bu_\w+", lambda found: _of_value(found[0]), said)


def _of_value(variable: str) -> str:
    """The name of what is said of u where the answer is a number: u_scasml_se is value_se, u_plain value_plain."""
    return "value" + variable.removeprefix("u").removeprefix("_scasml") if variable.startswith("u_") else variable


def variables(report: Report) -> dict[str, Array]:
    """Every variable of report.h5; NaN where there is no value."""
    nothing = np.full(len(report.t), np.nan)
    out: dict[str, Array] = {"t": report.t, "x": report.x}
    for name in (*report.family.baselines, "scasml"):
        method = report.methods.get(name)
        out[f"u_{name}"] = nothing if method is None else method.value
        if name != "surrogate":
            out[f"u_{name}_se"] = nothing if method is None or method.se is None else method.se
    out["u_scasml_bias"] = report.methods["scasml"].shift
    for kind, (low, high) in report.intervals().items():
        out[f"{kind}_low"], out[f"{kind}_high"] = low, high
    for side in ("lower", "upper") if "bounds" in report.family.own else ():
        bound = report.bounds.get(side)
        out[f"u_{side}"] = nothing if bound is None else bound.value
        out[f"u_{side}_safe"] = nothing if bound is None else bound.safe
    out["u_reference"] = nothing if report.reference is None else report.reference
    out["u_reference_se"] = nothing if report.reference is None else np.full_like(nothing, report.reference_error)
    out["paths"] = report.draws
    out = {name: out[name] for name in LONG_NAMES if name in out}
    if (gradient := report.gradient) is not None:
        assert gradient.se is not None
        out |= dict(zip(GRADIENT_NAMES, (gradient.surrogate, gradient.value, gradient.se, gradient.shift), strict=True))
    if report.family.points is not None:
        del out["t"], out["x"]
        return {_of_value(name): values for name, values in out.items()}
    return out


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
