"""The keys of a job: what each means, its rule, its unit and an example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

LARGEST = 10**15
"""Largest count a key takes: what computes with counts in floats stays exact."""

AUTO = "auto"
DEFAULTS = {"surrogate": "mlp", "objective": "path", "optimizer": "soap", "estimator": "linearised"}

SAMPLE_BLOCK = 32
"""Training samples that share a random stream: a worker takes whole blocks of the global batch."""

PHASES = ("training", "training.then")
"""Keys of the phases of a training, in order."""

CHOICES = {
    "surrogate": "surrogates",
    "training.objective": "objectives",
    "training.optimizer": "optimizers",
    "training.then.objective": "objectives",
    "training.then.optimizer": "optimizers",
    "correction.estimator": "estimators",
}
"""Keys that name an entry of the catalogue, and the room it stands in; ``problem`` is one more, and may be a file."""


@dataclass(frozen=True)
class Rule:
    """Completes 'should be ...' in a message; ``example`` is the value in YAML, ``choices`` its valid spellings."""

    text: str
    example: str
    choices: tuple[str, ...] = ()


def _integral(value: Any) -> Any:
    """1e6 and 1000000.0 are whole numbers."""
    return int(value) if type(value) is float and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_integral), Field(ge=1, le=LARGEST)]
CountOrZero = Annotated[int, BeforeValidator(_integral), Field(ge=0, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Confidence = Annotated[float, Field(gt=0, le=0.999999)]
"""Below 1 by so much that intervals which hold at all of many points at once have a quantile in floats."""

WHOLE = "a whole number from 1 to 10^15"
YES_NO = "true or false"


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Choice(BaseModel):
    """A name of the catalogue with its options: ``mlp`` or ``{name: mlp, width: 64}``."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, use_attribute_docstrings=True)
    name: Annotated[str, Rule("a name that `scasml catalogue` lists", "mlp")]
    """Its name in the catalogue; `scasml catalogue` lists names and options."""


def _as_choice(value: Any, info: ValidationInfo) -> Any:
    """A bare name is a choice without options; options without a name, or nothing at all, belong to the default."""
    if isinstance(value, str):
        return {"name": value}
    if value is None:
        return {"name": DEFAULTS[str(info.field_name)]}
    if isinstance(value, dict) and "name" not in value:
        return {"name": DEFAULTS[str(info.field_name)], **value}
    return value


def _choice(example: str) -> Rule:
    return Rule("a name of the catalogue, or a mapping of a name and its options", example)


class ProblemChoice(Choice):
    name: Annotated[str, Rule("the name of an equation, or of a function in your file", "lqg")]
    """Which equation; `scasml problems` lists them with their options, which stand beside the name."""
    dim: Annotated[int, BeforeValidator(_integral), Field(ge=1, le=10**6), Rule("a whole number from 1 to 10^6", "100")]
    """Number d of space dimensions."""
    file: Annotated[str | None, Rule("the path of a Python file, relative to the job file", "my_pde.py")] = None
    """Your own equation: the Python file that defines the function `name`. The only code that a job can run."""


class SurrogateChoice(Choice):
    file: Annotated[str | None, Rule("the path of a .npz or .h5 file, relative to the job file", "weights.npz")] = None
    """Your own trained network, for `given_network`: the file of its weights and biases."""


class _Steps(Record):
    objective: Annotated[Choice, _choice("path")] = Choice(name=DEFAULTS["objective"])
    """The loss: `path` (martingale loss, gradients only) or `residual` (PINN loss), with its options."""
    optimizer: Annotated[Choice, _choice("{name: soap, learning_rate: 3.0e-3}")] = Choice(name=DEFAULTS["optimizer"])
    """How the parameters move: `soap`, `adam`, `muon` and others of the catalogue, with options such as `learning_rate`, the peak of its schedule."""
    steps: Annotated[Count, Rule(WHOLE, "1500")] = 1500
    """Optimizer steps, each on a fresh batch."""
    batch: Annotated[Count, Rule(WHOLE, "256")] = 256
    """Samples a step, over all workers: a multiple of 32 times `workers` times `accumulate`."""
    accumulate: Annotated[Count, Rule(WHOLE, "4")] = 1
    """Parts in which a worker takes its share of a batch, one after the other: for batches beyond memory. Not hashed."""
    average: Annotated[Fraction | None, Rule("a number between 0 and 1, or null", "0.99")] = None
    """Decay of an exponential moving average of the parameters, with which the phase ends; null ends with the last ones."""
    precision: Annotated[Literal["float32", "tf32"], Rule("float32 or tf32", "float32", ("float32", "tf32"))] = "float32"
    """Arithmetic of the loss's matrix products: `tf32`, of GPUs alone, returns to `float32` for the last fifth of the steps."""
    compile: Annotated[bool, Rule(YES_NO, "true")] = False
    """Compile the loss by torch.compile, which needs a C++ compiler: up to a minute, then steps up to twice as fast. Last bits differ."""

    _named = field_validator("objective", "optimizer", mode="before")(_as_choice)


