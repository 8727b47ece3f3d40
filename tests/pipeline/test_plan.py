"""What a pilot decides: what may be printed instead of summed, and that every choice corrects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kernels.streams import Purpose, Stream
from pipeline import catalogue, plan, run
from pipeline.job import Job, load_job
from pipeline.report import Report

from conftest import TINY  # isort: skip

ESTIMATORS: dict[str, dict[str, Any]] = {
    "linearised": {"times": 2},
    "telescoped": {"steps": 4},
    "picard": {"levels": 2, "samples": 2},
    "quadrature_picard": {"levels": 2, "samples": 2, "nodes": 2},
}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def job(folder: Path, *, report: dict[str, Any] | None = None, **correction: Any) -> Job:
    """A job of four dimensions with a laplacian taken exactly and 32 points."""
    data = TINY | {
        "problem": {"name": "viscous_burgers", "dim": 4},
        "correction": {"laplacian": "exact", "points": 32, "max_paths": 40_000, "bounds": False, "pairs": "none"} | correction,
        "report": report or {"baselines": ["surrogate"]},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    return load_job(folder / "job.yaml")


def corrected(folder: Path, **correction: Any) -> Report:
    return run(job(folder, **correction), out=folder / "run", progress=False)


def test_every_estimator_of_the_catalogue_that_sees_the_driver_is_tried_here() -> None:
    assert {*ESTIMATORS, "feynman_kac"} == set(catalogue.names("estimators"))


@every_estimator
def test_a_corrected_value_is_nearer_to_the_truth_than_its_surrogate(name: str, tmp_path: Path) -> None:
    """Half the surrogate's error is left at most; a correction whose terms are printed instead of summed leaves all of it."""
    report = corrected(tmp_path, estimator={"name": name, **ESTIMATORS[name]})
    errors = {method: report.errors(method)["rel_l2"] for method in ("surrogate", "scasml")}
    assert errors["scasml"] is not None and errors["surrogate"] is not None
    assert errors["scasml"] < 0.5 * errors["surrogate"]
    assert set(report.plan.chosen.printed) <= set(plan.Candidate(report.plan.chosen.estimator, "exact", "none").build().optional)


def test_a_correction_that_drops_the_driver_says_how_far_off_it_is(tmp_path: Path) -> None:
    """Its value is the surrogate's; its intervals, of width 0 by their standard errors alone, are as wide as the residual."""
    report = corrected(tmp_path, estimator="feynman_kac")
    surrogate, scasml = report.errors("surrogate"), report.errors("scasml")
    assert scasml["rel_l2"] == surrogate["rel_l2"] and scasml["rel_se"] == 0.0
    assert scasml["bias_estimate"] == pytest.approx(surrogate["rel_l2"], rel=0.5)
    assert scasml["coverage"] is not None and scasml["coverage"] > 0.8


@pytest.mark.parametrize("name", [*ESTIMATORS, "feynman_kac"])
def test_however_dear_a_term_is_only_an_optional_one_is_printed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "DEAR", 0.0)
    given = job(tmp_path, estimator={"name": name, **ESTIMATORS.get(name, {})})
    t, x = given.problem.sample_points(8, Stream(0, Purpose.POINTS))
    for candidate in plan.choose(given, given.surrogate(), t, x).tried:
        assert candidate.printed == tuple(given.estimator().optional)
        assert candidate.build().terms
