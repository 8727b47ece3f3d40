"""The plots and the self-contained page of a report."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pipeline.plan import AIM
from pipeline.tables import COLUMNS, cell, gained

if TYPE_CHECKING:
    from pipeline.report import Report

matplotlib.use("Agg")
COLOURS = {"surrogate": "#8c6d31", "linear": "#7f7f7f", "mlp": "#1f77b4", "plain": "#1f77b4", "scasml": "#d62728"}
LABELS = {
    "surrogate": "surrogate",
    "linear": "f dropped",
    "mlp": "plain MLP",
    "plain": "without surrogate",
    "scasml": "corrected",
}
SHOWN_POINTS = 60

PAGE_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .9rem; text-align: right }
th { border-bottom: 2px solid #444 } td:first-child, th:first-child { text-align: left }
tr.best td { font-weight: 600 } figure { margin: 1.5rem 0 } img { max-width: 100% }
figcaption { color: #555 } pre { background: #f5f5f5; padding: 1rem; overflow-x: auto }
"""

PAGE = jinja2.Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>{{ style|safe }}</style></head><body>
<h1>{{ title }}</h1>
<p>{{ points }} points. {{ truth }} {{ tolerance }}</p>{% for note in gained %}<p>{{ note }}</p>{% endfor %}
<table><tr>{% for h in header %}<th>{{ h }}</th>{% endfor %}</tr>
{% for row in rows %}<tr{% if row[0] == "scasml" %} class="best"{% endif %}>{% for c in row %}<td>{{ c }}</td>{% endfor %}</tr>{% endfor %}
</table>
<h2>What the correction is made of</h2>
<p>Estimator: {{ chosen }}. Every term is the mean of its own draws; all but those marked <em>left</em> are summed. What is left is an estimate of
the bias (estimate minus truth), sampled and never told the truth; the confidence intervals are widened by it.</p>
<table><tr><th>term</th><th>role</th><th>mean / rms u</th><th>s.e.</th><th>paths</th><th>FLOP</th></tr>
{% for row in terms %}<tr>{% for c in row %}<td>{{ c }}</td>{% endfor %}</tr>{% endfor %}</table>
{% if tried %}<p>Chosen by a pilot, by the work for a unit of variance, times 1 + (b/a)² where a printed bias is sure to be b and a = {{ aim }} of u:</p>
<table><tr><th>candidate</th><th>work</th></tr>{% for row in tried %}<tr>{% for c in row %}<td>{{ c }}</td>{% endfor %}</tr>{% endfor %}</table>{% endif %}
{% for image, caption in figures %}<figure><img alt="{{ caption }}" src="data:image/png;base64,{{ image }}"><figcaption>{{ caption }}</figcaption></figure>{% endfor %}
<h2>Job</h2><pre>{{ job }}</pre>
</body></html>
""")


def page(report: Report) -> str:
    """report.html: table, plots and job in one file."""
    summary = report.summary()
    rows = [
        [name, *(cell(key, method[key]) for _, key in COLUMNS), method["detail"]] for name, method in summary["methods"].items()
    ]
    tolerance = {
        True: "The tolerance was met at every point.",
        False: "The budget was spent before the tolerance was met.",
        None: "",
    }
    return PAGE.render(
        style=PAGE_STYLE,
        title=f"{report.job['name']}: {report.job['problem']['name']}, d = {report.job['problem']['dim']}",
        points=len(report.t),
        truth=f"Truth: {report.reference_source}." if report.reference is not None else "No reference solution is known.",
        tolerance=tolerance[report.tolerance_met],
        gained=gained(summary),
        header=["method", *(title for title, _ in COLUMNS), ""],
        rows=rows,
        terms=[(t.name, t.role, f"{t.mean:+.1e}", f"{t.se:.0e}", f"{t.paths:,}", f"{t.flop:.1e}") for t in report.terms],
        tried=[(str(c), f"{c.work:.1e}") for c in report.plan.tried],
        chosen=str(report.plan.chosen),
        aim=f"{AIM:.0e}",
        figures=[(encode(figure), caption) for _, figure, caption in figures(report)],
        job=json.dumps(report.job, indent=2),
    )


def png(figure: Figure) -> bytes:
    """A figure as a PNG file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def encode(figure: Figure) -> str:
    """A figure as base64 PNG."""
    return base64.b64encode(png(figure)).decode()


def figures(report: Report) -> list[tuple[str, Figure, str]]:
    """Every plot that applies to a report: name, figure, caption."""
    out = []
    many = len(report.t) > 1
    if many and report.reference is not None and "surrogate" in report.methods:
        caption = "Error at every point before and after the correction; the dashed line is no change."
        out.append(("before_after", _before_after(report), caption))
    if report.reference is not None:
        caption = "Relative L2 error against model FLOP, a point for each doubling of the draws."
        out.append(("against_cost", _against_cost(report), caption))
    if many:
        caption = f"{100 * report.confidence:g} % intervals, widened by the estimated bias, at evenly spaced points."
        out.append(("intervals", _intervals(report), caption))
    if report.rates:
        caption = "Mean squared error against the number of data; dashed, the slope of theory through the middle."
        out.append(("rates", _rates(report), caption))
    elif len(report.losses) > 2:
        out.append(("training", _training(report), "Training loss; the line is its mean over 1/50 of the steps."))
    return out


