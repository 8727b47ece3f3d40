"""How ranks are started, and what comes back from them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from running import running

from pipeline import launch, tether
from pipeline.errors import EngineError, InputError, Interrupted, NotedSignals, as_line, from_lines
from pipeline.fanout import Alone
from pipeline.job import RunFolder
from pipeline.pulse import Watched


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH; this interpreter has no mpiexec beside it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path


def program(path: Path, says: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def test_a_process_is_seen_while_it_runs_and_not_as_a_zombie() -> None:
    """What every test of an orderly end relies on."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = psutil.Process(child.pid)
    assert running([process]) == [process]
    child.kill()
    deadline = time.monotonic() + 10.0
    while process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert running([process]) == []
    child.communicate()
    assert running([process]) == []


def test_without_a_launcher_there_is_none(bare: Path) -> None:
    assert launch.launcher(2) is None


@pytest.mark.parametrize(
    ("version", "more"),
    [
        ("mpiexec (OpenRTE) 4.1.4", ["--oversubscribe"]),
        ("mpiexec (Open MPI) 5.0.3", ["--oversubscribe"]),
        ("HYDRA build details:\n    Version: 4.2", []),
    ],
)
def test_mpiexec_is_told_of_more_ranks_than_cores_where_it_needs_to_be(version: str, more: list[str], bare: Path) -> None:
    mpiexec = bare / "mpiexec"
    program(mpiexec, version)
    assert launch.launcher(2) == [str(mpiexec), "-n", "2"]
    assert launch.launcher(2, oversubscribe=True) == [str(mpiexec), *more, "-n", "2"]


def test_a_broken_mpiexec_is_not_open_mpi(bare: Path) -> None:
    (bare / "mpiexec").write_text("no program")
    (bare / "mpiexec").chmod(0o755)
    assert launch.launcher(2, oversubscribe=True) == [str(bare / "mpiexec"), "-n", "2"]


def test_inside_slurm_ranks_are_a_step_of_the_allocation(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare / "srun", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert launch.launcher(3) == ["srun", "--overlap", "--mpi=pmi2", "-K1", "-n", "3"]
    monkeypatch.setenv("SCASML_SRUN_MPI", "pmix")
    assert launch.launcher(3, oversubscribe=True) == ["srun", "--overlap", "--mpi=pmix", "-K1", "--overcommit", "-n", "3"]


SRUN = """#!/bin/sh
echo "$@" > {place}/arguments
env > {place}/environment
[ -z "$SLURM_HOSTFILE" ] || cp "$SLURM_HOSTFILE" {place}/hosts
exit {status}
"""


@pytest.fixture
def srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], RunFolder]:
    """A srun that keeps what it was given and ends with a status; a run's folder to launch in."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.log.touch()
    for name, value in (("SLURM_JOB_ID", "7"), ("SLURM_CPU_BIND", "mask_cpu:0x1"), ("SLURM_NTASKS_PER_NODE", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def make(status: int) -> RunFolder:
        (tmp_path / "srun").write_text(SRUN.format(place=tmp_path, status=status))
        (tmp_path / "srun").chmod(0o755)
        return folder

    return make


def test_srun_is_told_the_node_of_every_rank_and_nothing_of_the_step_around_it(
    srun: Callable[[int], RunFolder], tmp_path: Path
) -> None:
    folder = srun(0)
    launch._on_ranks([*launch.launcher(3), "--distribution=arbitrary"], folder, 3, ["a", "a", "b"])  # type: ignore[misc]
    assert (tmp_path / "hosts").read_text() == "a\na\nb\n" and not (folder.path / launch.HOSTFILE).exists()
    seen = (tmp_path / "environment").read_text()
    assert "SLURM_CPU_BIND" not in seen and "SLURM_NTASKS_PER_NODE" not in seen
    launch._on_ranks(launch.launcher(3), folder, 3, [])  # type: ignore[arg-type]
    assert "SLURM_HOSTFILE" not in (tmp_path / "environment").read_text()


def test_a_terminated_mpiexec_is_an_early_stop_and_a_terminated_srun_a_failure(
    srun: Callable[[int], RunFolder], tmp_path: Path
) -> None:
    """srun says 143 where a rank crashed: taken for a stop it would send a batch job back into the queue for ever."""
    folder = srun(143)
    with pytest.raises(EngineError, match="status 143"):
        launch._on_ranks(launch.launcher(2), folder, 2, [])  # type: ignore[arg-type]
    (tmp_path / "srun").rename(tmp_path / "mpiexec")
    with pytest.raises(Interrupted, match="terminated"):
        launch._on_ranks([str(tmp_path / "mpiexec")], folder, 2, [])


def test_an_error_crosses_a_log_as_one_line() -> None:
    noise = "12:00:00 scasml 3/9 chunks\nTraceback\n12:00:01 refused, he said\n"
    assert from_lines(noise) is None
    error = InputError("a:\n b")
    refused = from_lines(f"{noise}12:00:01 {as_line(error)}\n12:00:01 {as_line(OSError('c'))}\n")
    assert isinstance(refused, InputError) and str(refused) == "a: b"
    failed = from_lines(f"12:00:01 {as_line(OSError(28, 'full', 'f'))}\n")
    assert isinstance(failed, EngineError) and str(failed) == "[Errno 28] full: 'f'"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda n: n.name)
def test_signals_are_noted_and_raised_where_they_are_asked_for(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with NotedSignals() as signals:
        signals.check()
        signal.signal(number, signal.SIG_IGN)  # as an engine may
        signals.again()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=f"stopped by {number.name}"):
            signals.check()
    assert signal.getsignal(number) is before


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-I", sys.argv[1], str(__import__("os").getpid()), "sleep", "60"])
print(child.pid, flush=True)
child.wait()
"""


def test_a_tethered_command_ends_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, tether.__file__], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    while child.name() != "sleep":
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    child.wait(timeout=5.0)


def test_a_tethered_command_does_not_start_once_its_parent_is_gone() -> None:
    found = subprocess.run([sys.executable, "-I", tether.__file__, "1", "echo", "started"], capture_output=True, check=False)
    assert found.returncode == 128 + signal.SIGTERM and found.stdout == b""


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_launcher_that_ignores_sigterm_is_killed_with_all_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "STOP_SECONDS", 0.5)
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    launch._stop(process)
    assert process.poll() == -signal.SIGKILL
    child.wait(timeout=5.0)
    launch._stop(process)


def test_the_pulse_beats_through_a_long_chunk_and_rests_while_waiting_for_others(tmp_path: Path) -> None:
    file = tmp_path / ".alive"

    def beats_on() -> bool:
        """Whether three more beats come."""
        deadline = time.monotonic() + 20.0
        seen = {file.stat().st_mtime_ns}
        while len(seen) < 4 and time.monotonic() < deadline:
            seen.add(file.stat().st_mtime_ns)
            time.sleep(0.005)
        return len(seen) == 4

    class Slow(Alone):
        def share(self, item: object) -> object:
            time.sleep(0.3)  # a beat may have been under way
            before = file.stat().st_mtime_ns
            time.sleep(0.5)
            return before == file.stat().st_mtime_ns

    watched = Watched(Slow(), file, 1.2)
    while not file.exists():
        time.sleep(0.01)
    for _ in watched.take(1):
        assert beats_on()
    assert watched.share(None)
    assert watched.gather(1) == [1] and beats_on()
