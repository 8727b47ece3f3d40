"""Jobs handed to a Ray cluster: the README's lines, word for word but for the address, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import checkout, commands
from ray_head import ray_head
from running import execute

from pipeline import submit
from pipeline.work import planned

from conftest import numbers  # isort: skip

ADDRESS = "http://127.0.0.1:8265"


@pytest.fixture(scope="module")
def board() -> Iterator[str]:
    """The address of the dashboard of a Ray cluster that runs already."""
    with ray_head(dashboard=True) as (_, address, _):
        yield address


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("checkout"))


def shell(line: str, place: Path) -> subprocess.CompletedProcess[str]:
    """A line of the README, as a person in the checkout types it."""
    environment = {**os.environ, "PYTHONPATH": str(place)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        ["bash", "-c", line], cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_readmes_lines_hand_a_job_to_a_ray_cluster_and_end_with_the_bits_of_the_laptop(board: str, place: Path) -> None:
    handed, carried = [line.replace(ADDRESS, board) for line in commands("On a Ray cluster")]
    done = shell(carried, place)
    assert done.returncode == 0, done.stdout + done.stderr
    alone = execute(place / "jobs" / "quickstart.yaml", place / "alone", "--inline", "--set", "correction.ranks=1")
    assert alone.returncode == 0, alone.stderr
    assert numbers(place / "runs" / "submitted") == numbers(place / "alone")
    done = shell(handed, place)
    assert done.returncode == 0 and done.stdout.startswith("quickstart-"), done.stdout + done.stderr
    wait = shell(f"ray job logs --follow --address {board} {done.stdout.strip()}", place)
    (run,) = place.glob("runs/quickstart-*/report.h5")
    assert numbers(run.parent) == numbers(place / "alone"), wait.stdout


def test_a_folder_that_would_vanish_with_the_job_is_refused(board: str, place: Path) -> None:
    line = commands("On a Ray cluster")[1].replace(ADDRESS, board).replace("$PWD/runs/submitted", "runs/vanishing")
    done = shell(line, place)
    assert done.returncode != 0
    assert "--out runs/vanishing: a submitted Ray job works in a temporary copy" in done.stdout + done.stderr


def test_where_no_job_server_answers_is_refused_in_one_line(place: Path, scasml: Callable[..., Any]) -> None:
    done = scasml("submit", place / "jobs" / "quickstart.yaml", "--ray", "http://127.0.0.1:9")
    assert done.status == 2 and "--ray http://127.0.0.1:9: no job was taken" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("job", "more", "says"),
    [
        ("quickstart", [], "one of --slurm and --ray ADDRESS"),
        ("quickstart", ["--slurm", "--ray", "http://127.0.0.1:8265"], "one of --slurm and --ray ADDRESS"),
        ("quickstart", ["--slurm"], "there is no sbatch here"),
        ("quickstart", ["--slurm", "--time", "soon"], "--time soon: write minutes, HH:MM:SS"),
        ("quickstart", ["--slurm", "--array"], "holds one run"),
        ("quickstart", ["--slurm", "--set", "training.steps=-1"], "training.steps = -1"),
    ],
)
def test_what_cannot_be_submitted_is_refused(
    job: str, more: list[str], says: str, place: Path, scasml: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(place))
    done = scasml("submit", place / "jobs" / f"{job}.yaml", *more)
    assert done.status == 2 and says in done.err


def pretend(place: Path, name: str, script: str) -> None:
    (place / name).write_text(f"#!/bin/bash\n{script}\n")
    (place / name).chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sbatch and a scancel that write down what they are told; the second job is answered by ANSWER."""
    pretend(tmp_path, "sbatch", f'echo "$@" >> {tmp_path}/told; [ $(wc -l < {tmp_path}/told) = 1 ] && echo 41 || eval "$ANSWER"')
    pretend(tmp_path, "scancel", f'echo scancel "$@" >> {tmp_path}/told')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_a_table_waits_for_its_array_and_an_array_without_its_table_is_taken_back(
    slurm: Path, place: Path, scasml: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("submit", place / "jobs" / "convergence_rate.yaml", "--slurm", "--array")
    monkeypatch.setenv("ANSWER", "echo 42")
    done = scasml(*line)
    array, table = (slurm / "told").read_text().splitlines()
    assert done.status == 0 and done.out.split() == ["41", "42"]
    assert "--array=0-1" in array and "--dependency=afterok:41" in table and "sweep.sbatch" in table
    (slurm / "told").unlink()
    monkeypatch.setenv("ANSWER", "echo 'no such partition' >&2; exit 1")
    done = scasml(*line)
    assert done.status == 2 and "sbatch refused the job: no such partition" in done.err
    assert (slurm / "told").read_text().splitlines()[-1] == "scancel 41"


def test_a_slurm_that_does_not_answer_is_a_failure_that_names_what_it_has_taken(
    slurm: Path, place: Path, scasml: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "ANSWER_SECONDS", 1.0)
    monkeypatch.setenv("ANSWER", "exec sleep 30")
    done = scasml("submit", place / "jobs" / "convergence_rate.yaml", "--slurm", "--array")
    assert done.status == 1 and "look with squeue; submitted before it: 41" in done.err and "Traceback" not in done.err
    monkeypatch.setattr(submit.sys, "executable", str(slurm / "python"))
    pretend(slurm, "ray", "exec sleep 30")
    done = scasml("submit", place / "jobs" / "quickstart.yaml", "--ray", "http://127.0.0.1:9")
    assert done.status == 1 and "look with `ray job list`" in done.err and "Traceback" not in done.err


def test_an_array_has_one_node_a_run(place: Path, scasml: Callable[..., Any]) -> None:
    done = scasml("submit", place / "jobs" / "convergence_rate.yaml", "--slurm", "--array", "--nodes", 2)
    assert done.status == 2 and "--array with --nodes 2" in done.err


def test_a_finished_run_needs_none_of_the_cores_that_its_job_asks_for(
    place: Path, scasml: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the job that makes a table after an array."""
    job, run = place / "jobs" / "convergence_rate.yaml", place / "done"
    assert scasml("run", job, "--only", 0, "--inline", "--out", run).status == 0
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert scasml("run", job, "--only", 0, "--inline", "--out", run).status == 0
    done = scasml("run", job, "--only", 1, "--inline", "--out", run)
    assert done.status == 2 and "more than the 1 cores here" in done.err


def test_a_dry_run_shows_what_sbatch_would_be_told(place: Path, scasml: Callable[..., Any]) -> None:
    job = place / "jobs" / "quickstart.yaml"
    shown = scasml("submit", job, "--slurm", "--nodes", 2, "--gpus-per-node", 1, "--set", "correction.ranks=6", "--dry-run")
    assert shown.status == 0
    for part in ("--nodes=2", "--ntasks-per-node=3", "--gpus-per-node=1", "--job-name=quickstart", "slurm/pipeline.sbatch"):
        assert part in shown.out
    assert f"{job} --out /" in shown.out and "--set=correction.ranks=6" in shown.out


def test_one_run_of_a_sweep_is_taken_by_its_number(place: Path, scasml: Callable[..., Any]) -> None:
    job = place / "jobs" / "convergence_rate.yaml"
    (run,) = planned(job, place / "one", [], only=1)
    assert run.job.swept == {"seed": 1} and run.folder.path == planned(job, place / "one", [])[1].folder.path
    done = scasml("run", job, "--only", 2)
    assert done.status == 2 and "--only 2" in done.err and "holds 2 runs, numbered 0 to 1" in done.err


def test_the_mpi_library_is_told_as_the_readme_says(place: Path) -> None:
    (line,) = commands("With your site's MPI")
    assert shell(line, place).returncode == 0
