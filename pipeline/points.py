"""The evaluation points of a run: drawn once, or a user's own."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kernels.streams import Purpose, Stream
from pipeline import store
from pipeline.errors import InputError
from pipeline.job import Job, PointsFile, RunFolder


def run_points(folder: RunFolder, job: Job) -> tuple[Tensor, Tensor]:
    """The run's evaluation points, drawn or read once and stored with it."""
    if not folder.points.exists():
        points = job.model.correction.points
        if isinstance(points, PointsFile):
            t, x = read_points(job.folder / points.file, job)
        else:
            t, x = job.problem.sample_points(points, Stream(job.model.seed, Purpose.POINTS))
        store.save_points(folder.points, t, x, job.correction_hash, job.resolved)
    return store.load_points(folder.points, job.correction_hash)


def read_points(path: Path, job: Job) -> tuple[Tensor, Tensor]:
    """(t, x) from a user's .h5 (datasets t, x), .npy or .csv (columns t, x_1 .. x_d)."""
    where = f"correction.points.file = '{path}'"
    dim, horizon = job.problem.dim, job.problem.horizon
    try:
        if path.suffix == ".h5":
            try:
                table = store.foreign_table(path, "t", "x")
            except InputError as error:
                raise ValueError(str(error)) from error
        elif path.suffix == ".npy":
            table = np.load(path, allow_pickle=False)
        elif path.suffix == ".csv":
            with open(path, newline="", encoding="utf-8") as text:
                rows = [row for row in csv.reader(text) if row and not row[0].lstrip().startswith(("#", "t"))]
            table = np.array(rows, dtype=np.float64)
        else:
            raise ValueError("points come in .h5, .npy or .csv files")
        if table.dtype.kind not in "fiu":
            raise ValueError(f"its numbers are of type {table.dtype}")
        table = np.asarray(table, dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise InputError(f"{where} cannot be read as a table of numbers: {error}") from error
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] != dim + 1:
        raise InputError(f"{where} has shape {table.shape}: should be (points, {dim + 1}), t and then the {dim} coordinates of x")
    bad = ~np.isfinite(table).all(axis=1) | (table[:, 0] < 0.0) | (table[:, 0] > horizon)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{where}: row {row + 1} has t = {table[row, 0]}: every number should be finite and t lie in [0, {horizon}]"
        )
    values = torch.from_numpy(table.astype(np.float32))
    return values[:, 0].contiguous(), values[:, 1:].contiguous()
