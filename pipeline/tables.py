"""Figures of reports side by side."""

from __future__ import annotations

from typing import Any

from rich.table import Table

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
