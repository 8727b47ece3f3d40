"""The correction of a run and its baselines, over whatever ranks there are."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kernels.bounds import hopf_cole, pathwise, policy
from kernels.contracts import Fitted, PlugIn, SemilinearPDE, Surrogate, UncertainPlugIn
from kernels.gradients import GradientEstimator, bismut_elworthy_li, gradient_draws
from kernels.streams import Purpose, Stream
from pipeline import store
from pipeline.baselines import baseline_budget, baseline_methods, with_mlp
from pipeline.card import card
from pipeline.errors import InputError
from pipeline.family import SEMILINEAR
from pipeline.fanout import Communicator, drive
from pipeline.iteration import iterate
from pipeline.job import Job, RunFolder
from pipeline.owned import owner_of
from pipeline.plan import Candidate, correction_plan
from pipeline.points import points_of, run_points
from pipeline.progress import log
from pipeline.tally import Method, within, within_distance
from pipeline.training import trained_surrogate

ROWS = 4096
"""Points at which the surrogate is evaluated at once."""

BOUND_SHARE = 0.25
"""FLOP of each of the two bounds, over the correction's."""


def scasml_method(job: Job, surrogate: Surrogate, points: int, chosen: Candidate, *, nameless: bool = False) -> Method:
    """The chosen estimator on the defect of the surrogate; its budget counts draws. A ``nameless`` one is to own no chunks."""
    owner = "" if nameless else owner_of(job, surrogate, chosen.estimator, chosen.laplacian, chosen.pairs, chosen.printed)
    problem = chosen.problem(job, surrogate)
    return Method("scasml", Purpose.CORRECTION, chosen.build(), problem, owner, points, bounded="paths", coupled=chosen.coupled)


def bound_methods(job: Job, surrogate: Surrogate, points: int) -> list[Method]:
    """The sharpest bound of either side that the driver's curvature allows, on the defect; none where it is unknown."""
    if "bounds" not in job.family.own:
        return []
    problem, found = job.defect(surrogate, job.probes), {}
    for make in (policy, hopf_cole, pathwise):
        bound = make()
        try:
            side = bound.side(problem)
            t, x = job.problem.sample_points(1, Stream(0, Purpose.PILOT))
            bound.sample(problem, t, x, bound.terms[0], 2, Stream(0, Purpose.PILOT))
        except ValueError:
            continue
        if side not in found:
            purpose = Purpose.UPPER_BOUND if side == "upper" else Purpose.LOWER_BOUND
            owner = owner_of(job, surrogate, "bound", make.__name__)
            found[side] = Method(f"{side}-{make.__name__}", purpose, bound, problem, owner, points)
    return list(found.values())


@dataclass(frozen=True)
class Gradient:
    """Draws of grad v, (points, dim, draws), from those of sigma^T grad v."""

    inner: GradientEstimator

    @property
    def terms(self) -> tuple[str, ...]:
        return self.inner.terms

    @property
    def biases(self) -> tuple[str, ...]:
        return self.inner.biases

    def sample(self, problem: SemilinearPDE, t: Tensor, x: Tensor, term: str, draws: int, stream: Stream) -> Tensor:
        return gradient_draws(problem.law, t, x, self.inner.sample(problem, t, x, term, draws, stream))

    def flop(self, problem: SemilinearPDE, term: str, draws: int) -> float:
        return self.inner.flop(problem, term, draws)

    def rows(self, term: str, draws: int) -> int:
        return self.inner.rows(term, draws)


def gradient_method(job: Job, surrogate: Surrogate, points: int) -> Method:
    """The gradient of the surrogate's error."""
    estimator, owner = Gradient(bismut_elworthy_li()), owner_of(job, surrogate, "gradient")
    return Method(
        "gradient", Purpose.GRADIENT, estimator, job.defect(surrogate, job.probes), owner, points, axes=(job.problem.dim,)
    )


def companions(job: Job, surrogate: Surrogate, points: int, budget: float) -> list[tuple[Method, float]]:
    """What is computed beside the corrected value and its baselines, each with its budget in FLOP."""
    options = job.model.correction
    out = [(m, BOUND_SHARE * budget) for m in bound_methods(job, surrogate, points)] if options.bounds else []
    if options.gradient:
        out.append((gradient_method(job, surrogate, points), budget))
    return [(method, share) for method, share in out if method.pilot_price() <= share]


def check_paths(job: Job, method: Method) -> None:
    """Refuse a budget that cannot give every point a standard error."""
    minimum = int(method.pilot_price())
    if job.model.correction.max_paths < minimum:
        raise InputError(
            f"correction.max_paths = {job.model.correction.max_paths}: {method.points} points need at least {minimum} paths, "
            f"{minimum // method.points} each over the estimator's {len(method.terms)} terms, for a standard error: "
            + ("raise it, ask for fewer points, or set correction.pairs: none" if "pairs" in job.family.own else "raise it")
        )


