"""The report of an integral says what its surrogate gained, and where it cannot gain anything."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_families import job

from kernels.contracts import Integral
from kernels.integrands import sine_product
from kernels.streams import Stream
from pipeline import run
from pipeline.errors import InputError
from pipeline.files import release
from pipeline.report import Report
from pipeline.tables import notes

pytestmark = pytest.mark.unchecked

SINGULAR: dict[str, Any] = {
    "problem": {"name": "power_singularity", "dim": 1, "exponent": 0.35, "power": 2},
    "surrogate": {"name": "nearest_neighbours", "points": 256},
    "correction": {"max_paths": 400_000},
}


def finished(small: dict[str, Any], out: Path, **correction: Any) -> Report:
    report = run(job(small, **correction), out, progress=False)
    assert isinstance(report, Report)
    return report


def test_the_gain_of_a_smooth_integrand_is_that_of_its_variances_and_nothing_is_doubted(tmp_path: Path) -> None:
    """Against 10^6 draws of f^q: within 4 of the error it says, which sees a third off, as without the surrogate's values."""
    small = {
        "problem": {"name": "sine_product", "dim": 2},
        "surrogate": {"name": "multilinear", "points": 8100},
        "correction": {"max_paths": 65_536},
    }
    report = finished(small, tmp_path / "run")
    gain, se = report.gain, report.methods["scasml"].se
    assert gain is not None and gain.se is not None and se is not None
    problem = sine_product(2)
    variance = float(problem.powers(problem.observe(problem.points(10**6, Stream(9, 1)), Stream(9, 2))).var())
    truth = variance / (8100 + report.methods["scasml"].paths) / se[0] ** 2
    assert abs(gain.value - truth) <= 4.0 * gain.se < 0.3 * truth
    assert gain.warnings == () and gain.tail_index > 4.0
    assert gain.flop == pytest.approx(gain.draws * problem.flop())
    (said,) = notes(report.summary())
    assert f"{gain.value:,.2f} +- {gain.se:,.2f} times" in said
    assert said in (tmp_path / "run" / "report.html").read_text()
    assert json.loads((tmp_path / "run" / "report.json").read_text())["gain"]["value"] == gain.value


def test_above_the_switch_the_report_says_that_no_control_variate_helps(tmp_path: Path) -> None:
    """|x - c|^-0.7 has the tail index 1/0.7: within 4 s.e. (6 in 10^5), which see the switch, 2, from there."""
    report = finished(SINGULAR, tmp_path / "run")
    gain = report.gain
    assert gain is not None
    assert abs(gain.tail_index - 1.0 / 0.7) <= 4.0 * gain.tail_index_se < 0.57 and gain.se is None
    (said,) = gain.warnings
    index, error = map(float, re.findall(r"tail index (\S+) \+- (\S+),", said)[0])
    assert (index, error) == (round(gain.tail_index, 2), round(gain.tail_index_se, 2))
    assert "interval is not earned; truncated_monte_carlo" in said
    assert said in (tmp_path / "run" / "report.html").read_text()
    # A ratio of sampled variances would read as a gain.
    assert notes(report.summary()) == [said]


def test_below_the_switch_nothing_is_doubted(tmp_path: Path) -> None:
    gain = finished({**SINGULAR, "problem": {**SINGULAR["problem"], "exponent": 0.1}}, tmp_path / "run").gain
    assert gain is not None and gain.warnings == ()
    assert abs(gain.tail_index - 5.0) <= 4.0 * gain.tail_index_se


def test_of_a_tail_that_is_cut_off_no_gain_is_said(tmp_path: Path) -> None:
    """A sampled variance of it knows nothing of the draws beyond the cut, which it has not seen."""
    report = finished(SINGULAR, tmp_path / "run", estimator="truncated_monte_carlo")
    assert report.gain is None and not any("times as many values" in said for said in notes(report.summary()))


def test_an_integrand_that_fails_at_a_point_of_the_tail_alone_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(SINGULAR, tmp_path / "run")
    (tmp_path / "run" / "report.h5").unlink()
    release()

    def fails(self: Integral, x: torch.Tensor, stream: Stream) -> torch.Tensor:
        raise ValueError("'power_singularity' is not finite at x = [0.37]")

    monkeypatch.setattr(Integral, "observe", fails)
    monkeypatch.setattr("pipeline.dag.preflight", lambda *_, **__: None)
    with pytest.raises(InputError, match=r"problem: 'power_singularity' is not finite"):
        finished(SINGULAR, tmp_path / "run")
