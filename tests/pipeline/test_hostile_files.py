"""Damaged and doctored HDF5 files: each is refused in one clear line, soon, in little memory, or holds the numbers it held."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from test_store import JOB, checkpoint

from pipeline import store
from pipeline.errors import InputError
from pipeline.training import fill

Load = Callable[[Path], list[np.ndarray]]


def load_checkpoint(path: Path) -> list[np.ndarray]:
    found = store.load_checkpoint(path, training_hash="mine", job=JOB)
    fill(torch.nn.Linear(5, 3), found.parameters, path)
    return [np.asarray(found.losses), *(p.numpy() for p in found.parameters.values())]


def load_points(path: Path) -> list[np.ndarray]:
    return [part.numpy() for part in store.load_points(path, "h")]


def load_wave(path: Path) -> list[np.ndarray]:
    wave = store.load_wave(path, owner="me")
    # What is not finite is refused where draws are taken up (test_tally.py).
    for part in (wave.mean, wave.m2):
        if not np.isfinite(part).all():
            raise InputError(f"'{path}' holds draws that are not finite")
    return [wave.keys, wave.count, wave.mean, wave.m2]


def written(place: Path) -> dict[str, tuple[bytes, Load]]:
    """The bytes of one file of every kind, and how it is read."""
    store.save_checkpoint(place / "checkpoint.h5", checkpoint(), training_hash="mine", job=JOB)
    store.save_points(place / "points.h5", torch.rand(50), torch.rand(50, 3), "h", JOB)
    numbers = np.random.default_rng(0)
    wave = store.Wave(
        np.ones((9, 3), dtype=np.int64), np.full(9, 64), numbers.random((9, 16)), numbers.random((9, 16)), np.ones(9), 1.0
    )
    store.save_wave(place / "wave.h5", wave, owner="me")
    loads = {"checkpoint": load_checkpoint, "points": load_points, "wave": load_wave}
    return {name: ((place / f"{name}.h5").read_bytes(), load) for name, load in loads.items()}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bits changed, bytes cut, put in, blanked or repeated, anywhere."""
    body = bytearray(content)
    i = rng.randrange(len(body))
    match rng.randrange(5):
        case 0:
            body[i] ^= 1 << rng.randrange(8)
        case 1:
            del body[i:]
        case 2:
            body[i:i] = rng.randbytes(rng.randrange(1, 64))
        case 3:
            body[i : i + 64] = bytes(len(body[i : i + 64]))
            body.append(0)
        case _:
            body[i:i] = body[: rng.randrange(1, len(body))]
    return bytes(body)


def doctored(content: bytes, place: Path, rng: random.Random) -> bytes:
    """One array or attribute replaced, linked away, blown up or dropped, under a right checksum."""
    path = place / "doctored.h5"
    path.write_bytes(content[: -store.SEAL])
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        if rng.random() < 0.3:
            name = rng.choice(sorted(file.attrs))
            value = rng.choice([None, "", "{", -1, 1e308, float("nan"), "x" * 5000, np.zeros(0), 2**62])
            del file.attrs[name]
            if value is not None:
                file.attrs[name] = value
        else:
            name = rng.choice(names)
            shape = file[name].shape
            del file[name]
            match rng.randrange(8):
                case 0:
                    file[name] = h5py.SoftLink("/nowhere")
                case 1:
                    file[name] = h5py.ExternalLink("/etc/passwd", "/")
                case 2:
                    file.create_dataset(name, data=["a", "b"], dtype=h5py.string_dtype())
                case 3:
                    file.create_dataset(name, shape=(10**12,), dtype="f8", chunks=(1000,))
                case 4:
                    file.create_dataset(name, data=np.full(shape, np.nan), dtype="f4")
                case 5:
                    file.create_dataset(name, data=np.ones((*shape, 2)))
                case 6:
                    file.create_group(name)
                case _:
                    pass
    body = path.read_bytes()
    return body + store.seal(body)


@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_damaged_files_each_end_in_one_clear_line_or_the_numbers_they_held(seed: int, tmp_path: Path) -> None:
    rng, files = random.Random(seed), written(tmp_path)
    refused, target = 0, tmp_path / "target.h5"
    for count in range(100):
        name = rng.choice(sorted(files))
        content, load = files[name]
        target.write_bytes(content)
        whole = load(target)
        broken = damaged(content, rng) if count % 2 else doctored(content, tmp_path, rng)
        target.write_bytes(broken)
        tracemalloc.start()
        began = time.monotonic()
        try:
            found: Any = load(target)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and str(target) in str(error) and len(str(error)) < 1500
        else:
            assert count % 2 == 0, "bytes that differ have another checksum"
            assert all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(found, whole, strict=True)), name
        assert time.monotonic() - began < 10.0
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100 * len(content) + 10_000_000
    assert 70 < refused <= 100
