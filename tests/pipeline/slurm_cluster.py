"""A Slurm of two nodes on this machine, for tests."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from running import free_port, running

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
        # Short: Ray puts sockets there.
        self.scratch = Path(tempfile.mkdtemp(prefix="s-"))
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "RAY"))}
        self.environment |= {"SLURM_CONF": str(place / "slurm.conf"), "SCASML_SLURM": str(ROOT / "slurm")}
        self.environment["TMPDIR"] = str(self.scratch)
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

    def of_job(self, job: str) -> list[psutil.Process]:
        """What runs in the environment of a job, whatever it calls itself."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            with suppress(psutil.Error):
                if process.environ().get("SLURM_JOB_ID") == job and "slurmstepd" not in process.name():
                    found.append(process)
        return running(found)

    def left(self, job: str, seconds: float = 10.0) -> list[psutil.Process]:
        """The same after a while to end in."""
        deadline = time.monotonic() + seconds
        while (found := self.of_job(job)) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

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


@contextmanager
def two_nodes(place: Path) -> Iterator[Cluster]:
    """Started in ``place``, and all of it stopped."""
    for name in ("run", "state", "log", "spool/n1", "spool/n2"):
        (place / name).mkdir(parents=True)
    text = CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0], user=getpass.getuser(), place=place, ports=[free_port() for _ in range(3)]
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
        shutil.rmtree(cluster.scratch, ignore_errors=True)
        stop([int(file.read_text()) for file in (place / "run").glob("*.pid") if file.read_text().strip()])
