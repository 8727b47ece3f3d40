"""The only door to HDF5: whole files, checksummed, committed by a rename.

A file is built in memory, preceded by a 512-byte HDF5 user block with the SHA-256 of the rest,
written beside its target, synced and renamed. So a reader finds the old file or the new one,
never half of one, and every byte it reads is one that was written. Nothing here is pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import InputError

VERSION = 2
USER_BLOCK = 512
MAGIC = b"scasml sha256 "


def commit(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` as one indivisible step that survives a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write(path: Path, kind: str, fill: Callable[[h5py.File], None], attributes: Mapping[str, Any]) -> None:
    """Build an HDF5 file of format ``scasml/<kind>`` in memory and commit it."""
    memory = h5py.File(path.name, "w", driver="core", backing_store=False, libver=("earliest", "v110"), userblock_size=USER_BLOCK)
    with memory as file:
        file.attrs["format"] = f"scasml/{kind}"
        file.attrs["version"] = VERSION
        for key, value in {**provenance(), **attributes}.items():
            file.attrs[key] = value if isinstance(value, (str, int, float, np.ndarray)) else json.dumps(value)
        fill(file)
        file.attrs["complete"] = 1
        file.flush()
        body = file.id.get_file_image()
    block = MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n"
    commit(path, block.ljust(USER_BLOCK, b"\0") + body)


@contextmanager
def opened(path: Path, kind: str | None) -> Iterator[h5py.File]:
    """A checked file; raises InputError naming what is wrong and the remedy."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"'{path}': no such file") from None
    except IsADirectoryError:
        raise InputError(f"'{path}' is a folder: name an HDF5 file of a run, such as report.h5") from None
    remedy = "restore it from a copy, or delete it and run the job again"
    if not content.startswith(MAGIC):
        raise InputError(f"'{path}' is not a file of this program, or it is cut off at its start: {remedy}")
    stated = content[len(MAGIC) : len(MAGIC) + 64].decode("ascii", "replace")
    if hashlib.sha256(content[USER_BLOCK:]).hexdigest() != stated:
        raise InputError(f"'{path}' is damaged (its SHA-256 differs from the stated {stated[:12]}...): {remedy}")
    with h5py.File(io.BytesIO(content), "r") as file:
        found, version = str(file.attrs.get("format", "")), int(file.attrs.get("version", -1))
        if kind is not None and found != f"scasml/{kind}":
            raise InputError(f"'{path}' is of format '{found}', not 'scasml/{kind}': name another file")
        if version != VERSION:
            raise InputError(
                f"'{path}' has format version {version}; this program reads version {VERSION}: use the matching release"
            )
        try:
            yield file
        except InputError as error:
            raise error if str(path) in str(error) else InputError(f"'{path}': {error}") from error
        except (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
            raise InputError(f"'{path}' does not hold what a '{found}' file should ({error}): {remedy}") from error


def array(file: h5py.File | h5py.Group, name: str) -> NDArray[Any]:
    """One dataset as an array; links, virtual and external data are refused."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        if not isinstance(file.get("/".join(parts[:depth]), getlink=True), h5py.HardLink):
            raise InputError(f"'{name}' is missing or a link: the file was not written by this program")
    node = file[name]
    if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external or node.dtype.hasobject:
        raise InputError(f"'{name}' is not a plain array: the file was not written by this program")
    return node[()]


def foreign_table(path: Path, *names: str) -> NDArray[np.float64]:
    """Columns of a user's own HDF5 file side by side, with the same refusals as ``array``."""
    with h5py.File(path, "r") as file:
        return np.column_stack([array(file, name) for name in names])


def foreign_arrays(path: Path, limit: int) -> dict[str, NDArray[Any]]:
    """Every array at the root of a user's own HDF5 file, ``limit`` bytes at most, with the refusals of ``array``."""
    with h5py.File(path, "r") as file:
        size = sum(node.nbytes for name in file if isinstance(node := file.get(name), h5py.Dataset))
        if size > limit:
            raise InputError(f"it holds {size / 1e9:.1f} GB, and at most {limit / 1e9:.0f} GB are read")
        return {name: np.ascontiguousarray(array(file, name)) for name in file}


def put(file: h5py.File | h5py.Group, name: str, data: NDArray[Any], **attributes: str) -> h5py.Dataset:
    """Store an array with a Fletcher-32 checksum (scalars and empty arrays cannot carry one)."""
    checked = {"fletcher32": True} if data.ndim and data.size else {}
    node = file.create_dataset(name, data=data, **checked)
    node.attrs.update(attributes)
    return node


@cache
def provenance() -> dict[str, Any]:
    """Package versions, commit of the source tree if it is one, processor."""
    packages = ("torch", "numpy", "scipy", "h5py", "ray", "mpi4py", "scasml")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "none"
    here = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return {
        "versions": json.dumps(versions),
        "python": platform.python_version(),
        "commit": found.stdout.strip() or "none",
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


# Checkpoints: any nesting of dictionaries, lists, numbers and tensors, as JSON plus arrays.


def _skeleton(node: Any, tensors: dict[str, NDArray[Any]], where: str = "") -> Any:
    """``node`` as JSON, its tensors moved to ``tensors`` under the path at which they stood."""
    if isinstance(node, Tensor):
        tensors[where] = node.detach().cpu().numpy()
        # Products round differently on another memory layout, and a resumed run must not.
        return {"transposed" if node.ndim == 2 and not node.is_contiguous() and node.mT.is_contiguous() else "tensor": where}
    if isinstance(node, Mapping):
        return {"map": [[key, _skeleton(value, tensors, f"{where}/{key}".lstrip("/"))] for key, value in node.items()]}
    if isinstance(node, (list, tuple)):
        return {"list": [_skeleton(value, tensors, f"{where}/{i}".lstrip("/")) for i, value in enumerate(node)]}
    if node is None or isinstance(node, (bool, int, float, str)):
        return {"value": node}
    raise TypeError(f"a checkpoint cannot hold a {type(node).__name__}")


def _restore(node: Any, file: h5py.File, tree: str) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return torch.from_numpy(np.array(array(file, f"{tree}/{content}"))).clone()
    if kind == "transposed":
        return torch.from_numpy(np.array(array(file, f"{tree}/{content}"))).mT.contiguous().mT
    if kind == "map":
        return {key: _restore(value, file, tree) for key, value in content}
    if kind == "list":
        return [_restore(value, file, tree) for value in content]
    return content


@dataclass(frozen=True)
class Checkpoint:
    """Everything training needs to go on, or correction to begin."""

    step: int
    steps: int
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any]
    losses: NDArray[np.float64]
    seconds: float


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, training_hash: str, job: Mapping[str, Any]) -> None:
    """Commit a checkpoint that names the job it belongs to."""

    def fill(file: h5py.File) -> None:
        for name, tree in (("parameters", checkpoint.parameters), ("optimizer", checkpoint.optimizer)):
            tensors: dict[str, NDArray[Any]] = {}
            group = file.create_group(name)
            put(group, "skeleton", np.frombuffer(json.dumps(_skeleton(tree, tensors)).encode(), dtype=np.uint8))
            for path_in_tree, tensor in tensors.items():
                put(group, path_in_tree, tensor)
        put(file, "loss", checkpoint.losses, long_name="training loss at each step", units="1")

    write(
        path,
        "checkpoint",
        fill,
        {
            "step": checkpoint.step,
            "steps": checkpoint.steps,
            "seconds": checkpoint.seconds,
            "training_hash": training_hash,
            "job": job,
            "seed": job["seed"],
            "random_address": "(seed, purpose = 1 training, step, block of the global batch)",
        },
    )


