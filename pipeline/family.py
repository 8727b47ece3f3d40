"""Families of problems: where their problems are named, where they are evaluated, and what a job of each takes by default."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.contracts import (
    Eigenproblem,
    Experiment,
    Integral,
    LeastSquares,
    LinearSystem,
    OperatorStream,
    Poisson,
    SemilinearPDE,
    SnapshotStream,
    Trace,
)
from kernels.defect import (
    defect,
    eigenproblem_defect,
    integral_defect,
    linear_system_defect,
    poisson_defect,
    snapshots_defect,
    trace_defect,
)
from pipeline import catalogue
from pipeline.errors import InputError

Array = NDArray[np.float64]
Truth = tuple[Array | None, float, str]
"""Values at the points or None, their accuracy, and where they come from."""


def one_row(problem: Any) -> tuple[Tensor, Tensor]:
    """A row of zeros: what is asked for is a number, not a function."""
    return torch.zeros(1), torch.zeros(1, problem.dim)


def of_solution(problem: Any, t: Tensor, x: Tensor) -> Truth:
    """The solution at the points, or the reference value where they are its point."""
    solution, reference = problem.solution, getattr(problem, "reference", None)
    if solution is not None:
        return solution.value(t, x).double().numpy(), solution.error, solution.source
    if reference is not None and bool((t == 0.0).all()) and bool((x == problem.start).all()):
        return np.full(len(t), reference.value), reference.error, reference.source
    return None, 0.0, ""


def of_value(problem: Any, t: Tensor, x: Tensor) -> Truth:
    """The one number that is asked for."""
    return (None, 0.0, "") if problem.value is None else (np.full(len(t), problem.value), 0.0, problem.source)


def source(problem: Any) -> str:
    """Where the truth of a problem comes from; empty where it is unknown."""
    # Of Poisson's equation ``source`` is its right-hand side.
    told = getattr(getattr(problem, "solution", None), "source", None) or getattr(problem, "source", "")
    return told if isinstance(told, str) else ""


def of_vector(problem: Any, t: Tensor, x: Tensor) -> Truth:
    """All that is solved for at once."""
    return (None, 0.0, "") if problem.solution is None else (problem.solution.numpy(), 0.0, problem.source)


def of_last_step(problem: Any, t: Tensor, x: Tensor) -> Truth:
    """Eigenvalues at the end of a stream: real parts, then the imaginary ones of complex values."""
    if problem.eigenvalues is None:
        return None, 0.0, ""
    found = problem.eigenvalues(problem.steps - 1)
    parts = (found.real, found.imag) if found.is_complex() else (found,)
    return torch.cat(parts).numpy(), 0.0, problem.source


SAMPLED = ("atol", "max_paths", "ranks", "oversubscribe")
"""Keys of ``correction`` that belong to means."""

ITERATED = ("max_steps",)
"""Those of fixed points."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of problem, with its record in ``kernels.contracts`` and its defect in ``kernels.defect``."""

    record: type
    surrogate: str
    objective: str = ""
    """Of surrogates that are trained by steps."""
    estimator: str
    baselines: tuple[str, ...] = ("surrogate", "plain")
    """What a report can compare with; all of it by default."""
    own: tuple[str, ...] = SAMPLED
    """Keys of ``correction`` that only some families have, and this one has."""
    streams: bool = False
    """Whether each step takes in new data, with a truth of its own; a report knows that of the last one."""
    defect: Callable[[Any, Any, int | None], Any]
    """(problem, surrogate, probes of its Laplacian) -> the problem of the surrogate's error, of the same kind."""
    dimension: str = "point"
    """First dimension of its report.h5."""
    points: Callable[[Any], tuple[Tensor, Tensor]] | None = None
    """Where every problem of this kind is evaluated; None where the job says so."""
    truth: Callable[[Any, Tensor, Tensor], Truth]

    @property
    def iterated(self) -> bool:
        """Whether its corrections are fixed points, not means."""
        return self.own == ITERATED


