"""The command in processes of its own: started, watched through its log, stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

COMMAND = [sys.executable, "-m", "pipeline", "run"]
TWO = {"correction.ranks": 2, "correction.oversubscribe": True}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def execute(
    job: Path, run: Path, *more: str, command: list[str] = COMMAND, timeout: float = 200.0
) -> subprocess.CompletedProcess[str]:
    """A run to its end."""
    line = [*command, str(job), "--out", str(run), *more]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)


def log_of(run: Path) -> str:
    return (run / "log.txt").read_text(errors="replace") if (run / "log.txt").exists() else ""


def started(job: Path, run: Path, moment: str, *more: str, seconds: float = 120.0) -> subprocess.Popen[str]:
    """A run in a session of its own whose log, from here on, has come to ``moment``."""
    before = len(log_of(run))
    process = subprocess.Popen(
        [*COMMAND, str(job), "--out", str(run), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + seconds
    while not re.search(moment, log_of(run)[before:]):
        assert process.poll() is None, log_of(run) + str(process.communicate())
        assert time.monotonic() < deadline, log_of(run)
        time.sleep(0.01)
    return process


def until(reached: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes that one has started, at any remove."""
    return psutil.Process(process.pid).children(recursive=True)


def ranks(run: Path) -> list[psutil.Process]:
    """The MPI ranks that serve a run's folder; neither their launcher nor its helpers."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if str(run) in line and "python" in line[0] and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; an ended one that nobody has asked after is a zombie, and may stay one."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def all_gone(processes: list[psutil.Process], run: Path, seconds: float = 15.0) -> bool:
    """Whether these, and whatever serves the run's folder, end by themselves soon."""
    deadline = time.monotonic() + seconds
    while (left := [*running(processes), *ranks(run)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not left


def stop(process: subprocess.Popen[str], number: int = signal.SIGKILL, *, group: bool = False) -> tuple[int, str]:
    """Send a signal, to the whole group as a terminal's Ctrl-C does; status and standard error at the end."""
    (os.killpg if group else os.kill)(process.pid, number)
    _, shown = process.communicate(timeout=60)
    return process.returncode, shown


def marks(run: Path) -> list[str]:
    """Beginnings and ends of stages, in order, as 'train began'."""
    return re.findall(r"^\S+ ((?:train|correct|report) (?:began|ended))$", log_of(run), re.MULTILINE)


def counts(run: Path, method: str = "scasml") -> tuple[int, int]:
    """Chunks computed and reused, as the log last says of a method."""
    computed, reused = re.findall(rf"{method}: (\d+) chunks computed, (\d+) reused", log_of(run))[-1]
    return int(computed), int(reused)
