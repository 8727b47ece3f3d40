"""A scaling law as a table, sentences, scaling.json and pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kernels.scaling_law import HIGHEST, LOWEST, Array, Index, ScalingLaw, frontier
from pipeline.figures import png
from pipeline.files import commit
from pipeline.report import finite
from pipeline.scaling import ASKED, CONFIDENCE, REPLICATES, Contest, Measured, Study

COSTS = {"flop": "model FLOP of training", "seconds": "wall seconds of training"}
OPTIMIZERS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c6d31", "#7f7f7f")
LEVEL = f"{100 * CONFIDENCE:g} %"


def by_equation(found: Sequence[Study]) -> dict[str, list[Study]]:
    """The laws of each equation, in order."""
    return {name: [s for s in found if s.equation == name] for name in dict.fromkeys(s.equation for s in found)}


# What a terminal shows.


def shown(figure: Measured, form: str = ".2f") -> str:
    """A figure with its interval.

    >>> shown(Measured(0.5, 0.41, 0.62)), shown(Measured(None, None, None))
    ('0.50 [0.41, 0.62]', 'not determined')
    """
    if figure.value is None or figure.low is None or figure.high is None:
        return "not determined"
    return f"{figure.value:{form}} [{figure.low:{form}}, {figure.high:{form}}]"


def table(found: Sequence[Study]) -> RenderableType:
    """A block an equation, a column an optimizer."""
    blocks: list[RenderableType] = []
    for name, group in by_equation(found).items():
        out = Table("", *(s.optimizer for s in group), box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title, cells in _rows(group).items():
            out.add_row(title, *cells)
        blocks += [Text(name, style="bold"), out, Text("")]
    return Group(*blocks[:-1])


def _rows(group: Sequence[Study]) -> dict[str, list[str]]:
    return {
        "cells, runs": [f"{len(s.N)}, {len(s.runs)}" for s in group],
        "alpha (N)": [shown(s.figures["alpha"]) for s in group],
        "beta (D)": [shown(s.figures["beta"]) for s in group],
        "E": [shown(s.figures["E"], ".1e") for s in group],
        "alpha beta / (alpha + beta)": [shown(s.figures["optimal"]) for s in group],
        "gamma (FLOP)": [shown(s.figures["gamma"]) for s in group],
        "spread of seeds": [f"{100 * np.expm1(s.deviation):.0f} %" for s in group],
        "misfit / spread": [f"{s.misfit:.1f}" for s in group],
        "largest N predicted to": [f"{100 * s.held_out.rms:.0f} %" for s in group],
    }


def sentences(found: Sequence[Study], versus: Sequence[Contest]) -> list[str]:
    """What the figures say, and where they say nothing."""
    out = []
    for s in found:
        label, half = f"{s.equation}, {s.optimizer}", s.figures["optimal"].holds(0.5)
        if half is None:
            out.append(f"{label}: the runs do not determine both exponents, so nothing is said of error ~ C^-1/2")
        else:
            out.append(
                f"{label}: error ~ C^-1/2 at the best N and D is {'within' if half else 'outside'} the {LEVEL} interval of "
                f"alpha beta / (alpha + beta), {shown(s.figures['optimal'])}"
            )
        if s.figures["E"].low == 0.0:
            out.append(f"{label}: no irreducible error is seen, E = 0 is within its interval")
        held = s.held_out
        worst, verdict = float(np.abs(held.off).max()), "within" if held.rms <= ASKED else "NOT within"
        out.append(
            f"{label}: without N = {s.N.max():,.0f} the law predicts its errors to {100 * held.rms:.0f} % (worst {100 * worst:.0f} %), "
            f"{verdict} the {100 * ASKED:.0f} % asked; its seeds spread by {100 * held.spread:.0f} %"
        )
        if s.misfit > 2.0:
            out.append(
                f"{label}: the law misses its cells {s.misfit:.1f} times as far as the seeds explain: a description, no more; "
                "its intervals are widened by that"
            )
    return [*out, *(contested(c) for c in versus)]


def contested(contest: Contest) -> str:
    """Which of two optimizers wins at equal cost, by how much, and where the seeds leave it open."""
    label = f"{contest.equation}, equal {COSTS[contest.cost]}"
    if not contest.differences:
        return f"{label}: {contest.one} and {contest.other} have no cost in common"
    told = []
    for d in contest.differences:
        # Always at least 1, with its interval.
        better, worse, ratios = contest.one, contest.other, (1.0 / d.ratio, 1.0 / d.high, 1.0 / d.low)
        if d.ratio > 1.0:
            better, worse, ratios = contest.other, contest.one, (d.ratio, d.low, d.high)
        numbers = "{:.2f} [{:.2f}, {:.2f}]".format(*ratios)
        won = f"{better} beats {worse}, whose error is {numbers} times as large"
        told.append(
            f"at {d.budget:.1e} {won if d.clear else f'no difference beyond the spread of seeds ({worse} {numbers} times)'}"
        )
    return f"{label}: {'; '.join(told)}"


# What is kept.


def save(folder: Path, found: Sequence[Study], versus: Sequence[Contest]) -> list[Path]:
    """Commit scaling.json, scaling.png and a picture an equation; returns the files."""
    data = {
        "confidence": CONFIDENCE,
        "replicates": REPLICATES,
        "exponents_searched": [LOWEST, HIGHEST],
        "laws": [_law(s) for s in found],
        "contests": [
            {
                **{k: getattr(c, k) for k in ("equation", "one", "other", "cost")},
                "differences": [{**asdict(d), "clear": d.clear} for d in c.differences],
            }
            for c in versus
        ],
    }
    written = {"scaling.json": (json.dumps(finite(data), indent=2, allow_nan=False) + "\n").encode()}
    written["scaling.png"] = png(optimizers_figure(found))
    for name, group in by_equation(found).items():
        written[f"scaling_{re.sub(r'[^A-Za-z0-9.]+', '_', name).strip('_')}.png"] = png(law_figure(group))
    for name, content in written.items():
        commit(folder / name, content)
    return [folder / name for name in written]


def _law(s: Study) -> dict[str, Any]:
    held = s.held_out
    return {
        "equation": s.equation,
        "optimizer": s.optimizer,
        "error": "against the true solution" if s.known else "as the correction estimates it",
        **{name: asdict(figure) for name, figure in s.figures.items()},
        "optimal_is_one_half": s.figures["optimal"].holds(0.5),
        "E_may_be_0": s.figures["E"].holds(0.0),
        "seed_deviation": s.deviation,
        "misfit": s.misfit,
        "held_out": {
            "N": s.N.max(),
            "law": {name: float(getattr(held.law, name)) for name in ("E", "A", "B", "alpha", "beta")},
            "D": s.D[held.rows].tolist(),
            "off": held.off.tolist(),
            "rms": held.rms,
            "seed_spread": held.spread,
            "asked": ASKED,
            "met": held.rms <= ASKED,
        },
        "frontier": frontier(s.flop, s.mean).tolist(),
        "cells": [
            {
                "N": s.N[c],
                "D": s.D[c],
                "flop": s.flop[c],
                "seconds": s.seconds[c],
                "error": float(np.exp(s.mean[c])),
                "fitted": float(fitted),
                "runs": {run.name: run.error for run, cell in zip(s.runs, s.cell, strict=True) if cell == c},
            }
            for c, fitted in enumerate(s.law(s.N, s.D))
        ],
    }


# Pictures.


def _grid(rows: int, columns: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.4 * columns, 3.4 * rows), layout="constrained")
    plots = figure.subplots(rows, columns, squeeze=False)
    for plot in plots.flat:
        plot.spines[["top", "right"]].set_visible(False)
        plot.set(xscale="log", yscale="log")
        plot.tick_params(which="minor", labelsize=6)
    return figure, plots


def _bars(s: Study, cells: Index) -> Array:
    """One standard error of the mean log error down and up, (2, cells)."""
    off = s.deviation / np.sqrt(s.seeds[cells])
    return np.exp(s.mean[cells]) * np.stack([-np.expm1(-off), np.expm1(off)])


def law_figure(group: Sequence[Study]) -> Figure:
    """Error against N, D and FLOP, a row an optimizer: cells, the law, and what it said of the held-out width."""
    figure, plots = _grid(len(group), 3)
    for s, (by_n, by_d, by_flop) in zip(group, plots, strict=True):
        held = np.isin(np.arange(len(s.N)), s.held_out.rows)
        for plot, across, along, unit in ((by_n, s.N, s.D, "D"), (by_d, s.D, s.N, "N"), (by_flop, s.flop, s.N, "N")):
            values = np.unique(along)
            for value, colour in zip(values, colormaps["viridis"](np.linspace(0.0, 0.85, len(values))), strict=True):
                mine = np.flatnonzero(along == value)
                mine = mine[np.argsort(across[mine])]
                bars = _bars(s, mine)
                for kept, face in ((~held[mine], colour), (held[mine], "none")):
                    at = mine[kept]
                    plot.errorbar(across[at], np.exp(s.mean[at]), bars[:, kept], fmt="o", ms=5, lw=1, color=colour, mfc=face)
                _curve(plot, across[mine], s.N[mine], s.D[mine], s.law, color=colour, label=f"{unit} = {value:,.0f}")
                if plot is not by_n and held[mine].all():
                    _curve(plot, across[mine], s.N[mine], s.D[mine], s.held_out.law, color=colour, ls="--")
        cells = frontier(s.flop, np.exp(s.mean))
        if (gamma := s.figures["gamma"]).low is not None:
            slope, level = np.polyfit(np.log(s.flop[cells]), s.mean[cells], 1)
            label = f"FLOP^-{shown(gamma)}"
            by_flop.plot(s.flop[cells], np.exp(level) * s.flop[cells] ** slope, "-", lw=4, alpha=0.25, color="k", label=label)
        by_n.set(xlabel="parameters N", ylabel=f"relative L2 error, {s.optimizer}")
        by_d.set(xlabel="training samples D")
        by_flop.set(xlabel=COSTS["flop"])
        for plot in (by_n, by_flop):
            plot.legend(frameon=False, fontsize=7)
        alpha, beta = (shown(s.figures[k]) for k in ("alpha", "beta"))
        by_n.set_title(f"alpha {alpha}, beta {beta}", fontsize=9)
        by_d.set_title(f"hollow: held out, dashed: predicted to {100 * s.held_out.rms:.0f} %", fontsize=9)
    figure.suptitle(group[0].equation, fontsize=11)
    return figure


def _curve(plot: Any, across: Array, N: Array, D: Array, law: ScalingLaw, **style: Any) -> None:
    """The law along cells in one line, log-linear in N and D between them."""
    if len(across) < 2:
        return
    place = np.linspace(0.0, len(across) - 1.0, 20 * len(across))
    x, n, d = (np.exp(np.interp(place, np.arange(len(across)), np.log(part))) for part in (across, N, D))
    plot.plot(x, law(n, d), lw=1.2, **style)


def optimizers_figure(found: Sequence[Study]) -> Figure:
    """The best cells of each optimizer at a cost, a row an equation: against FLOP and against wall time."""
    groups = by_equation(found)
    figure, plots = _grid(len(groups), 2)
    names = list(dict.fromkeys(s.optimizer for s in found))
    for (name, group), row in zip(groups.items(), plots, strict=True):
        for plot, (cost, title) in zip(row, COSTS.items(), strict=True):
            for s in group:
                colour = OPTIMIZERS[names.index(s.optimizer) % len(OPTIMIZERS)]
                costs, errors = getattr(s, cost), np.exp(s.mean)
                plot.plot(costs, errors, ".", ms=4, alpha=0.4, color=colour)
                best = frontier(costs, errors)
                plot.errorbar(
                    costs[best], errors[best], _bars(s, best), fmt="o-", ms=4, capsize=2, color=colour, label=s.optimizer
                )
            plot.set(xlabel=title)
        row[0].set_ylabel("relative L2 error")
        row[0].set_title(name, fontsize=9)
        row[0].legend(frameon=False, fontsize=8)
    return figure
