"""The tables a person reads: methods side by side, for one run or many, on a terminal of any width or in a page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

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
"""Title and key in a summary's ``methods``, in the order in which a table shows them."""

ITERATED = (
    ("relative L2", "rel_l2"),
    ("L-infinity", "linf"),
    ("residual", "residual"),
    ("steps", "steps"),
    ("FLOP", "flop"),
    ("core s", "seconds"),
)
"""The same for corrections that are iterated: their certificate is a residual, not a standard error."""

GAP = 2
Summary = Mapping[str, Any]


def cell(key: str, value: Any) -> str:
    """One figure of a table; a dash where it does not apply.

    >>> cell("coverage", 0.953), cell("paths", 1024000), cell("rel_l2", 5.73e-5), cell("rel_l2", None)
    ('95.3 %', '1,024,000', '5.73e-05', '-')
    """
    if value is None:
        return "-"
    if key == "coverage":
        return f"{100.0 * value:.1f} %"
    if key in ("paths", "steps"):
        return f"{value:,}"
    if key == "seconds":
        return f"{value:.1f}"
    return f"{value:.2e}"


def columns(summaries: Sequence[Summary]) -> tuple[tuple[str, str], ...]:
    """Those of COLUMNS and ITERATED that the methods of these runs have figures for."""
    iterated = ["ended" in summary for summary in summaries]
    if all(iterated):
        return ITERATED
    return tuple(dict.fromkeys((*COLUMNS, *ITERATED))) if any(iterated) else COLUMNS


def rows(summary: Summary, shown: Sequence[tuple[str, str]] = COLUMNS) -> list[list[str]]:
    """Method and figures of one run, a row a method."""
    return [
        [f"mlp ({m['detail']})" if name == "mlp" and m.get("detail") else name, *(cell(key, m.get(key)) for _, key in shown)]
        for name, m in summary["methods"].items()
    ]


def table(summaries: Sequence[tuple[str, Summary]], width: int) -> RenderableType:
    """Methods side by side, a block of rows a run, no figure ever cut.

    Where ``width`` characters do not hold all columns, those that do not fit stand in a further
    table below, with the methods repeated; where they do not hold the runs' names beside the
    methods, the names stand above. From 32 characters on, that is.
    """
    figures = columns([summary for _, summary in summaries])
    blocks = [(label, rows(summary, figures)) for label, summary in summaries]
    titles = ["method", *(title for title, _ in figures)]
    sizes = [max(len(line[c]) for line in [titles, *(row for _, block in blocks for row in block)]) for c in range(len(titles))]
    names = max(len(label) for label, _ in blocks) if len(blocks) > 1 else 0
    beside = bool(names) and names + GAP + sum(sizes) + GAP * (len(sizes) - 1) <= width
    parts = _fitting(sizes, width)
    shown: list[RenderableType] = []
    if len(blocks) == 1 or beside:
        for part in parts:
            shown.append(_table(titles, sizes, part, blocks, beside=beside))
        return _spaced(shown)
    for label, block in blocks:
        shown.append(Group(Text(label, style="bold"), _spaced([_table(titles, sizes, p, [(label, block)]) for p in parts])))
    return _spaced(shown)


def _fitting(sizes: Sequence[int], width: int) -> list[list[int]]:
    """Columns 1, 2, ... in order, cut into lists that fit ``width`` beside column 0; at least one a list."""
    parts: list[list[int]] = []
    used = width + 1
    for column in range(1, len(sizes)):
        used += GAP + sizes[column]
        if used > width:
            parts.append([])
            used = sizes[0] + GAP + sizes[column]
        parts[-1].append(column)
    return parts


def _table(
    titles: Sequence[str],
    sizes: Sequence[int],
    part: Sequence[int],
    blocks: Sequence[tuple[str, list[list[str]]]],
    *,
    beside: bool = False,
) -> Table:
    out = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    if beside:
        out.add_column("run", no_wrap=True)
    for column in [0, *part]:
        out.add_column(titles[column], justify="right" if column else "left", no_wrap=True, min_width=sizes[column])
    for label, block in blocks:
        for number, row in enumerate(block):
            cells = [Text(row[column]) for column in [0, *part]]
            out.add_row(*([Text(label if number == 0 else ""), *cells] if beside else cells))
    return out