@torch.no_grad()
def check_estimator(job: Job) -> None:
    """Refuse an estimator that cannot work on this very problem, by two draws of it; of semilinear equations the pilot tries it."""
    if job.family is SEMILINEAR or job.family.iterated:
        return
    t, x = points_of(job)
    estimator = job.estimator()
    for term in estimator.terms:
        try:
            estimator.sample(job.problem, t[:1], x[:1], term, 2, Stream(job.model.seed, Purpose.PILOT))
        except ValueError as error:
            raise InputError(f"correction.estimator: {error}") from error


def check_kinks(job: Job, surrogate: Surrogate) -> None:
    """Refuse a correction by the surrogate's residual where kinks of g are in it that no path sees: it would be biased."""
    named, gradient = job.model.correction.estimator.name, job.model.correction.gradient
    if job.family is not SEMILINEAR or not (job.problem.keeps_kinks and surrogate.meets_terminal):
        return
    if isinstance(surrogate, Fitted):
        raise InputError(
            f"surrogate = '{job.model.surrogate.name}': it is fitted to second derivatives of the terminal condition of "
            f"'{job.problem.name}', whose kinks they miss: give the problem a profile that is smooth before T, or use a network"
        )
    if gradient or named != "telescoped":
        key = "correction.gradient = true" if gradient else f"correction.estimator = '{named}'"
        raise InputError(
            f"{key}: it takes second derivatives of a surrogate that is built on the terminal condition of '{job.problem.name}', "
            "whose kinks they miss: give the problem a profile that is smooth before T, or use estimator: telescoped without gradient"
        )


def base_and_gradient(surrogate: Surrogate, t: Tensor, x: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The surrogate and its gradient at the points, (points,) and (points, dim), in float64 throughout.

    A float32 rounding of u would be no part of any error bar.
    """
    assert isinstance(surrogate, nn.Module)
    wide = copy.deepcopy(surrogate).double()
    with torch.no_grad():
        parts = [wide.value_and_gradient(*rows) for rows in zip(t.double().split(ROWS), x.double().split(ROWS), strict=True)]
    value, gradient = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return value, gradient


def base_values(surrogate: Surrogate | PlugIn, t: Tensor, x: Tensor) -> NDArray[np.float64]:
    """The surrogate's own answer at the points, (points,), in float64 throughout."""
    if isinstance(surrogate, PlugIn):
        with torch.no_grad():
            return surrogate.plug_in(t.double(), x.double()).numpy()
    return base_and_gradient(surrogate, t, x)[0]


def base_error(surrogate: Surrogate | PlugIn, t: Tensor, x: Tensor) -> NDArray[np.float64] | None:
    """Standard error of ``base_values``, (points,), which no draw of the correction lowers; None where there is none."""
    if isinstance(surrogate, UncertainPlugIn):
        return surrogate.plug_in_error(t.double(), x.double()).numpy()
    return None


def correct(folder: RunFolder, job: Job, comm: Communicator) -> None:
    """The correction and its baselines, each from whatever chunks exist; needs a finished surrogate."""
    surrogate = trained_surrogate(folder, job)
    if job.family.iterated:
        for name in ("scasml", *(b for b in job.baselines if b != "surrogate")):
            iterate(folder, job, surrogate, name)
        return
    if comm.rank == 0:
        run_points(folder, job)
    comm.share(None)
    t, x = store.load_points(folder.points, job.correction_hash)
    base, error = base_values(surrogate, t, x), base_error(surrogate, t, x)
    device = card(job, comm)
    surrogate, t, x = surrogate.to(device), t.to(device), x.to(device)
    seed, options = job.model.seed, job.model.correction
    named = {"job": job.resolved, "correction_hash": job.correction_hash}
    plan = correction_plan(folder, job, surrogate, t, x, comm)
    method = scasml_method(job, surrogate, len(t), plan.chosen)
    check_paths(job, method)
    tolerance = within(options.rtol, options.atol, base, method.layout, error)
    outcome = drive(folder, method, t, x, seed, named, comm, options.max_paths, tolerance)
    ended = (base + outcome.tally.table(outcome.counts)[0], method.flop(outcome.counts)) if comm.rank == 0 else None
    corrected, spent = comm.share(ended)
    budget = baseline_budget(job, surrogate, spent)
    if "mlp" in job.baselines:
        plan = with_mlp(folder, job, plan, budget, t, x, comm)
    baselines = baseline_methods(job, plan, len(t), budget)
    for baseline in baselines:
        drive(folder, baseline, t, x, seed, named, comm, budget, within_distance(corrected, baseline.layout))
    for method, share in companions(job, surrogate, len(t), budget):
        drive(folder, method, t, x, seed, named, comm, share, None)
    if comm.rank == 0 and len(baselines) < len([b for b in job.baselines if b != "surrogate"]):
        log(folder.log, "a baseline is left out: the correction's FLOP do not pay for a pilot of it")
