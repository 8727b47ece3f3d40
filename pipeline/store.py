"""The only door to HDF5: whole files, checksummed, committed by a rename.

A file is built in memory, followed by a line with its SHA-256 (HDF5 reads no further than its own
end), written beside its target, synced and renamed. So a reader finds the old file or the new one,
never half of one, and every byte it reads is one that was written. Nothing here is pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import InputError
from pipeline.files import commit
from pipeline.owner import CORRECTION, TRAINING, explained
from pipeline.provenance import provenance

VERSION = 5
SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAGIC = b"\nscasml sha256 "
SEAL = len(MAGIC) + 64 + 1
"""Bytes of the line that ends a file."""

ONCE = {"wave"}
"""Kinds of which a file is never replaced: what was computed is not computed again."""

REMEDY = "restore it from a copy, or delete it and run the job again"


def seal(body: bytes) -> bytes:
    """The line that follows ``body`` in a file of ours."""
    return MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n"


def write(path: Path, kind: str, fill: Callable[[h5py.File], None], attributes: Mapping[str, Any]) -> None:
    """Build an HDF5 file of format ``scasml/<kind>`` in memory and commit it."""
    with h5py.File(path.name, "w", driver="core", backing_store=False, libver=("earliest", "v110")) as file:
        file.attrs["format"] = f"scasml/{kind}"
        file.attrs["version"] = VERSION
        for key, value in {**provenance(), **attributes}.items():
            file.attrs[key] = value if isinstance(value, (str, int, float, np.ndarray)) else json.dumps(value)
        fill(file)
        file.attrs["complete"] = 1
        file.flush()
        body = file.id.get_file_image()
    commit(path, body + seal(body), new=kind in ONCE)


@contextmanager
def opened(path: Path, kind: str | None) -> Iterator[h5py.File]:
    """A checked file; raises InputError naming what is wrong and the remedy."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"'{path}': no such file") from None
    except IsADirectoryError:
        raise InputError(f"'{path}' is a folder: name an HDF5 file of a run, such as report.h5") from None
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}") from error
    if content[-SEAL:] != seal(content[:-SEAL]):
        raise InputError(f"'{path}' {_unsealed(content, kind)}")
    found = "unknown"
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            found, version = str(file.attrs.get("format", "")), int(file.attrs.get("version", -1))
            if kind is not None and found != f"scasml/{kind}":
                raise InputError(f"'{path}' is of format '{found}', not 'scasml/{kind}': name another file")
            if version != VERSION:
                raise InputError(
                    f"'{path}' has format version {version}; this program reads version {VERSION}: use the matching release"
                )
            yield file
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"'{path}': {error}") from error
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, OSError, RuntimeError) as error:
        raise InputError(f"'{path}' does not hold what a '{found}' file should ({error}): {REMEDY}") from error


def _unsealed(content: bytes, kind: str | None) -> str:
    """What is wrong with a file whose last line is not its checksum; ``kind`` is None for a file that a user named."""
    if content[-SEAL:].startswith(MAGIC):
        return f"is damaged (its SHA-256 differs from the one at its end): {REMEDY}"
    if content.startswith(SIGNATURE) and b"scasml/" in content:
        return f"is cut off, or another program has changed it: {REMEDY}"
    if kind is None:
        return "is not a file of this program: name the surrogate.h5, points.h5, report.h5 or a wave of chunks of a run"
    return f"is cut off near its start, or not a file of this program: name another one, or if a run left it so, {REMEDY}"


def _plain(file: h5py.File | h5py.Group, name: str) -> h5py.Dataset:
    """One dataset whose numbers lie in the file itself; links, virtual and external data are refused."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        if not isinstance(file.get("/".join(parts[:depth]), getlink=True), h5py.HardLink):
            raise InputError(f"'{name}' is missing or a link: the file was not written by this program")
    node = file[name]
    if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external or node.dtype.hasobject:
        raise InputError(f"'{name}' is not a plain array: the file was not written by this program")
    return node


def array(file: h5py.File | h5py.Group, name: str) -> NDArray[Any]:
    """One dataset of a file of ours as an array."""
    node = _plain(file, name)
    # We never compress, so a shape beyond what is stored is a trick to fill the memory.
    if node.id.get_storage_size() < node.nbytes:
        raise InputError(f"'{name}' claims {node.nbytes:,} bytes that the file does not hold: it was not written by this program")
    return node[()]


def table(file: h5py.File, name: str, kind: str, *shape: int | None, finite: bool = True) -> NDArray[Any]:
    """``array`` of a ``kind`` of number (i or f) and a shape, in which None stands for any length."""
    found = array(file, name)
    fits = found.ndim == len(shape) and all(wanted in (None, size) for wanted, size in zip(shape, found.shape, strict=True))
    if not fits or found.dtype.kind != kind:
        raise InputError(f"'{name}' is {found.dtype} of shape {found.shape}: it was not written by this program")
    if finite and not np.isfinite(found).all():
        raise InputError(f"'{name}' holds numbers that are not finite: it was not written by this program")
    return found


def foreign_table(path: Path, *names: str) -> NDArray[np.float64]:
    """Columns of a user's own HDF5 file side by side, with the same refusals of links as ``array``."""
    with h5py.File(path, "r") as file:
        return np.column_stack([_plain(file, name)[()] for name in names])


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


