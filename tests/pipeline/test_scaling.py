"""`scasml scaling`: runs grouped and refused, laws and contests of planted errors, and what is written."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from kernels.streams import Purpose, Stream
from pipeline import load_job, scaling, scaling_report
from pipeline.errors import InputError
from pipeline.scaling import contests, studies, trained

WIDTHS, STEPS = (4, 8, 16, 32), (100, 400, 1600)
ALPHA, BETA = 0.9, 0.5


@pytest.fixture(autouse=True)
def _few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "REPLICATES", 50)


def job(*, width: int = 8, steps: int = 100, seed: int = 0, optimizer: str = "adam", dim: int = 2) -> dict[str, Any]:
    return {
        "name": "law",
        "seed": seed,
        "problem": {"name": "viscous_burgers", "dim": dim},
        "surrogate": {"name": "mlp", "width": width, "depth": 2},
        "training": {"objective": "residual", "optimizer": optimizer, "steps": steps, "batch": 32},
        "correction": {"points": 100},
    }


def summary(error: float | None, seconds: float = 1.0, **options: Any) -> dict[str, Any]:
    """What a finished run says of its surrogate, as far as a law looks."""
    asked = job(**options)
    asked["training"] |= {"objective": {"name": "residual"}, "optimizer": {"name": asked["training"]["optimizer"]}}
    methods = {"surrogate": {"rel_l2": error, "rel_l2_estimate": 0.1, "rel_l2_low": 0.05, "paths": None}}
    return {"job": asked, "methods": methods, "points": 100, "stages": {"train": {"seconds": seconds}}}


Found = tuple[str, Path, dict[str, Any]]


def sweep(optimizer: str = "adam", *, factor: float = 1.0, pace: float = 1.0, noise: float = 0.05, dim: int = 2) -> list[Found]:
    """A run of every width, number of steps and seed, with errors of a planted law."""
    drawn: Iterator[float] = iter(Stream(len(optimizer), Purpose.TRAINING).normal(100).tolist())
    out = []
    for width, steps, seed in itertools.product(WIDTHS, STEPS, range(3)):
        N, D = width * (dim + 2) + width + width * (width + 1) + width + 1, 32 * steps
        error = factor * (0.005 + 0.1 * (45 / N) ** ALPHA + 0.1 * (3200 / D) ** BETA) * float(np.exp(noise * next(drawn)))
        named = f"{optimizer}-{dim}-{width}-{steps}-{seed}"
        options = {"width": width, "steps": steps, "seed": seed, "optimizer": optimizer, "dim": dim}
        out.append((named, Path(), summary(error, pace * steps / 100, **options)))
    return out


def test_a_run_is_placed_by_its_parameters_samples_and_flop() -> None:
    (run,) = trained([("a", Path(), summary(0.1, 7.0, width=8, steps=100, seed=5))])
    assert (run.N, run.D, run.seed, run.optimizer, run.error, run.seconds, run.known) == (121, 3200, 5, "adam", 0.1, 7.0, True)
    assert run.equation == "viscous_burgers (dim 2)"
    (longer,) = trained([("b", Path(), summary(0.1, steps=300))])
    assert longer.flop == pytest.approx(3.0 * run.flop) and 1e6 < run.flop < 1e8
    (unknown,) = trained([("c", Path(), summary(None))])
    assert unknown.error == 0.1 and not unknown.known


def test_planted_laws_are_found_and_their_largest_width_predicted() -> None:
    found = studies(trained([*sweep(), *sweep(dim=5), *sweep("soap")]))
    assert [(s.equation, s.optimizer) for s in found] == [
        ("viscous_burgers (dim 2)", "adam"),
        ("viscous_burgers (dim 2)", "soap"),
        ("viscous_burgers (dim 5)", "adam"),
    ]
    for study in found:
        for name, value in (("alpha", ALPHA), ("beta", BETA), ("optimal", ALPHA * BETA / (ALPHA + BETA))):
            low, high = study.figures[name].low, study.figures[name].high
            assert low is not None and high is not None and low <= value <= high and high - low < 0.5, name
        assert study.held_out.rms < 0.1 and study.misfit < 2.0 and study.deviation == pytest.approx(0.05, rel=0.3)
        assert len(study.N) == 12 and study.freedom == 24


def test_a_width_that_breaks_the_law_is_reported_as_missed() -> None:
    runs = sweep()
    for _, _, told in runs:
        if told["job"]["surrogate"]["width"] == WIDTHS[-1]:
            told["methods"]["surrogate"]["rel_l2"] *= 3.0
    (study,) = studies(trained(runs))
    assert study.held_out.rms > 0.5
    assert any("NOT within the 25 % asked" in text for text in scaling_report.sentences([study], []))


def test_intervals_widen_where_the_law_misses_its_cells_by_more_than_the_seeds_explain() -> None:
    widths = {}
    for off in (0.0, 0.3):
        runs = sweep(noise=0.02)
        for number, (_, _, told) in enumerate(runs):
            told["methods"]["surrogate"]["rel_l2"] *= np.exp(off * np.sin(5.0 * (number // 3)))
        (study,) = studies(trained(runs))
        low, high = study.figures["beta"].low, study.figures["beta"].high
        assert low is not None and high is not None
        widths[off] = high - low
        said = any("the law misses its cells" in text for text in scaling_report.sentences([study], []))
        assert (study.misfit > 2.0) == said == (off > 0.0)
    assert widths[0.3] > 4.0 * widths[0.0]


def test_intervals_are_hulls_over_seeds_drawn_cell_by_cell_and_whole() -> None:
    """Whole where all cells have the same seeds; what none of the runs determines in one of the two is not determined."""
    logs, cell = np.log(np.arange(1.0, 7.0)), np.repeat([0, 1], 3)
    apart, whole = scaling._bootstraps(logs, cell, np.array([0, 1, 2, 2, 1, 0]), 1.0)
    assert apart.shape == whole.shape == (scaling.REPLICATES, 6)
    first, second = (np.unique(half.round(9), return_inverse=True)[1].reshape(-1, 3) for half in (whole[:, :3], whole[:, 3:]))
    assert first.max() == 2 and np.array_equal(first, 2 - second[:, ::-1])
    assert len(scaling._bootstraps(logs, cell, np.array([0, 1, 2, 3, 1, 0]), 1.0)) == 1
    low, high = np.linspace(0.0, 1.0, 101), np.linspace(0.5, 3.0, 101)
    hull = scaling._measured(0.7, low, high)
    assert (hull.low, hull.high) == pytest.approx((0.05, 2.875))
    assert scaling._measured(0.7, low, np.full(101, np.nan)).low is None


def test_bars_are_those_of_a_mean_logarithm() -> None:
    """Up and down by the same factor, exp of one standard error; a bar of many per cent does not reach 0."""
    (study,) = studies(trained(sweep(noise=1.0)))
    down, up = scaling_report._bars(study, np.arange(len(study.N)))
    errors, factor = np.exp(study.mean), np.exp(study.deviation / np.sqrt(3.0))
    assert errors + up == pytest.approx(errors * factor) and errors - down == pytest.approx(errors / factor)


def test_optimizers_are_compared_at_equal_flop_and_at_equal_time() -> None:
    """soap's errors are half of adam's at the same FLOP, and it takes eight times as long: adam wins at equal time."""
    found = studies(trained([*sweep(), *sweep("soap", factor=0.5, pace=8.0)]))
    by_flop, by_time = contests(found)
    assert (by_flop.cost, by_time.cost) == ("flop", "seconds")
    for d in by_flop.differences:
        assert d.clear and d.low <= 2.0 <= d.high and d.ratio == pytest.approx(2.0, rel=0.15)
    assert all(d.ratio < 2.0 for d in by_time.differences) and not all(d.ratio > 1.0 for d in by_time.differences)
    text = scaling_report.contested(by_flop)
    assert "soap beats adam, whose error is 2.0" in text or "soap beats adam, whose error is 1.9" in text
    (never,) = contests(studies(trained([*sweep(), *sweep("soap", pace=1000.0)])))[1:]
    assert not never.differences and "have no cost in common" in scaling_report.contested(never)


def test_a_difference_within_the_spread_of_seeds_is_no_win() -> None:
    found = studies(trained([*sweep(noise=0.3), *sweep("soap", factor=0.95, noise=0.3)]))
    contest = contests(found)[0]
    assert not any(d.clear for d in contest.differences)
    assert "no difference beyond the spread of seeds" in scaling_report.contested(contest)
    assert "beats" not in scaling_report.contested(contest)


def test_figures_intervals_and_cells_are_kept_and_drawn(tmp_path: Path) -> None:
    runs = [*sweep(), *sweep("soap", factor=0.5)]
    found = studies(trained(runs))
    files = scaling_report.save(tmp_path, found, contests(found))
    assert [file.name for file in files] == ["scaling.json", "scaling.png", "scaling_viscous_burgers_dim_2.png"]
    assert not list(tmp_path.glob(".*"))
    data = json.loads(files[0].read_text())
    law = data["laws"][0]
    assert law["alpha"]["low"] <= ALPHA <= law["alpha"]["high"] and law["E_may_be_0"] in (True, False)
    assert law["held_out"]["met"] and law["held_out"]["N"] == 1249 and len(law["held_out"]["off"]) == 3
    assert len(law["cells"]) == 12 and law["cells"][0]["runs"].keys() == {f"adam-2-4-100-{seed}" for seed in range(3)}
    assert [c["cost"] for c in data["contests"]] == ["flop", "seconds"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files[1:])
    assert studies(trained(runs))[0].figures == found[0].figures


def test_errors_that_do_not_fall_with_the_width_leave_alpha_open() -> None:
    runs = sweep()
    for _, _, told in runs:
        told["methods"]["surrogate"]["rel_l2"] = 10.0 / told["job"]["training"]["steps"] ** 0.5 * (1 + 0.02 * told["job"]["seed"])
    found = studies(trained(runs))
    assert any("do not determine both exponents" in text for text in scaling_report.sentences(found, []))
    assert found[0].figures["optimal"].low is None and found[0].figures["optimal"].holds(0.5) is None
    assert scaling_report.shown(found[0].figures["alpha"]) == "not determined"


def without_seed(runs: list[Found]) -> list[Found]:
    return [run for run in runs if not run[0].endswith("-8-400-2")]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (
            lambda runs: [r for r in runs if r[2]["job"]["surrogate"]["width"] < 32],
            "3 sizes and 3 amounts of data.*needs 4 sizes",
        ),
        (lambda runs: [r for r in runs if r[2]["job"]["training"]["steps"] < 1600], "4 sizes and 2 amounts.*training.steps"),
        (without_seed, "N = 121, D = 12,800 has 2 of the 3 seeds"),
        (lambda runs: [*runs, ("twin", *runs[0][1:])], "2 runs of N = 45, D = 3,200 and seed 0.*'twin'"),
    ],
    ids=["widths", "amounts", "seeds", "twins"],
)
def test_runs_that_are_no_study_are_refused(chosen: Callable[[list[Found]], list[Found]], said: str) -> None:
    with pytest.raises(InputError, match=f"viscous_burgers .dim 2. by adam.*{said}"):
        studies(trained(chosen(sweep())))


def test_runs_of_another_objective_are_not_mixed_in() -> None:
    runs = sweep()
    runs[7][2]["job"]["training"]["objective"] = {"name": "path"}
    with pytest.raises(InputError, match=f"'{runs[0][0]}' and '{runs[7][0]}' have different surrogates, objectives or options"):
        studies(trained(runs))
    runs = sweep()
    runs[7][2]["job"]["training"]["optimizer"] = {"name": "adam", "learning_rate": 0.3}
    with pytest.raises(InputError, match="have different surrogates, objectives or options"):
        studies(trained(runs))
    runs = sweep()
    runs[7][2]["job"]["surrogate"]["activation"] = "sin"
    with pytest.raises(InputError, match="have different surrogates, objectives or options"):
        studies(trained(runs))
    runs = sweep()
    runs[7][2]["job"]["training"].update(accumulate=2, batch=64, steps=800)
    assert studies(trained(runs))
    with pytest.raises(InputError, match="'x': the FLOP of 'lbfgs'"):
        trained([("x", Path(), summary(0.1, optimizer="lbfgs"))])
    with pytest.raises(InputError, match="some of them estimates"):
        studies(trained([*sweep(), ("x", Path(), summary(None, steps=50))]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told["job"].update(training={}), "not trained in steps"),
        (lambda told: told.update(methods={}), "add surrogate to report.baselines"),
        (lambda told: told.update(points=1), "at one point"),
        (lambda told: told["methods"]["surrogate"].update(rel_l2=None, rel_l2_low=0.0), "raise correction.max_paths"),
    ],
    ids=["fitted", "unreported", "one point", "truth unknown"],
)
def test_a_run_that_tells_no_error_of_a_training_is_refused(change: Callable[[dict[str, Any]], None], said: str) -> None:
    told = summary(0.1)
    change(told)
    with pytest.raises(InputError, match=said):
        trained([("a", Path(), told)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run that was made, and copies of it that differ in what their summaries say."""
    import h5py
    import yaml

    place = tmp_path_factory.mktemp("scaling")
    lean = {"estimator": "feynman_kac", "pairs": "none", "points": 16, "max_paths": 20_000, "bounds": False}
    asked = job() | {"correction": lean, "report": {"baselines": ["surrogate"]}}
    asked["training"]["steps"] = 2
    (place / "job.yaml").write_text(yaml.safe_dump(asked))
    pipeline.run(load_job(place / "job.yaml"), out=place / "made", progress=False)
    with h5py.File(place / "made" / "report.h5") as file:
        told = json.loads(file.attrs["summary"])
    for name, _, planted in sweep():
        shutil.copytree(place / "made", place / "runs" / name)
        new = json.loads(json.dumps(told))
        new["job"]["seed"] = planted["job"]["seed"]
        new["job"]["surrogate"] = planted["job"]["surrogate"]
        new["job"]["training"]["steps"] = planted["job"]["training"]["steps"]
        new["methods"]["surrogate"]["rel_l2"] = planted["methods"]["surrogate"]["rel_l2"]
        retell(place / "runs" / name / "report.h5", new)
    return place / "runs"


