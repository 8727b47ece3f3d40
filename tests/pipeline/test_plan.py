"""What a pilot decides: what may be printed instead of summed, and that every choice corrects."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from kernels.contracts import SemilinearPDE
from kernels.estimators.telescoped import telescoped
from kernels.moments import Moments
from kernels.streams import Purpose, Stream
from kernels.unsummed import unsummed
from pipeline import catalogue, correction, plan, run
from pipeline.baselines import baseline_methods, best_mlp, mlp_method
from pipeline.errors import InputError
from pipeline.estimate import predict
from pipeline.job import Job, RunFolder, digest, load_job
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
    made = {name: catalogue.factory("estimators", name, "")() for name in catalogue.names("estimators")}
    assert {*ESTIMATORS, "feynman_kac"} == {n for n, e in made.items() if getattr(e, "solves", SemilinearPDE) is SemilinearPDE}


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


def test_the_surrogate_at_many_points_is_evaluated_in_parts_and_lacks_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(tmp_path)
    t, x = given.problem.sample_points(20, Stream(0, Purpose.POINTS))
    whole = correction.base_values(given.surrogate(), t, x)
    monkeypatch.setattr(correction, "ROWS", 7)
    np.testing.assert_allclose(correction.base_values(given.surrogate(), t, x), whole, rtol=1e-12)


def moments_of(base: float, refined: float) -> dict[str, Moments]:
    one = torch.tensor([[-1.0, 1.0]])
    return {"linear": Moments.of((base * one).numpy()), "time step": Moments.of((refined * one).numpy())}


def test_steps_are_too_coarse_where_halving_them_moves_a_draw_by_more_than_draws_vary() -> None:
    assert not plan.too_coarse(moments_of(1.0, 0.9), "linear", 1)
    assert plan.too_coarse(moments_of(1.0, 1.1), "linear", 1)
    assert not plan.too_coarse(moments_of(1.0, 1.1), "linear", 2), "a mean of two paths varies half as much as one"
    assert not plan.too_coarse({"linear": moments_of(1.0, 1.0)["linear"]}, "linear", 1)


AUTO = {"estimator": "auto", "laplacian": "auto", "pairs": "auto"}


def decided(folder: Path, monkeypatch: pytest.MonkeyPatch, judge: Callable[[plan.Candidate], tuple[float, bool]]) -> plan.Plan:
    """What a pilot chooses where base draws of every candidate vary, and its steps are too coarse, as ``judge`` says."""
    given = job(folder, **AUTO)
    t, x = given.problem.sample_points(2, Stream(0, Purpose.POINTS))
    build, judged = plan.Candidate.build, []
    two = torch.tensor([[-1.0, 1.0]])

    def spy(candidate: plan.Candidate) -> Any:
        variance, coarse = judge(candidate)
        judged.append((variance / candidate.coupled, 2.0 * variance if coarse else 0.0))
        return build(candidate)

    def measured(trials: Any, *_: Any) -> Any:
        results = []
        for trial, (base, refined) in zip(trials, judged[-len(trials) :], strict=True):
            names = (*trial.estimator.terms, *trial.estimator.biases)
            size = {trial.estimator.terms[0]: base, "time step": refined}
            moments = {name: Moments.of((math.sqrt(size.get(name, 0.0)) * two).numpy()) for name in names}
            results.append((moments, dict.fromkeys(names, 1.0)))
        return results

    monkeypatch.setattr(plan.Candidate, "build", spy)
    monkeypatch.setattr(plan, "measured", measured)
    return plan.choose(given, given.surrogate(), t, x)


def is_finer(candidate: plan.Candidate) -> bool:
    return candidate.estimator in plan.FINER


def test_a_way_that_is_too_coarse_is_not_taken_however_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = decided(tmp_path, monkeypatch, lambda c: (1.0, True) if c.pairs == "antithetic" else (100.0, False))
    assert found.chosen.pairs == "quasi" and not found.chosen.coarse
    assert [c.pairs for c in found.tried if c.coarse] == ["antithetic"]
    assert not any(map(is_finer, found.tried)), "nothing finer is tried where steps are fine enough"


def test_a_laplacian_is_chosen_by_the_base_term_whatever_the_steps_which_are_made_finer_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise of probes hides coarse steps: a rule that refused the exact one for them would keep the noise, as would one by
    the work of all terms, 58 to 30."""

    def judge(candidate: plan.Candidate) -> tuple[float, bool]:
        exact = candidate.laplacian == "exact"
        return 10.0 if exact else 30.0, exact and not is_finer(candidate) and candidate.estimator["name"] == "linearised"

    found = decided(tmp_path, monkeypatch, judge)
    assert found.chosen.laplacian == "exact" and found.chosen.estimator == plan.FINER[0] and not found.chosen.coarse
    assert [c.estimator for c in found.tried if is_finer(c)] == [plan.FINER[0]] * 3, "with its pairs"


