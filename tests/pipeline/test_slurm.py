"""Inside a Slurm allocation of two nodes the correction goes through srun, to the same bits."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from test_bad_input import write

from conftest import numbers  # isort: skip

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
SlurmdTimeout=60
KillWait=5
SlurmdDebug=debug3
KillOnBadExit=1
MpiDefault=pmi2
EnforcePartLimits=ALL
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000 State=UNKNOWN
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


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a Slurm cluster of two nodes on this machine."""
    if not shutil.which("slurmctld"):
        pytest.skip("Slurm is not installed: no slurmctld")
    place = tmp_path / "slurm"
    for name in ("run", "state", "log", "spool/n1", "spool/n2"):
        (place / name).mkdir(parents=True)
    text = CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0], user=getpass.getuser(), place=place, ports=free_ports(3)
    )
    (place / "slurm.conf").write_text(text)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
    environment["SLURM_CONF"] = str(place / "slurm.conf")
    try:
        for daemon in (["slurmctld", "-c", "-i"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            subprocess.run(daemon, env=environment, check=True, timeout=30, capture_output=True)
        deadline = time.monotonic() + 60.0
        while True:
            shown = subprocess.run(["sinfo", "-h", "-o", "%t %D"], env=environment, capture_output=True, text=True, check=False)
            if shown.stdout.split() == ["idle", "2"]:
                break
            assert time.monotonic() < deadline, shown.stdout + shown.stderr
            time.sleep(0.1)
        yield environment
    finally:
        stop([int(file.read_text()) for file in (place / "run").glob("*.pid") if file.read_text().strip()])


def test_a_job_of_two_slurm_nodes_gives_the_bits_of_the_laptop(job_file: Path, tmp_path: Path, slurm: dict[str, str]) -> None:
    write(job_file, {"correction.ranks": 1, "report.baselines": ["surrogate"]})
    command = [sys.executable, "-m", "pipeline", "run", str(job_file), "--inline", "--out"]
    here = subprocess.run([*command, str(tmp_path / "here" / "run")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert here.returncode == 0, here.stdout + here.stderr
    # More ranks than the nodes have cores: srun has to be told.
    write(job_file, {"correction.ranks": 3, "correction.oversubscribe": True})
    there = tmp_path / "there" / "run"
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\nset -x\nenv | grep SLURM_\ncd '{ROOT}' && {' '.join(command)} '{there}'\n")
    output = tmp_path / "job.out"
    options = ["--wait", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--time=5", f"--output={output}"]
    try:
        found = subprocess.run(
            ["sbatch", *options, str(script)], env=slurm, capture_output=True, text=True, timeout=200, check=False
        )
    finally:
        subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=slurm, capture_output=True, check=False)
    text = output.read_text() if output.exists() else ""
    assert found.returncode == 0, found.stderr + text
    assert "SLURM_JOB_NUM_NODES=2" in text
    # Without srun there would be one rank, and the log would say so.
    log = (there / "log.txt").read_text()
    assert "no srun or mpiexec" not in log and "chunks computed, 0 reused" in log and "surrogate taken" not in log
    assert numbers(there) == numbers(tmp_path / "here" / "run")
    # Slurm reads what a rank publishes into 1024 bytes and loses the rest; an address takes a hundred, unless it is padded.
    published = re.findall(r"client request: cmd=put (.*)", (tmp_path / "slurm" / "log" / "slurmd-n1.log").read_text())
    assert published and max(map(len, published)) < 300