class Phase(_Steps):
    """A training after the first one."""


class Training(_Steps):
    then: Annotated[
        Phase | None, Rule("a mapping of objective, optimizer, steps and batch", "{objective: residual, steps: 300, batch: 64}")
    ] = None
    """A second phase from where the first one ends, with an optimizer and a schedule of its own."""
    workers: Annotated[CountOrZero, Rule("a whole number from 0 to 10^15", "2")] = 1
    """Data-parallel workers of Ray Train, each a GPU where there are any, else a CPU; where there are fewer places, fewer processes take
    their samples in turn. 0 or 1 trains in one process. Not hashed: a stopped training goes on under another number. The samples are
    the same; a gradient's last bits follow the order of its sum."""
    checkpoint_every: Annotated[Positive, Rule("a number > 0", "15")] = 15.0
    """Seconds between two checkpoints: what a kill can cost. More where one takes more than a fiftieth of that. Not hashed."""

    @property
    def phases(self) -> list[_Steps]:
        return [self] if self.then is None else [self, self.then]

    @property
    def total_steps(self) -> int:
        return sum(phase.steps for phase in self.phases)


class PointsFile(Record):
    file: Annotated[str, Rule("the path of a .h5, .npy or .csv file, relative to the job file", "points.csv")]
    """Your own evaluation points, a row (t, x_1 ... x_d) each: .csv, .npy, or .h5 with datasets t and x."""


class DomainPoints(Record):
    interior: Annotated[CountOrZero, Rule("a whole number from 0 to 10^15", "1000")] = 0
    """Points from the problem's own law, as with a plain number."""
    boundary: Annotated[CountOrZero, Rule("a whole number from 0 to 10^15", "200")] = 0
    """Points on the boundary of the problem's domain, for problems that have one."""

    @model_validator(mode="after")
    def _some(self) -> DomainPoints:
        if self.interior + self.boundary < 1:
            raise ValueError("no points")
        return self


def _points_kind(value: Any) -> str:
    if isinstance(value, DomainPoints) or (isinstance(value, dict) and {"interior", "boundary"} & set(value)):
        return "domain"
    if isinstance(value, (PointsFile, dict)):
        return "file"
    return "reference" if isinstance(value, str) else "number"


Points = Annotated[
    Annotated[Count, Tag("number")]
    | Annotated[PointsFile, Tag("file")]
    | Annotated[DomainPoints, Tag("domain")]
    | Annotated[Literal["reference"], Tag("reference")],
    Discriminator(_points_kind),
]


