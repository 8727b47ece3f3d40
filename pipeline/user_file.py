"""A user's own problem file, tried before anything runs: alone, in both precisions, and differentiated."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.contracts import Linearisable, SemilinearPDE, Surrogate
from kernels.streams import Purpose, Stream
from kernels.surrogates._ansatz import profile_laplacian
from pipeline import catalogue
from pipeline.errors import InputError, Interrupted
from pipeline.family import SEMILINEAR
from pipeline.job import Job

TRIED = 4
"""Points at which the functions of a problem are tried."""

DERIVATIVE_TOLERANCE = 1e-6
"""Of the largest: how far a derivative written by hand may be from automatic differentiation, in double precision."""

TERMINAL_TOLERANCE = 1e-5
"""Of the largest |g| there: how far a profile may be from g at the horizon, for rounding in single precision."""


def check_user_file(job: Job) -> None:
    """Try a problem's functions on a few points: a user's own file fails here, not in a rank or a report."""
    file = job.model.problem.file
    if file is None or job.family is not SEMILINEAR:
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
            try:
                ours, end = problem.profile(t, x), problem.profile(torch.full_like(t, problem.horizon), x)
            except TypeError as error:
                raise ValueError(f"profile fails ({error}): it takes (t, x), and equals g at the horizon") from error
            _expect("profile", ours, (one,), dtype)
            _expect_terminal(end, problem.terminal(x), ours)
        if problem.profile_jet is not None:
            jet = problem.profile_jet(t, x)
            _expect("profile_jet", (jet.value, jet.dt, jet.gradient, jet.laplacian), (one, one, many, one), dtype)
        if problem.hessian_form is not None:
            _expect("hessian_form", problem.hessian_form(t, x), (one, one, many, many, one, many), dtype)
    _expect_closed_forms(problem, t, x)
    _expect_quadratic(problem, t, x, stream)
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


def _expect_terminal(found: Tensor, g: Tensor, size: Tensor) -> None:
    apart = float((found - g).abs().max())
    if not (math.isfinite(apart) and apart <= TERMINAL_TOLERANCE * float(torch.maximum(g.abs(), size.abs()).max())):
        raise ValueError(
            f"profile is {apart:.2e} off the terminal condition at the horizon: it must equal g there, for surrogates build on it"
        )


def _expect_closed_forms(problem: SemilinearPDE, t: Tensor, x: Tensor) -> None:
    """Derivatives written by hand are those of the profile, or of g where there is none."""
    plain = replace(problem, profile_jet=None, hessian_form=None)
    by_hand = {"profile_jet": replace(plain, profile_jet=problem.profile_jet)} if problem.profile_jet is not None else {}
    if problem.hessian_form is not None:
        by_hand["hessian_form"] = replace(plain, hessian_form=problem.hessian_form)
    directions, _ = problem.law.directions(t, x, None)
    for name, alone in by_hand.items():
        ours, theirs = (profile_laplacian(p, t, x, directions) for p in (alone, plain))
        for field, found in vars(ours).items():
            true = vars(theirs)[field]
            apart = float((found - true).abs().max())
            if not apart <= DERIVATIVE_TOLERANCE * max(1e-30, float(true.abs().max())):
                of = "g" if problem.profile is None else "profile"
                raise ValueError(
                    f"{name}: its {field} is {apart:.2e} off that of {of} by automatic differentiation: correct it, or leave "
                    f"{name} out"
                )


def _expect_quadratic(problem: SemilinearPDE, t: Tensor, x: Tensor, stream: Stream) -> None:
    q = problem.quadratic
    if q is None:
        return
    y, z, step = stream.normal(1, len(t))[0].to(t), stream.normal(*x.shape).to(x), stream.normal(*x.shape).to(x)
    at = Linearisable(problem.driver, t, x, y, z)
    f_y, f_z = at.slopes()
    excess, size = at.increment(torch.zeros_like(y), step) - (f_z * step).sum(-1), 0.5 * q * step.square().sum(-1)
    if bool(f_y.any()) or not torch.allclose(excess, size, rtol=DERIVATIVE_TOLERANCE, atol=DERIVATIVE_TOLERANCE):
        raise ValueError(
            f"quadratic = {q}: the driver is not free of y and q |z|^2/2 up to what is linear in z, as that says: leave it out"
        )


def check_derivatives(job: Job, surrogate: Surrogate, objectives: Sequence[Any]) -> None:
    """Try on a few points what training and correction differentiate in a user's own file."""
    file = job.model.problem.file
    if file is None or job.family is not SEMILINEAR:
        return

    def attempt() -> None:
        stream = Stream(job.model.seed, Purpose.POINTS)
        t, x = job.problem.sample_points(TRIED, stream)
        try:
            for objective in objectives if job.learns == "steps" else ():
                objective(*objective.sample(TRIED, stream)).backward()
            surrogate.value_and_gradient(t, x)
            job.defect(surrogate, job.probes).at(t, x, stream, with_source=True).slopes()
        except Interrupted:
            raise
        except Exception as error:
            raise ValueError(
                f"its terminal or driver has no derivatives ({' '.join(str(error).split())}): compute both with torch's own "
                "functions, from the tensors they are given, without numpy, detach or item"
            ).with_traceback(error.__traceback__) from error

    catalogue.build(attempt, "problem", file=job.folder / file)
