"""The jobs that the README shows end as it says: errors, baselines and coverage, against true solutions."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline
from pipeline import load_job
from pipeline.report import Report

JOBS = Path(__file__).resolve().parents[2] / "jobs"


def ended(name: str, place: Path) -> Report:
    return pipeline.run(load_job(JOBS / f"{name}.yaml", {"correction.oversubscribe": True}), out=place / "run", progress=False)


def figure(report: Report, method: str, key: str) -> float:
    found = report.errors(method)[key]
    assert found is not None
    return found


@pytest.mark.slow
def test_the_quickstart_beats_its_surrogate_threefold_and_both_baselines(tmp_path: Path) -> None:
    """Coverage of 200 points: 95 % within 4.6 % (3 s.d.)."""
    report = ended("quickstart", tmp_path)
    error = {name: figure(report, name, "rel_l2") for name in ("surrogate", "linear", "mlp", "scasml")}
    assert error["surrogate"] < error["linear"]
    assert error["scasml"] <= error["surrogate"] / 3.0 and error["scasml"] < min(error["linear"], error["mlp"])
    assert figure(report, "scasml", "coverage") > 0.904


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "most", "paths"), [("lqg_100d", 5e-4, 1_000_000), ("lqg_160d", 5e-4, 500_000)])
def test_control_problems_come_within_their_bar_below_every_baseline(name: str, most: float, paths: int, tmp_path: Path) -> None:
    report = ended(name, tmp_path)
    error = {name: figure(report, name, "rel_l2") for name in ("surrogate", "linear", "mlp", "scasml")}
    assert error["scasml"] <= most and error["scasml"] < min(error["surrogate"], error["linear"], error["mlp"])
    assert report.draws.sum() >= paths and figure(report, "scasml", "coverage") >= 0.93
    assert sum(report.seconds.values()) < 900.0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_allen_cahn_meets_its_tolerance(tmp_path: Path) -> None:
    report = ended("allen_cahn_100d", tmp_path)
    assert report.tolerance_met and figure(report, "scasml", "rel_l2") < 1e-3
    assert figure(report, "scasml", "coverage") > 0.904
