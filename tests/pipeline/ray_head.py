"""A Ray cluster of one node that runs already, on loopback, for tests."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from running import family, free_port

from pipeline import cluster
from pipeline.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def ray_head(*, dashboard: bool = False, cpus: int = 2) -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    """Guarded by a token that this process and its children have: address, that of its dashboard, and its first process."""
    place = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray puts sockets there
    token = place / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    guard = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    port, board = free_port(), free_port()
    line = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}", f"--num-cpus={cpus}"]
    line += [f"--ray-client-server-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0"]
    line += [
        f"--include-dashboard={str(dashboard).lower()}",
        f"--dashboard-port={board}",
        f"--dashboard-agent-listen-port={free_port()}",
    ]
    line += ["--object-store-memory=100000000", f"--temp-dir={place}", "--disable-usage-stats"]
    environment = {**os.environ, **guard, "PYTHONPATH": path}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    patch = pytest.MonkeyPatch()
    try:
        for key, value in guard.items():
            patch.setenv(key, value)
        deadline = time.monotonic() + 90.0
        while True:
            try:
                cluster.probe(f"127.0.0.1:{port}")
                break
            except InputError as error:
                assert time.monotonic() < deadline and process.poll() is None, error
                time.sleep(0.2)
        while dashboard and not listens(board):
            assert time.monotonic() < deadline and process.poll() is None, "no dashboard"
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", f"http://127.0.0.1:{board}", process
    finally:
        patch.undo()
        # Asked to end, it would wait half a minute for workers that have ended and that nobody has asked after.
        for one in [*(family(process) if process.poll() is None else []), process]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        process.communicate(timeout=60)
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def ray_node(address: str) -> Iterator[subprocess.Popen[str]]:
    """One more node of one CPU, which is about to join the cluster of a head; its first process."""
    line = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--address={address}", "--num-cpus=1"]
    line += [
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--dashboard-agent-listen-port={free_port()}",
        "--disable-usage-stats",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        for one in [*(family(process) if process.poll() is None else []), process]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        process.communicate(timeout=60)
