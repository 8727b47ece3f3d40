"""Finished runs side by side: rates within one equation, surrogates that take no training samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import comparison
from pipeline.merit import error_gain, merit_gain

TRAINED = {"steps": 10, "batch": 32}


def summary(
    problem: str = "lqg", *, dim: int = 20, paths: int = 1000, error: float = 0.1, training: Any = TRAINED, **options: float
) -> dict[str, Any]:
    """What a finished run says of its correction, as far as a comparison looks."""
    job = {"problem": {"name": problem, "dim": dim, **options}, "surrogate": {"name": "mlp"}, "training": training}
    methods = {"surrogate": {"rel_l2": 2.0 * error, "paths": None}, "scasml": {"rel_l2": error, "paths": paths}}
    return {"job": job, "methods": methods, "points": 100}


def falling(*, factor: float = 1.0, **options: Any) -> list[dict[str, Any]]:
    """Runs whose corrected error falls as samples^-1/2 exactly."""
    return [summary(paths=n, error=factor * n**-0.5, training={}, **options) for n in (1000, 4000, 16000)]


def test_a_surrogate_that_is_fitted_or_given_takes_no_training_samples() -> None:
    assert comparison.total_samples(summary(training={}), "scasml") == 1000
    assert comparison.total_samples(summary(training={}), "surrogate") == 0
    assert comparison.total_samples(summary(), "scasml") == 1320
    assert comparison.total_samples(summary(), "surrogate") == 320
    two = summary(training={**TRAINED, "then": {"steps": 5, "batch": 64}})
    assert comparison.total_samples(two, "surrogate") == 640 and comparison.total_samples(two, "scasml") == 1640
    assert comparison.total_samples(summary(), "mlp") is None
    assert "surrogate" not in comparison.rates(falling())["lqg (dim 20)"]


def test_a_rate_is_fitted_within_one_equation() -> None:
    runs = [*falling(), *falling(dim=40, factor=50.0), *falling(strength=50.0, factor=7.0), *falling(problem="allen_cahn")]
    found = comparison.rates(runs)
    assert set(found) == {"lqg (dim 20)", "lqg (dim 40)", "lqg (dim 20, strength 50.0)", "allen_cahn (dim 20)"}
    for methods in found.values():
        rate = methods["scasml"].slope
        assert rate is not None and rate.value == pytest.approx(-0.5) and rate.half_width < 1e-6


def test_runs_of_different_equations_have_no_rate_in_common(tmp_path: Path) -> None:
    runs = [summary(dim=10 * n, paths=1000 * n, error=1.0 / n) for n in (1, 2, 3, 4)]
    assert all(rate.slope is None for methods in comparison.rates(runs).values() for rate in methods.values())
    assert [file.name for file in comparison.save(tmp_path, runs, [])] == ["comparison.json"]


def test_rates_are_saved_by_equation_and_drawn(tmp_path: Path) -> None:
    files = comparison.save(tmp_path, [*falling(), *falling(dim=40)], [])
    assert [file.name for file in files] == ["comparison.json", "rates.png"]
    slopes = json.loads(files[0].read_text())["slopes"]
    assert slopes["lqg (dim 40)"]["scasml"]["value"] == pytest.approx(-0.5)


def test_theory_adds_the_surrogates_own_rate_to_that_of_monte_carlo() -> None:
    rate = comparison.Rate([1.0, 2.0, 4.0], [1.0, 0.5, 0.25], comparison.Slope(-1.0, 0.1))
    assert comparison.theory({"surrogate": rate, "scasml": rate, "mlp": rate}) == {"mlp": -0.5, "scasml": -1.5}
    assert comparison.theory({"scasml": rate, "surrogate": comparison.Rate([1.0], [1.0], None)}) == {}


def test_errors_within_a_run_have_a_rate_in_flop_and_those_of_one_point_none() -> None:
    run = summary()
    run["methods"]["scasml"]["trace"] = [{"flop": 4.0**n, "rel_l2": 2.0**-n} for n in range(5)]
    found = comparison.inference_rate(run, "scasml")
    assert found is not None and found.value == pytest.approx(-0.5) and found.half_width < 1e-6
    assert comparison.inference_rate({**run, "points": 1}, "scasml") is None
    assert comparison.inference_rate(run, "surrogate") is None


def at_one_point() -> dict[str, Any]:
    figures = {"rel_se": 1e-4, "bias_estimate": None, "merit": 2e-8, "paths": 1000, "wall_seconds": 3.3}
    methods = {
        "surrogate": {"rel_l2": 1e-2, "paths": None},
        "mlp": {"rel_l2": 3e-3, "rel_se": 1e-3, "merit": 5e-6, "paths": 10},
        "scasml": {"rel_l2": 2e-4, **figures},
    }
    stages = {"train": {"seconds": 14.2}, "correct": {"seconds": 9.9}}
    return summary() | {"methods": methods, "points": 1, "stages": stages, "reference_rel_se": 1e-5}


def test_runs_at_one_point_are_set_beside_their_references(tmp_path: Path) -> None:
    assert merit_gain(at_one_point()) == pytest.approx(250.0)
    # MLP is three of its standard errors off, the correction two.
    assert error_gain(at_one_point()) == pytest.approx(250.0 * 9.0 / 4.0)
    assert merit_gain(summary()) is None and error_gain(summary()) is None
    files = comparison.save(tmp_path, [at_one_point(), summary()], [])
    assert [file.name for file in files] == ["comparison.json", "references.md"]
    *_, row = files[1].read_text().splitlines()
    assert [c.strip() for c in row.strip("|").split("|")] == [
        "lqg (dim 20)", "-", "1.0e-02", "3.0e-03", "**2.0e-04**", "1.0e-04", "-", "1.0e-05", "14", "3.3", "2.0e-08", "250", "562"
    ]  # fmt: skip


def test_other_systems_are_set_beside_plain_monte_carlo_in_flop_and_core_seconds(tmp_path: Path) -> None:
    run = summary("sine_product", dim=2)
    run["methods"] = {
        "surrogate": {"rel_l2": 1e-2, "paths": None},
        "plain": {"rel_l2": 4e-3, "rel_se": 1e-3, "merit": 1e-6, "flop": 3e6, "paths": 10},
        "scasml": {"rel_l2": 2e-4, "rel_se": 1e-4, "merit": 2e-8, "flop": 1e6, "paths": 10},
    }
    # (1e-3)^2 x 3e6 over (1e-4)^2 x 1e6, and 1e-6 over 2e-8; plain is four standard errors off, the correction two.
    assert merit_gain(run, "flop") == pytest.approx(300.0)
    assert merit_gain(run) == pytest.approx(50.0)
    assert error_gain(run) == pytest.approx(50.0 * 16.0 / 4.0)
    iterated = {**summary("poisson_grid"), "points": 1, "ended": "met"}
    # At one point errors are single draws, whose ratio says nothing.
    for points, ratio in ((1, "-"), (100, "20.0")):
        files = comparison.save(tmp_path, [{**run, "points": points}, iterated], [])
        assert [file.name for file in files] == ["comparison.json", "systems.md"]
        *_, row = files[1].read_text().splitlines()
        assert [c.strip() for c in row.strip("|").split("|")] == [
            "sine_product (dim 2)", "1.0e-02", "4.0e-03", "**2.0e-04**", "1.0e-04", ratio, "10.0", "1.0e-02", "300.0", "2.0e-08", "50.0"
        ]  # fmt: skip
    assert json.loads(files[0].read_text())["flop_merit_gains"] == [pytest.approx(300.0), None]


def test_a_published_row_stands_beside_ours_with_the_gain_in_every_norm() -> None:
    figures = {"l2_sr": 1e-1, "l2_mlp": 2e-1, "l2_scasml": 5e-2, "linf_scasml": 0.4, "l1_scasml": 0.3}
    run = summary(error=1e-4)
    run["methods"]["scasml"] |= {"linf": 2e-3, "l1": None, "coverage": 0.951}
    (pair,) = comparison.pairs([run], {("lqg", "mlp", 20): figures, ("lqg", "mlp", 30): figures})
    *_, row = comparison.published_table([pair]).splitlines()
    assert [c.strip() for c in row.strip("|").split("|")] == [
        "lqg, mlp, d = 20", "-", "2.00e-04 (1.0e-01)", "- (2.0e-01)", "**1.00e-04** (5.0e-02)", "500", "200", "-", "95.1 %"
    ]  # fmt: skip
