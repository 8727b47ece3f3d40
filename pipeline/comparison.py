"""Finished runs side by side: with published figures, with a convergence rate, as tables and pictures."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student

from pipeline.errors import InputError
from pipeline.figures import COLOURS, LABELS, axes, png
from pipeline.files import commit

PUBLISHED_NAMES = {
    "LCD": "linear_convection_diffusion",
    "VB": "viscous_burgers",
    "LQG": "lqg",
    "DR": "diffusion_reaction",
}
PUBLISHED_SURROGATES = {"PINN": "mlp", "GP": "gaussian_process"}
NORMS = {"rel_l2": "l2", "linf": "linf", "l1": "l1"}
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """One published row and the run that answers it."""

    label: str
    published: Mapping[str, float]
    ours: Summary

    def ratio(self, norm: str) -> float | None:
        """Published error after correction over ours, in one of NORMS; None where ours has no truth."""
        value = self.ours["methods"]["scasml"][norm]
        return None if not value else self.published[f"{NORMS[norm]}_scasml"] / value


def published(path: Path) -> dict[tuple[str, str, int], dict[str, float]]:
    """(problem, surrogate, d) -> figures of a table with the columns of jobs/published_table.csv.

    Raises InputError naming the file and what it lacks.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as text:
            rows = list(csv.DictReader(text))
        out = {}
        for row in rows:
            key = PUBLISHED_NAMES[row["problem"]], PUBLISHED_SURROGATES[row["surrogate"]], int(row["d"])
            out[key] = {k: float(v) for k, v in row.items() if k not in ("problem", "surrogate", "d")}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"'{path}' cannot be read as a table of published figures ({error!r}): it needs the columns problem, surrogate, d, "
            "l2_sr, l2_mlp, l2_scasml, ... of jobs/published_table.csv"
        ) from error
    return out


def pairs(summaries: Sequence[Summary], figures: Mapping[tuple[str, str, int], Mapping[str, float]]) -> list[Pair]:
    """Every run that has a published row, in the order of the table."""
    out = []
    for key, row in figures.items():
        for summary in summaries:
            problem, surrogate = summary["job"]["problem"], summary["job"]["surrogate"]["name"]
            if (problem["name"], surrogate, problem["dim"]) == key:
                label = f"{problem['name'].replace('_', ' ')}, {surrogate.replace('_', ' ')}, d = {problem['dim']}"
                out.append(Pair(label, row, summary))
    return out


def markdown(found: Sequence[Pair]) -> str:
    """The table of published and our relative L2 errors, with the ratios in all norms."""
    lines = [
        "| problem | f dropped | surrogate: published | ours | MLP: published | ours | corrected: published | ours | 95 % of ours, "
        "without the truth | L2 ratio | L-inf ratio | L1 ratio | coverage |",
        "|" + "---|" * 13,
    ]

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2e}"

    for pair in found:
        methods = pair.ours["methods"]
        ours = {name: methods.get(name, {}).get("rel_l2") for name in ("linear", "surrogate", "mlp", "scasml")}
        scasml = methods["scasml"]
        cells = [
            pair.label,
            number(ours["linear"]),
            number(pair.published["l2_sr"]),
            number(ours["surrogate"]),
            number(pair.published["l2_mlp"]),
            number(ours["mlp"]),
            number(pair.published["l2_scasml"]),
            number(ours["scasml"]),
            f"{number(scasml['rel_l2_low'])} to {number(scasml['rel_l2_high'])}",
            *("-" if (r := pair.ratio(norm)) is None else f"{r:.0f}" for norm in NORMS),
            "-" if scasml["coverage"] is None else f"{100 * scasml['coverage']:.1f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ratio_figure(found: Sequence[Pair]) -> Figure:
    """Relative L2 after correction, published and ours, a line a problem."""
    figure, plot = axes(8.0, 1.2 + 0.3 * len(found))
    place = np.arange(len(found))[::-1]
    before = [pair.published["l2_scasml"] for pair in found]
    surrogate = [pair.ours["methods"].get("surrogate", {}).get("rel_l2") or np.nan for pair in found]
    after = [pair.ours["methods"]["scasml"]["rel_l2"] or np.nan for pair in found]
    plot.hlines(place, after, before, color="#ccc", lw=2, zorder=0)
    plot.plot(before, place, "o", color="#1f77b4", label="published, corrected")
    plot.plot(surrogate, place, "x", color=COLOURS["surrogate"], label="ours, surrogate")
    plot.plot(after, place, "o", color=COLOURS["scasml"], label="ours, corrected")
    plot.set_xscale("log")
    plot.set_yticks(place, [pair.label for pair in found], fontsize=8)
    plot.set(xlabel="relative L2 error")
    plot.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


@dataclass(frozen=True)
class Slope:
    """error = a samples^b by least squares in logarithms: b with the half-width of its 95 % interval."""

    value: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.value:+.2f} ± {self.half_width:.2f}"


