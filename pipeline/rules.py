"""Rules over several keys of a job, and what its family takes where it names nothing."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from kernels.coupled_streams import MAX_DIM
from pipeline import catalogue, family
from pipeline.errors import InputError
from pipeline.reading import holder
from pipeline.schema import AUTO, CHOICES, PHASES, SAMPLE_BLOCK, DomainPoints, PointsFile

if TYPE_CHECKING:
    from pipeline.job import Job


def with_defaults(data: Any) -> Any:
    """``data`` with the names that its family takes where it gives none; as it is for what is no job, or a user's own problem."""
    problem = data.get("problem") if isinstance(data, dict) else None
    if not isinstance(problem, dict) or problem.get("file") is not None or not isinstance(problem.get("name"), str):
        return data
    name = problem["name"]
    kind = family.of_factory(catalogue.factory(catalogue.problem_room(name, "problem.name"), name, "problem.name"))
    if kind is None or kind is family.SEMILINEAR:
        return data
    named = {"surrogate": kind.surrogate, "correction.estimator": kind.estimator}
    if kind.objective:
        named["training.objective"] = kind.objective
    data = json.loads(json.dumps(data))
    for where, name in named.items():
        above, _, key = where.rpartition(".")
        if above and data.get(above) is None:
            data[above] = {}
        part = data[above] if above else data
        if not isinstance(part, dict) or (key == "objective" and not _takes_steps(data)):
            continue
        given = part.get(key)
        if given is None or (isinstance(given, dict) and "name" not in given):
            part[key] = {"name": name, **(given or {})}
    return data


def _takes_steps(data: dict[str, Any]) -> bool:
    surrogate = data["surrogate"]
    name = surrogate.get("name") if isinstance(surrogate, dict) else surrogate
    known = catalogue.names("surrogates")
    return name in known and catalogue.learns(catalogue.factory("surrogates", name, "surrogate")) == "steps"


def _check_family(job: Job) -> None:
    """Refuse parts and keys that are for another kind of problem."""
    kind, model = job.family, job.model
    for where, room in CHOICES.items():
        if room == "optimizers" or (room == "objectives" and job.learns != "steps"):
            continue
        part, key = holder(model.model_dump(), where)
        if part is not None and part[key]["name"] != AUTO:
            family.check_served(kind, room, part[key]["name"], where)
    if model.correction.estimator.name == AUTO and "laplacian" not in kind.own:
        raise InputError(f"correction.estimator = 'auto': no pilot chooses for '{model.problem.name}': use {kind.estimator}")
    given = {name for name in model.correction.model_fields_set if getattr(model.correction, name) is not None}
    for name in sorted(given & (set(family.OWN) - set(kind.own))):
        raise InputError(f"correction.{name}: '{model.problem.name}' has nothing for it to act on: leave it out")
    for name in job.baselines:
        if name not in kind.baselines:
            offered = f"use {' or '.join(kind.baselines)}" if kind.baselines else "leave it out"
            raise InputError(f"report.baselines = [..., {name}]: there is none for '{model.problem.name}': {offered}")


def check(job: Job) -> None:
    """Rules over several keys, and those that need the parts built."""
    training, points = job.model.training, job.model.correction.points
    assert job.resolved
    _check_family(job)
    assert job.estimator() is not None
    for where, phase in zip(PHASES, training.phases, strict=False):
        block = SAMPLE_BLOCK * max(1, training.workers) * phase.accumulate
        if not phase.batch % block:
            continue
        raise InputError(
            f"{where}.batch = {phase.batch}: should be a multiple of {SAMPLE_BLOCK} x workers x accumulate = {block}, so that every "
            f"worker gets whole blocks of samples in each part, for example batch: {max(1, round(phase.batch / block)) * block}"
        )
    weights = job.model.surrogate.file
    if weights is not None and not os.path.isfile(job.folder / weights):
        raise InputError(f"surrogate.file = '{weights}': no such file in '{job.folder}'")
    if isinstance(points, PointsFile) and not os.path.isfile(job.folder / points.file):
        raise InputError(f"correction.points.file = '{points.file}': no such file in '{job.folder}'")
    if job.model.correction.pairs == "quasi" and job.problem.dim > MAX_DIM:
        raise InputError(
            f"correction.pairs = 'quasi': Sobol' points have at most {MAX_DIM} coordinates, and problem.dim = {job.problem.dim}; "
            "use pairs: antithetic"
        )
    if points == "reference" and job.family.points is None and not hasattr(job.problem, "start"):
        raise InputError(
            f"correction.points = 'reference': '{job.problem.name}' has no reference point; give a number, or a file"
        )
    if isinstance(points, DomainPoints) and points.boundary and job.family.points is None and job.problem.boundary_points is None:
        raise InputError(
            f"correction.points.boundary = {points.boundary}: '{job.problem.name}' has no boundary_points; "
            f"use points: {points.interior + points.boundary}"
        )
