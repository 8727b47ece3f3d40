"""Faults, continued: signals, failing ranks, lost waves, full disks, tricks inside a checkpoint."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
import torch
import yaml
from test_bad_input import PDE, write

from pipeline import store

from conftest import TINY, numbers  # isort: skip

COMMAND = [sys.executable, "-m", "pipeline", "run"]
LONG = {"correction.max_paths": 600_000, "correction.laplacian": 8, "report.baselines": ["surrogate"]}
TWO = {"correction.ranks": 2, "correction.oversubscribe": True}


def execute(job: Path, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, str(job), "--out", str(run), *more], capture_output=True, text=True, timeout=300, check=False
    )


def log_of(run: Path) -> str:
    return (run / "log.txt").read_text() if (run / "log.txt").exists() else ""


def started(job: Path, run: Path, stage: str, *more: str) -> subprocess.Popen[str]:
    """A run in a session of its own whose log has come to ``stage``."""
    process = subprocess.Popen(
        [*COMMAND, str(job), "--out", str(run), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120.0
    while not re.search(stage, log_of(run)):
        assert process.poll() is None, log_of(run)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def ranks_of(run: Path) -> list[int]:
    """Processes that still serve a run's folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if str(run) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def nothing_left(run: Path, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while ranks_of(run):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def last_counts(run: Path) -> tuple[int, int]:
    computed, reused = re.findall(r"scasml: (\d+) chunks computed, (\d+) reused", log_of(run))[-1]
    return int(computed), int(reused)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run long enough to be hit in the middle of its correction."""
    place = tmp_path_factory.mktemp("calm")
    (place / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    write(place / "tiny.yaml", LONG)
    done = execute(place / "tiny.yaml", place / "run", "--inline")
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def job(undisturbed: Path, tmp_path: Path) -> Path:
    """The same job with its surrogate, its correction still to do."""
    (tmp_path / "run").mkdir()
    shutil.copy(undisturbed / "run" / "surrogate.h5", tmp_path / "run")
    shutil.copy(undisturbed / "tiny.yaml", tmp_path)
    return tmp_path / "tiny.yaml"


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 3), (signal.SIGINT, 3), pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow)],
)
def test_a_signal_in_the_correction_leaves_no_rank_and_a_resumable_run(
    number: int, status: int, job: Path, undisturbed: Path
) -> None:
    run = job.parent / "run"
    write(job, TWO)
    process = started(job, run, r"scasml [1-9]\d*/", "--inline")
    os.kill(process.pid, number)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == status and "Traceback" not in shown
    assert nothing_left(run) and not (run / "report.h5").exists()
    done = execute(job, run, "--inline")
    assert done.returncode == 0, done.stderr
    computed, reused = last_counts(run)
    assert computed > 0 and reused > 0
    assert numbers(run) == numbers(undisturbed / "run")


def test_a_rank_that_is_killed_ends_the_run_at_once(job: Path, undisturbed: Path) -> None:
    run = job.parent / "run"
    write(job, TWO)
    process = started(job, run, r"scasml [1-9]\d*/", "--inline")
    ranks = [
        c
        for c in psutil.Process(process.pid).children(recursive=True)
        if "pipeline.rank" in c.cmdline() and c.name() != "mpiexec"
    ]
    ranks = [c for c in ranks if not c.children()]
    assert ranks
    began = time.monotonic()
    ranks[-1].kill()
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 1 and "log.txt" in shown and "Traceback" not in shown
    assert time.monotonic() - began < 30.0
    assert nothing_left(run) and not (run / "report.h5").exists()
    assert execute(job, run, "--inline").returncode == 0
    assert numbers(run) == numbers(undisturbed / "run")


@pytest.mark.slow
def test_a_rank_that_raises_in_mid_correction_ends_the_run_and_its_chunks_are_kept(job_file: Path) -> None:
    marker, run = job_file.parent / "fail", job_file.parent / "run"
    driver = f"(0.0 * y if not __import__('os').path.exists({str(marker)!r}) else 1 / 0)"
    source = PDE.format(body="pass").replace("driver=lambda t, x, y, z: 0.0 * y", f"driver=lambda t, x, y, z: {driver}")
    assert driver in source
    (job_file.parent / "pde.py").write_text(source)
    write(job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}, **LONG, **TWO})
    process = started(job_file, run, r"scasml [1-9]\d*/", "--inline")
    marker.touch()
    began = time.monotonic()
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 1 and "log.txt" in shown and time.monotonic() - began < 30.0
    assert "ZeroDivisionError" in log_of(run)
    assert nothing_left(run) and not (run / "report.h5").exists()
    marker.unlink()
    assert execute(job_file, run, "--inline").returncode == 0
    computed, reused = last_counts(run)
    assert computed > 0 and reused > 0


@pytest.mark.parametrize("lost", ["first", "middle", "last"])
def test_any_lost_wave_is_computed_again_to_the_same_bits(
    lost: str, undisturbed: Path, tmp_path: Path, scasml: Callable[..., Any]
) -> None:
    shutil.copytree(undisturbed, tmp_path / "copy")
    job, run = tmp_path / "copy" / "tiny.yaml", tmp_path / "copy" / "run"
    waves = sorted((run / "chunks" / "scasml").iterdir())
    assert len(waves) > 3
    waves[{"first": 0, "middle": len(waves) // 2, "last": -1}[lost]].unlink()
    assert scasml("report", job, "--out", run).status == 2
    (run / "report.h5").unlink()
    done = scasml("run", job, "--inline", "--out", run)
    assert done.status == 0, done.err
    assert len(list((run / "chunks" / "scasml").iterdir())) >= len(waves)
    assert numbers(run) == numbers(undisturbed / "run")


def test_a_smaller_budget_afterwards_equals_a_fresh_run_of_it(
    job: Path, undisturbed: Path, tmp_path: Path, scasml: Callable[..., Any]
) -> None:
    write(job, {"correction.max_paths": 300_000})
    assert scasml("run", job, "--inline", "--out", tmp_path / "run").status == 0
    shutil.copytree(undisturbed / "run", tmp_path / "later" / "run")
    done = scasml("run", job, "--inline", "--out", tmp_path / "later" / "run")
    assert done.status == 0
    assert numbers(tmp_path / "later" / "run") == numbers(tmp_path / "run") != numbers(undisturbed / "run")


def test_a_tolerance_unmet_within_the_budget_is_said_and_is_no_failure(job: Path, scasml: Callable[..., Any]) -> None:
    write(job, {"correction.rtol": 1e-9, "correction.max_paths": 400_000})
    run = job.parent / "run"
    done = scasml("run", job, "--inline", "--out", run)
    assert done.status == 0 and "max_paths" in done.out and "nothing is recomputed" in done.out
    summary = json.loads((run / "report.json").read_text())
    assert summary["tolerance_met"] is False
    with h5py.File(run / "report.h5") as file:
        assert file["paths"][()].sum() == summary["methods"]["scasml"]["paths"] <= 400_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small disk needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=False)


def test_a_disk_that_is_really_full_is_named_and_keeps_the_old_file(small_disk: Path) -> None:
    job = {"seed": 0, "problem": {}, "surrogate": {}, "training": {}}

    def save(size: int) -> None:
        checkpoint = store.Checkpoint(
            step=1, steps=2, parameters={"w": torch.rand(size)}, optimizer={}, losses=np.ones(1), seconds=0.0
        )
        store.save_checkpoint(small_disk / "surrogate.h5", checkpoint, training_hash="h", job=job)

    save(1000)
    before = (small_disk / "surrogate.h5").read_bytes()
    with pytest.raises(OSError) as raised:
        save(100_000)
    assert raised.value.errno == errno.ENOSPC
    assert (small_disk / "surrogate.h5").read_bytes() == before
    assert [p.name for p in small_disk.iterdir()] == ["surrogate.h5"]


def resealed(path: Path, change: Callable[[h5py.File], None]) -> None:
    """Change a file and give it a right checksum again, as an attacker would."""
    import hashlib

    with h5py.File(path, "r+") as file:
        change(file)
    body = path.read_bytes()[store.USER_BLOCK :]
    block = store.MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n"
    path.write_bytes(block.ljust(store.USER_BLOCK, b"\0") + body)


def external_group(file: h5py.File) -> None:
    del file["parameters"]
    file["parameters"] = h5py.ExternalLink(str(Path(file.filename).with_name("elsewhere.h5")), "parameters")


def soft_group(file: h5py.File) -> None:
    file.move("parameters", "other")
    file["parameters"] = h5py.SoftLink("/other")


def virtual_weight(file: h5py.File) -> None:
    del file["loss"]
    layout = h5py.VirtualLayout((40,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(Path(file.filename).with_name("elsewhere.h5")), "loss", shape=(40,))
    file.create_virtual_dataset("loss", layout)


def other_shape(file: h5py.File) -> None:
    weight = next(name for name, node in file["parameters"].items() if getattr(node, "ndim", 0) == 2)
    del file["parameters"][weight]
    store.put(file["parameters"], weight, np.ones((2, 2), dtype=np.float32))


TRICKS: dict[str, Callable[[h5py.File], None]] = {
    "external group": external_group,
    "soft group": soft_group,
    "virtual loss": virtual_weight,
    "no loss": lambda file: file.__delitem__("loss"),
    "no parameters": lambda file: file.__delitem__("parameters"),
    "no step": lambda file: file.attrs.__delitem__("step"),
    "step of text": lambda file: file.attrs.__setitem__("step", "many"),
    "job that is not JSON": lambda file: file.attrs.__setitem__("job", "{"),
    "skeleton of noise": lambda file: file["parameters/skeleton"].write_direct(
        np.zeros(file["parameters/skeleton"].shape, dtype=np.uint8)
    ),
    "parameters of another shape": other_shape,
}


@pytest.mark.parametrize("kind", TRICKS)
def test_a_trick_inside_a_checkpoint_is_refused_even_with_a_right_checksum(
    kind: str, undisturbed: Path, job: Path, scasml: Callable[..., Any]
) -> None:
    run = job.parent / "run"
    shutil.copy(undisturbed / "run" / "surrogate.h5", run / "elsewhere.h5")
    resealed(run / "surrogate.h5", TRICKS[kind])
    done = scasml("run", job, "--inline", "--out", run)
    assert done.status == 2 and "surrogate.h5" in done.err and "Traceback" not in done.err, done.err[-500:]


@pytest.mark.timeout(300)
def test_sigterm_to_a_run_on_ray_gives_status_3_and_resumes(job_file: Path) -> None:
    run = job_file.parent / "run"
    write(job_file, {"training.steps": 4000, "training.checkpoint_every": 0.5, "report.baselines": ["surrogate"]})
    process = started(job_file, run, r"training [1-9]\d*/")
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGTERM)
    _, shown = process.communicate(timeout=90)
    assert process.returncode == 3, shown[-1000:]
    assert "resume" in shown


def train_workers(root: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(root).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_worker_of_ray_train_resumes_to_the_same_bits(job_file: Path, tmp_path: Path) -> None:
    changes = {"training.workers": 2, "training.steps": 2000, "training.checkpoint_every": 1.0, "report.baselines": ["surrogate"]}
    write(job_file, changes)
    calm, run = tmp_path / "calm" / "run", tmp_path / "hit" / "run"
    assert execute(job_file, calm).returncode == 0
    process = started(job_file, run, r"training [1-9]\d*/")
    deadline = time.monotonic() + 60.0
    while not (run / "surrogate.h5").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    workers = train_workers(process.pid)
    assert workers
    workers[-1].kill()
    _, shown = process.communicate(timeout=400)
    assert process.returncode == 0, shown[-1000:]
    assert re.search(r"training resumes at step [1-9]", log_of(run))
    assert numbers(run) == numbers(calm)
