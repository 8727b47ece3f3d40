"""YAML -> a frozen, validated Job; the names of its stages; the paths of its run."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from kernels.contracts import Estimator, SemilinearPDE, Surrogate
from kernels.defect import defect
from pipeline import catalogue
from pipeline.errors import InputError, nearest
from pipeline.weights import read_weights

FORMAT = 3
"""Raised when the same job would give other numbers."""

SAMPLE_BLOCK = 32
"""Training samples that share a random stream: a worker takes whole blocks of the global batch."""

METHODS = ("surrogate", "linear", "mlp", "scasml")


DEFAULTS = {"surrogate": "mlp", "objective": "path", "optimizer": "soap", "estimator": "linearised"}


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Choice(BaseModel):
    """A name of the catalogue with its options: ``mlp`` or ``{name: mlp, width: 64}``."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _as_choice(value: Any, info: ValidationInfo) -> Any:
    """A bare name is a choice without options; options without a name belong to the default."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and "name" not in value:
        return {"name": DEFAULTS[str(info.field_name)], **value}
    return value


class ProblemChoice(Choice):
    dim: Annotated[int, Field(ge=1)]
    file: str | None = None


class SurrogateChoice(Choice):
    file: str | None = None


class Training(Record):
    objective: Choice = Choice(name=DEFAULTS["objective"])
    optimizer: Choice = Choice(name=DEFAULTS["optimizer"])
    steps: Annotated[int, Field(ge=1)] = 1500
    batch: Annotated[int, Field(ge=1)] = 256
    workers: Annotated[int, Field(ge=0)] = 1
    checkpoint_every: Annotated[float, Field(gt=0)] = 15.0

    _named = field_validator("objective", "optimizer", mode="before")(_as_choice)


class PointsFile(Record):
    file: str


class Correction(Record):
    estimator: Choice = Choice(name=DEFAULTS["estimator"])
    laplacian: Literal["exact"] | Annotated[int, Field(ge=1)] = 8
    points: Annotated[int, Field(ge=1)] | PointsFile = 1000
    rtol: Annotated[float, Field(gt=0, lt=1)] | None = None
    atol: Annotated[float, Field(gt=0)] | None = None
    pairs: Literal["auto", "none", "antithetic", "quasi"] = "none"
    max_paths: Annotated[int, Field(ge=1)] = 1_000_000
    ranks: Annotated[int, Field(ge=1)] = 1
    oversubscribe: bool = False

    _named = field_validator("estimator", mode="before")(_as_choice)


class ReportOptions(Record):
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    baselines: tuple[Literal["surrogate", "linear", "mlp"], ...] = ("surrogate", "linear", "mlp")

    @field_validator("baselines", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class JobModel(Record):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    problem: ProblemChoice
    surrogate: SurrogateChoice = SurrogateChoice(name=DEFAULTS["surrogate"])
    training: Training = Training()
    correction: Correction = Correction()
    report: ReportOptions = ReportOptions()

    _named = field_validator("surrogate", mode="before")(_as_choice)


@dataclass(frozen=True)
class Job:
    """One resolved job. ``folder`` is where relative files of the job lie."""

    model: JobModel
    folder: Path

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The job with every default filled in, as plain data."""
        data = json.loads(self.model.model_dump_json())
        self._check_learning()
        for key, room in (
            ("surrogate", "surrogates"),
            ("objective", "objectives"),
            ("optimizer", "optimizers"),
            ("estimator", "estimators"),
        ):
            part = data if key == "surrogate" else data["correction" if key == "estimator" else "training"]
            where = key if part is data else f"{'correction' if key == 'estimator' else 'training'}.{key}"
            part[key] = self._complete(part[key], room, where)
        if self.learns != "steps":
            data["training"] = {}
        make = self._problem_factory()
        given = {k: v for k, v in data["problem"].items() if k not in ("name", "dim", "file")}
        data["problem"] = {
            k: v for k, v in data["problem"].items() if k in ("name", "dim", "file") and v is not None
        } | catalogue.checked_options(make, given, "problem")
        return data

    @staticmethod
    def _complete(choice: dict[str, Any], room: str, where: str) -> dict[str, Any]:
        given = {k: v for k, v in choice.items() if k not in ("name", "file")}
        kept = {k: v for k, v in choice.items() if k in ("name", "file") and v is not None}
        return kept | catalogue.checked_options(catalogue.factory(room, choice["name"], where), given, where)

    @property
    def learns(self) -> str:
        """Where the surrogate's parameters come from: "steps" of training, a "fit" of its own, or "nothing" but a file."""
        return catalogue.learns(catalogue.factory("surrogates", self.model.surrogate.name, "surrogate"))

    def _check_learning(self) -> None:
        """Refuse keys that say how to train what is not trained, and a file where none is read."""
        spec, given = self.model.surrogate, sorted(self.model.training.model_fields_set)
        if self.learns == "nothing" and spec.file is None:
            raise InputError(f"surrogate.file is missing: '{spec.name}' takes its parameters from a file, .npz or .h5")
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
            return catalogue.factory("equations", problem.name, "problem.name")
        return catalogue.user_factory(self.folder / problem.file, problem.name, "problem")

    def _options(self, *path: str) -> dict[str, Any]:
        part = self.resolved
        for key in path:
            part = part.get(key, {})
        return {k: v for k, v in part.items() if k not in ("name", "dim", "file")}

    # The parts of a run, always rebuilt from the job.

    @cached_property
    def problem(self) -> SemilinearPDE:
        spec = self.model.problem
        file = None if spec.file is None else self.folder / spec.file
        problem = catalogue.build(self._problem_factory(), "problem", spec.dim, file=file, **self._options("problem"))
        if not isinstance(problem, SemilinearPDE):
            raise InputError(f"problem: '{spec.name}' returned {type(problem).__name__}; it must return a SemilinearPDE")
        return problem

    def surrogate(self) -> Surrogate:
        spec = self.model.surrogate
        make = catalogue.factory("surrogates", spec.name, "surrogate")
        arrays = [] if spec.file is None else [read_weights(self.folder / spec.file)]
        return catalogue.build(make, "surrogate", self.problem, *arrays, seed=self.model.seed, **self._options("surrogate"))

    def objective(self, surrogate: Surrogate) -> Any:
        make = catalogue.factory("objectives", self.model.training.objective.name, "training.objective")
        options = self._options("training", "objective")
        return catalogue.build(make, "training.objective", self.problem, surrogate, **options)

    def optimizer(self, parameters: Any) -> Any:
        make = catalogue.factory("optimizers", self.model.training.optimizer.name, "training.optimizer")
        return catalogue.build(make, "training.optimizer", parameters, **self._options("training", "optimizer"))

    def estimator(self) -> Estimator:
        make = catalogue.factory("estimators", self.model.correction.estimator.name, "correction.estimator")
        return catalogue.build(make, "correction.estimator", **self._options("correction", "estimator"))

    def defect(self, surrogate: Surrogate) -> SemilinearPDE:
        probes = self.model.correction.laplacian
        return defect(self.problem, surrogate, probes=None if probes == "exact" else probes)

    # What determines a stage's numbers, and nothing else.

    @cached_property
    def training_hash(self) -> str:
        data = self.resolved
        problem, surrogate = dict(data["problem"]), dict(data["surrogate"])
        for part in (problem, surrogate):
            if "file" in part:
                part["file"] = hashlib.sha256((self.folder / part["file"]).read_bytes()).hexdigest()
        training = {k: v for k, v in data["training"].items() if k != "checkpoint_every"}
        return _digest([FORMAT, data["seed"], problem, surrogate, training])

    @cached_property
    def correction_hash(self) -> str:
        correction = self.resolved["correction"]
        points = correction["points"]
        if isinstance(points, dict):
            points = hashlib.sha256((self.folder / points["file"]).read_bytes()).hexdigest()
        return _digest([self.training_hash, correction["estimator"], correction["laplacian"], points])

    @property
    def default_out(self) -> Path:
        return Path("runs") / f"{self.model.name}-{self.correction_hash[:10]}"


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _Loader(yaml.SafeLoader):
    """Safe YAML; 1e-3 is a number, and a key given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise InputError(f"key '{key.value}' stands twice, again at line {key.start_mark.line + 1}: keep one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_jobs(path: str | Path, overrides: dict[str, Any] | None = None) -> list[Job]:
    """Every job of a file: one, or one for each combination of its ``sweep`` block.

    Raises InputError with the key's path, the value, the rule and the nearest valid spelling.
    """
    path = Path(path)
    data = _read_mapping(path)
    for key, value in (overrides or {}).items():
        _set(data, key, value)
    sweep = data.pop("sweep", None)
    variants: list[dict[str, Any]] = [{}]
    if sweep is not None:
        if not isinstance(sweep, dict) or not all(isinstance(v, list) and v for v in sweep.values()):
            raise InputError(f"sweep = {sweep!r}: should map keys such as training.steps to non-empty lists of values")
        variants = [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
    jobs = []
    for variant in variants:
        copy = json.loads(json.dumps(data))
        for key, value in variant.items():
            _set(copy, key, value)
        jobs.append(job_from(copy, path.parent))
    return jobs


def load_job(path: str | Path, overrides: dict[str, Any] | None = None) -> Job:
    """The one job of a file; a file with a ``sweep`` holds several and is refused here."""
    jobs = load_jobs(path, overrides)
    if len(jobs) > 1:
        raise InputError(f"'{path}' sweeps over {len(jobs)} jobs: use load_jobs, or `scasml run`, for all of them")
    return jobs[0]


def job_from(data: dict[str, Any], folder: Path) -> Job:
    """A validated job from plain data; ``folder`` is where its relative files lie."""
    try:
        model = JobModel.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error)) from error
    job = Job(model, folder.absolute())
    _check(job)
    return job


def _read_mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"'{path}': no such job file")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, TypeError) as error:
        raise InputError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InputError(f"'{path}' holds a {type(data).__name__}: a job is a mapping such as 'name: ...', 'problem: {{...}}'")
    try:
        return json.loads(json.dumps(data))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"'{path}' holds a value that is neither text, number, list nor mapping: {error}") from error


def parse_override(text: str) -> tuple[str, Any]:
    """'training.steps=200' -> ('training.steps', 200)."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise InputError(f"--set {text}: should read key=value, for example training.steps=200")
    try:
        return key, json.loads(json.dumps(yaml.load(value, Loader=_Loader)))  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise InputError(f"--set {text}: the value is neither text, number, list nor mapping in YAML") from error


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = str(key).split(".")
    for parent in parents:
        inner = data.setdefault(parent, {})
        if isinstance(inner, str):
            inner = data[parent] = {"name": inner}
        if not isinstance(inner, dict):
            raise InputError(f"{key}: '{parent}' is {inner!r}, not a mapping that could hold '{last}'")
        data = inner
    data[last] = value