class Correction(Record):
    estimator: Annotated[Choice, _choice("{name: linearised, times: 4}")] = Choice(name=DEFAULTS["estimator"])
    """The Monte Carlo method for the surrogate's error, with its options; `auto` lets a pilot choose."""
    laplacian: Annotated[Literal["exact", "auto"] | Count, Rule(f"exact, auto, or {WHOLE}", "8", ("exact", "auto"))] = 8
    """How a path takes second derivatives: `exact`, or along so many random directions (unbiased either way); `auto` lets a pilot choose."""
    pairs: Annotated[
        Literal["auto", "none", "antithetic", "quasi"],
        Rule("one of auto, none, antithetic, quasi", "auto", ("auto", "none", "antithetic", "quasi")),
    ] = "auto"
    """Variance reduction: `antithetic` pairs, `quasi` random numbers, `none`; `auto` lets a pilot choose."""
    points: Annotated[
        Points,
        Rule(
            f"{WHOLE}, reference, a mapping {{file: points.csv}}, or a mapping {{interior: 1000, boundary: 200}} of at least one point",
            "1000",
            ("reference",),
        ),
    ] = 1000
    """Where u is evaluated: a number of points from the problem's own law; `reference`, its reference point at t = 0;
    `{file: points.csv}`, your own rows (t, x); `{interior: n, boundary: m}`, also on the boundary of its domain."""
    rtol: Annotated[Fraction | None, Rule("a number between 0 and 1", "1.0e-3")] = None
    """Stop where every standard error is below max(atol, rtol |u|); without rtol and atol the whole budget is spent. Not hashed."""
    atol: Annotated[Positive | None, Rule("a number > 0", "1.0e-6")] = None
    """The same in units of u, for points where u is near 0. Not hashed."""
    max_paths: Annotated[Count, Rule(WHOLE, "1_000_000")] = 1_000_000
    """Most top-level draws, over all points of the run. Not hashed: raise it and only the missing chunks are computed."""
    max_steps: Annotated[Count | None, Rule(f"{WHOLE}, or null", "100")] = None
    """Most steps of a correction that is iterated, as of linear systems (100); rtol is then the relative residual to stop at.
    Not hashed, and what is there is kept: fewer steps or a larger rtol than a run has take nothing back."""
    gradient: Annotated[bool, Rule(YES_NO, "true")] = False
    """Also estimate grad u with error bars, from chunks of its own. Not hashed."""
    bounds: Annotated[bool, Rule(YES_NO, "false")] = True
    """Also two-sided bounds, where f is known to be convex or concave, from chunks of their own. Not hashed."""
    device: Annotated[Literal["cpu", "cuda"], Rule("cpu or cuda", "cpu", ("cpu", "cuda"))] = "cpu"
    """What a rank computes on: `cuda` gives every rank a GPU of its machine, or a part of one. Not hashed, but chunks of one
    are not taken for those of the other: their last bits differ."""
    ranks: Annotated[Count, Rule(WHOLE, "2")] = 1
    """MPI ranks, at most one a core. The numbers do not depend on them. Not hashed."""
    oversubscribe: Annotated[bool, Rule(YES_NO, "true")] = False
    """Allow more ranks than cores. Not hashed."""

    _named = field_validator("estimator", mode="before")(_as_choice)


BASELINES = ("surrogate", "linear", "mlp", "plain")


class ReportOptions(Record):
    confidence: Annotated[Confidence, Rule("a number > 0 and at most 0.999999", "0.95")] = 0.95
    """Probability that an interval holds the truth."""
    simultaneous: Annotated[bool, Rule(YES_NO, "false")] = True
    """Also intervals that hold at all points at once, not at each alone."""
    baselines: Annotated[
        tuple[Literal["surrogate", "linear", "mlp", "plain"], ...] | None,
        Rule("a list of names such as surrogate, linear and mlp, as many as you like", "[surrogate, linear, mlp]", BASELINES),
    ] = None
    """What the correction is compared with, all there is by default: the `surrogate` alone; of semilinear equations `linear`
    (f dropped) and plain `mlp` for the same FLOP; of other problems the `plain` estimator without surrogate, for the same FLOP."""

    @field_validator("baselines", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class JobModel(Record):
    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"),
        Rule("at most 100 letters, digits, '.', '_' and '-', beginning with a letter or digit", "lqg_100d"),
    ]
    """Name of the study; its folder is runs/<name>-<hash>."""
    seed: Annotated[int, BeforeValidator(_integral), Field(ge=0, lt=2**63), Rule("a whole number from 0 to 2^63 - 1", "0")] = 0
    """Every random number follows from it."""
    problem: Annotated[ProblemChoice, Rule("a mapping of a name, a dim and the equation's options", "{name: lqg, dim: 100}")]
    """The equation to solve."""
    surrogate: Annotated[SurrogateChoice, _choice("{name: mlp, width: 128, depth: 4}")] = SurrogateChoice(
        name=DEFAULTS["surrogate"]
    )
    """The approximation of u that is trained, with its options."""
    training: Annotated[Training, Rule("a mapping", "{steps: 1500, batch: 256}")] = Training()
    """How the surrogate is trained."""
    correction: Annotated[Correction, Rule("a mapping", "{points: 1000, max_paths: 1_000_000}")] = Correction()
    """How its error is estimated by simulation."""
    report: Annotated[ReportOptions, Rule("a mapping", "{confidence: 0.95}")] = ReportOptions()
    """What is shown. Nothing here is hashed."""

    _named = field_validator("surrogate", mode="before")(_as_choice)

    @field_validator("training", "correction", "report", mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        """A section left empty means its defaults."""
        return {} if value is None else value
