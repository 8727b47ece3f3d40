"""On a real Slurm of two nodes: the batch scripts, submission, preemption, a lost node, and the bits of the laptop."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from pages import checkout, commands
from running import execute, log_of, marks, ranks, until
from slurm_cluster import Cluster, two_nodes
from test_bad_input import write

from conftest import TINY, numbers  # isort: skip

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Slurm of two nodes on this machine."""
    if not shutil.which("slurmctld"):
        pytest.skip("Slurm is not installed: no slurmctld")
    with two_nodes(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


WHOLE = {
    "training.workers": 2,
    "training.steps": 400,
    "training.checkpoint_every": 0.3,
    "correction.max_paths": 100_000,
    "report.baselines": ["surrogate"],
    # More ranks than the nodes have cores: srun has to be told.
    "correction.ranks": 3,
    "correction.oversubscribe": True,
}


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the whole job in one process, job.yaml beside it."""
    place = tmp_path_factory.mktemp("laptop")
    (place / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    write(place / "tiny.yaml", WHOLE)
    done = execute(place / "tiny.yaml", place / "run", "--inline", "--set", "correction.ranks=1")
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def training(laptop: Path, run: Path, slurm: Cluster) -> str:
    """A pipeline on two nodes that has saved a checkpoint and trains on."""
    job = slurm.submit("pipeline.sbatch", laptop / "tiny.yaml", "--out", run, options=("--nodes=2", "--ntasks-per-node=1"))
    slurm.until(job, lambda s: (run / "surrogate.h5").exists() or s.get("JobState") not in ("PENDING", "RUNNING"))
    return job


def test_a_pipeline_that_is_preempted_and_then_loses_a_node_runs_again_each_time_and_ends_with_the_bits_of_the_laptop(
    laptop: Path, tmp_path: Path, slurm: Cluster
) -> None:
    run = tmp_path / "run"
    job = training(laptop, run, slurm)
    assert slurm.call("scancel", "--batch", "--signal=USR1", job).returncode == 0
    slurm.until(job, lambda s: s.get("Restarts") == "1" and s.get("JobState") == "PENDING")
    assert not slurm.left(job) and not [*slurm.scratch.glob("ray-*")]
    slurm.again_now(job, restarts=1)
    until(lambda: marks(run).count("train began") == 2)
    for process in [psutil.Process(int((slurm.place / "run" / "slurmd-n2.pid").read_text())), *slurm.of_node("n2", job)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    slurm.until(job, lambda s: s.get("Restarts") == "2")
    slurm.start("slurmd", "-N", "n2")
    slurm.again_now(job, restarts=2)
    slurm.ended(job)
    assert marks(run)[-4:] == [f"{s} {m}" for s in ("correct", "report") for m in ("began", "ended")]
    assert numbers(run) == numbers(laptop / "run")
    assert json.loads((run / "report.json").read_text())["resumed"] == 2
    assert not slurm.left(job) and not ranks(run)
    # Without srun there would be one rank, and the log would say so.
    assert "no srun or mpiexec" not in log_of(run) and "chunks computed, 0 reused" in log_of(run)
    # Slurm reads what a rank publishes into 1024 bytes and loses the rest; an address takes a hundred, unless it is padded.
    said = "".join((slurm.place / "log" / f"slurmd-n{n}.log").read_text() for n in (1, 2))
    published = re.findall(r"client request: cmd=put (.*)", said)
    assert len(published) >= 3 and max(map(len, published)) < 300


@pytest.mark.slow
def test_the_readmes_lines_submit_a_job_a_sweep_and_a_correction(tmp_path: Path, slurm: Cluster) -> None:
    """Word for word, in a checkout whose jobs are small."""
    place = checkout(tmp_path / "checkout")
    read, *lines = commands("On a Slurm cluster")
    assert read == "source slurm/site.sh" and len(lines) == 5
    environment = {**slurm.environment, "PYTHONPATH": str(place), "SCASML_SLURM": str(place / "slurm")}
    reports: dict[str, int] = {}
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", f"{read}; {line}"], cwd=place, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, line + done.stderr
        for job in [] if "--dry-run" in line else re.findall(r"\d+", done.stdout):
            slurm.ended(job, logs=place)
        reports[line] = len([*place.glob("runs/*/report.h5")])
    assert [*reports.values()] == [1, 1, 1, 3, 3]
    (data,) = [json.loads(path.read_text()) for path in place.glob("runs/convergence_rate-sweep-*/table.json")]
    assert [r["set"] for r in data["runs"]] == [{"seed": 0}, {"seed": 1}]
    (summary,) = [json.loads(path.read_text()) for path in place.glob("runs/quickstart-*/report.json")]
    assert summary["job"]["correction"]["max_paths"] == 400_000


@pytest.mark.parametrize("end", ["FAILED", "CANCELLED"])
def test_a_rank_that_dies_fails_the_job_and_one_that_is_cancelled_stays_cancelled(
    end: str, laptop: Path, tmp_path: Path, slurm: Cluster
) -> None:
    """Neither goes back into the queue as a run does that was stopped early: srun's status of both is that of SIGTERM."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(laptop / "run" / "surrogate.h5", run)
    line = ("correct.sbatch", laptop / "tiny.yaml", "--out", run, "--set", "correction.max_paths=30_000_000")
    job = slurm.submit(*line, options=("--nodes=2", "--ntasks-per-node=1"), retries=0)
    until(lambda: re.search(r"scasml \d+/", log_of(run)))
    if end == "FAILED":
        ranks(run)[-1].kill()
    else:
        slurm.call("scancel", job)
    slurm.ended(job, as_=end)
    assert not slurm.left(job) and not ranks(run)
    state = slurm.state(job)
    assert state["Restarts"] == "0" and state["JobState"] == end, slurm.log(job)
    assert end == "CANCELLED" or state["ExitCode"] == "1:0"


def test_a_stage_that_fails_takes_those_that_wait_for_it_along(tmp_path: Path, slurm: Cluster) -> None:
    first = slurm.submit("sweep.sbatch", tmp_path / "missing.yaml", options=("--array=0-0",))
    after = ("--dependency=afterok:" + first, "--kill-on-invalid-dep=yes")
    table = slurm.submit("sweep.sbatch", tmp_path / "missing.yaml", options=after)
    slurm.ended(first, as_="FAILED")
    slurm.ended(table, as_="CANCELLED")
    assert "missing.yaml" in slurm.log(first) and slurm.state(first)["ExitCode"] == "2:0"


def test_what_the_cluster_cannot_run_is_refused_with_what_it_says(tmp_path: Path, slurm: Cluster) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    line = [sys.executable, "-m", "pipeline", "submit", tmp_path / "tiny.yaml", "--slurm", "--out", tmp_path / "run"]
    for more in (["--nodes", "9"], ["--time", "2-00:00:00"]):
        done = slurm.call(*line, *more)
        assert done.returncode == 2 and "sbatch refused the job" in done.stderr and "slurm/site.sh" in done.stderr
    assert not slurm.call("squeue", "-h").stdout.strip() and not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quickstart_on_two_nodes_has_the_bits_of_the_laptop(tmp_path: Path, slurm: Cluster) -> None:
    job = ROOT / "jobs" / "quickstart.yaml"
    there = tmp_path / "there"
    number = slurm.submit("pipeline.sbatch", job, "--out", there, options=("--nodes=2", "--ntasks-per-node=1", "--time=20"))
    slurm.ended(number, seconds=900.0)
    done = execute(job, tmp_path / "here", "--inline", "--set", "correction.ranks=1", timeout=900.0)
    assert done.returncode == 0, done.stderr
    assert numbers(there) == numbers(tmp_path / "here")


VICTIMS = ("driver", "rank", "worker", "node")
KILLS = int(os.environ.get("SCASML_KILLS", "30"))


def victims(kind: str, job: str, run: Path, slurm: Cluster) -> list[psutil.Process]:
    """What is to die: one process of a kind that lives now, or all of a node; nothing where there is none."""
    if kind == "node":
        return [psutil.Process(int((slurm.place / "run" / "slurmd-n2.pid").read_text())), *slurm.of_node("n2", job)]
    if kind == "rank":
        return ranks(run)[:1]
    mark = {"driver": "scasml run", "worker": "ray::"}[kind]
    return [p for p in slurm.of_job(job) if mark in " ".join(p.info["cmdline"] or [])][-1:]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kills_of_anything_at_any_moment_change_no_bit_of_a_pipeline_on_slurm(
    laptop: Path, tmp_path: Path, slurm: Cluster
) -> None:
    """Drivers, ranks, Ray workers and whole nodes in turn, at moments uniform over the pipeline; failed jobs are submitted again."""
    options = ("--nodes=2", "--ntasks-per-node=1")
    began = time.monotonic()
    slurm.ended(slurm.submit("pipeline.sbatch", laptop / "tiny.yaml", "--out", tmp_path / "calm", options=options), seconds=400.0)
    length = time.monotonic() - began
    rng, hits = np.random.default_rng(0), dict.fromkeys(VICTIMS, 0)
    for number in range(10 * KILLS):
        kind, run = VICTIMS[sum(hits.values()) % len(VICTIMS)], tmp_path / str(number) / "run"
        job = slurm.submit("pipeline.sbatch", laptop / "tiny.yaml", "--out", run, options=options, retries=0)
        slurm.until(job, lambda s: s.get("JobState") != "PENDING")
        time.sleep(rng.uniform(0.0, length))
        killed = victims(kind, job, run, slurm) if slurm.state(job)["JobState"] == "RUNNING" else []
        for process in killed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if kind == "node" and killed:
            slurm.until(job, lambda s: s.get("Restarts") == "1" or s.get("JobState") == "FAILED")
            slurm.start("slurmd", "-N", "n2")
            slurm.until_idle()
            if slurm.state(job)["JobState"] != "FAILED":
                slurm.again_now(job, restarts=1)
        for _ in range(3):
            state = slurm.until(job, lambda s: s.get("JobState") in ("COMPLETED", "FAILED"), 400.0)
            if state["JobState"] == "COMPLETED":
                break
            job = slurm.submit("pipeline.sbatch", laptop / "tiny.yaml", "--out", run, options=options, retries=0)
        assert numbers(run) == numbers(laptop / "run"), (kind, slurm.log(job))
        hits[kind] += bool(killed)
        print(number, kind, "killed" if killed else "none to kill", marks(run), flush=True)
        if sum(hits.values()) == KILLS:
            break
    assert sum(hits.values()) == KILLS and all(hits.values())
    assert not slurm.left(job) and not ranks(run)
