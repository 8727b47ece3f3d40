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
from pipeline.job import Job, RunFolder
from pipeline.schema import DomainPoints, PointsFile

BOUNDARY = 2
"""Second entry of the boundary points' address; a problem's own coefficients may stand at 1."""


def run_points(folder: RunFolder, job: Job) -> tuple[Tensor, Tensor]:
    """The run's evaluation points, drawn or read once and stored with it."""
    if not folder.points.exists():
        t, x = points_of(job)
        store.save_points(folder.points, t, x, job.correction_hash, job.resolved)
    return store.load_points(folder.points, job.correction_hash)


def points_of(job: Job) -> tuple[Tensor, Tensor]:
    """(t, x) that the job asks for: drawn, read, or the reference point t = 0, x = (start, ..., start)."""
    points, seed = job.model.correction.points, job.model.seed
    problem = job.problem
    if job.family.points is not None:
        return job.family.points(problem)
    if isinstance(points, PointsFile):
        return read_points(job.folder / points.file, job)
    if isinstance(points, int):
        return problem.sample_points(points, Stream(seed, Purpose.POINTS))
    if not isinstance(points, DomainPoints):
        return torch.zeros(1), torch.full((1, problem.dim), job.problem.start)
    parts = []
    if points.interior:
        parts.append(problem.sample_points(points.interior, Stream(seed, Purpose.POINTS)))
    if points.boundary:
        assert problem.boundary_points is not None
        parts.append(problem.boundary_points(points.boundary, Stream(seed, Purpose.POINTS, BOUNDARY)))
    t, x = zip(*parts, strict=True)
    return torch.cat(t), torch.cat(x)


def count(job: Job) -> int:
    """How many points the job asks for, without drawing them."""
    points = job.model.correction.points
    if job.family.points is not None:
        return len(job.family.points(job.problem)[0])
    if isinstance(points, PointsFile):
        return len(read_points(job.folder / points.file, job)[0])
    if isinstance(points, DomainPoints):
        return points.interior + points.boundary
    return points if isinstance(points, int) else 1


def read_points(path: Path, job: Job) -> tuple[Tensor, Tensor]:
    """(t, x) from a user's .h5 (datasets t, x), .npy or .csv (columns t, x_1 .. x_d)."""
    where = f"correction.points.file = '{path}'"
    dim, horizon = job.problem.dim, getattr(job.problem, "horizon", 0.0)
    try:
        if path.suffix == ".h5":
            try:
                table = store.foreign_table(path, "t", "x")
            except InputError as error:
                raise ValueError(str(error)) from error
        elif path.suffix == ".npy":
            table = np.load(path, allow_pickle=False)
        elif path.suffix == ".csv":
            with open(path, newline="", encoding="utf-8-sig") as text:
                rows = [row for row in csv.reader(text) if row and not row[0].lstrip().startswith(("#", "t"))]
            table = np.array(rows, dtype=np.float64)
        else:
            raise ValueError("points come in .h5, .npy or .csv files")
        if table.dtype.kind not in "fiu":
            raise ValueError(f"its numbers are of type {table.dtype}")
        table = np.asarray(table, dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError, csv.Error) as error:
        raise InputError(f"{where} cannot be read as a table of numbers: {error}") from error
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] != dim + 1:
        raise InputError(f"{where} has shape {table.shape}: should be (points, {dim + 1}), t and then the {dim} coordinates of x")
    bad = ~(np.abs(table) < np.finfo(np.float32).max)
    bad[:, 0] |= (table[:, 0] < 0.0) | (table[:, 0] > horizon)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        name = f"x_{column}" if column else "t"
        raise InputError(
            f"{where}: row {row + 1} has {name} = {table[row, column]}: every number should be finite and t lie in [0, {horizon}]"
        )
    values = torch.from_numpy(table.astype(np.float32))
    return values[:, 0].contiguous(), values[:, 1:].contiguous()
