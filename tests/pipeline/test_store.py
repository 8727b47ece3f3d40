"""Files are whole, checked, and refuse what they are not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from kernels.optimizers.soap import soap
from pipeline import store
from pipeline.errors import InputError

JOB = {"seed": 0, "problem": {"name": "lqg", "dim": 5}, "surrogate": {}, "training": {}}


def checkpoint() -> store.Checkpoint:
    torch.manual_seed(0)
    net = torch.nn.Linear(5, 3)
    optimizer = soap(net.parameters())
    for _ in range(3):
        net(torch.randn(4, 5)).square().mean().backward()
        optimizer.step()
    return store.Checkpoint(
        step=3, steps=9, parameters=net.state_dict(), optimizer=optimizer.state_dict(), losses=np.arange(3.0), seconds=1.5
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "surrogate.h5"
    store.save_checkpoint(path, checkpoint(), training_hash="mine", job=JOB)
    return path


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.equal(b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) and type(a) is type(b)


def load(path: Path) -> store.Checkpoint:
    return store.load_checkpoint(path, training_hash="mine", job=JOB)


def test_a_checkpoint_comes_back_bit_for_bit_with_its_optimizer(file: Path) -> None:
    saved, loaded = checkpoint(), load(file)
    assert same(dict(saved.parameters), loaded.parameters) and same(saved.optimizer, loaded.optimizer)
    assert (loaded.step, loaded.steps, loaded.seconds) == (3, 9, 1.5) and np.array_equal(loaded.losses, saved.losses)


def test_every_flipped_byte_is_noticed(file: Path) -> None:
    content = file.read_bytes()
    body = range(store.USER_BLOCK, len(content))
    places = [0, 20, *np.random.default_rng(0).choice(body, 200, replace=False).tolist()]
    for place in places:
        broken = bytearray(content)
        broken[place] ^= 0x10
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"damaged|not a file of this program"):
            load(file)


@pytest.mark.parametrize("keep", [0, 1, 100, 511, 512, 513, 2000, -1])
def test_a_file_cut_short_is_noticed(keep: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"damaged|cut off"):
        load(file)


def test_another_jobs_checkpoint_is_refused_with_what_differs(file: Path) -> None:
    with pytest.raises(InputError, match=r"problem\.dim 5, here 7.*--out"):
        store.load_checkpoint(file, training_hash="yours", job={**JOB, "problem": {"name": "lqg", "dim": 7}})


def test_another_kind_and_another_version_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="scasml/checkpoint"), store.opened(file, "report"):
        pass
    monkeypatch.setattr(store, "VERSION", 2)
    with pytest.raises(InputError, match=r"version 1.*version 2"):
        load(file)


@pytest.mark.parametrize("kind", ["soft", "external", "virtual", "object", "missing"])
def test_an_array_that_is_a_trick_is_refused_even_with_a_right_checksum(kind: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "elsewhere.h5", "w") as other:
        other["t"] = np.ones(3)

    def fill(file: h5py.File) -> None:
        store.put(file, "x", np.ones((3, 2)))
        if kind == "soft":
            file["t"] = h5py.SoftLink("/x")
        elif kind == "external":
            file["t"] = h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "t")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3,), dtype="f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "elsewhere.h5"), "t", shape=(3,))
            file.create_virtual_dataset("t", layout)
        elif kind == "object":
            file.create_dataset("t", data=["a", "b", "c"], dtype=h5py.string_dtype())

    store.write(tmp_path / "points.h5", "points", fill, {"correction_hash": "h"})
    with pytest.raises(InputError, match=r"missing or a link|not a plain array"):
        store.load_points(tmp_path / "points.h5", "h")


WRITER = """
import sys
import numpy as np
from pathlib import Path
from pipeline import store
i = 0
while True:
    i += 1
    wave = store.Wave(np.full((50, 2), i), np.full((50, 3), i), np.full((50, 3, 16), float(i)), np.full((50, 3, 16), float(i)), np.ones(50))
    store.save_wave(Path(sys.argv[1]), wave, owner="me")
"""


def test_a_writer_killed_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target, rng = tmp_path / "wave.h5", np.random.default_rng(0)
    for _ in range(10):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)])
        try:
            began = target.stat().st_mtime_ns if target.exists() else 0
            while not target.exists() or target.stat().st_mtime_ns == began:
                assert writer.poll() is None
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.05))
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
        wave = store.load_wave(target, owner="me")
        assert len({*wave.keys.ravel().tolist(), *wave.mean.ravel().tolist(), *wave.m2.ravel().tolist()}) == 1


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_beside_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        store.save_checkpoint(file, checkpoint(), training_hash="mine", job=JOB)
    assert raised.value.errno == errno.ENOSPC
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == [file.name]
