"""The graph on Ray, a cluster of its own or one that runs already: same bits, prompt refusals, signals, killed workers."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
import yaml
from ray_head import ray_head, ray_node
from running import TWO, all_gone, counts, execute, family, free_port, log_of, marks, ranks, started, stop, until
from test_bad_input import write

from pipeline import cluster as ray_cluster
from pipeline.errors import InputError
from pipeline.folders import RAY_STORAGE
from pipeline.job import RunFolder, load_job

from conftest import TINY, numbers  # isort: skip

ROOT = Path(__file__).resolve().parents[2]

LONG = {
    "training.workers": 4,
    "training.batch": 128,
    "training.steps": 400,
    "training.checkpoint_every": 0.3,
    "correction.laplacian": 8,
    "correction.max_paths": 400_000,
    "report.baselines": ["surrogate"],
    **TWO,
}
MOMENTS = {"train": "train began", "correct": r"scasml [1-9]\d*/"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished inline run of four workers' shards; the clusters here have places for two."""
    place = tmp_path_factory.mktemp("calm")
    (place / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    write(place / "tiny.yaml", LONG)
    assert execute(place / "tiny.yaml", place / "run", "--inline", "--set", "correction.ranks=1").returncode == 0
    return place


@pytest.fixture
def fresh(undisturbed: Path, tmp_path: Path) -> Path:
    """The same job with nothing done yet."""
    shutil.copy(undisturbed / "tiny.yaml", tmp_path)
    return tmp_path / "tiny.yaml"


@pytest.fixture
def trained(undisturbed: Path, fresh: Path) -> Path:
    """The same job with its surrogate, its correction still to do."""
    (fresh.parent / "run").mkdir()
    shutil.copy(undisturbed / "run" / "surrogate.h5", fresh.parent / "run")
    return fresh


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A Ray cluster that runs already, guarded by a token: its address and its first process."""
    with ray_head() as (address, _, process):
        yield address, process


@pytest.fixture
def cluster(head: tuple[str, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    """The cluster that runs already, named in RAY_ADDRESS."""
    monkeypatch.setenv("RAY_ADDRESS", head[0])
    return head[1]


def losses(run: Path) -> np.ndarray:
    with h5py.File(run / "surrogate.h5") as file:
        return file["loss"][()]


def resumed(job: Path, run: Path, undisturbed: Path, times: int) -> None:
    done = execute(job, run, "--inline", "--set", "correction.ranks=1")
    assert done.returncode == 0, done.stderr
    assert numbers(run) == numbers(undisturbed / "run")
    assert json.loads((run / "report.json").read_text())["resumed"] == times


def checkpointed(process: subprocess.Popen[str], run: Path) -> None:
    """Wait for the first checkpoint."""
    deadline = time.monotonic() + 90.0
    while not (run / "surrogate.h5").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)


def stopped(stage: str, number: int, job: Path, run: Path, moment: str = "") -> list[psutil.Process]:
    """Signal a run on Ray in a stage: status 3 soon, nothing half-finished; the processes it had."""
    process = started(job, run, moment or MOMENTS[stage])
    if stage == "train":
        checkpointed(process, run)
    else:
        deadline = time.monotonic() + 60.0
        while len(ranks(run)) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
    children = family(process)
    began = time.monotonic()
    status, shown = stop(process, number, group=number == signal.SIGINT)
    assert status == 3 and time.monotonic() - began < 20.0, shown
    assert "Traceback" not in shown and "run the same command again" in shown
    assert marks(run)[-1] == f"{stage} began" and not (run / "report.h5").exists()
    return children


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_stopped_training_on_a_cluster_of_its_own_goes_on_there_to_the_inline_bits(fresh: Path, undisturbed: Path) -> None:
    run = fresh.parent / "run"
    children = stopped("train", signal.SIGTERM, fresh, run)
    assert all_gone(children, run)
    found = execute(fresh, run, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search(r"training resumes at step [1-9]", log_of(run)) and "surrogate taken" not in log_of(run)
    assert numbers(run) == numbers(undisturbed / "run")
    np.testing.assert_array_equal(losses(run), losses(undisturbed / "run"))
    assert not (run / RAY_STORAGE).exists()
    assert json.loads((run / "report.json").read_text())["resumed"] == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stopped_correction_on_a_cluster_of_its_own_leaves_nothing_behind(trained: Path, undisturbed: Path) -> None:
    run = trained.parent / "run"
    children = stopped("correct", signal.SIGINT, trained, run)
    assert all_gone(children, run)
    resumed(trained, run, undisturbed, 1)
    computed, reused = counts(run)
    assert computed > 0 and reused > 0


def train_workers(cluster: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for process in family(cluster):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.timeout(400)
def test_a_training_loses_a_worker_and_is_stopped_on_a_cluster_that_lives_on_and_ends_on_its_own_with_the_inline_bits(
    cluster: subprocess.Popen[str], fresh: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fresh.parent / "run"
    process = started(fresh, run, MOMENTS["train"])
    checkpointed(process, run)
    train_workers(cluster)[-1].kill()
    again = re.compile(r"(?s)a training worker failed.*training resumes at step [1-9]")
    until(lambda: again.search(log_of(run)) or process.poll() is not None, 120.0)
    assert process.poll() is None, log_of(run)
    began = time.monotonic()
    status, shown = stop(process, signal.SIGINT, group=True)
    assert status == 3 and time.monotonic() - began < 20.0, shown
    assert "Traceback" not in shown and "run the same command again" in shown
    assert marks(run)[-1] == "train began" and not (run / "report.h5").exists()
    assert all_gone(train_workers(cluster), run) and cluster.poll() is None
    monkeypatch.delenv("RAY_ADDRESS")
    found = execute(fresh, run, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert len(re.findall(r"training resumes at step [1-9]", log_of(run))) == 2 and "surrogate taken" not in log_of(run)
    assert numbers(run) == numbers(undisturbed / "run")
    np.testing.assert_array_equal(losses(run), losses(undisturbed / "run"))
    assert not (run / RAY_STORAGE).exists()
    assert json.loads((run / "report.json").read_text())["resumed"] == 2


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_training_whose_node_is_lost_for_good_goes_on_in_fewer_processes_to_the_same_bits(
    fresh: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes of one CPU each for four workers; SIGKILL to all of the second after the first checkpoint."""
    run = fresh.parent / "run"
    with ray_head(cpus=1) as (address, _, _), ray_node(address) as node:
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setenv("SCASML_RAY_NODES", "2")
        process = started(fresh, run, MOMENTS["train"])
        checkpointed(process, run)
        for one in [*family(node), node]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        _, shown = process.communicate(timeout=300)
    assert process.returncode == 0, shown
    told = log_of(run)
    assert "samples of 4 training workers are taken in turn by 2 " in told and "taken in turn by 1 on the 1 CPUs" in told
    assert re.search("training resumes at step [1-9]", told)
    assert numbers(run) == numbers(undisturbed / "run")
    np.testing.assert_array_equal(losses(run), losses(undisturbed / "run"))


@pytest.mark.timeout(300)
def test_on_a_cluster_that_lives_on_a_signal_ends_the_correction(
    cluster: subprocess.Popen[str], trained: Path, undisturbed: Path
) -> None:
    run = trained.parent / "run"
    # Its driver looks for signals twice a second and has tasks cancelled: too slow for the few seconds that chunks take.
    children = stopped("correct", signal.SIGTERM, trained, run, "correct began")
    assert all_gone(children, run) and cluster.poll() is None
    resumed(trained, run, undisturbed, 1)


@pytest.mark.timeout(200)
def test_what_a_training_worker_refuses_is_one_message_and_not_tried_again(
    cluster: subprocess.Popen[str], job_file: Path
) -> None:
    run = job_file.parent / "run"
    write(job_file, {"training.workers": 2, "training.optimizer": {"name": "adam", "learning_rate": 1e18}})
    done = execute(job_file, run)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: training: the loss is") and "Traceback" not in done.stderr
    assert marks(run) == ["train began"] and "failed" not in log_of(run)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_what_a_rank_refuses_under_ray_is_one_message(cluster: subprocess.Popen[str], undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "copy")
    job, run = tmp_path / "copy" / "tiny.yaml", tmp_path / "copy" / "run"
    (run / "report.h5").unlink()
    wave = list(RunFolder(run).waves("scasml"))[-1]
    wave.write_bytes(wave.read_bytes()[:-100])
    done = execute(job, run)
    assert done.returncode == 2 and wave.name in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr, done.stderr


def test_an_address_where_nothing_listens_is_refused_at_once(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, scasml: Callable[..., Any]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    began = time.monotonic()
    done = scasml("run", job_file, "--out", job_file.parent / "run")
    assert done.status == 2 and "RAY_ADDRESS" in done.err and "refused" in done.err and "ray start --head" in done.err
    assert not (job_file.parent / "run").exists()
    assert time.monotonic() - began < 15.0


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n"], ids=["nothing", "something else"])
def test_an_address_where_no_ray_head_answers_is_refused(says: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "PROBE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(says)
            time.sleep(1.0)
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(InputError, match=rf"{address}': (timed out|what listens there is no Ray head)\. Start a cluster"):
            ray_cluster.probe(address)
        thread.join()
    for other in ("auto", "local"):
        ray_cluster.probe(other)


def test_a_name_for_which_there_is_no_cluster_is_refused(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, scasml: Callable[..., Any]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:99999")
    done = scasml("run", job_file, "--out", job_file.parent / "run")
    assert done.status == 2 and "RAY_ADDRESS = '127.0.0.1:99999'" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("changes", "nodes", "expected"),
    [
        ({"correction.ranks": 4}, [2.0, 4.0], 4),
        ({"correction.ranks": 4}, [2.0, 2.0], "correction.ranks = 4.* 2 CPUs of the largest node.*oversubscribe"),
        ({"correction.ranks": 4, "correction.oversubscribe": True}, [2.0, 2.0], 2),
        ({"training.workers": 2}, [1.0], 1),
        ({"training.workers": 0}, [], "no node with a CPU"),
    ],
)
def test_what_a_cluster_could_never_run_is_refused(
    changes: dict[str, Any], nodes: list[float], expected: int | str, job_file: Path
) -> None:
    job = load_job(job_file, changes)
    if isinstance(expected, int):
        assert ray_cluster.check_capacity(job, nodes, spread=False) == expected
    else:
        with pytest.raises(InputError, match=expected):
            ray_cluster.check_capacity(job, nodes, spread=False)
    if changes == {"correction.ranks": 4}:
        # Over nodes that Slurm knows srun starts ranks on all of them.
        assert ray_cluster.check_capacity(job, [2.0, 2.0], spread=True) == 4
        with pytest.raises(InputError, match="3 CPUs of the nodes"):
            ray_cluster.check_capacity(job, [2.0, 1.0], spread=True)