def _spaced(parts: Sequence[RenderableType]) -> Group:
    """One below the other, with an empty line between."""
    return Group(*(p for i, part in enumerate(parts) for p in ([Text(""), part] if i else [part])))


ENDED = {
    "spent": "all steps are spent: raise max_steps and run again; no step is repeated",
    "stagnant": "the residual gets no smaller: what is left of the error is where the surrogate sees nothing; an estimator "
    "with a smoother, or a better surrogate, goes on",
    "diverging": "the residual grows: the surrogate is too far off for this estimator; take a better one, or for a linear system "
    "flexible_krylov with fgmres",
    "rounding": "the residual stands where double precision ends",
}
"""How an iteration can end short of its tolerance; a stream that is "complete" has nothing left to take in."""


def gained(summary: Summary) -> list[str]:
    """Of an integral: what its surrogate gained, or why it cannot gain anything."""
    gain = summary.get("gain")
    if gain is None:
        return []
    # A ratio of variances that do not exist is no gain.
    if gain["warnings"] or gain["value"] is None:
        return [*gain["warnings"]]
    known = "" if gain["se"] is None else f" +- {gain['se']:,.2f}"
    return [
        f"plain Monte Carlo takes {gain['value']:,.2f}{known} times as many values of f for the same standard error, "
        "those of the surrogate counted"
    ]


def notes(summary: Summary) -> list[str]:
    """What is to be said below the table of a run: the biases, and a tolerance that was not met."""
    said = [
        f"estimated {cause} bias {bias['mean']:+.1e}, s.e. {bias['se']:.0e} (over the root mean square of u)"
        for cause, bias in summary["biases"].items()
    ]
    for method, rate in summary.get("rates", {}).items():
        theory = "" if rate["theory"] is None else f", by theory {rate['theory']:+.3f}"
        said.append(
            f"{method}: mean squared error falls as n^{rate['slope']:+.3f} [{rate['low']:+.3f}, {rate['high']:+.3f}]{theory}"
        )
    said += gained(summary)
    for side, bound in summary.get("bounds", {}).items():
        gap = "not known, the surrogate is too far from u for this many draws"
        if bound["gap"] is not None:
            gap = f"mean distance from the corrected value {bound['gap']:+.1e} (over the root mean square of u)"
        said.append(f"{side} bound ({bound['method']}): {gap}")
    if summary.get("ended") in ENDED:
        said.append(ENDED[summary["ended"]])
    elif summary["tolerance_met"] is False:
        said.append(
            "the budget max_paths was spent before the tolerance was met at every point: raise it and run again; nothing is recomputed"
        )
    return said


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse}"
    "th,td{padding:.25em .8em;text-align:right;white-space:nowrap}th{border-bottom:2px solid #444}"
    "td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}tr.first td{border-top:1px solid #bbb}"
    "tr.scasml{font-weight:600}"
)


def page(title: str, summaries: Sequence[tuple[str, Summary]], notes: Sequence[str] = ()) -> str:
    """The same table as an HTML page that needs nothing else."""
    figures = columns([summary for _, summary in summaries])
    head = "".join(f"<th>{html.escape(t)}</th>" for t in ["run", "method", *(title for title, _ in figures)])
    body = []
    for label, summary in summaries:
        for number, row in enumerate(rows(summary, figures)):
            classes = " ".join(c for c, is_so in (("first", number == 0), ("scasml", row[0] == "scasml")) if is_so)
            cells = "".join(f"<td>{html.escape(c)}</td>" for c in [label if number == 0 else "", *row])
            body.append(f'<tr class="{classes}">{cells}</tr>')
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><h1>{html.escape(title)}</h1><table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{below}"
        "</body></html>\n"
    )