def slope(samples: Sequence[float], errors: Sequence[float]) -> Slope | None:
    """The rate of an error in the number of samples; None for fewer than three sizes, which earn no interval."""
    if len(set(samples)) < 3:
        return None
    x, y = np.log(np.asarray(samples, dtype=float)), np.log(np.asarray(errors, dtype=float))
    x, y = x - x.mean(), y - y.mean()
    rate = float((x * y).sum() / np.square(x).sum())
    spread = float(np.square(y - rate * x).sum() / (len(x) - 2) / np.square(x).sum())
    return Slope(rate, float(student.ppf(0.975, len(x) - 2)) * float(np.sqrt(spread)))


def total_samples(summary: Summary, method: str) -> float | None:
    """Training samples plus paths of a method that uses the surrogate, paths alone of one that does not.

    A surrogate that is fitted or given takes no training samples.
    """
    training, found = summary["job"]["training"], summary["methods"].get(method)
    if found is None:
        return None
    trains = training and method in ("surrogate", "scasml")
    phases = [training, *filter(None, [training.get("then")])] if trains else []
    return float(sum(phase["steps"] * phase["batch"] for phase in phases)) + float(found["paths"] or 0)


@dataclass(frozen=True)
class Rate:
    """Relative L2 errors of one method over its total samples, in runs of one equation; ``slope`` where they earn one."""

    samples: list[float]
    errors: list[float]
    slope: Slope | None


def equation(summary: Summary) -> str:
    """The problem of a run with all of its options: what runs must share for a rate to mean anything."""
    problem = dict(summary["job"]["problem"])
    name = problem.pop("name")
    return f"{name} ({', '.join(f'{key} {value}' for key, value in problem.items())})"


def rates(summaries: Sequence[Summary]) -> dict[str, dict[str, Rate]]:
    """equation -> method -> its rate over the runs of that equation."""
    out: dict[str, dict[str, Rate]] = {}
    for name in dict.fromkeys(map(equation, summaries)):
        out[name] = {}
        for method in ("surrogate", "linear", "mlp", "scasml"):
            points = sorted(
                (samples, error)
                for s in summaries
                if equation(s) == name and (samples := total_samples(s, method)) and (error := s["methods"][method]["rel_l2"])
            )
            if points:
                many, errors = [p[0] for p in points], [p[1] for p in points]
                out[name][method] = Rate(many, errors, slope(many, errors))
    return out


def rate_figure(found: Mapping[str, Mapping[str, Rate]]) -> Figure:
    """Error against total samples with the fitted slopes, a line style an equation."""
    figure, plot = axes()
    for (name, methods), style in zip(found.items(), itertools.cycle(("-", "--", ":", "-."))):
        for method, rate in methods.items():
            label = LABELS[method] + ("" if rate.slope is None else f", slope {rate.slope}")
            label = label if len(found) == 1 else f"{name}: {label}"
            plot.loglog(rate.samples, rate.errors, "o", ls=style, ms=4, color=COLOURS[method], label=label)
    plot.set(xlabel="training samples + paths", ylabel="relative L2 error")
    plot.legend(frameon=False, fontsize=8)
    return figure


def save(folder: Path, summaries: Sequence[Summary], found: Sequence[Pair]) -> list[Path]:
    """Write the table and pictures of a comparison; returns the files."""
    written = {}
    found_rates = rates(summaries)
    fitted = {name: methods for name, methods in found_rates.items() if any(r.slope for r in methods.values())}
    data = {
        "runs": [{"job": s["job"], "methods": s["methods"]} for s in summaries],
        "slopes": {
            name: {method: None if rate.slope is None else asdict(rate.slope) for method, rate in methods.items()}
            for name, methods in found_rates.items()
        },
        "ratios": {pair.label: {norm: pair.ratio(norm) for norm in NORMS} for pair in found},
    }
    written["comparison.json"] = (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()
    if found:
        written["published.md"] = markdown(found).encode()
        written["published.png"] = png(ratio_figure(found))
    if fitted:
        written["rates.png"] = png(rate_figure(fitted))
    for name, content in written.items():
        commit(folder / name, content)
    return [folder / name for name in written]