def test_ever_finer_steps_are_tried_while_others_are_too_coarse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A telescoped estimate, which does not know how coarse its steps are, has to be clearly better than the finest."""

    def judge(candidate: plan.Candidate) -> tuple[float, bool]:
        linearised, finest = candidate.estimator["name"] == "linearised", candidate.estimator == plan.FINER[1]
        return 50.0 if finest else 49.0, linearised and not finest

    found = decided(tmp_path, monkeypatch, judge)
    assert found.chosen.estimator == plan.FINER[1] and not found.chosen.coarse
    assert [is_finer(c) for c in found.tried] == [False] * 4 + [True] * 2 + [False]


def test_an_estimator_that_the_job_names_is_taken(tmp_path: Path) -> None:
    fixed = job(tmp_path, estimator={"name": "linearised", "times": 1, "steps": 1}, laplacian=2, pairs="none")
    t, x = fixed.problem.sample_points(2, Stream(0, Purpose.POINTS))
    assert plan.choose(fixed, fixed.surrogate(), t, x).chosen.estimator == {"name": "linearised", "times": 1, "steps": 1}


# The stored decision.

DECISION = plan.Candidate({"name": "telescoped", "steps": 8}, 8, "antithetic", work=1.5e9, printed=("remainder",))
OTHER = plan.Candidate({"name": "linearised", "times": 1, "steps": 1}, "exact", "none", work=0.0)
STORED = plan.Plan(DECISION, (OTHER, DECISION), mlp=(2, 4), mlp_budget=1.0e11 / 3.0)
AUTO = {"estimator": "auto", "laplacian": "auto", "pairs": "auto"}


def stored(folder: Path, edit: Callable[[dict[str, Any]], None] | None = None, *, signed: bool = True) -> tuple[RunFolder, Job]:
    """STORED in a run's folder, with an edit of its file that another program may have signed again."""
    run_folder, given = RunFolder(folder), job(folder, **AUTO)
    plan.save_plan(run_folder, given, STORED)
    if edit is not None:
        data = json.loads((folder / "plan.json").read_text())
        edit(data)
        if signed:
            del data["sha256"]
            data["sha256"] = digest(data)
        (folder / "plan.json").write_text(json.dumps(data))
    return run_folder, given


def test_a_stored_plan_is_read_again_as_it_was(tmp_path: Path) -> None:
    assert plan.load_plan(*stored(tmp_path)) == STORED
    plan.save_plan(RunFolder(tmp_path), job(tmp_path, **AUTO), replace(STORED, mlp=None))
    assert plan.load_plan(RunFolder(tmp_path), job(tmp_path, **AUTO)) == replace(STORED, mlp=None)
    assert plan.load_plan(*stored(tmp_path, lambda data: None)) == STORED


def test_a_plan_that_another_hand_has_changed_is_not_used(tmp_path: Path) -> None:
    def other_budget(data: dict[str, Any]) -> None:
        data["mlp_budget"] += 1.0

    assert plan.load_plan(*stored(tmp_path, other_budget, signed=False)) is None
    for content in ("", "[]", "{}", "null", "[" * 100_000, (tmp_path / "plan.json").read_text()[:-40]):
        (tmp_path / "plan.json").write_text(content)
        assert plan.load_plan(RunFolder(tmp_path), job(tmp_path, **AUTO)) is None