def _explain(error: ValidationError) -> str:
    """The first problem of a pydantic report in one sentence."""

    def place(found: Any) -> list[str]:
        # pydantic puts the branch of a union it tried into the path.
        return [
            str(p)
            for p in found["loc"]
            if not re.fullmatch(r"int|float|bool|str|PointsFile|(literal|constrained|tuple).*", str(p))
        ]

    errors = error.errors()
    first = min(errors, key=lambda e: (e["type"] != "extra_forbidden", len(e["loc"])))
    parts = place(first)
    where = ".".join(parts)
    if first["type"] == "extra_forbidden":
        return f"{where} = {first['input']!r}: no such key.{nearest(parts[-1], _fields(parts[:-1]))}"
    if first["type"] == "missing":
        return f"{where} is missing: this job cannot do without it"
    here = [e for e in errors if place(e) == parts]
    rules = [_rule(e) for e in here if e["type"] != "model_type"] or ["a mapping"]
    return f"{where} = {first['input']!r}: should be {' or '.join(dict.fromkeys(reversed(rules)))}"


def _rule(error: Any) -> str:
    if error["type"] == "string_pattern_mismatch":
        return "letters, digits, '.', '_' and '-', beginning with a letter or digit"
    return error["msg"].removeprefix("Input should be ")


