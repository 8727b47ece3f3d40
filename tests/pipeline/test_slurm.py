"""On a real Slurm of two nodes: the batch scripts, submission, preemption, a lost node, and the bits of the laptop."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from pages import checkout, commands
from running import execute, log_of, marks, ranks, running, until
from test_bad_input import write

from conftest import TINY, numbers  # isort: skip

ROOT = Path(__file__).resolve().parents[2]

CONFIGURATION = """
ClusterName=fixture
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmctldPidFile={place}/run/slurmctld.pid
SlurmdPidFile={place}/run/slurmd-%n.pid
SlurmdSpoolDir={place}/spool/%n
StateSaveLocation={place}/state
SlurmctldLogFile={place}/log/slurmctld.log
SlurmdLogFile={place}/log/slurmd-%n.log
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
SlurmdTimeout=15
KillWait=5
SlurmdDebug=debug3
KillOnBadExit=1
MpiDefault=pmi2
MinJobAge=3600
EnforcePartLimits=ALL
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=60 State=UP
"""


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def stop(pids: list[int]) -> None:
    """SIGTERM the daemons this test started; SIGKILL what is left after five seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
            time.sleep(0.05)


class Cluster:
    """A Slurm of two nodes on this machine, and how a user talks to it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "RAY"))}
        self.environment |= {"SLURM_CONF": str(place / "slurm.conf"), "SCASML_SLURM": str(ROOT / "slurm")}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.environment['PATH']}"
        self.environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{self.environment.get('PYTHONPATH', '')}"

    def call(self, *line: object, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*map(str, line)], env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )

    def start(self, *daemon: str) -> None:
        subprocess.run(daemon, env=self.environment, check=True, timeout=30, capture_output=True)

    def until_idle(self, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while (shown := self.call("sinfo", "-h", "-o", "%t %D").stdout.split()) != ["idle", "2"]:
            assert time.monotonic() < deadline, shown
            time.sleep(0.2)

    def submit(self, script: str, *arguments: object, options: tuple[str, ...] = (), retries: int = 3) -> str:
        """The id of a batch job."""
        self.environment["SCASML_RETRIES"] = str(retries)
        log = f"--output={self.place / 'log'}/job-%j.txt"
        done = self.call("sbatch", "--parsable", "--time=5", log, *options, ROOT / "slurm" / script, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job, a field a key."""
        shown = self.call("scontrol", "show", "job", "-o", job).stdout
        return dict(re.findall(r"(\w+)=(\S+)", shown))

    def of_node(self, node: str, job: str) -> list[psutil.Process]:
        """All that a job runs on one of the nodes, which are one machine: its steps' daemons and their children."""
        found = []
        for daemon in psutil.process_iter(["cmdline"]):
            if f"slurmstepd: [{job}" in " ".join(daemon.info["cmdline"] or []):
                with suppress(psutil.NoSuchProcess):
                    children = daemon.children(recursive=True)
                    if any(child.environ().get("SLURMD_NODENAME") == node for child in children):
                        found += [daemon, *children]
        assert found
        return found

    def left(self, job: str, seconds: float = 10.0) -> list[psutil.Process]:
        """What still runs in the environment of a job, whatever it calls itself, after a while to end in."""
        deadline = time.monotonic() + seconds
        while True:
            found = []
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    if process.environ().get("SLURM_JOB_ID") == job and "slurmstepd" not in process.name():
                        found.append(process)
            if not running(found) or time.monotonic() > deadline:
                return running(found)
            time.sleep(0.2)

    def log(self, job: str) -> str:
        path = self.place / "log" / f"job-{job}.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def until(self, job: str, reached: Callable[[dict[str, str]], bool], seconds: float = 180.0) -> dict[str, str]:
        deadline = time.monotonic() + seconds
        while not reached(state := self.state(job)):
            assert time.monotonic() < deadline, f"{state}\n{self.log(job)}"
            time.sleep(0.2)
        return state

    def ended(self, job: str, *, as_: str = "COMPLETED", seconds: float = 180.0, logs: Path | None = None) -> None:
        """Wait for a job's end, which has to be this one; its log is shown where it is not."""
        last = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
        state = self.until(job, lambda s: s.get("JobState") in last, seconds)
        shown = [path.read_text(errors="replace") for path in (logs or Path("/nowhere")).glob(f"*-{job}.log")]
        assert state["JobState"] == as_, f"{state}\n{self.log(job)}{shown}"

    def again_now(self, job: str, restarts: int) -> None:
        """Wait until a job is back in the queue and have it begin at once, where Slurm would wait two minutes."""
        self.until(job, lambda s: s.get("Restarts") == str(restarts) and s.get("JobState") == "PENDING")
        # Its credentials were revoked up to this second.
        time.sleep(2.0)
        assert self.call("scontrol", "update", f"JobId={job}", "StartTime=now").returncode == 0


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Slurm of two nodes on this machine."""
    if not shutil.which("slurmctld"):
        pytest.skip("Slurm is not installed: no slurmctld")
    place = tmp_path_factory.mktemp("slurm")
    for name in ("run", "state", "log", "spool/n1", "spool/n2"):
        (place / name).mkdir(parents=True)
    text = CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0], user=getpass.getuser(), place=place, ports=free_ports(3)
    )
    (place / "slurm.conf").write_text(text)
    cluster = Cluster(place)
    try:
        for daemon in (["slurmctld", "-c", "-i"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            cluster.start(*daemon)
        cluster.until_idle()
        yield cluster
    finally:
        cluster.call("scancel", f"--user={getpass.getuser()}")
        deadline = time.monotonic() + 20.0
        while cluster.call("squeue", "-h").stdout.strip() and time.monotonic() < deadline:
            time.sleep(0.2)
        stop([int(file.read_text()) for file in (place / "run").glob("*.pid") if file.read_text().strip()])


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


def test_a_preempted_pipeline_requeues_itself_and_ends_with_the_bits_of_the_laptop(
    laptop: Path, tmp_path: Path, slurm: Cluster
) -> None:
    run = tmp_path / "run"
    job = slurm.submit("pipeline.sbatch", laptop / "tiny.yaml", "--out", run, options=("--nodes=2", "--ntasks-per-node=1"))
    slurm.until(job, lambda s: (run / "surrogate.h5").exists() or s.get("JobState") not in ("PENDING", "RUNNING"))
    assert slurm.call("scancel", "--batch", "--signal=USR1", job).returncode == 0
    slurm.again_now(job, restarts=1)
    slurm.ended(job)
    assert marks(run) == [
        "train began",
        "train began",
        "train ended",
        *(f"{s} {m}" for s in ("correct", "report") for m in ("began", "ended")),
    ]
    assert numbers(run) == numbers(laptop / "run")
    assert json.loads((run / "report.json").read_text())["resumed"] == 1
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


def test_a_job_whose_node_is_lost_runs_again_and_ends_with_the_bits_of_the_laptop(
    laptop: Path, tmp_path: Path, slurm: Cluster
) -> None:
    run = tmp_path / "run"
    job = slurm.submit("pipeline.sbatch", laptop / "tiny.yaml", "--out", run, options=("--nodes=2", "--ntasks-per-node=1"))
    slurm.until(job, lambda s: (run / "surrogate.h5").exists() or s.get("JobState") not in ("PENDING", "RUNNING"))
    for process in [psutil.Process(int((slurm.place / "run" / "slurmd-n2.pid").read_text())), *slurm.of_node("n2", job)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    slurm.until(job, lambda s: s.get("Restarts") == "1")
    slurm.start("slurmd", "-N", "n2")
    slurm.again_now(job, restarts=1)
    slurm.ended(job)
    assert numbers(run) == numbers(laptop / "run")


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
    return running([p for p in psutil.process_iter(["cmdline"]) if mark in " ".join(p.info["cmdline"] or [])])[-1:]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kills_of_anything_at_any_moment_change_no_bit_of_a_pipeline_on_slurm(
    laptop: Path, tmp_path: Path, slurm: Cluster
) -> None:
    """Drivers, ranks, Ray workers and whole nodes in turn, at moments uniform over the pipeline; failed jobs are submitted again."""
    options = ("--nodes=2", "--ntasks-per-node=1")
    began = time.monotonic()
    slurm.ended(slurm.submit("pipeline.sbatch", laptop / "tiny.yaml", "--out", tmp_path / "calm", options=options))
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
