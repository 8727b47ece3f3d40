"""YAML -> a frozen, validated Job; the names of its stages; the paths of its run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kernels.contracts import Surrogate
from pipeline import catalogue, family
from pipeline.errors import InputError
from pipeline.family import Family
from pipeline.messages import explain, shown
from pipeline.reading import holder, read_mapping, set_key, variants
from pipeline.rules import check, with_defaults
from pipeline.schema import AUTO, CHOICES, DEFAULTS, PHASES, JobModel, PointsFile
from pipeline.weights import read_weights

FORMAT = 9
"""Raised when the same job would give other numbers."""

SPLIT = ("workers", "accumulate", "checkpoint_every")
"""Keys of a training that say how its work is split and saved: they leave the samples and their mean as they are."""

MAX_STEPS = 100
"""Of an iterated correction, where none are given."""

PROBES = 8
"""Random directions of the Laplacian that planning counts with where a pilot is to choose them."""


@dataclass(frozen=True)
class Job:
    """One resolved job. ``folder`` is where relative files of the job lie, ``swept`` what a sweep set in it."""

    model: JobModel
    folder: Path
    swept: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The job with every default filled in, as plain data."""
        data = json.loads(json.dumps(self.model.model_dump()))
        self._check_learning()
        if self.model.training.then is None:
            del data["training"]["then"]
        # compile and base_width are newer than hashes on disk: at their defaults they are left out of them.
        for where in PHASES:
            phase, _ = holder(data, f"{where}.compile")
            if phase is not None and not phase["compile"]:
                del phase["compile"]
        for where, room in CHOICES.items():
            part, key = holder(data, where)
            if part is not None:
                part[key] = self._complete(part[key], room, where)
                if room == "optimizers" and part[key].get("base_width", 0) is None:
                    del part[key]["base_width"]
        if self.learns != "steps":
            data["training"] = {}
        for key in set(family.OWN) - set(self.family.own):
            del data["correction"][key]
        if self.family.iterated:
            data["correction"]["max_steps"] = self.max_steps
        data["report"]["baselines"] = list(self.baselines)
        make = self._problem_factory()
        given = {k: v for k, v in data["problem"].items() if k not in ("name", "dim", "file")}
        data["problem"] = {
            k: v for k, v in data["problem"].items() if k in ("name", "dim", "file") and v is not None
        } | catalogue.checked_options(make, given, "problem")
        return data

    @staticmethod
    def _complete(choice: dict[str, Any], room: str, where: str) -> dict[str, Any]:
        own = ("name", "file") if room == "surrogates" else ("name",)
        given = {k: v for k, v in choice.items() if k not in own}
        kept = {k: v for k, v in choice.items() if k in own and v is not None}
        if room == "estimators" and choice["name"] == AUTO:
            for key, value in given.items():
                raise InputError(f"{where}.{key} = {shown(value)}: 'auto' takes no options; name an estimator to set its own")
            return {"name": AUTO}
        also = (AUTO,) if room == "estimators" else ()
        make = catalogue.factory(room, choice["name"], where, also=also)
        return kept | catalogue.checked_options(make, given, where)

    @property
    def learns(self) -> str:
        """Where the surrogate's parameters come from: "steps" of training, a "fit" of its own, or "nothing" but a file."""
        return catalogue.learns(catalogue.factory("surrogates", self.model.surrogate.name, "surrogate"))

    def _check_learning(self) -> None:
        """Refuse keys that say how to train what is not trained, and a file where none is read."""
        spec, given = self.model.surrogate, sorted(self.model.training.model_fields_set)
        if self.learns == "nothing" and spec.file is None:
            raise InputError(
                f"surrogate.file is missing: '{spec.name}' takes its parameters from a file, "
                f"for example {{name: {spec.name}, file: weights.npz}}"
            )
        if self.learns != "nothing" and spec.file is not None:
            raise InputError(
                f"surrogate.file = '{spec.file}': '{spec.name}' reads no file: leave it out, or name given_network for your own"
            )
        if self.learns != "steps" and given:
            how = "is fitted by its own solver" if self.learns == "fit" else "comes trained"
            raise InputError(
                f"training.{given[0]}: '{spec.name}' {how}, so that no key of training applies: leave the training block out"
            )

    def _problem_factory(self) -> Any:
        problem = self.model.problem
        if problem.file is None:
            return catalogue.factory(catalogue.problem_room(problem.name, "problem.name"), problem.name, "problem.name")
        return catalogue.user_factory(self.folder / problem.file, problem.name, "problem")

    def _options(self, *path: str) -> dict[str, Any]:
        part = self.resolved
        for key in path:
            part = part.get(key, {})
        return {k: v for k, v in part.items() if k not in ("name", "dim", "file")}

    @property
    def problem_options(self) -> dict[str, Any]:
        """What the problem's factory takes beside its dimension."""
        return self._options("problem")

    # The parts of a run, always rebuilt from the job.

    @cached_property
    def problem(self) -> Any:
        spec = self.model.problem
        make = self._problem_factory()
        given = {k: v for k, v in spec.model_dump().items() if k not in ("name", "dim", "file")}
        file = None if spec.file is None else self.folder / spec.file
        options = catalogue.checked_options(make, given, "problem")
        problem = catalogue.build(make, "problem", spec.dim, file=file, **options)
        if family.of_record(problem) is None:
            raise InputError(
                f"problem: '{spec.name}' returned {type(problem).__name__}; it must return a record of kernels.contracts, such as SemilinearPDE"
            )
        return problem

    @cached_property
    def family(self) -> Family:
        """The kind of its problem."""
        found = family.of_record(self.problem)
        assert found is not None
        return found

    @property
    def max_steps(self) -> int:
        """Most steps of an iterated correction."""
        return self.model.correction.max_steps or MAX_STEPS

    @property
    def baselines(self) -> tuple[str, ...]:
        """What the correction is compared with."""
        named = self.model.report.baselines
        return self.family.baselines if named is None else named

    def surrogate(self) -> Surrogate:
        spec = self.model.surrogate
        make = catalogue.factory("surrogates", spec.name, "surrogate")
        arrays = [] if spec.file is None else [read_weights(self.folder / spec.file)]
        return catalogue.build(make, "surrogate", self.problem, *arrays, seed=self.model.seed, **self._options("surrogate"))

    def objective(self, surrogate: Surrogate, phase: int = 0) -> Any:
        return self._of_phase("objective", phase, self.problem, surrogate)

    def optimizer(self, parameters: Any, phase: int = 0) -> Any:
        return self._of_phase("optimizer", phase, parameters)

    def _of_phase(self, key: str, phase: int, *given: Any) -> Any:
        named = f"{PHASES[phase]}.{key}"
        make = catalogue.factory(CHOICES[named], getattr(self.model.training.phases[phase], key).name, named)
        return catalogue.build(make, named, *given, **self._options(*named.split(".")))

    def estimator(self) -> Any:
        """The named estimator; where a pilot is to choose, the default, for what has to be known before."""
        named = self.model.correction.estimator.name
        make = catalogue.factory("estimators", DEFAULTS["estimator"] if named == AUTO else named, "correction.estimator")
        return catalogue.build(make, "correction.estimator", **self._options("correction", "estimator"))

    @property
    def probes(self) -> int | None:
        """Random directions of the Laplacian, None where it is exact; PROBES where a pilot is to choose."""
        laplacian = self.model.correction.laplacian
        if isinstance(laplacian, int):
            return laplacian
        return PROBES if laplacian == AUTO else None

    def defect(self, surrogate: Surrogate, probes: int | None) -> Any:
        """The problem that the surrogate's error solves, of the same kind; ``probes`` where a Laplacian can be sampled."""
        return self.family.defect(self.problem, surrogate, probes)

    # The user's own files, which a run's folder keeps beside its job.

    @cached_property
    def files(self) -> dict[str, Path]:
        """Name inside the run's folder -> where the file lies now."""
        given = {"problem": self.model.problem.file, "surrogate": self.model.surrogate.file}
        if isinstance(self.model.correction.points, PointsFile):
            given["points"] = self.model.correction.points.file
        return {_kept(role, file): self.folder / file for role, file in given.items() if file is not None}

    @property
    def settled(self) -> dict[str, Any]:
        """The resolved job as ``job.yaml`` of its folder holds it, with the user's files under their names there."""
        data = json.loads(json.dumps(self.resolved))
        for role, part in (
            ("problem", data["problem"]),
            ("surrogate", data["surrogate"]),
            ("points", data["correction"].get("points")),
        ):
            if isinstance(part, dict) and "file" in part:
                part["file"] = _kept(role, part["file"])
        return data

    # What determines a stage's numbers, and nothing else.

    @cached_property
    def training_hash(self) -> str:
        data = self.resolved
        problem, surrogate = dict(data["problem"]), dict(data["surrogate"])
        for part in (problem, surrogate):
            if "file" in part:
                part["file"] = hashlib.sha256((self.folder / part["file"]).read_bytes()).hexdigest()
        training = {k: v for k, v in data["training"].items() if k not in SPLIT}
        if "then" in training:
            training["then"] = {k: v for k, v in training["then"].items() if k not in SPLIT}
        return digest([FORMAT, data["seed"], problem, surrogate, training])

    @cached_property
    def correction_hash(self) -> str:
        correction = self.resolved["correction"]
        points = correction.get("points")
        if isinstance(points, dict) and "file" in points:
            points = hashlib.sha256((self.folder / points["file"]).read_bytes()).hexdigest()
        return digest([self.training_hash, *(correction.get(key) for key in ("estimator", "laplacian", "pairs")), points])

    @property
    def default_out(self) -> Path:
        return Path("runs") / f"{self.model.name}-{self.correction_hash[:10]}"