def put_tree(file: h5py.File, name: str, nested: Any) -> None:
    """Store any nesting of dictionaries, lists, numbers and tensors under ``name``."""
    tensors: dict[str, NDArray[Any]] = {}
    group = file.create_group(name)
    put(group, "skeleton", np.frombuffer(json.dumps(_skeleton(nested, tensors)).encode(), dtype=np.uint8))
    for path_in_tree, tensor in tensors.items():
        put(group, path_in_tree, tensor)


def tree(file: h5py.File, name: str) -> Any:
    """What ``put_tree`` stored."""
    return _restore(json.loads(array(file, f"{name}/skeleton").tobytes()), file, name)


TREES = ("parameters", "optimizer", "average", "objective")


@dataclass(frozen=True)
class Checkpoint:
    """Everything training needs to go on, or correction to begin."""

    step: int
    steps: int
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any]
    losses: NDArray[np.float64]
    seconds: float
    core_seconds: float
    """Seconds times processes."""
    device: str
    """Kind of device that the training ran on."""
    average: Sequence[Tensor] = ()
    """The moving average of the parameters, in their order, while a phase that takes one runs."""
    objective: dict[str, Tensor] = field(default_factory=dict)
    """What the objective has learned of the losses so far, while its phase runs."""


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, training_hash: str, job: Mapping[str, Any]) -> None:
    """Commit a checkpoint that names the job it belongs to."""

    def fill(file: h5py.File) -> None:
        for name in TREES:
            put_tree(file, name, getattr(checkpoint, name))
        put(file, "loss", checkpoint.losses, long_name="training loss at each step", units="1")

    write(
        path,
        "checkpoint",
        fill,
        {
            "step": checkpoint.step,
            "steps": checkpoint.steps,
            "seconds": checkpoint.seconds,
            "core_seconds": checkpoint.core_seconds,
            "device": checkpoint.device,
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
    refuse_foreign(path, "checkpoint", "training_hash", training_hash, job)
    with opened(path, "checkpoint") as file:
        trees = {name: tree(file, name) for name in TREES}
        return Checkpoint(
            step=int(file.attrs["step"]),
            steps=int(file.attrs["steps"]),
            **trees,
            losses=table(file, "loss", "f", None),
            seconds=float(file.attrs["seconds"]),
            core_seconds=float(file.attrs["core_seconds"]),
            device=str(file.attrs["device"]),
        )


def refuse_foreign(path: Path, kind: str, stage: str, expected: str, job: Mapping[str, Any]) -> None:
    """InputError with both jobs named where a file's ``stage``, training_hash or correction_hash, is not ``expected``."""
    with opened(path, kind) as file:
        # A wave is checked again, by its method, when it is read.
        if kind == "wave" and "job" not in file.attrs:
            return
        if str(file.attrs[stage]) != expected:
            why = explained(json.loads(file.attrs["job"]), job, TRAINING if stage == "training_hash" else CORRECTION)
            raise InputError(
                f"'{path}' belongs to another job ({why}): give this job its own --out folder, "
                "or delete the file to compute it anew"
            )


# Points and waves of chunks.


def save_points(path: Path, t: Tensor, x: Tensor, correction_hash: str, job: Mapping[str, Any]) -> None:
    """The evaluation points of a run, drawn or given once."""

    def fill(file: h5py.File) -> None:
        put(file, "t", t.numpy(), long_name="time", units="1")
        put(file, "x", x.numpy(), long_name="position", units="1")

    write(path, "points", fill, {"correction_hash": correction_hash, "job": job})


def load_points(path: Path, correction_hash: str) -> tuple[Tensor, Tensor]:
    """(t, x) of this run; another job's are refused."""
    with opened(path, "points") as file:
        if str(file.attrs["correction_hash"]) != correction_hash:
            raise InputError(f"'{path}' belongs to another job: give this job its own --out folder")
        t = table(file, "t", "f", None)
        return torch.from_numpy(t), torch.from_numpy(table(file, "x", "f", len(t), None))


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


def save_wave(path: Path, wave: Wave, *, owner: str, named: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Commit the moments of a wave of chunks; ``named`` holds the ``job`` and ``correction_hash`` they belong to."""

    def fill(file: h5py.File) -> None:
        put(file, "keys", wave.keys, long_name="block, term and index of a chunk", units="1")
        put(file, "count", wave.count, long_name="draws", units="1")
        put(file, "mean", wave.mean, long_name="mean of the draws", units="1")
        put(file, "m2", wave.m2, long_name="sum of squared deviations", units="1")

    write(path, "wave", fill, {"owner": owner, "seconds": wave.seconds, "wall": wave.wall, **named})


def load_wave(path: Path, *, owner: str) -> Wave:
    """A wave of this run's chunks."""
    with opened(path, "wave") as file:
        if str(file.attrs["owner"]) != owner:
            raise InputError(f"'{path}' belongs to another job: give this job its own --out folder")
        keys, mean = table(file, "keys", "i", None, 3), array(file, "mean")
        # Padded with NaN; the draws themselves are looked at where they are taken up.
        shape = (len(keys), *(mean.shape[1:] or (-1,)))
        return Wave(
            keys=keys,
            count=table(file, "count", "i", len(keys)),
            mean=table(file, "mean", "f", *shape, finite=False),
            m2=table(file, "m2", "f", *shape, finite=False),
            seconds=np.asarray(file.attrs["seconds"], dtype=np.float64).reshape(len(keys)),
            wall=float(file.attrs["wall"]),
        )