def axes(width: float = 6.4, height: float = 4.2) -> tuple[Figure, Any]:
    """An empty plot in the house's style."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _before_after(report: Report) -> Figure:
    assert report.reference is not None
    figure, plot = axes(5.6, 5.0)
    before, after = (np.abs(report.methods[name].value - report.reference) for name in ("surrogate", "scasml"))
    floor = max(np.finfo(float).tiny, 1e-3 * float(np.median(after)))
    before, after = np.maximum(before, floor), np.maximum(after, floor)
    plot.loglog(before, after, ".", ms=3, color=COLOURS["scasml"], alpha=0.6)
    ends = [min(before.min(), after.min()), max(before.max(), after.max())]
    plot.plot(ends, ends, "--", color="#444", lw=1)
    plot.set(xlabel="|error| of the surrogate", ylabel="|error| after the correction")
    return figure


def _against_cost(report: Report) -> Figure:
    figure, plot = axes()
    for name, method in report.methods.items():
        if method.trace:
            flop, error = np.array(method.trace).T
            plot.loglog(flop, error, "o-", ms=4, color=COLOURS[name], label=LABELS[name])
    if "surrogate" in report.methods:
        level = report.errors("surrogate")["rel_l2"]
        plot.axhline(level, color=COLOURS["surrogate"], lw=1.2, ls="--", label=LABELS["surrogate"])
    plot.set(xlabel="model FLOP at inference", ylabel="relative L2 error")
    plot.legend(frameon=False)
    return figure


def _intervals(report: Report) -> Figure:
    figure, plot = axes(9.0, 4.2)
    scasml = report.methods["scasml"]
    low, high = report.intervals()["ci"]
    centre = report.reference if report.reference is not None else scasml.value
    pick = np.unique(np.linspace(0, len(centre) - 1, SHOWN_POINTS).astype(int))
    place = np.arange(len(pick))
    plot.errorbar(
        place,
        (scasml.value - centre)[pick],
        (0.5 * (high - low))[pick],
        fmt="o",
        ms=3,
        lw=1,
        capsize=2,
        color=COLOURS["scasml"],
        label="corrected",
    )
    if "surrogate" in report.methods:
        plot.plot(
            place, (report.methods["surrogate"].value - centre)[pick], "x", ms=4, color=COLOURS["surrogate"], label="surrogate"
        )
    plot.axhline(0.0, color="#444", lw=1)
    label = "truth" if report.reference is not None else "corrected value"
    plot.set(xlabel="evaluation point (every few)", ylabel=f"value minus {label}")
    plot.legend(frameon=False, ncols=2)
    return figure


def _rates(report: Report) -> Figure:
    figure, plot = axes()
    for number, rate in enumerate(report.rates):
        low, high = report.rate_interval(rate)
        label = f"{rate.method}: {rate.slope:.3f} [{low:.3f}, {high:.3f}]"
        label += "" if rate.theory is None else f", theory {rate.theory:.3f}"
        plot.errorbar(rate.ns, rate.mean, 1.96 * rate.se, fmt="o-", ms=4, capsize=2, color=f"C{number}", label=label)
        if rate.theory is not None:
            middle = np.exp(np.mean(np.log(rate.mean)) - rate.theory * np.mean(np.log(rate.ns)))
            plot.plot(rate.ns, middle * rate.ns**rate.theory, "--", lw=1, color=f"C{number}")
    plot.set(xscale="log", yscale="log", xlabel="number of data n", ylabel="mean squared error")
    plot.legend(frameon=False)
    return figure


def _training(report: Report) -> Figure:
    figure, plot = axes()
    steps = np.arange(1, len(report.losses) + 1)
    plot.semilogy(steps, report.losses, lw=0.4, color="#bbb")
    window = max(1, len(steps) // 50)
    # A second phase has another loss: no mean is taken over both.
    border = report.job["training"]["steps"] if "then" in report.job["training"] else len(steps)
    for phase in (slice(border), slice(border, None)):
        if len(steps[phase]) >= window:
            smooth = np.convolve(report.losses[phase], np.ones(window) / window, mode="valid")
            # Centred: a trailing mean would lag where the loss falls fast.
            plot.semilogy(steps[phase][window // 2 :][: len(smooth)], smooth, lw=1.5, color=COLOURS["surrogate"])
    plot.set(xlabel="step", ylabel="training loss")
    return figure