def digest(data: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _kept(role: str, file: str) -> str:
    """Name of a user's file inside the run's folder, where it must meet neither one of ours nor the file of another role."""
    return f"{role}_{Path(file).name.removeprefix(f'{role}_')}"


def load_jobs(path: str | Path, overrides: dict[str, Any] | None = None) -> list[Job]:
    """Every job of a file: one, or one for each combination of its ``sweep`` block.

    Raises InputError with the key's path, the value, the rule and the nearest valid spelling.
    """
    path = Path(path)
    data = read_mapping(path)
    for key, value in (overrides or {}).items():
        set_key(data, key, value)
    sweep = data.pop("sweep", None)
    jobs = []
    for swept in variants(sweep):
        for key in set(swept) & set(overrides or {}):
            raise InputError(
                f"--set {key}: the job's sweep sets it, to {shown(swept[key])}; override sweep instead, or drop it there"
            )
        copy = json.loads(json.dumps(data))
        for key, value in swept.items():
            set_key(copy, key, value)
        jobs.append(job_from(copy, path.parent, swept))
    return jobs


def load_job(path: str | Path, overrides: dict[str, Any] | None = None) -> Job:
    """The one job of a file; a file with a ``sweep`` holds several and is refused here."""
    jobs = load_jobs(path, overrides)
    if len(jobs) > 1:
        raise InputError(f"'{path}' sweeps over {len(jobs)} jobs: use load_jobs, or `scasml run`, for all of them")
    return jobs[0]


def job_from(data: dict[str, Any], folder: Path, swept: Mapping[str, Any] | None = None) -> Job:
    """A validated job from plain data; ``folder`` is where its relative files lie."""
    data = with_defaults(data)
    try:
        model = JobModel.model_validate(data)
    except ValidationError as error:
        raise InputError(explain(error, data)) from error
    job = Job(model, folder.absolute(), swept or {})
    check(job)
    return job


@dataclass(frozen=True)
class RunFolder:
    """Every path of a run."""

    path: Path

    @property
    def job_file(self) -> Path:
        return self.path / "job.yaml"

    @property
    def surrogate(self) -> Path:
        return self.path / "surrogate.h5"

    @property
    def points(self) -> Path:
        return self.path / "points.h5"

    def chunks(self, method: str) -> Path:
        return self.path / "chunks" / method

    @property
    def report(self) -> Path:
        return self.path / "report.h5"

    @property
    def summary(self) -> Path:
        return self.path / "report.json"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def load(self) -> Job:
        """The job that this folder's ``job.yaml`` resolves to."""
        return job_from(read_mapping(self.job_file), self.path)

    def waves(self, method: str) -> Iterator[Path]:
        """Finished wave files in order."""
        yield from sorted(self.chunks(method).glob("wave-*.h5"))
