"""Every family of problems through the same run: corrected, with ranks and interruptions that change no bit, and refused alike."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from conftest import numbers
from running import execute

from kernels.streams import Purpose, Stream
from pipeline import iteration, run
from pipeline.baselines import baseline_budget, plain_method
from pipeline.errors import InputError
from pipeline.estimate import states
from pipeline.family import FAMILIES
from pipeline.iteration_report import IterationReport
from pipeline.job import Job, RunFolder, job_from
from pipeline.owned import owner_of
from pipeline.report import Report
from pipeline.training import trained_surrogate, training_flop

pytestmark = pytest.mark.unchecked

SAMPLED: dict[str, dict[str, Any]] = {
    "Integral": {
        "problem": {"name": "sine_product", "dim": 2},
        "surrogate": {"name": "multilinear", "points": 25},
        "correction": {"max_paths": 20_000},
    },
    "Poisson": {
        "problem": {"name": "cosine_ball", "dim": 3},
        "surrogate": {"width": 16, "depth": 2},
        "training": {"steps": 20, "batch": 64},
        "correction": {"points": 20, "max_paths": 20_000},
    },
    "Trace": {
        "problem": {"name": "spectrum_trace", "dim": 60},
        "surrogate": {"rank": 5},
        "correction": {"max_paths": 200},
    },
    "Experiment": {"problem": {"name": "operator_learning", "dim": 1}, "correction": {"max_paths": 400}},
}
ITERATED: dict[str, dict[str, Any]] = {
    "Eigenproblem": {"problem": {"name": "spectrum_eigenpairs", "dim": 60}, "surrogate": {"rank": 12}},
    "LinearSystem": {"problem": {"name": "poisson_grid", "dim": 49}, "surrogate": {"pairs": 20}},
    "LeastSquares": {"problem": {"name": "ill_conditioned_least_squares", "dim": 10}},
    "SnapshotStream": {"problem": {"name": "oscillating_modes", "dim": 60}},
    "OperatorStream": {"problem": {"name": "rotating_operator", "dim": 40}},
}


def asked(small: dict[str, Any], **correction: Any) -> dict[str, Any]:
    data = {"name": "small", "seed": 3, **copy.deepcopy(small)}
    data["correction"] = {**data.get("correction", {}), **correction}
    return data


def job(small: dict[str, Any], **correction: Any) -> Job:
    return job_from(asked(small, **correction), Path())


def test_every_family_but_the_semilinear_one_is_tried_here() -> None:
    assert {*SAMPLED, *ITERATED} == {family.record.__name__ for family in FAMILIES} - {"SemilinearPDE"}


@pytest.mark.parametrize("family", [name for name in SAMPLED if name != "Experiment"])
def test_a_mean_is_nearer_to_the_truth_than_its_surrogate_and_says_how_near(family: str, tmp_path: Path) -> None:
    asked_for = job(SAMPLED[family])
    report = run(asked_for, tmp_path / "run", progress=False)
    assert isinstance(report, Report) and report.reference is not None
    corrected = report.methods["scasml"]
    assert corrected.se is not None
    error = np.abs(corrected.value - report.reference)
    # With a fixed seed: five standard errors at every point.
    assert (error < 5.0 * corrected.se + np.abs(corrected.shift)).all()
    before = np.abs(report.methods["surrogate"].value - report.reference)
    assert before.mean() > 3.0 * error.mean()
    summary = json.loads((tmp_path / "run" / "report.json").read_text())
    assert list(summary["methods"]) == ["surrogate", "plain", "scasml"]
    # In whole chunks, as many FLOP as the correction and its surrogate.
    surrogate, spent = asked_for.surrogate(), summary["methods"]["scasml"]["flop"]
    budget = baseline_budget(asked_for, surrogate, spent)
    assert budget == spent + training_flop(asked_for, surrogate) > spent
    assert 0.5 * budget < summary["methods"]["plain"]["flop"] <= budget
    # On other numbers than the correction: they are to be compared.
    assert plain_method(asked_for, len(report.t)).purpose is not Purpose.CORRECTION
    with h5py.File(tmp_path / "run" / "report.h5") as file:
        names = (
            {"u_scasml", "u_scasml_se", "u_plain", "x"} if family == "Poisson" else {"value", "value_se", "value_plain", "answer"}
        )
        assert names <= set(file) and ("x" in file) == ("t" in file) == (family == "Poisson")
        assert all(node.attrs["long_name"] and node.attrs["units"] == "1" for node in file.values())


def test_a_study_of_rates_reports_slopes_with_intervals_beside_the_theory(tmp_path: Path) -> None:
    report = run(job(SAMPLED["Experiment"]), tmp_path / "run", progress=False)
    summary = json.loads((tmp_path / "run" / "report.json").read_text())
    assert isinstance(report, Report) and set(summary["rates"]) == {rate.method for rate in report.rates}
    method = report.methods["scasml"]
    for number, rate in enumerate(report.rates):
        rows = report.x[:, 1] == number
        assert (rate.mean == method.value[rows]).all() and (rate.ns == report.x[rows, 0]).all()
    for rate in summary["rates"].values():
        assert rate["low"] < rate["slope"] < rate["high"] < 0.0


@pytest.mark.parametrize("family", SAMPLED)
def test_ranks_and_a_budget_that_is_raised_later_change_no_bit(family: str, tmp_path: Path) -> None:
    small = SAMPLED[family]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(asked(small, ranks=3, oversubscribe=True)))
    done = execute(tmp_path / "job.yaml", tmp_path / "three", "--inline")
    assert done.returncode == 0, done.stdout + done.stderr
    half = small["correction"]["max_paths"] // 2
    run(job(small, max_paths=half), tmp_path / "one", progress=False)
    run(job(small), tmp_path / "one", progress=False)
    assert numbers(tmp_path / "one") == numbers(tmp_path / "three")
    one, three = (json.loads((tmp_path / name / "report.json").read_text())["gain"] for name in ("one", "three"))
    assert one == three and (one is not None) is (family == "Integral")


@pytest.mark.parametrize("family", ITERATED)
def test_an_iteration_ends_nearer_to_the_truth_and_stopped_half_way_has_the_bits_of_one_left_alone(
    family: str, tmp_path: Path
) -> None:
    small = ITERATED[family]
    whole = run(job(small, max_steps=8), tmp_path / "whole", progress=False)
    for steps in (3, 8):
        report = run(job(small, max_steps=steps), tmp_path / "parts", progress=False)
    assert isinstance(whole, IterationReport) and isinstance(report, IterationReport)
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "parts")
    found = whole.methods["scasml"].iteration
    assert found.steps == report.methods["scasml"].iteration.steps <= 8
    asked_for = job(small, max_steps=8)
    surrogate = trained_surrogate(RunFolder(tmp_path / "whole"), asked_for)
    held = sum(part.numel() for part in found.state.values())
    assert 0 <= held - asked_for.estimator().size(iteration.problem_of(asked_for, surrogate, "scasml")) < 10
    # What is foreseen before any training.
    assert states(asked_for, asked_for.surrogate()) == 16.0 * asked_for.estimator().size(asked_for.defect(surrogate, None))
    if not whole.streams:
        assert found.residuals[-1].max() < 0.5 * found.residuals[0].max()
    with h5py.File(tmp_path / "whole" / "report.h5") as file:
        assert {"solution", "residual", "reference", "iteration"} <= set(file)


@pytest.mark.parametrize("method", ["fcg", "fgmres"])
def test_the_state_of_a_krylov_method_has_the_size_it_says(method: str) -> None:
    asked_for = job(ITERATED["LinearSystem"], estimator={"name": "flexible_krylov", "method": method, "memory": 5})
    estimator, problem, held = asked_for.estimator(), asked_for.problem, []
    state = estimator.start(problem, Stream(0, Purpose.PLAIN))
    for _ in range(7):
        state = estimator.step(problem, state)
        held.append(sum(part.numel() for part in state.values()))
    assert 0 <= max(held) - estimator.size(problem) < 10


def test_a_smaller_tolerance_costs_the_missing_steps_alone(tmp_path: Path) -> None:
    small = ITERATED["LinearSystem"]
    first = run(job(small, rtol=1e-2), tmp_path / "run", progress=False)
    second = run(job(small, rtol=1e-6), tmp_path / "run", progress=False)
    steps = [report.methods["scasml"].iteration.steps for report in (first, second)]
    assert 0 < steps[0] < steps[1]
    assert second.job["correction"]["max_steps"] == 100
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"scasml: {steps[0]} steps computed, 0 reused" in log
    assert f"scasml: {steps[1] - steps[0]} steps computed, {steps[0]} reused" in log
    assert json.loads((tmp_path / "run" / "report.json").read_text())["tolerance_met"] is True


def test_an_approximate_solve_alone_stagnates_and_the_report_says_so(tmp_path: Path) -> None:
    small = {**ITERATED["LinearSystem"], "correction": {"estimator": {"name": "iterative_refinement", "smoother": "none"}}}
    report = run(job(small, rtol=1e-8), tmp_path / "run", progress=False)
    assert report.summary()["ended"] == "stagnant" and report.summary()["tolerance_met"] is False
    assert "The residual gets no smaller" in (tmp_path / "run" / "report.html").read_text()


def test_what_a_quadrature_leaves_open_is_part_of_the_error_and_of_the_tolerance(tmp_path: Path) -> None:
    small = {"problem": {"name": "sine_product", "dim": 2}, "surrogate": {"name": "nearest_neighbours", "points": 60}}
    report = run(job(small, rtol=8e-5, max_paths=400_000), tmp_path / "run", progress=False)
    assert isinstance(report, Report)
    found, asked_for = report.methods["scasml"], job(small)
    surrogate = trained_surrogate(RunFolder(tmp_path / "run"), asked_for)
    left = float(surrogate.plug_in_error(torch.zeros(1), torch.zeros(1, 2)))
    assert found.se is not None and found.se[0] > left > 8e-5 * found.value[0]
    # Its draws alone would meet it.
    assert found.se[0] ** 2 - left**2 < (8e-5 * found.value[0]) ** 2
    assert report.tolerance_met is False


def test_the_ends_of_iterations_have_names_of_their_own(tmp_path: Path) -> None:
    ends = {}
    for name, family, steps in (("met", "LinearSystem", 500), ("rounding", "Eigenproblem", 500), ("spent", "LinearSystem", 2)):
        rtol = {"rtol": 1e-8} if name == "met" else {}
        ends[name] = run(job(ITERATED[family], max_steps=steps, **rtol), tmp_path / name, progress=False)
    assert {name: report.summary()["ended"] for name, report in ends.items()} == {name: name for name in ends}
    # A stream ends where its snapshots do, be it at the very last step that was asked for.
    whole = run(job(ITERATED["OperatorStream"], max_steps=500), tmp_path / "whole", progress=False)
    last = whole.methods["scasml"].iteration.steps
    exact = run(job(ITERATED["OperatorStream"], max_steps=last), tmp_path / "exact", progress=False)
    short = run(job(ITERATED["OperatorStream"], max_steps=last - 1), tmp_path / "short", progress=False)
    assert [r.methods["scasml"].iteration.ended for r in (whole, exact, short)] == ["complete", "complete", "spent"]
    assert exact.reference is not None and short.reference is None


def test_an_iteration_books_its_surrogate_and_draws_its_baseline_by_the_seed(tmp_path: Path) -> None:
    asked_for = job(ITERATED["Eigenproblem"], max_steps=3)
    report = run(asked_for, tmp_path / "run", progress=False)
    corrected, plain = report.methods["scasml"], report.methods["plain"]
    fit = training_flop(asked_for, asked_for.surrogate())
    steps = 3.0 * asked_for.estimator().flop(iteration.problem_of(asked_for, asked_for.surrogate(), "scasml"))
    assert corrected.flop == steps + fit > steps and plain.flop < corrected.flop
    other = job_from({**asked(ITERATED["Eigenproblem"], max_steps=3), "seed": 4}, Path())
    found = run(other, tmp_path / "other", progress=False).methods["plain"].iteration
    assert found.residuals[0].max() != plain.iteration.residuals[0].max()


def test_a_truth_of_another_size_is_left_out(tmp_path: Path) -> None:
    small = {"problem": {"name": "oscillating_modes", "dim": 60, "pairs": 2}}
    assert run(job(small, max_steps=500), tmp_path / "run", progress=False).reference is None


def test_conjugate_gradients_are_let_take_their_detour(tmp_path: Path) -> None:
    small = {"problem": {"name": "poisson_grid", "dim": 961}, "surrogate": {"pairs": 20}}
    krylov = {"name": "flexible_krylov", "method": "fcg", "smoother": "none"}
    report = run(job(small, estimator=krylov, rtol=1e-8, max_steps=300), tmp_path / "run", progress=False)
    plain = report.methods["plain"].iteration
    assert plain.ended == "met" and (np.diff(plain.residuals[:, 0]) > 0.0).any()


@pytest.mark.parametrize(
    ("small", "correction", "said"),
    [
        (SAMPLED["Integral"], {"pairs": "none"}, r"correction\.pairs: 'sine_product' has nothing for it to act on"),
        (SAMPLED["Integral"], {"max_steps": 5}, r"correction\.max_steps: 'sine_product' has nothing for it"),
        (SAMPLED["Integral"], {"points": 5}, r"correction\.points: 'sine_product' has nothing for it"),
        (SAMPLED["Integral"], {"estimator": "auto"}, r"correction\.estimator = 'auto': no pilot chooses for 'sine_product'"),
        (SAMPLED["Integral"], {"estimator": "picard"}, r"'picard': it works on a SemilinearPDE, and .* an Integral: use "),
        (SAMPLED["Trace"], {"max_paths": 3}, r"correction\.max_paths = 3: .* raise it"),
        (SAMPLED["Poisson"], {"points": "reference"}, r"'reference': 'cosine_ball' has no reference point"),
        (
            {"problem": {"name": "sine_box", "dim": 3}},
            {"points": 4, "estimator": "ball_green"},
            r"correction\.estimator: 'sine_box' lives in a Box, .* use walk_on_spheres",
        ),
        ({"problem": {"name": "spectrum_trace", "dim": 20}}, {"estimator": "xtrace"}, r"correction\.estimator: matvecs = 60"),
        (ITERATED["LinearSystem"], {"ranks": 2}, r"correction\.ranks: 'poisson_grid' has nothing for it"),
        (ITERATED["LinearSystem"], {"estimator": "sirr"}, r"'sirr': it works on a LeastSquares, and .* a LinearSystem: use "),
        (
            {**SAMPLED["Trace"], "surrogate": "mlp"},
            {},
            r"surrogate = 'mlp': it works on a SemilinearPDE, .* a Trace: use low_rank",
        ),
        ({**SAMPLED["Trace"], "report": {"baselines": ["mlp"]}}, {}, r"baselines = \[\.\.\., mlp\]: there is none for .* plain"),
        ({"problem": {"name": "sine_produkt", "dim": 2}}, {}, r"no such problem\. Did you mean 'sine_product'\?"),
    ],
)
def test_what_belongs_to_another_family_is_refused_with_what_to_use(
    small: dict[str, Any], correction: dict[str, Any], said: str, tmp_path: Path
) -> None:
    def start() -> None:
        run(job(small, **correction), tmp_path / "run", progress=False)

    with pytest.raises(InputError, match=said):
        start()
    assert not (tmp_path / "run").exists()


def test_the_command_checks_lists_and_compares_them(tmp_path: Path, scasml: Callable[..., Any]) -> None:
    for name, small in {**SAMPLED, **ITERATED}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(asked(small)))
        done = scasml("check", tmp_path / f"{name}.yaml")
        assert done.status == 0 and "correct" in done.out, done.out + done.err
    listed = scasml("problems").out
    for name in ("sine_product", "cosine_ball", "spectrum_trace", "poisson_grid", "oscillating_modes", "deep_ritz"):
        assert name in listed
    for name in ("Integral", "LinearSystem"):
        run(job({**SAMPLED, **ITERATED}[name]), tmp_path / name, progress=False)
    done = scasml("compare", tmp_path / "Integral", tmp_path / "LinearSystem", "--out", tmp_path / "both")
    assert done.status == 0 and "residual" in done.out, done.out + done.err
    assert re.search(
        r"Integral: the same estimator without a surrogate takes [\d,.]+ times the FLOP and [\d,.]+ times the core seconds",
        done.out,
    )
    assert "| sine_product (dim 2, " in (tmp_path / "both" / "systems.md").read_text()
    for name in ("Integral", "LinearSystem"):
        assert scasml("inspect", tmp_path / name / "report.h5").status == 0


@pytest.mark.parametrize("harm", ["shape", "other", "missing", "surrogate"])
def test_a_state_that_is_not_this_corrections_is_refused(harm: str, tmp_path: Path) -> None:
    asked_for = job(ITERATED["LinearSystem"], max_steps=3)
    run(asked_for, tmp_path / "run", progress=False)
    folder = RunFolder(tmp_path / "run")
    owner = owner_of(asked_for, trained_surrogate(folder, asked_for), "scasml")
    found = iteration.read_iteration(folder, asked_for, "scasml", owner)
    assert found is not None
    state = dict(found.state)
    if harm == "surrogate":
        owner = "another"
    elif harm == "missing":
        del state["best"]
    else:
        state["best"] = state["best"][:5] if harm == "shape" else state["best"] + 1.0
    iteration._save(folder, asked_for, "scasml", replace(found, state=state), owner)
    with pytest.raises(
        InputError,
        match=r"iteration\.h5' (does not hold a state of this correction|belongs to a surrogate with other parameters): delete it",
    ):
        run(job(ITERATED["LinearSystem"], max_steps=5), tmp_path / "run", progress=False)