def retell(path: Path, told: dict[str, Any]) -> None:
    """Write a report that says ``told`` of itself."""
    from pipeline import store

    with store.opened(path, "report") as file:
        attributes = {key: file.attrs[key] for key in ("job", "training_hash", "correction_hash")}
    store.write(path, "report", lambda file: None, attributes | {"summary": told})


def test_the_command_prints_the_law_and_writes_its_files(runs: Path, tmp_path: Path, scasml: Callable[..., Any]) -> None:
    done = scasml("scaling", *sorted(runs.iterdir()), "--out", tmp_path / "out")
    assert done.status == 0, done.err
    assert "alpha beta / (alpha + beta)" in done.out and "largest N predicted to" in done.out
    assert str(tmp_path / "out" / "scaling.json") in done.out.replace("\n", "")
    assert len(json.loads((tmp_path / "out" / "scaling.json").read_text())["laws"][0]["cells"]) == 12


def test_the_command_refuses_runs_that_are_not_finished_or_too_few(
    runs: Path, tmp_path: Path, scasml: Callable[..., Any]
) -> None:
    (tmp_path / "begun").mkdir()
    for arguments, said in (((tmp_path / "begun",), "no report.h5"), ((sorted(runs.iterdir())[0],), "needs 4 sizes")):
        done = scasml("scaling", *arguments, "--out", tmp_path / "out")
        assert done.status == 2 and said in done.err and not (tmp_path / "out").exists()
