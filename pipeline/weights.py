"""The arrays of a user's own network, from a file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import store
from pipeline.errors import InputError

MAX_BYTES = 4_000_000_000
"""Arrays of a file at most: 500 million parameters in float64."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Named arrays from .npz or .h5. Nothing is unpickled, and no more is unpacked than the limit."""
    where = f"surrogate.file = '{path}'"
    if path.suffix not in (".npz", ".h5"):
        raise InputError(f"{where}: weights come in .npz or .h5 files")
    try:
        arrays = _npz(path) if path.suffix == ".npz" else store.foreign_arrays(path, MAX_BYTES)
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, InputError) as error:
        raise InputError(f"{where} cannot be read as named arrays of numbers: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
            raise InputError(f"{where}: array '{name}' is of type {array.dtype}: should be float32 or float64")
    return {name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="))) for name, array in arrays.items()}


def _npz(path: Path) -> Mapping[str, NDArray[Any]]:
    with zipfile.ZipFile(path) as archive:
        if (size := sum(member.file_size for member in archive.infolist())) > MAX_BYTES:
            raise ValueError(f"it unpacks to {size / 1e9:.1f} GB, and at most {MAX_BYTES / 1e9:.0f} GB are read")
    with np.load(path, allow_pickle=False) as content:
        return {name: np.ascontiguousarray(content[name]) for name in content.files}
