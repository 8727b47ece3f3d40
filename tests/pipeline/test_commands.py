"""The commands that inform, and what a run tells and leaves alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from test_bad_input import PDE, write

from pipeline import catalogue, dag, listing, resources, run
from pipeline.dag import report_stage
from pipeline.errors import InputError, Interrupted
from pipeline.estimate import costs
from pipeline.job import RunFolder, load_job
from pipeline.messages import fields_at, rule_of
from pipeline.reading import read_mapping
from pipeline.reference import reference
from pipeline.stages import interruptions

from conftest import TINY  # isort: skip

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"training.steps": 5, "correction.points": 16, "correction.max_paths": 10_000, "report.baselines": ["surrogate"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run beside its job file. Read it, do not change it."""
    place = tmp_path_factory.mktemp("finished")
    (place / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    write(place / "tiny.yaml", QUICK)
    run(load_job(place / "tiny.yaml"), out=place / "run")
    return place


def copied(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy" / "tiny.yaml", tmp_path / "copy" / "run"


# A finished run.


def test_a_finished_run_is_left_to_the_last_byte(finished: Path, tmp_path: Path, scasml: Callable[..., Any]) -> None:
    job, folder = copied(finished, tmp_path)
    assert scasml("run", job, "--inline", "--out", folder).status == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = scasml("run", job, "--inline", "--out", folder)
    assert done.status == 0 and "scasml" in done.out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_finished_run_of_a_users_own_files_is_left_too_until_one_of_them_changes(
    job_file: Path, scasml: Callable[..., Any]
) -> None:
    (job_file.parent / "pde.py").write_text(PDE.format(body="pass"))
    (job_file.parent / "p.csv").write_text("t,x1,x2,x3\n" + "0.1,1,2,3\n" * 16)
    write(job_file, {**QUICK, "problem": {"file": "pde.py", "name": "mine", "dim": 3}, "correction.points": {"file": "p.csv"}})
    arguments = ("run", job_file, "--inline", "--out", job_file.parent / "out")
    assert scasml(*arguments).status == 0
    before = (job_file.parent / "out" / "job.yaml").stat().st_mtime_ns
    assert scasml(*arguments).status == 0
    assert (job_file.parent / "out" / "job.yaml").stat().st_mtime_ns == before
    (job_file.parent / "p.csv").write_text("t,x1,x2,x3\n" + "0.2,1,2,3\n" * 16)
    done = scasml(*arguments)
    assert done.status == 2 and "belongs to another job" in done.err


def test_a_report_of_more_than_was_computed_is_refused_and_the_run_stays_as_it_is(
    finished: Path, tmp_path: Path, scasml: Callable[..., Any]
) -> None:
    job, folder = copied(finished, tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    done = scasml("report", job, "--out", folder, "--set", "correction.rtol=1e-9", "--set", "correction.max_paths=1000000000")
    assert done.status == 2 and "is missing: finish the run with `scasml correct`" in done.err
    assert {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()} == before


def test_what_is_there_already_needs_no_room_on_a_full_disk(
    finished: Path, tmp_path: Path, scasml: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, folder = copied(finished, tmp_path)
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    for _ in ("finished", "without its report"):
        assert scasml("run", job, "--inline", "--out", folder).status == 0
        (folder / "report.h5").unlink()
    assert scasml("run", job, "--inline", "--out", tmp_path / "new").status == 2


@pytest.mark.parametrize("name", ["report.html", "report.json"])
def test_what_is_missing_of_a_finished_run_is_made_again(
    name: str, finished: Path, tmp_path: Path, scasml: Callable[..., Any]
) -> None:
    job, folder = copied(finished, tmp_path)
    before, report = (folder / name).read_bytes(), (folder / "report.h5").read_bytes()
    (folder / name).unlink()
    done = scasml("run", job, "--inline", "--out", folder)
    assert done.status == 0 and name in done.out.splitlines()[-1]
    assert (folder / "report.h5").read_bytes() == report
    assert json.loads((folder / name).read_bytes()) == json.loads(before) if name.endswith("json") else (folder / name).exists()


def test_a_page_that_cannot_be_made_again_is_said_to_be_missing(
    finished: Path, tmp_path: Path, scasml: Callable[..., Any]
) -> None:
    job, folder = copied(finished, tmp_path)
    (folder / "report.html").unlink()
    shutil.rmtree(folder / "chunks")
    done = scasml("run", job, "--inline", "--out", folder)
    assert done.status == 0 and "report.html is missing and cannot be drawn again" in done.out
    assert "report.html" not in done.out.splitlines()[-1] and "report.h5" in done.out.splitlines()[-1]


# Before and during a run.


@pytest.mark.parametrize("command", ["correct", "report"])
def test_a_stage_without_the_one_before_is_refused_and_nothing_is_written(
    command: str, job_file: Path, scasml: Callable[..., Any]
) -> None:
    done = scasml(command, job_file, "--out", job_file.parent / "out")
    assert done.status == 2 and "scasml train" in done.err
    assert sorted(job_file.parent.iterdir()) == [job_file]


def test_a_report_without_chunks_is_refused_and_nothing_is_written(
    finished: Path, tmp_path: Path, scasml: Callable[..., Any]
) -> None:
    job, folder = copied(finished, tmp_path)
    shutil.rmtree(folder / "chunks")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = scasml("report", job, "--out", folder, "--set", "report.confidence=0.9")
    assert done.status == 2 and "scasml correct" in done.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_report_that_is_refused_is_no_interruption(finished: Path, tmp_path: Path, scasml: Callable[..., Any]) -> None:
    job, folder = copied(finished, tmp_path)
    (kept,) = (folder / "chunks" / "scasml").glob("wave-000000.h5")
    content = kept.read_bytes()
    kept.unlink()
    more = ("--out", folder, "--set", "report.confidence=0.9")
    done = scasml("report", job, *more)
    assert done.status == 2 and "run `scasml correct`" in done.err
    with pytest.raises(InputError, match="`scasml correct`"):
        report_stage(RunFolder(folder), RunFolder(folder).load())
    assert "report refused" in (folder / "log.txt").read_text() and interruptions(RunFolder(folder)) == 0
    kept.write_bytes(content)
    assert scasml("report", job, *more).status == 0
    assert json.loads((folder / "report.json").read_text())["resumed"] == 0


def test_check_foresees_the_flop_that_a_run_reports() -> None:
    """Of the quickstart, 9.3e10 on record; paths that share a Sobol' net must not be counted as nets."""
    (row,) = (row for row in costs(load_job(ROOT / "jobs" / "quickstart.yaml")) if row[0] == "correct")
    assert 9.3e10 / 3.0 < float(row[2]) < 9.3e10 * 3.0


def test_pictures_go_nowhere_that_cannot_be_written(finished: Path, scasml: Callable[..., Any]) -> None:
    done = scasml("report", finished / "tiny.yaml", "--out", finished / "run", "--figures", "/proc/xx")
    assert done.status == 2 and "--figures /proc/xx: cannot be written" in done.err


def test_more_workers_than_cores_are_served_and_more_ranks_refused_by_check_as_by_run(
    job_file: Path, scasml: Callable[..., Any]
) -> None:
    write(job_file, {"training.workers": 64, "training.batch": 2048})
    assert scasml("check", job_file).status == scasml("check", job_file, "--inline").status == 0
    write(job_file, {"correction.ranks": 4096})
    done = scasml("check", job_file)
    assert done.status == 2 and "correction.ranks = 4096" in done.err
    assert scasml("run", job_file, "--out", job_file.parent / "out").err == done.err


def test_train_says_that_it_trains_here_whatever_the_workers(job_file: Path, scasml: Callable[..., Any]) -> None:
    write(job_file, {**QUICK, "training.workers": 2})
    done = scasml("train", job_file, "--out", job_file.parent / "out")
    assert done.status == 0 and "this process takes the batches of 2 workers in turn" in done.out
    write(job_file, {"training.workers": 1})
    assert "in turn" not in scasml("train", job_file, "--out", job_file.parent / "out1").out


@pytest.mark.parametrize(
    "reason",
    ["stopped by SIGTERM", "the ranks were terminated; finished chunks are kept: run the same command again to go on", ""],
)
def test_what_stopped_a_run_and_how_to_go_on_are_said_once(
    reason: str, job_file: Path, scasml: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise Interrupted(reason)

    monkeypatch.setattr(dag, "run_inline", stop)
    done = scasml("run", job_file, "--inline", "--out", job_file.parent / "out")
    assert done.status == 3 and done.err.startswith(reason or "interrupted") and done.err.count("\n") == 1
    assert done.err.count("run the same command again") == 1 and done.err.count(" kept") == 1


def test_from_python_a_run_shows_plain_lines_unless_told_not_to(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, folder = copied(finished, tmp_path)
    capsys.readouterr()
    report = run(load_job(job), out=folder)
    shown = capsys.readouterr().out
    assert re.search(r"^\d\d:\d\d:\d\d run opened$", shown, flags=re.M) and report.errors("scasml")["rel_l2"] < 1.0  # type: ignore[operator]
    run(load_job(job), out=folder, progress=False)
    assert capsys.readouterr().out == ""


# Commands that inform.


@pytest.mark.parametrize("path", ["nowhere", ".", "tiny.yaml"])
def test_compare_refuses_what_is_no_finished_run(path: str, finished: Path, scasml: Callable[..., Any]) -> None:
    done = scasml("compare", finished / "run", finished / path)
    assert done.status == 2 and done.err.count("\n") == 1 and str(finished / path) in done.err
    if path == ".":
        assert "scasml run" in done.err


def test_inspect_shows_results_job_and_whole_hashes(finished: Path, scasml: Callable[..., Any]) -> None:
    job = load_job(finished / "tiny.yaml")
    report = scasml("inspect", finished / "run" / "report.h5").out
    assert re.search(r"^scasml +\d\.\d\de-\d\d", report, flags=re.M) and "viscous_burgers in 6 dimensions" in report
    assert f"correction hash: {job.correction_hash}" in report and "    sigma: 0.25" in report and " bias " in report
    assert re.search(r"^u_scasml_se +16 +float64 +\S+ +\S+ +standard error of u_scasml", report, flags=re.M)
    surrogate = scasml("inspect", finished / "run" / "surrogate.h5").out
    assert (
        f"training hash: {job.training_hash}" in surrogate
        and "step 5 of 5" in surrogate
        and re.search(r"^loss \S+ -> \S+", surrogate, re.MULTILINE)
    )
    assert re.search(r"parameters/ +844 +numbers in", surrogate)
    assert re.search(r"^x +16 x 6", scasml("inspect", finished / "run" / "points.h5").out, flags=re.M)
    wave = next((finished / "run" / "chunks" / "scasml").iterdir())
    assert f"correction hash: {job.correction_hash}" in scasml("inspect", wave).out


def test_every_key_of_a_job_is_explained_and_the_explanation_is_a_job(tmp_path: Path, scasml: Callable[..., Any]) -> None:
    done = scasml("check", "--explain")
    assert done.status == 0
    (tmp_path / "job.yaml").write_text(done.out)
    job = load_job(tmp_path / "job.yaml")
    assert load_job(_minimal(tmp_path)).resolved == {**job.resolved, "name": "minimal"}
    for path in ([], ["problem"], ["training"], ["correction"], ["correction", "points"], ["report"]):
        for name, field in fields_at(path).items():
            assert field.description and rule_of(field).example, name
            if path != ["correction", "points"]:
                assert re.search(rf"^ *(# )?{name}:", done.out, flags=re.M), name
    # The examples behind a # are valid, too.
    text = re.sub(r"^( *)# (rtol|atol): ", r"\1\2: ", done.out, flags=re.M)
    (tmp_path / "job.yaml").write_text(text)
    assert load_job(tmp_path / "job.yaml").model.correction.atol == 1e-6
    assert max(map(len, reference(60))) <= 80


def _minimal(tmp_path: Path) -> Path:
    (tmp_path / "minimal.yaml").write_text("name: minimal\nproblem: {name: lqg, dim: 100}\n")
    return tmp_path / "minimal.yaml"


def test_every_example_of_a_rule_is_valid(tmp_path: Path) -> None:
    for path in ([], ["training"], ["correction"], ["report"]):
        for name, field in fields_at(path).items():
            inner = f"{name}: {rule_of(field).example}"
            for part in reversed(path):
                inner = f"{part}: {{{inner}}}"
            problem = "{name: poisson_grid, dim: 49}" if name == "max_steps" else "{name: lqg, dim: 100}"
            extra = "" if name in ("name", "problem") else f"name: x\nproblem: {problem}\n"
            other = {"name": "problem: {name: lqg, dim: 100}\n", "problem": "name: x\n"}.get(name, "")
            (tmp_path / "job.yaml").write_text(f"{extra}{other}{inner}\n")
            assert load_job(tmp_path / "job.yaml"), inner


@pytest.mark.parametrize("command", ["run", "check"])
def test_the_help_teaches_with_an_example_that_is_a_job(command: str, tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "pipeline", command, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert f"scasml {command} jobs/" in shown and "scasml check --explain" in shown
    if command == "run":
        job = shown[shown.index("      name: my_study") : shown.index("  Tighten")]
        (tmp_path / "job.yaml").write_text(job)
        assert load_job(tmp_path / "job.yaml").model.name == "my_study"


def test_the_catalogue_lists_every_name_with_its_options_and_their_meaning(scasml: Callable[..., Any]) -> None:
    text = scasml("catalogue").out
    for room in catalogue.ROOMS:
        assert re.search(rf"^{re.escape(listing.KEYS[room])}: {{name: ", text, flags=re.M)
        for name in catalogue.names(room):
            assert re.search(rf"^  {name}$", text, flags=re.M), name
    assert "learning_rate: 0.003 | a number | peak of the schedule, > 0" in text
    problems = scasml("problems").out
    assert problems in text.replace(text[text.index("# surrogates") : text.index("Your own equation")], "")
    assert "dim: a whole number from 2 (not 1: the seeded quadratic form couples" in " ".join(problems.split())
    assert "truth: closed form" in problems
    words = " ".join(problems.split())
    assert (
        "truth: u(0, (50, ..., 50)) alone, 14.68713 +- 0.00036 for dim 100 (Monte Carlo, one standard error); no other" in words
    )
    assert "66.858 +- 0.012 for dim 20" in words and "21.299 +- 0.213 for dim 100 (published" in words
    assert "none known" not in scasml("catalogue", "equations").out
    assert "works on: Integral" in text and "works on: SemilinearPDE" in text
    assert scasml("catalogue", "optimizers").out == scasml("catalogue", "training.optimizer").out
    assert {f"  {name}" for name in ("lqg", "sine_product", "deep_ritz")} <= set(scasml("catalogue", "problem").out.splitlines())
    refused = scasml("catalogue", "optimiser")
    assert refused.status == 2 and "Did you mean 'optimizer'?" in refused.err


def test_an_equation_that_needs_options_or_fails_does_not_stop_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    def needy(dim: int, *, rate: float, bump: Any = len) -> None:
        """u_t = 0.

        :param dim: a multiple of 3
        :param rate: of interest,
            in percent
        :param bump: a shape
        """

    def broken(dim: int) -> None:
        """u_t = 1."""
        raise KeyError("coefficients")

    def capped(dim: int) -> Any:
        """u_t = 2."""
        if dim > 3:
            raise ValueError(f"dim = {dim}: too many")
        return type("Problem", (), {"solution": None})()

    made = {"needy": needy, "broken": broken, "capped": capped}
    monkeypatch.setattr(catalogue, "names", lambda room: list(made))
    monkeypatch.setattr(catalogue, "factory", lambda room, name, where: made[name])
    text = " ".join("\n".join(listing.listing(["equations"], 100)).split())
    assert "dim: a multiple of 3 (TypeError: " in text and "rate: must be given | a number | of interest, in percent" in text
    assert "broken u_t = 1. dim: (KeyError: 'coefficients')" in text
    assert "dim: a whole number from 1 (not 4: too many) (not 100: too many) truth: none known" in text


def test_a_job_is_read_whatever_the_terminal(finished: Path) -> None:
    environment = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for arguments in (["compare", finished / "run"], ["inspect", finished / "run" / "surrogate.h5"], ["problems"]):
        command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
        found = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert found.returncode == 0, found.stderr.decode()
    assert read_mapping(finished / "tiny.yaml")["name"] == "tiny"
