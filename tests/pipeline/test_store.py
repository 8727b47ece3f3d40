"""Files are whole, checked, and refuse what they are not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from kernels.optimizers.soap import soap
from pipeline import store
from pipeline.errors import InputError
from pipeline.provenance import commit_of, provenance

JOB = {"name": "first", "seed": 0, "problem": {"name": "lqg", "dim": 5}, "surrogate": {}, "training": {}}


def checkpoint() -> store.Checkpoint:
    torch.manual_seed(0)
    net = torch.nn.Linear(5, 3)
    optimizer = soap(net.parameters())
    for _ in range(3):
        net(torch.randn(4, 5)).square().mean().backward()
        optimizer.step()
    return store.Checkpoint(
        step=3,
        steps=9,
        parameters=net.state_dict(),
        optimizer=optimizer.state_dict(),
        losses=np.arange(3.0),
        seconds=1.5,
        core_seconds=3.0,
        device="cpu",
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
    body = len(content) - store.SEAL
    places = [0, 8, 20, *range(body, len(content)), *np.random.default_rng(0).choice(body, 200, replace=False).tolist()]
    for place in places:
        for bit in (0x01, 0x20):
            broken = bytearray(content)
            broken[place] ^= bit
            file.write_bytes(broken)
            with pytest.raises(InputError, match=r"damaged|cut off"):
                load(file)


@pytest.mark.parametrize("keep", [0, 1, 100, 511, 512, 513, 2000, -store.SEAL - 1, -store.SEAL, -store.SEAL + 1, -1])
def test_a_file_cut_short_is_noticed(keep: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"cut off.*restore it from a copy"):
        load(file)


def test_bytes_added_and_a_change_by_another_program_are_noticed(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content + b"\n")
    with pytest.raises(InputError, match="another program has changed it"):
        load(file)
    file.write_bytes(content)
    with h5py.File(file, "r+") as opened:
        opened.attrs["step"] = 4
    with pytest.raises(InputError, match="another program has changed it"):
        load(file)


@pytest.mark.parametrize("content", [b"", b"name: a job\n", b"scasml/", store.SIGNATURE])
def test_a_file_that_a_user_names_and_is_not_ours_is_not_to_be_deleted(
    content: bytes, tmp_path: Path, scasml: Callable[..., Any]
) -> None:
    (tmp_path / "theirs").write_bytes(content)
    done = scasml("inspect", tmp_path / "theirs")
    assert done.status == 2 and "not a file of this program" in done.err
    assert "delete" not in done.err and "restore" not in done.err


def test_an_hdf5_file_of_another_program_is_not_to_be_deleted(tmp_path: Path, scasml: Callable[..., Any]) -> None:
    with h5py.File(tmp_path / "theirs.h5", "w") as other:
        other["t"] = np.ones(3)
    done = scasml("inspect", tmp_path / "theirs.h5")
    assert done.status == 2 and "not a file of this program" in done.err and "delete" not in done.err


def test_a_file_that_may_not_be_read_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", unable)
    with pytest.raises(InputError, match=r"surrogate\.h5' cannot be read: Permission denied"):
        load(file)


@pytest.mark.parametrize("tool", [["h5ls"], ["h5dump", "-H"], ["h5stat"]], ids=lambda tool: tool[0])
def test_the_hdf5_tools_of_the_system_read_on_past_the_seal(tool: list[str], file: Path) -> None:
    if not shutil.which(tool[0]):
        pytest.skip(f"{tool[0]} is not installed")
    shown = subprocess.run([*tool, str(file)], capture_output=True, text=True, check=False)
    assert shown.returncode == 0 and ("parameters" in shown.stdout or "File information" in shown.stdout)
    with h5py.File(file) as opened:
        assert opened.userblock_size == 0 and opened["loss"].shape == (3,)


def test_another_jobs_checkpoint_is_refused_with_what_differs(file: Path) -> None:
    theirs = {**JOB, "name": "later", "problem": {"name": "lqg", "dim": 7}, "training": {"checkpoint_every": 1.0}}
    with pytest.raises(InputError, match=r"job 'first'.*'later': problem\.dim 5, here 7\).*--out") as refused:
        store.load_checkpoint(file, training_hash="yours", job=theirs)
    assert "checkpoint_every" not in str(refused.value)


def test_another_kind_and_another_version_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="scasml/checkpoint"), store.opened(file, "report"):
        pass
    version = store.VERSION
    monkeypatch.setattr(store, "VERSION", version + 1)
    with pytest.raises(InputError, match=rf"version {version}.*version {version + 1}"):
        load(file)


@pytest.mark.parametrize("kind", ["soft", "external", "virtual", "object", "huge", "missing"])
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
        elif kind == "huge":
            file.create_dataset("t", shape=(10**13,), dtype="f8", chunks=(1000,))

    store.write(tmp_path / "points.h5", "points", fill, {"correction_hash": "h"})
    with pytest.raises(InputError, match=r"missing or a link|not a plain array|80,000,000,000,000 bytes that the file does not"):
        store.load_points(tmp_path / "points.h5", "h")


def test_a_sealed_file_that_is_no_hdf5_is_refused(file: Path) -> None:
    body = store.SIGNATURE + b"noise" * 1000
    file.write_bytes(body + store.seal(body))
    with pytest.raises(InputError, match=r"surrogate\.h5' does not hold what"):
        load(file)


def commit_in(root: Path) -> str:
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for line in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *line], check=True, capture_output=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_our_own_tree_and_says_when_the_source_differs(tmp_path: Path) -> None:
    inner = tmp_path / "vendor" / "scasml"
    for name in ("kernels/a.py", "pipeline/b.py", "README.md"):
        (inner / name).parent.mkdir(parents=True, exist_ok=True)
        (inner / name).write_text("")
    commit_in(tmp_path)
    assert commit_of(inner) == "none"
    own = commit_in(inner)
    assert commit_of(inner) == own
    (inner / "README.md").write_text("prose")
    assert commit_of(inner) == own
    (inner / "kernels" / "new.py").write_text("")
    assert commit_of(inner) == f"{own}-dirty"


def test_without_git_files_are_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    provenance.cache_clear()
    try:
        store.save_points(tmp_path / "points.h5", torch.ones(3), torch.ones(3, 2), "h", JOB)
        with store.opened(tmp_path / "points.h5", "points") as file:
            assert file.attrs["commit"] == "none"
    finally:
        provenance.cache_clear()
