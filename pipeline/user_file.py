"""A user's own problem file, tried before anything runs: alone, in both precisions, and differentiated."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.contracts import SemilinearPDE, Surrogate
from kernels.streams import Purpose, Stream
from pipeline import catalogue
from pipeline.errors import InputError, Interrupted
from pipeline.job import Job

TRIED = 4
"""Points at which the functions of a problem are tried."""

TERMINAL_TOLERANCE = 1e-5
"""Of the largest |g| there: how far a profile may be from g at the horizon, for rounding in single precision."""


def check_user_file(job: Job) -> None:
    """Try a problem's functions on a few points: a user's own file fails here, not in a rank or a report."""
    file = job.model.problem.file
    if file is None:
        return
    catalogue.build(lambda: _try(job.problem, job), "problem", file=job.folder / file)
    with tempfile.TemporaryDirectory() as place:
        alone = Path(shutil.copy(job.folder / file, Path(place) / Path(file).name))
        try:
            make = catalogue.user_factory(alone, job.model.problem.name, "problem")
            catalogue.build(lambda: _try(make(job.model.problem.dim, **job.problem_options), job), "problem", file=alone)
        except InputError as error:
            raise InputError(
                f"problem.file = '{file}' does not work without what lies beside it ({error}): a run keeps a copy of this one file: put into it what it imports or reads"
            ) from error


def _try(problem: SemilinearPDE, job: Job) -> None:
    """ValueError for a function that returns another shape or precision than it must."""
    if problem.dim != job.model.problem.dim:
        raise ValueError(f"its dim is {problem.dim}, and problem.dim = {job.model.problem.dim} was asked for")
    one, many = (TRIED,), (TRIED, problem.dim)
    stream = Stream(job.model.seed, Purpose.POINTS)
    samplers = {"sample_points": problem.sample_points, "boundary_points": problem.boundary_points}
    for name, sample in samplers.items():
        if sample is not None:
            _expect(name, sample(TRIED, stream), (one, many))
    t, x = problem.sample_points(TRIED, stream)
    # Paths are float32, the surrogate at the points of a report float64.
    for dtype in (torch.float32, torch.float64):
        t, x = t.to(dtype), x.to(dtype)
        _expect("terminal", problem.terminal(x), (one,), dtype)
        _expect("driver", problem.driver(t, x, torch.zeros_like(t), torch.zeros_like(x)), (one,), dtype)
        if problem.profile is not None:
            _expect("profile", problem.profile(t, x), (one,), dtype)
            _expect_terminal("profile", problem.profile(torch.full_like(t, problem.horizon), x), problem.terminal(x))
        if problem.profile_jet is not None:
            jet = problem.profile_jet(t, x)
            _expect("profile_jet", (jet.value, jet.dt, jet.gradient, jet.laplacian), (one, one, many, one), dtype)
        if problem.hessian_form is not None:
            _expect("hessian_form", problem.hessian_form(t, x), (one, one, many, many, one, many), dtype)
    if problem.solution is not None:
        _expect("solution.value", problem.solution.value(t, x), (one,))
        if problem.solution.gradient is not None:
            _expect("solution.gradient", problem.solution.gradient(t, x), (many,))


def _expect(name: str, found: Any, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype | None = None) -> None:
    parts = found if isinstance(found, tuple) else (found,)
    if len(parts) != len(shapes):
        raise ValueError(f"{name} returned {len(parts)} values; it must return {len(shapes)}")
    for part, shape in zip(parts, shapes, strict=True):
        if not isinstance(part, Tensor) or tuple(part.shape) != shape:
            what = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(f"{name} returned {what}; it must return a tensor of shape {shape}")
        if dtype is not None and part.dtype != dtype:
            raise ValueError(
                f"{name} returned {part.dtype} for arguments in {dtype}: let its constants follow them, for example A.to(x)"
            )


def _expect_terminal(name: str, found: Tensor, g: Tensor) -> None:
    apart = float((found - g).abs().max())
    if not apart <= TERMINAL_TOLERANCE * float(g.abs().max()):
        raise ValueError(
            f"{name} is {apart:.2e} off the terminal condition at the horizon: it must equal g there, for surrogates build on it"
        )


def check_derivatives(job: Job, surrogate: Surrogate, objectives: Sequence[Any]) -> None:
    """Try on a few points what training and correction differentiate in a user's own file."""
    file = job.model.problem.file
    if file is None:
        return

    def attempt() -> None:
        stream = Stream(job.model.seed, Purpose.POINTS)
        t, x = job.problem.sample_points(TRIED, stream)
        try:
            for objective in objectives if job.learns == "steps" else ():
                objective(*objective.sample(TRIED, stream)).backward()
            surrogate.value_and_gradient(t, x)
            job.defect(surrogate).at(t, x, stream, with_source=True).slopes()
        except Interrupted:
            raise
        except Exception as error:
            raise ValueError(
                f"its terminal or driver has no derivatives ({' '.join(str(error).split())}): compute both with torch's own "
                "functions, from the tensors they are given, without numpy, detach or item"
            ).with_traceback(error.__traceback__) from error

    catalogue.build(attempt, "problem", file=job.folder / file)
