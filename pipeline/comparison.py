"""Finished runs side by side: with published figures, with a convergence rate, as tables and pictures."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student

from pipeline.errors import InputError
from pipeline.figures import COLOURS, LABELS, axes, png
from pipeline.files import commit
from pipeline.merit import Summary, error_gain, merit, merit_gain, rival

PUBLISHED_NAMES = {
    "LCD": "linear_convection_diffusion",
    "VB": "viscous_burgers",
    "LQG": "lqg",
    "DR": "diffusion_reaction",
}
PUBLISHED_SURROGATES = {"PINN": "mlp", "GP": "gaussian_process"}
NORMS = {"rel_l2": "l2", "linf": "linf", "l1": "l1"}


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


def _grid(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _number(value: float | None, form: str = ".2e") -> str:
    return "-" if value is None else f"{value:{form}}"


def published_table(found: Sequence[Pair]) -> str:
    """Relative L2 errors, ours before the published ones, and published over ours after correction in all norms."""

    def row(pair: Pair) -> list[str]:
        ours = {name: methods.get("rel_l2") for name, methods in pair.ours["methods"].items()}
        coverage = pair.ours["methods"]["scasml"]["coverage"]
        return [
            pair.label,
            _number(ours.get("linear")),
            *(f"{_number(ours.get(n))} ({pair.published[f'l2_{k}']:.1e})" for n, k in (("surrogate", "sr"), ("mlp", "mlp"))),
            f"**{_number(ours['scasml'])}** ({pair.published['l2_scasml']:.1e})",
            *(_number(pair.ratio(norm), ",.0f") for norm in NORMS),
            "-" if coverage is None else f"{100 * coverage:.1f} %",
        ]

    titles = ["equation, surrogate", "f dropped", "surrogate", "MLP", "corrected", "L2 gain", "L∞ gain", "L1 gain", "coverage"]
    return _grid(titles, map(row, found))


def systems_table(summaries: Sequence[Summary]) -> str:
    """Runs beside the same estimator without a surrogate: relative errors, its errors over ours, and its squared standard error
    times cost over ours.

    It spends the FLOP of the correction and of its surrogate: the two ratios of errors count both, the figures of merit the
    correction alone. At a single point the two errors are one draw each, and have no ratio to speak of.
    """

    def row(summary: Summary) -> list[str]:
        ours, plain = (summary["methods"][name] for name in ("scasml", "plain"))
        ratios = [plain[key] / ours[key] if ours[key] and plain[key] else None for key in ("rel_l2", "rel_se")]
        if summary["points"] == 1:
            ratios[0] = None
        gains = (merit_gain(summary, cost) for cost in ("flop", "seconds"))
        merits = (merit(ours, cost) for cost in ("flop", "seconds"))
        return [
            equation(summary),
            _number(summary["methods"].get("surrogate", {}).get("rel_l2"), ".1e"),
            _number(plain["rel_l2"], ".1e"),
            f"**{_number(ours['rel_l2'], '.1e')}**",
            _number(ours["rel_se"], ".1e"),
            *(_number(ratio, ",.1f") for ratio in ratios),
            *(text for pair in zip(merits, gains, strict=True) for text in (_number(pair[0], ".1e"), _number(pair[1], ",.1f"))),
        ]

    titles = ["system", "surrogate", "plain", "corrected", "its s.e.", "plain's error over it", "plain's s.e. over it"]
    titles += ["s.e.² × FLOP", "plain's over it", "s.e.² × core s", "plain's over it"]
    return _grid(titles, map(row, summaries))


def reference_table(summaries: Sequence[Summary]) -> str:
    """Runs at one point each: relative errors against the reference with what is known of them, and what they cost.

    Wall seconds, those of a correction with its pilot; core seconds of its draws alone.
    """

    def row(summary: Summary) -> list[str]:
        methods = summary["methods"]
        ours = methods["scasml"]
        return [
            equation(summary),
            *(_number(methods.get(name, {}).get("rel_l2"), ".1e") for name in ("linear", "surrogate", "mlp")),
            f"**{_number(ours['rel_l2'], '.1e')}**",
            *(_number(v, ".1e") for v in (ours["rel_se"], ours["bias_estimate"], summary.get("reference_rel_se"))),
            f"{summary['stages']['train']['seconds']:.0f}",
            f"{ours['wall_seconds']:.1f}",
            _number(ours["merit"], ".1e"),
            _number(merit_gain(summary), ",.0f"),
            _number(error_gain(summary), ",.0f"),
        ]

    titles = ["equation", "f dropped", "surrogate", "MLP", "corrected", "its s.e.", "its bias", "reference to"]
    titles += ["training s", "correction s", "s.e.² × core s", "MLP's over it", "with its error"]
    return _grid(titles, map(row, summaries))


def inference_rate(summary: Summary, method: str) -> Slope | None:
    """The rate of a method's error in its own FLOP within one run, over the rounds in which its draws grew; one point alone has none.

    Each size holds the draws of the one before: the interval takes no notice of that.
    """
    if summary["points"] == 1:
        return None
    trace = [p for p in summary["methods"].get(method, {}).get("trace", []) if p["rel_l2"]]
    return slope([p["flop"] for p in trace], [p["rel_l2"] for p in trace])


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


def theory(methods: Mapping[str, Rate]) -> dict[str, float]:
    """The rates that theory gives: -1/2 for plain multilevel Picard, and -1/2 - s/d for a corrected surrogate (arXiv 2504.16172).

    s/d is taken from the surrogate's own errors in its samples. Theory means the error in the norm that the correction's
    variance follows, that of the residual, which falls more slowly than that of the values.
    """
    out = {"mlp": -0.5} if "mlp" in methods else {}
    surrogate = methods.get("surrogate")
    if "scasml" in methods and surrogate is not None and surrogate.slope is not None:
        out["scasml"] = -0.5 + surrogate.slope.value
    return out


def rate_figure(found: Mapping[str, Mapping[str, Rate]]) -> Figure:
    """Error against total samples with the fitted slopes, a line style an equation."""
    figure, plot = axes()
    for (name, methods), style in zip(found.items(), itertools.cycle(("-", "--", ":", "-."))):
        for method, rate in methods.items():
            label = LABELS[method] + ("" if rate.slope is None else f", slope {rate.slope}")
            label = label if len(found) == 1 else f"{name}: {label}"
            plot.loglog(rate.samples, rate.errors, "o", ls=style, ms=4, color=COLOURS[method], label=label)
            if (expected := theory(methods).get(method)) is not None and len(rate.samples) > 1:
                # From the first point on, as far as the picture goes.
                guide = np.asarray(rate.samples)
                guide = guide[rate.errors[0] * (guide / guide[0]) ** expected >= 0.5 * min(rate.errors)]
                plot.loglog(guide, rate.errors[0] * (guide / guide[0]) ** expected, ":", lw=1, color=COLOURS[method])
    plot.plot([], [], ":", lw=1, color="#555", label="theory: -1/2, and -1/2 - s/d with the surrogate's own s/d")
    plot.set(xlabel="training samples + paths", ylabel="relative L2 error")
    plot.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
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
        "merit_gains": [merit_gain(s) for s in summaries],
        "flop_merit_gains": [merit_gain(s, "flop") for s in summaries],
        "inference_rates": [{m: asdict(r) for m in s["methods"] if (r := inference_rate(s, m)) is not None} for s in summaries],
        "ratios": {pair.label: {norm: pair.ratio(norm) for norm in NORMS} for pair in found},
    }
    written["comparison.json"] = (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()
    if found:
        written["published.md"] = published_table(found).encode()
        written["published.png"] = png(ratio_figure(found))
    # Of an iteration nothing is a standard error.
    sampled = [s for s in summaries if "ended" not in s]
    if alone := [s for s in sampled if s["points"] == 1 and rival(s) == "mlp"]:
        written["references.md"] = reference_table(alone).encode()
    if systems := [s for s in sampled if rival(s) == "plain"]:
        written["systems.md"] = systems_table(systems).encode()
    if fitted:
        written["rates.png"] = png(rate_figure(fitted))
    for name, content in written.items():
        commit(folder / name, content)
    return [folder / name for name in written]