fixed_points = partial(Family, own=ITERATED, points=one_row)
streams = partial(
    fixed_points,
    baselines=("plain",),
    streams=True,
    defect=lambda p, surrogate, _: snapshots_defect(p, surrogate),
    truth=of_last_step,
)
linear = partial(fixed_points, defect=lambda p, surrogate, _: linear_system_defect(p, surrogate), truth=of_vector)

FAMILIES = (
    Family(
        record=SemilinearPDE,
        surrogate="mlp",
        objective="path",
        estimator="linearised",
        baselines=("surrogate", "linear", "mlp"),
        own=("laplacian", "pairs", "points", "gradient", "bounds", "device", *SAMPLED),
        defect=lambda problem, surrogate, probes: defect(problem, surrogate, probes=probes),
        truth=of_solution,
    ),
    Family(
        record=Integral,
        surrogate="multilinear",
        estimator="monte_carlo",
        defect=lambda problem, surrogate, _: integral_defect(problem, surrogate),
        dimension="answer",
        points=one_row,
        truth=of_value,
    ),
    Family(
        record=Poisson,
        surrogate="poisson_network",
        objective="poisson_residual",
        estimator="walk_on_spheres",
        own=("points", *SAMPLED),
        defect=lambda problem, surrogate, _: poisson_defect(problem, surrogate),
        truth=of_solution,
    ),
    Family(
        record=Trace,
        surrogate="low_rank_sketch",
        estimator="hutchinson",
        defect=lambda problem, surrogate, _: trace_defect(problem, surrogate),
        dimension="answer",
        points=one_row,
        truth=of_value,
    ),
    fixed_points(
        record=Eigenproblem,
        surrogate="nystrom_sketch",
        estimator="error_inverse_power",
        defect=lambda problem, surrogate, _: eigenproblem_defect(problem, surrogate),
        truth=lambda problem, t, x: (None, 0.0, "") if problem.values is None else (problem.values.numpy(), 0.0, problem.source),
    ),
    linear(record=LinearSystem, surrogate="learned_solver", estimator="iterative_refinement"),
    linear(record=LeastSquares, surrogate="sketched_solver", estimator="sirr"),
    streams(record=SnapshotStream, surrogate="initial_modes", estimator="online_dmd"),
    streams(record=OperatorStream, surrogate="initial_eigenvectors", estimator="operator_tracking"),
    Family(
        record=Experiment,
        surrogate="no_surrogate",
        estimator="replicates",
        baselines=(),
        defect=lambda problem, surrogate, _: problem,
        points=Experiment.points,
        truth=lambda problem, t, x: (None, 0.0, ""),
    ),
)
SEMILINEAR = FAMILIES[0]
OWN = tuple(dict.fromkeys((*(key for family in FAMILIES for key in family.own), *ITERATED)))
"""Keys of ``correction`` that not every family has."""


def of_factory(make: Callable[..., Any]) -> Family | None:
    """The family of the problems that a factory of ours says it returns."""
    return next((family for family in FAMILIES if typing.get_type_hints(make).get("return") is family.record), None)


def of_record(problem: Any) -> Family | None:
    """The family of a problem; None for what is no problem at all."""
    return next((family for family in FAMILIES if type(problem) is family.record), None)


def served(room: str, make: Callable[..., Any]) -> type:
    """The record that a factory of surrogates, objectives or estimators works on."""
    hints = typing.get_type_hints(make)
    if room == "estimators":
        made = (typing.get_args(hints["return"]) or (hints["return"],))[0]
        return getattr(made, "solves", SemilinearPDE)
    first = next(iter(inspect.signature(make).parameters))
    return typing.cast(type, hints[first])


def check_served(family: Family, room: str, name: str, where: str) -> None:
    """Refuse a part that works on another kind of problem, with those that work on this one."""
    record = served(room, catalogue.factory(room, name, where))
    if record is family.record:
        return
    fitting = [n for n in catalogue.names(room) if served(room, catalogue.factory(room, n, where)) is family.record]
    raise InputError(
        f"{where} = '{name}': it works on {_worded(record)}, and this job's problem is {_worded(family.record)}: "
        f"use {' or '.join(fitting)}"
    )


def _worded(record: type) -> str:
    article = "an" if record.__name__[0] in "AEIOU" else "a"
    return f"{article} {record.__name__}"