def putting(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def edit(data: dict[str, Any]) -> None:
        node: Any = data
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        putting("h", "correction_hash"),
        putting(9, "chosen", "estimator", "steps"),
        putting({"name": "picard", "levels": 2, "samples": 4}, "tried", 0, "estimator"),
        putting(3, "chosen", "laplacian"),
        putting("triple", "chosen", "pairs"),
        putting(["telescoped"], "chosen", "printed"),
        putting("remainder", "chosen", "printed"),
        putting(["remainder", "remainder"], "chosen", "printed"),
        putting("much", "chosen", "work"),
        putting(1, "chosen", "more"),
        putting([9, 4], "mlp"),
        putting([2, 3], "mlp"),
        putting([2], "mlp"),
        putting(None, "mlp_budget"),
        putting("a minute", "seconds"),
    ],
)
def test_a_plan_that_this_job_does_not_allow_is_not_used(edit: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    assert plan.load_plan(*stored(tmp_path, edit)) is None


def test_a_plan_of_other_options_of_the_named_estimator_is_not_used(tmp_path: Path) -> None:
    given = job(tmp_path, estimator={"name": "linearised", "times": 2})
    for times, expected in ((2, True), (3, False)):
        chosen = plan.Candidate({"name": "linearised", "times": times, "steps": 1}, "exact", "none", work=1.0)
        plan.save_plan(RunFolder(tmp_path), given, plan.Plan(chosen, (chosen,)))
        assert (plan.load_plan(RunFolder(tmp_path), given) is not None) is expected


# Plain multilevel Picard, and what a tolerance takes.


def test_the_sizes_of_plain_multilevel_picard_can_be_paid_and_grow_with_the_budget(tmp_path: Path) -> None:
    given = job(tmp_path)
    t, x = given.problem.sample_points(32, Stream(0, Purpose.POINTS))
    found = [best_mlp(given, len(t), budget, t, x) for budget in (1e5, 1e8, 1e10)]
    assert found[0] == (1, 1)
    for (n, m), budget in zip(found[1:], (1e8, 1e10), strict=True):
        assert n in plan.MLP_LEVELS and m in plan.MLP_SAMPLES
        assert mlp_method(given, len(t), n, m).pilot_price() <= budget
    assert found[-1][0] > 1


def test_plain_multilevel_picard_that_was_not_planned_for_this_budget_is_asked_for_not_left_out(tmp_path: Path) -> None:
    given = job(tmp_path, report={"baselines": ["mlp"]}, **AUTO)
    for unplanned in (replace(STORED, mlp=None), replace(STORED, mlp_budget=0.0)):
        with pytest.raises(InputError, match="run `scasml correct` first"):
            baseline_methods(given, unplanned, 32, STORED.mlp_budget)
    (method,) = baseline_methods(given, STORED, 32, STORED.mlp_budget)
    assert method.name == "mlp-2-4"
    assert baseline_methods(job(tmp_path), replace(STORED, mlp=None), 32, 1.0) == []


def test_a_report_that_adds_plain_multilevel_picard_waits_for_its_correction(tmp_path: Path, scasml: Callable[..., Any]) -> None:
    out = tmp_path / "run"
    small = {"estimator": {"name": "linearised", "times": 2}, "max_paths": 20_000}
    run(job(tmp_path, report={"baselines": ["linear"]}, **small), out=out, progress=False)
    job(tmp_path, report={"baselines": ["linear", "mlp"]}, **small)
    refused = scasml("report", tmp_path / "job.yaml", "--out", out)
    assert refused.status == 2 and "run `scasml correct` first" in refused.err
    for command in ("correct", "report"):
        assert scasml(command, tmp_path / "job.yaml", "--out", out).status == 0
    assert "mlp" in json.loads((out / "report.json").read_text())["methods"]


@pytest.mark.parametrize("rtol", [3e-3, 1e-3])
def test_a_prediction_is_within_a_factor_of_two_of_what_the_run_spends(rtol: float, tmp_path: Path) -> None:
    given = job(tmp_path, rtol=rtol, max_paths=10_000_000, estimator={"name": "linearised", "times": 2})
    report = run(given, out=tmp_path / "run", progress=False)
    spent = report.methods["scasml"]
    found = predict(given, RunFolder(tmp_path / "run"))
    assert found.met is True and report.tolerance_met is True
    assert spent.paths is not None and spent.flop is not None
    assert 0.5 < found.paths / spent.paths < 2.0
    assert 0.5 < found.flop / spent.flop < 2.0


def test_a_pilot_passes_over_an_estimator_whose_printed_bias_is_sure_to_be_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The telescoped estimator made ten thousand times cheaper is taken, unless its bias is planted at u itself, whatever rtol is."""
    real, planted = plan.measured, [0.0]

    def measured(trials: Any, *arguments: Any) -> Any:
        results = real(trials, *arguments)
        for trial, (moments, work) in zip(trials, results, strict=True):
            if "telescoped" in trial.estimator.terms:
                work.update({term: 1e-4 * flop for term, flop in work.items()})
                bias = moments["time step left"]
                moments["time step left"] = replace(
                    bias, mean=np.full_like(bias.mean, planted[0]), m2=1e-12 * np.ones_like(bias.m2)
                )
        return results

    monkeypatch.setattr(plan, "measured", measured)
    for rtol in (1e-1, 1e-5):
        given = job(tmp_path, estimator="auto", rtol=rtol)
        t, x = given.problem.sample_points(32, Stream(0, Purpose.POINTS))
        for size, taken in ((0.0, "telescoped"), (1.0, "linearised")):
            planted[0] = size
            assert plan.choose(given, given.surrogate(), t, x).chosen.estimator["name"] == taken


def test_what_a_printed_term_would_have_added_counts_against_it_with_the_other_sign() -> None:
    """A printed remainder of mean -1 beside a bias of -1: estimate minus truth is 1 - 1 = 0; with equal signs it would be 2."""
    moments = {
        name: Moments(64, np.full(8, mean), np.full(8, 1e-6)) for name, mean in (("remainder", -1.0), ("time step left", -1.0))
    }
    summed = unsummed(telescoped(), ("remainder",))
    assert set(moments) == set(summed.biases)
    assert plan.sure_bias(summed, moments, ("remainder",)) == 0.0
    assert plan.sure_bias(summed, moments, ()) == pytest.approx(2.0, rel=1e-3)
