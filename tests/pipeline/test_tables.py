"""Tables that a person can read on any terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from pipeline.tables import COLUMNS, cell, notes, page, table

METHOD = {
    "rel_l2": 7.08e-2,
    "linf": 8.12e-2,
    "l1": 2.83e-2,
    "rel_se": 2.26e-3,
    "coverage": 0.925,
    "bias_estimate": None,
    "paths": 17_956_864,
    "flop": 9.41e11,
    "seconds": 1182.04,
    "detail": "n = 1, M = 16",
}
SUMMARY: dict[str, Any] = {
    "methods": {"surrogate": {**METHOD, "paths": None}, "mlp": METHOD, "scasml": {**METHOD, "bias_estimate": 6.2e-6}},
    "biases": {"time step": {"mean": -9.7e-6, "se": 7e-6}},
    "tolerance_met": False,
}


def rendered(summaries: list[tuple[str, dict[str, Any]]], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table(summaries, width))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [32, 60, 80, 108, 200])
@pytest.mark.parametrize("runs", [1, 3])
def test_every_title_and_figure_is_whole_at_any_width(width: int, runs: int) -> None:
    labels = [f"training.steps={500 * i} seed={i}" for i in range(runs)]
    text = rendered([(label, SUMMARY) for label in labels], width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for title, key in COLUMNS:
        assert title in text
        for method in SUMMARY["methods"].values():
            assert re.search(rf"(?<!\S){re.escape(cell(key, method[key]))}(?!\S)", text), (key, text)
    assert text.count("mlp (n = 1, M = 16)") % runs == 0 and "mlp (n = 1, M = 16)" in text
    for label in labels if runs > 1 else ():
        assert label in text


def test_80_columns_hold_a_run_in_two_tables_and_200_hold_it_in_one() -> None:
    assert rendered([("a", SUMMARY)], 200).count("method") == 1
    assert rendered([("a", SUMMARY)], 80).count("method") == 2
    assert "run  method" in rendered([("a", SUMMARY), ("b", SUMMARY)], 200)


def test_a_figure_that_an_older_summary_lacks_is_a_dash() -> None:
    old = {"methods": {"scasml": {"rel_l2": 1e-3}}}
    assert rendered([("a", old)], 200).split("\n")[1].split() == ["scasml", "1.00e-03", *"--------"]


def test_the_notes_name_biases_and_a_tolerance_that_was_not_met() -> None:
    assert notes(SUMMARY)[0].startswith("estimated time step bias -9.7e-06, s.e. 7e-06")
    assert "max_paths" in notes(SUMMARY)[1]
    assert len(notes({**SUMMARY, "tolerance_met": None})) == 1


def test_the_page_needs_nothing_else_and_trusts_no_text() -> None:
    text = page("a <b>", [("name=<script>", SUMMARY)], ["x & y"])
    assert "<script" not in text and "&lt;script&gt;" in text and "x &amp; y" in text
    assert not re.search(r"(src|href)\s*=|url\(|@import", text)
    assert text.count("<tr") == 1 + len(SUMMARY["methods"])
