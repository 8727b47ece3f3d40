"""What a job resolves to, and what its hashes see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.job import job_from, load_job, load_jobs
from pipeline.reading import parse_override

HASHED: list[dict[str, Any]] = [
    {"correction.estimator.times": 3},
    {"correction.estimator": "auto"},
    {"correction.laplacian": "exact"},
    {"correction.laplacian": "auto"},
    {"correction.pairs": "none"},
    {"correction.points": 41},
    {"correction.points": "reference"},
    {"correction.points": {"interior": 40}},
]
TRAINED: list[dict[str, Any]] = [
    {"seed": 1},
    {"problem.dim": 7},
    {"problem.sigma": 0.5},
    {"surrogate.width": 8},
    {"training.steps": 41},
]
FREE: list[dict[str, Any]] = [
    {"correction.ranks": 2},
    {"correction.rtol": 1e-3},
    {"correction.atol": 1e-6},
    {"correction.gradient": True},
    {"correction.bounds": False},
    {"correction.max_paths": 500_000},
    {"correction.oversubscribe": True},
    {"report.confidence": 0.9},
    {"report.simultaneous": False},
    {"report.baselines": []},
    {"name": "other"},
    {"training.checkpoint_every": 1.0},
    {"training.workers": 2},
    {"training.accumulate": 2},
]


@pytest.mark.parametrize("change", TRAINED, ids=str)
def test_what_determines_the_surrogate_changes_both_hashes(change: dict[str, Any], job_file: Path) -> None:
    base, other = load_job(job_file), load_job(job_file, change)
    assert base.training_hash != other.training_hash and base.correction_hash != other.correction_hash


@pytest.mark.parametrize("change", HASHED, ids=str)
def test_what_determines_the_correction_leaves_the_training_hash(change: dict[str, Any], job_file: Path) -> None:
    base, other = load_job(job_file), load_job(job_file, change)
    assert base.training_hash == other.training_hash and base.correction_hash != other.correction_hash


@pytest.mark.parametrize("change", FREE, ids=str)
def test_budgets_ranks_and_report_keys_are_not_hashed(change: dict[str, Any], job_file: Path) -> None:
    assert load_job(job_file).correction_hash == load_job(job_file, change).correction_hash


def test_a_users_file_is_hashed_by_its_content(job_file: Path) -> None:
    from test_bad_input import PDE, write

    file = job_file.parent / "pde.py"
    write(job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}})
    file.write_text(PDE.format(body="pass"))
    before = load_job(job_file).training_hash
    file.write_text(PDE.format(body="pass") + "\n# changed\n")
    assert load_job(job_file).training_hash != before


def test_defaults_are_filled_in_and_written_defaults_change_nothing(job_file: Path) -> None:
    job = load_job(job_file)
    filled = job.resolved["training"]["objective"]
    assert filled.items() > {"name": "path", "steps": 8, "drift": 0.0}.items() and filled["weighting"] is None
    assert job.resolved["problem"]["sigma"] == 0.25
    assert load_job(job_file, {"problem.sigma": 0.25}).correction_hash == job.correction_hash


def test_a_number_with_an_exponent_is_a_number_and_an_option_of_a_bare_name_can_be_set(job_file: Path) -> None:
    assert parse_override("correction.rtol=1e-3") == ("correction.rtol", 1e-3)
    job_file.write_text(job_file.read_text() + "report: {}\n")
    job = load_job(
        job_file, dict([parse_override("training.optimizer.name=adam"), parse_override("training.optimizer.learning_rate=1e-2")])
    )
    assert job.resolved["training"]["optimizer"] == {"name": "adam", "learning_rate": 0.01}


def test_a_sweep_is_the_product_of_its_lists(job_file: Path) -> None:
    job_file.write_text(job_file.read_text() + "sweep: {seed: [0, 1], training.steps: [10, 20, 30]}\n")
    jobs = load_jobs(job_file)
    assert [(j.model.seed, j.model.training.steps) for j in jobs] == [(s, n) for s in (0, 1) for n in (10, 20, 30)]
    assert len({j.correction_hash for j in jobs}) == 6


def test_a_sweep_says_what_it_set_in_each_run(job_file: Path) -> None:
    job_file.write_text(job_file.read_text() + "sweep: {seed: [0, 1]}\n")
    assert [dict(j.swept) for j in load_jobs(job_file)] == [{"seed": 0}, {"seed": 1}]


def test_a_swept_mapping_is_not_shared_between_runs(job_file: Path) -> None:
    burgers = {"name": "viscous_burgers", "dim": 6}
    job_file.write_text(job_file.read_text() + f"sweep: {{problem: [{burgers}], problem.sigma: [0.5, 1.0]}}\n")
    first, second = load_jobs(job_file)
    assert (first.resolved["problem"]["sigma"], second.resolved["problem"]["sigma"]) == (0.5, 1.0)
    assert first.swept["problem"] == burgers


@pytest.mark.parametrize("written", ["1e6", "1000000.0", "1.0e+6", "1_000_000"])
def test_a_whole_number_may_be_written_as_people_write_it(written: str, job_file: Path) -> None:
    job = load_job(job_file, dict([parse_override(f"correction.max_paths={written}")]))
    assert job.model.correction.max_paths == 1_000_000 and type(job.resolved["correction"]["max_paths"]) is int
    wide = load_job(job_file, {"surrogate.width": 16.0})
    assert wide.resolved["surrogate"]["width"] == 16 and wide.training_hash == load_job(job_file).training_hash


@pytest.mark.parametrize(
    "key", ["surrogate", "training", "training.optimizer", "correction", "correction.estimator", "report", "sweep"]
)
def test_a_key_left_empty_means_its_default(key: str, job_file: Path) -> None:
    section, _, inner = key.partition(".")
    job_file.write_text("name: x\nproblem: {name: lqg, dim: 4}\n" + (f"{section}: {{{inner}: }}\n" if inner else f"{section}:\n"))
    job = load_job(job_file)
    job_file.write_text("name: x\nproblem: {name: lqg, dim: 4}\n")
    assert job.resolved == load_job(job_file).resolved


def test_where_a_pilot_is_to_choose_planning_counts_with_the_defaults(job_file: Path) -> None:
    job = load_job(job_file, {"correction.estimator": "auto", "correction.laplacian": "auto"})
    assert job.estimator() == load_job(job_file, {"correction.estimator": "linearised"}).estimator()
    assert job.resolved["correction"]["estimator"] == {"name": "auto"} and job.probes == 8
    assert load_job(job_file, {"correction.laplacian": "exact"}).probes is None
    assert load_job(job_file, {"correction.laplacian": 3}).probes == 3


def test_what_a_folder_keeps_resolves_to_the_same_job(job_file: Path, tmp_path: Path) -> None:
    from test_bad_input import PDE, write

    (tmp_path / "pde.py").write_text(PDE.format(body="pass"))
    (tmp_path / "p.csv").write_text("0.1,1,2,3\n")
    write(job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}, "correction.points": {"file": "p.csv"}})
    job = load_job(job_file)
    (tmp_path / "kept").mkdir()
    for name, source in job.files.items():
        (tmp_path / "kept" / name).write_bytes(source.read_bytes())
    kept = job_from(job.settled, tmp_path / "kept")
    assert kept.resolved == job.settled == kept.settled and kept.correction_hash == job.correction_hash
    assert sorted(job.files) == ["points_p.csv", "problem_pde.py"]


def test_files_of_one_name_are_kept_apart(job_file: Path, tmp_path: Path) -> None:
    for folder, content in (("a", b"weights"), ("c", b"points")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.h5").write_bytes(content)
    job = load_job(
        _given(job_file),
        {"surrogate": {"name": "given_network", "file": "a/data.h5"}, "correction.points": {"file": "c/data.h5"}},
    )
    assert {name: path.read_bytes() for name, path in job.files.items()} == {
        "surrogate_data.h5": b"weights",
        "points_data.h5": b"points",
    }
    for name, path in job.files.items():
        (tmp_path / name).write_bytes(path.read_bytes())
    kept = job_from(job.settled, tmp_path)
    assert kept.settled == job.settled and kept.correction_hash == job.correction_hash


def _given(job_file: Path) -> Path:
    data = yaml.safe_load(job_file.read_text())
    del data["training"]
    job_file.write_text(yaml.safe_dump(data))
    return job_file