def _fields(path: list[str]) -> list[str]:
    model: Any = JobModel
    for part in path:
        model = model.model_fields[part].annotation if part in model.model_fields else Record
        model = PointsFile if not isinstance(model, type) else model
    return [*model.model_fields, *(["sweep"] if model is JobModel else [])]


def _check(job: Job) -> None:
    """Rules over several keys, and those that need the parts built."""
    training, correction = job.model.training, job.model.correction
    for required in (job.resolved, job.problem, job.estimator()):
        assert required is not None
    shards = max(1, training.workers)
    if training.batch % (SAMPLE_BLOCK * shards):
        raise InputError(
            f"training.batch = {training.batch}: should be a multiple of {SAMPLE_BLOCK} x workers = {SAMPLE_BLOCK * shards}, "
            "so that every worker gets whole blocks of samples"
        )
    weights = job.model.surrogate.file
    if weights is not None and not (job.folder / weights).is_file():
        raise InputError(f"surrogate.file = '{weights}': no such file in '{job.folder}'")
    if isinstance(correction.points, PointsFile) and not (job.folder / correction.points.file).is_file():
        raise InputError(f"correction.points.file = '{correction.points.file}': no such file in '{job.folder}'")


def usable_cores() -> int:
    """Cores this process or its Slurm allocation may use."""
    allocated = os.environ.get("SLURM_NTASKS") or os.environ.get("SLURM_CPUS_ON_NODE")
    return int(allocated) if allocated and allocated.isdigit() else len(os.sched_getaffinity(0))


def check_resources(job: Job, memory: float, *, on_ray: bool) -> None:
    """Refuse what this machine or allocation cannot run; ``memory`` is the largest stage's need in bytes."""
    correction = job.model.correction
    cores = usable_cores()
    if correction.ranks > cores and not correction.oversubscribe:
        raise InputError(
            f"correction.ranks = {correction.ranks}: more than the {cores} cores here. "
            "Lower it, ask for a larger allocation, or set correction.oversubscribe: true"
        )
    if on_ray and not os.environ.get("RAY_ADDRESS") and job.model.training.workers > len(os.sched_getaffinity(0)):
        raise InputError(
            f"training.workers = {job.model.training.workers}: more than the {len(os.sched_getaffinity(0))} cores here, "
            "so that Ray would wait for ever. Lower it, name a larger cluster in RAY_ADDRESS, or use --inline"
        )
    free = psutil.virtual_memory().available
    if memory > free:
        raise InputError(
            f"the job needs about {memory / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free: "
            "lower surrogate.width, training.batch, or the estimator's levels and samples"
        )


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
        return job_from(_read_mapping(self.job_file), self.path)

    def waves(self, method: str) -> Iterator[Path]:
        """Finished wave files in order."""
        yield from sorted(self.chunks(method).glob("wave-*.h5"))