def checkpoint_owner(path: Path) -> tuple[str, dict[str, Any], bool]:
    """Training hash and job of a checkpoint, and whether its training is finished."""
    with opened(path, "checkpoint") as file:
        finished = int(file.attrs["step"]) == int(file.attrs["steps"])
        return str(file.attrs["training_hash"]), json.loads(file.attrs["job"]), finished


def load_checkpoint(path: Path, *, training_hash: str, job: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint of this job; another job's is refused with what differs."""
    owner, theirs, _ = checkpoint_owner(path)
    if owner != training_hash:
        raise InputError(
            f"'{path}' belongs to another job ({_difference(theirs, job)}): "
            "give this job its own --out folder, or delete the file to train anew"
        )
    with opened(path, "checkpoint") as file:
        trees = {}
        for name in ("parameters", "optimizer"):
            skeleton = json.loads(array(file, f"{name}/skeleton").tobytes())
            trees[name] = _restore(skeleton, file, name)
        return Checkpoint(
            step=int(file.attrs["step"]),
            steps=int(file.attrs["steps"]),
            parameters=trees["parameters"],
            optimizer=trees["optimizer"],
            losses=array(file, "loss"),
            seconds=float(file.attrs["seconds"]),
        )


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """'problem.dim 20, here 100', over the keys that name a training."""
    found = []

    def walk(a: Any, b: Any, where: str) -> None:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            for key in [*a, *(k for k in b if k not in a)]:
                walk(a.get(key), b.get(key), f"{where}.{key}" if where else str(key))
        elif a != b:
            found.append(f"{where} {a!r}, here {b!r}")

    for key in ("seed", "problem", "surrogate", "training"):
        walk(theirs.get(key), ours.get(key), key)
    return "; ".join(found[:3]) or "a file that the job names has changed"


# Points and waves of chunks.


def save_points(path: Path, t: Tensor, x: Tensor, correction_hash: str) -> None:
    """The evaluation points of a run, drawn or given once."""

    def fill(file: h5py.File) -> None:
        put(file, "t", t.numpy(), long_name="time", units="1")
        put(file, "x", x.numpy(), long_name="position", units="1")

    write(path, "points", fill, {"correction_hash": correction_hash})


def load_points(path: Path, correction_hash: str) -> tuple[Tensor, Tensor]:
    """(t, x) of this run; another job's are refused."""
    with opened(path, "points") as file:
        if str(file.attrs["correction_hash"]) != correction_hash:
            raise InputError(f"'{path}' belongs to another job: give this job its own --out folder")
        return torch.from_numpy(array(file, "t")), torch.from_numpy(array(file, "x"))


@dataclass(frozen=True)
class Wave:
    """Moments of some chunks: keys (chunks, 3) = (block, term, index), with count, mean and m2.

    ``count`` is (chunks,), ``mean`` and ``m2`` (chunks, points of a block, ...), padded with NaN where
    the last block is short; ``seconds`` (chunks,) is what each took, ``wall`` what all took together.
    """

    keys: NDArray[np.int64]
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    seconds: NDArray[np.float64]
    wall: float


def save_wave(path: Path, wave: Wave, *, owner: str) -> None:
    """Commit the moments of a wave of chunks."""

    def fill(file: h5py.File) -> None:
        put(file, "keys", wave.keys, long_name="block, term and index of a chunk", units="1")
        put(file, "count", wave.count, long_name="draws", units="1")
        put(file, "mean", wave.mean, long_name="mean of the draws", units="1")
        put(file, "m2", wave.m2, long_name="sum of squared deviations", units="1")

    write(path, "wave", fill, {"owner": owner, "seconds": wave.seconds, "wall": wave.wall})


def load_wave(path: Path, *, owner: str) -> Wave:
    """A wave of this run's chunks."""
    with opened(path, "wave") as file:
        if str(file.attrs["owner"]) != owner:
            raise InputError(f"'{path}' belongs to another job: give this job its own --out folder")
        return Wave(
            keys=array(file, "keys"),
            count=array(file, "count"),
            mean=array(file, "mean"),
            m2=array(file, "m2"),
            seconds=np.asarray(file.attrs["seconds"]),
            wall=float(file.attrs["wall"]),
        )
