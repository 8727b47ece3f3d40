"""A file is the old one or the new one, and one command at a time works in a folder."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipeline
from pipeline import files, store
from pipeline.errors import EngineError, InputError
from pipeline.job import load_job

FORK = multiprocessing.get_context("fork")


def write_for_ever(target: Path) -> None:
    for i in count(1):
        store.save_points(target, torch.full((5000,), float(i)), torch.full((5000, 3), float(i)), "me", {})


def test_a_writer_killed_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target, rng = tmp_path / "points.h5", np.random.default_rng(0)
    for _ in range(20):
        before = target.stat().st_mtime_ns if target.exists() else 0
        writer = FORK.Process(target=write_for_ever, args=(target,))
        writer.start()
        deadline = time.monotonic() + 30.0
        while not target.exists() or target.stat().st_mtime_ns == before:
            assert writer.is_alive() and time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        writer.kill()
        writer.join()
        t, x = store.load_points(target, "me")
        assert len({*t.tolist(), *x.flatten().tolist()}) == 1


def test_a_name_of_any_length_can_be_written(tmp_path: Path) -> None:
    long = tmp_path / ("a" * 250)
    files.commit(long, b"content")
    assert long.read_bytes() == b"content" and os.listdir(tmp_path) == [long.name]


def test_two_writers_never_share_a_file_beside_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    replace = os.replace

    def seen(source: Path, target: Path) -> None:
        names.append(source.name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", seen)
    for _ in range(2):
        files.commit(tmp_path / "a", b"")
    assert len(set(names)) == 2


@pytest.mark.parametrize("links", [True, False])
def test_a_wave_is_never_written_over(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:

        def unable(source: Path, target: Path) -> None:
            raise PermissionError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", unable)
    path = tmp_path / "wave-000000.h5"
    files.commit(path, b"first", new=True)
    with pytest.raises(EngineError, match=r"wave-000000.*there already"):
        files.commit(path, b"second", new=True)
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == [path.name]
    assert "wave" in store.ONCE


def test_a_full_disk_keeps_the_old_file_and_names_it_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.commit(tmp_path / "a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.* 3 bytes.*free some space.*run the same command again.*/a'") as raised:
        files.commit(tmp_path / "a", b"new")
    assert raised.value.errno == errno.ENOSPC
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


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
    def save(size: int) -> None:
        store.save_points(small_disk / "points.h5", torch.rand(size), torch.rand(size, 2), "h", {})

    save(100)
    before = (small_disk / "points.h5").read_bytes()
    with pytest.raises(OSError, match=r"free some space.*points\.h5") as raised:
        save(100_000)
    assert raised.value.errno == errno.ENOSPC
    assert (small_disk / "points.h5").read_bytes() == before
    assert [p.name for p in small_disk.iterdir()] == ["points.h5"]


def hold_and_wait(folder: Path, held: Connection) -> None:
    files.hold(folder)
    held.send("held")
    time.sleep(60.0)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[BaseProcess]:
    """Another process that works in the folder ``run``."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=hold_and_wait, args=(tmp_path / "run", there))
    process.start()
    try:
        assert here.recv() == "held"
        yield process
    finally:
        process.kill()
        process.join()


def hold_as_another(folder: Path) -> None:
    files._held.clear()
    files.hold(folder)


def others_can_hold(folder: Path) -> bool:
    process = FORK.Process(target=hold_as_another, args=(folder,))
    process.start()
    process.join()
    return process.exitcode == 0


def test_a_second_command_in_a_folder_is_refused_with_the_first_named(
    holder: BaseProcess, tmp_path: Path, job_file: Path, scasml: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    for command in ("run", "report"):
        done = scasml(command, job_file, "--out", run)
        assert done.status == 2 and done.err.count("\n") == 1
        assert f"process {holder.pid} on {socket.gethostname()}" in done.err and "--out" in done.err
    assert os.listdir(run) == [files.LOCK]
    holder.kill()
    holder.join()
    files.hold(run)
    files.release(run)


def test_a_folder_is_free_again_after_a_command_and_after_a_run_from_python(
    tmp_path: Path, job_file: Path, scasml: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    assert scasml("train", job_file, "--out", run).status == 0
    assert others_can_hold(run)
    pipeline.run(load_job(job_file), out=run)
    assert others_can_hold(run)
    files.hold(run)
    files.hold(run)
    assert not others_can_hold(run)
    files.release()


def test_a_folder_made_anew_is_held_anew(tmp_path: Path) -> None:
    files.hold(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    files.hold(tmp_path / "run")
    assert (tmp_path / "run" / files.LOCK).read_text().startswith(f"process {os.getpid()}")
    files.release()


def test_on_a_disk_without_locks_nothing_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unable)
    files.hold(tmp_path)
    files.refuse_held(tmp_path)
    files.release()


def test_what_killed_writers_left_is_removed_at_the_next_start(
    tmp_path: Path, job_file: Path, scasml: Callable[..., Any]
) -> None:
    left = [tmp_path / "run" / ".0123.tmp", tmp_path / "run" / "chunks" / "scasml" / ".4567.tmp"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert scasml("train", job_file, "--out", tmp_path / "run").status == 0
    assert not any(path.exists() for path in left)


def test_a_held_folder_is_refused_by_the_check_without_a_trace(holder: BaseProcess, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"process {holder.pid}"):
        files.refuse_held(tmp_path / "run")
    files.refuse_held(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
