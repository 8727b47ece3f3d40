"""A correction that is iterated instead of sampled: its steps, its state between two runs, and where it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.contracts import FixedPoint, State
from kernels.streams import Purpose, Stream
from pipeline import store
from pipeline.errors import InputError
from pipeline.job import Job, RunFolder
from pipeline.owned import owner_of
from pipeline.progress import log

Array = NDArray[np.float64]

SAVE_SECONDS = 15.0
"""Time between two states that are kept: what a crash can cost. It decides when to save, never what is computed."""

SHOWN_VALUES = 256
"""Most values that are kept of every step; of more there are those of the first and the last one."""

SAME = 1e-6
"""How far the values of a state may be from those stored with it: another type of CPU may round otherwise."""

ROUNDING = 1e-11
"""A relative residual that is left where double precision ends."""

PURPOSES = {"scasml": Purpose.CORRECTION, "plain": Purpose.PLAIN}


@dataclass(frozen=True)
class Iteration:
    """A fixed-point method after some of its steps.

    ``residuals`` (steps + 1, values or 1) begins with the surrogate's own answer, as ``values`` (steps + 1, values) does,
    or (at most 2, values) where there are more than SHOWN_VALUES.
    """

    state: State
    values: Array
    residuals: Array
    seconds: float
    ended: str
    """Why there is no further step: "met", "spent", "stagnant", "diverging", "rounding" or "complete"; empty while there is one."""

    @property
    def steps(self) -> int:
        return len(self.residuals) - 1


def path_of(folder: RunFolder, name: str) -> Path:
    """The file of a method's state."""
    return folder.chunks(name) / "iteration.h5"


def read_iteration(folder: RunFolder, job: Job, name: str, owner: str) -> Iteration | None:
    """What a method has come to; None before its first state is kept. Another job's or surrogate's state is refused."""
    path = path_of(folder, name)
    if not path.exists():
        return None
    store.refuse_foreign(path, "iteration", "correction_hash", job.correction_hash, job.resolved)
    with store.opened(path, "iteration") as file:
        if str(file.attrs["owner"]) != owner:
            raise InputError(f"'{path}' belongs to a surrogate with other parameters: delete it and run the job again")
        return Iteration(
            state=store.tree(file, "state"),
            values=store.table(file, "values", "f", None, None),
            # A residual that overflowed is what a diverging iteration ends with.
            residuals=store.table(file, "residuals", "f", None, None, finite=False),
            seconds=float(file.attrs["seconds"]),
            ended=str(file.attrs["ended"]),
        )


def _save(folder: RunFolder, job: Job, name: str, found: Iteration, owner: str) -> None:
    def fill(file: Any) -> None:
        store.put_tree(file, "state", dict(found.state))
        store.put(file, "values", found.values, long_name="values after each step, the surrogate's first", units="1")
        store.put(file, "residuals", found.residuals, long_name="relative residuals after each step", units="1")

    told = {"seconds": found.seconds, "ended": found.ended, "owner": owner}
    told |= {"correction_hash": job.correction_hash, "job": job.resolved}
    store.write(path_of(folder, name), "iteration", fill, told)


def problem_of(job: Job, surrogate: Any, name: str) -> Any:
    """The defect of the surrogate, or the problem itself."""
    return job.defect(surrogate, None) if name == "scasml" else job.problem


@torch.no_grad()
def iterate(folder: RunFolder, job: Job, surrogate: Any, name: str) -> Iteration | None:
    """Step until the residual is below rtol, gets no smaller, or max_steps are spent; None where the method cannot begin.

    Goes on from the state that an earlier run kept: more steps or a smaller rtol cost what is missing.
    """
    estimator, problem, owner = job.estimator(), problem_of(job, surrogate, name), owner_of(job, surrogate, name)
    found = read_iteration(folder, job, name, owner)
    began = saved = time.perf_counter()
    if found is None:
        try:
            state = estimator.start(problem, Stream(job.model.seed, PURPOSES[name]))
        except ValueError as error:
            if name == "plain":
                log(folder.log, f"no baseline without the surrogate: {error}")
                return None
            raise InputError(f"correction.estimator: {error}") from error
        found = Iteration(state, *_seen(estimator, problem, state, None), 0.0, "")
    else:
        _check_state(estimator, problem, found, path_of(folder, name))
    if found.ended and _ending(job, estimator, found) == found.ended:
        return found
    before, steps = found.seconds, found.steps
    while not (ended := _ending(job, estimator, found)):
        try:
            state = estimator.step(problem, found.state)
        except ValueError as error:
            raise InputError(f"correction.estimator: {error}") from error
        if state is found.state:
            ended = "complete"
            break
        found = Iteration(state, *_seen(estimator, problem, state, found), before + time.perf_counter() - began, "")
        if time.perf_counter() - saved > SAVE_SECONDS:
            _save(folder, job, name, found, owner)
            saved = time.perf_counter()
            log(folder.log, f"{name} {found.steps}/{job.max_steps} steps, residual {_worst(found):.1e}")
    if ended == "spent" and job.family.streams and estimator.step(problem, found.state) is found.state:
        ended = "complete"
    found = replace(found, ended=ended)
    _save(folder, job, name, found, owner)
    log(folder.log, f"{name}: {found.steps - steps} steps computed, {steps} reused, residual {_worst(found):.1e}, {ended}")
    return found


def _check_state(estimator: FixedPoint, problem: Any, found: Iteration, path: Path) -> None:
    """Refuse a state that is none of this method's, or not the one that the file's last values come from."""
    try:
        value, residual = estimator.value(found.state).double().numpy(), estimator.residual(problem, found.state)
        whole = bool(np.allclose(value, found.values[-1], rtol=SAME, atol=SAME)) and residual.shape == found.residuals[-1].shape
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError):
        whole = False
    if not whole:
        raise InputError(f"'{path}' does not hold a state of this correction: delete it and run the job again")


def _worst(found: Iteration) -> float:
    return float(found.residuals[-1].max())


def _ending(job: Job, estimator: FixedPoint, found: Iteration) -> str:
    """Why the iteration ends here, by its residuals and its state alone."""
    options = job.model.correction
    if options.rtol is not None and _worst(found) <= options.rtol:
        return "met"
    verdict = estimator.verdict(found.state)
    if verdict != "converging":
        return "rounding" if _worst(found) <= ROUNDING else verdict
    return "spent" if found.steps >= job.max_steps else ""


def _seen(estimator: FixedPoint, problem: Any, state: State, before: Iteration | None) -> tuple[Array, Array]:
    """The values and residuals of all steps, this one the last."""
    value = estimator.value(state).double().numpy()[None]
    residual = estimator.residual(problem, state).double().numpy()[None]
    if before is None:
        return value, residual
    kept = before.values if value.shape[1] <= SHOWN_VALUES else before.values[:1]
    return np.concatenate([kept, value]), np.concatenate([before.residuals, residual])
