"""The training loop: data parallel over blocks of a global batch; saves, resumes, same bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kernels.contracts import Fitted, Searching, Surrogate
from kernels.streams import Purpose, Stream
from pipeline import store
from pipeline.averaging import Average
from pipeline.compiling import check_compiler, compiled
from pipeline.errors import EngineError, InputError
from pipeline.files import commit
from pipeline.folders import is_run
from pipeline.gradients import loss_and_gradient
from pipeline.job import Job, RunFolder
from pipeline.precision import check_precision, matrix_products
from pipeline.progress import log
from pipeline.schema import PHASES, SAMPLE_BLOCK
from pipeline.search import batch_of
from pipeline.stages import stage
from pipeline.team import Solo, Team

WARM_UP = 0.1
PROGRESS_SECONDS = 2.0
SAVES_APART = 50.0
"""Of the time that the last checkpoint took: how much passes before the next, so that saving costs less than 2 %."""

SETTLE_SECONDS = 90.0
"""How long a worker waits for the file that another machine has written."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: two were slower than one, and bits must not depend on the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def schedule(step: int, steps: int) -> float:
    """Learning rate at ``step`` over its peak: linear warm-up, then a cosine to 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm + 1) / (steps - warm + 1)))


def sample(objective: Any, job: Job, batch: int, progress: float, step: int, shard: int, shards: int) -> tuple[Tensor, ...]:
    """One worker's part of the global batch: whole blocks, each with a stream of its own.

    A block's stream is addressed (seed, training, step, block of the global batch), never by worker.
    ``progress`` is the share of the phase's steps that is done.
    """
    blocks = batch // SAMPLE_BLOCK
    mine = range(shard * blocks // shards, (shard + 1) * blocks // shards)
    parts = [objective.sample(SAMPLE_BLOCK, Stream(job.model.seed, Purpose.TRAINING, step, b), progress) for b in mine]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def train(
    folder: RunFolder,
    job: Job,
    *,
    shards: range,
    of: int,
    team: Team,
    writes: bool = True,
    device: torch.device | None = None,
) -> None:
    """Train to the last step from wherever the folder's checkpoint stands.

    This process takes the given ``shards`` of the batch out of ``of``, its ``team`` the rest. Every
    process reads the checkpoint, one writes it. Raises InputError where the loss is not finite.
    """
    options = job.model.training
    surrogate = job.surrogate()
    module = surrogate if isinstance(surrogate, nn.Module) else None
    if module is None:
        raise InputError(f"surrogate '{job.model.surrogate.name}' has no parameters to train")
    device = device or torch.device("cpu")
    check_precision(named_precisions(job), device)
    for where, phase in zip(PHASES, options.phases, strict=False):
        if phase.compile:
            check_compiler(f"{where}.compile", device)
    module.to(device)
    losses: list[float] = []
    start, before, core_before = 0, 0.0, 0.0
    checkpoint = _agreed_checkpoint(folder, job, team)
    if checkpoint is not None:
        fill(module, checkpoint.parameters, folder.surrogate)
        if checkpoint.step == options.total_steps:
            return
        losses, start = checkpoint.losses.tolist(), checkpoint.step
        before, core_before = checkpoint.seconds, checkpoint.core_seconds
        if writes:
            log(folder.log, f"training resumes at step {start} of {options.total_steps}")
    parameters = list(module.parameters())
    began = saved = shown = time.monotonic()
    first, pause = 0, options.checkpoint_every
    for number, phase in enumerate(options.phases):
        done, first = max(0, start - first), first + phase.steps
        if done >= phase.steps:
            continue
        objective, optimizer = job.objective(surrogate, number).to(device), job.optimizer(parameters, number)
        weighting = getattr(objective, "weighting", None)
        peaks = [group["lr"] for group in optimizer.param_groups]
        resumed = checkpoint if done else None
        average = phase.average and Average(parameters, phase.average, resumed.average if resumed else ())
        if resumed is not None:
            optimizer.load_state_dict(resumed.optimizer)
            if weighting is not None:
                weighting.load_state_dict(resumed.objective)
        loss_module = team.wrap(compiled(objective) if phase.compile else objective)
        for within in range(done, phase.steps):
            step = first - phase.steps + within
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * schedule(within, phase.steps)
            draw = cache(partial(sample, objective, job, phase.batch, within / phase.steps, step))
            evaluate = matrix_products(phase.precision, within, phase.steps)(
                partial(
                    loss_and_gradient,
                    loss_module,
                    parameters,
                    draw,
                    shards=shards,
                    of=of,
                    parts=phase.accumulate,
                    team=team,
                    weighting=weighting,
                )
            )
            total = evaluate()
            seen = None if weighting is None else weighting.seen
            if not math.isfinite(total):
                raise InputError(
                    f"training: the loss is {total} at step {step + 1}: lower {PHASES[number]}.optimizer.learning_rate, "
                    "or look for a driver or terminal condition that overflows float32"
                )
            if isinstance(optimizer, Searching):
                optimizer.step(batch_of(objective, optimizer.needs, draw, total, evaluate))
            else:
                optimizer.step()
            losses.append(total)
            if weighting is not None:
                # Not to what the last trial of a search saw, taken or not.
                weighting.seen = seen
                weighting.adapt()
            ended = within + 1 == phase.steps
            if average:
                average.add(within + 1)
                if ended:
                    average.put()
            now = time.monotonic()
            last = step + 1 == options.total_steps
            if writes and (last or now - shown > PROGRESS_SECONDS):
                mean = np.mean(losses[-min(50, within + 1) :])
                log(folder.log, f"training {step + 1}/{options.total_steps} loss {mean:.3e}")
                shown = now
            if writes and (last or now - saved > pause):
                reached = store.Checkpoint(
                    step=step + 1,
                    steps=options.total_steps,
                    parameters=module.state_dict(),
                    optimizer={} if ended else optimizer.state_dict(),
                    average=average.values if average and not ended else (),
                    objective=weighting.state_dict() if weighting is not None and not ended else {},
                    losses=np.asarray(losses),
                    seconds=before + now - began,
                    core_seconds=core_before + (now - began) * of / len(shards),
                    device=device.type,
                )
                store.save_checkpoint(folder.surrogate, reached, training_hash=job.training_hash, job=job.resolved)
                saved = time.monotonic()
                pause = max(options.checkpoint_every, SAVES_APART * (saved - now))


def named_precisions(job: Job) -> list[tuple[str, str]]:
    """Key and precision of every phase."""
    return [(where, phase.precision) for where, phase in zip(PHASES, job.model.training.phases, strict=False)]


def train_here(folder: RunFolder, job: Job) -> None:
    """Train in this process; several workers' shards are taken in turn, to the same gradient."""
    workers = max(1, job.model.training.workers)
    with one_thread():
        train(folder, job, shards=range(workers), of=workers, team=Solo())


def settle(folder: RunFolder, job: Job) -> None:
    """The checkpoint of a surrogate that is not trained by steps: fitted by its own solver, or given by its user."""
    if folder.surrogate.exists():
        store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)
    surrogate, losses, began = job.surrogate(), [], time.monotonic()
    assert isinstance(surrogate, nn.Module)
    if isinstance(surrogate, Fitted):
        log(folder.log, f"fit of '{job.model.surrogate.name}' begins")
        try:
            with one_thread():
                losses = surrogate.fit(Stream(job.model.seed, Purpose.TRAINING))
        except ValueError as error:
            raise InputError(f"surrogate: the fit fails: {error}") from error
        log(folder.log, f"fit ends after {len(losses) - 1} iterations at loss {losses[-1]:.3e}")
    else:
        log(folder.log, f"surrogate given by '{job.model.surrogate.file}': nothing is trained")
    checkpoint = store.Checkpoint(
        step=len(losses),
        steps=len(losses),
        parameters=surrogate.state_dict(),
        optimizer={},
        losses=np.asarray(losses),
        seconds=(spent := time.monotonic() - began),
        core_seconds=spent,
        device="cpu",
    )
    store.save_checkpoint(folder.surrogate, checkpoint, training_hash=job.training_hash, job=job.resolved)


def _agreed_checkpoint(folder: RunFolder, job: Job, team: Team) -> store.Checkpoint | None:
    """The checkpoint from which the whole team goes on, the one that its writer sees; None at the beginning."""
    deadline = time.monotonic() + SETTLE_SECONDS
    agreed = None
    while True:
        found = None
        if folder.surrogate.exists():
            found = store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)
        step = 0 if found is None else found.step
        agreed = team.agree(step) if agreed is None else agreed
        if step == agreed:
            return found
        # A shared disk may show an older file on another machine for a while.
        if time.monotonic() > deadline:
            raise EngineError(
                f"'{folder.surrogate}' stands at step {step} here and at step {agreed} for the worker that writes it: "
                "the run's folder must be on a disk that all nodes share"
            )
        time.sleep(0.5)


def train_stage(folder: RunFolder, job: Job, engine: Callable[[RunFolder, Job], None] = train_here) -> None:
    """Train by ``engine`` unless this folder, or a sibling run with the same training, has done it."""
    if folder.surrogate.exists():
        owner, _, finished = store.checkpoint_owner(folder.surrogate)
        if owner == job.training_hash and finished:
            return
    elif (sibling := _sibling(folder, job)) is not None:
        commit(folder.surrogate, sibling.surrogate.read_bytes())
        log(folder.log, f"surrogate taken from '{sibling.path.name}', trained for the same problem and options")
        return
    with stage(folder, "train"):
        (engine if job.learns == "steps" else settle)(folder, job)


def _sibling(folder: RunFolder, job: Job) -> RunFolder | None:
    """A run beside this one that has finished the same training; what cannot be read is passed over."""
    for path in sorted(folder.path.parent.glob("*/surrogate.h5")):
        other = RunFolder(path.parent)
        try:
            if not is_run(other):
                continue
            owner, _, finished = store.checkpoint_owner(path)
        except (InputError, OSError):
            continue
        if owner == job.training_hash and finished:
            return other
    return None


def trained_surrogate(folder: RunFolder, job: Job) -> Any:
    """The surrogate of a finished training, ready for evaluation."""
    if not folder.surrogate.exists():
        raise InputError(f"'{folder.surrogate}': no such file: train first with `scasml train`, or use `scasml run`")
    checkpoint = store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)
    if checkpoint.step < checkpoint.steps:
        raise InputError(
            f"'{folder.surrogate}' stands at step {checkpoint.step} of {checkpoint.steps}: finish it with `scasml train`"
        )
    surrogate = job.surrogate()
    assert isinstance(surrogate, nn.Module)
    fill(surrogate, checkpoint.parameters, folder.surrogate)
    return surrogate.requires_grad_(False)


def fill(module: nn.Module, parameters: Any, path: Path) -> None:
    """Give a module the parameters of a checkpoint; InputError naming it where they are not numbers of its shapes."""
    try:
        module.load_state_dict(parameters)
        sound = all(bool(torch.isfinite(p).all()) for p in parameters.values())
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"'{path}' holds parameters of another shape: delete it and train anew") from error
    if not sound:
        raise InputError(f"'{path}' holds parameters that are not finite: delete it and train anew")


def training_flop(job: Job, surrogate: Surrogate) -> float:
    """Model FLOP of the training stage."""
    if isinstance(surrogate, Fitted):
        return surrogate.fit_cost()[0]
    if job.learns != "steps":
        return 0.0
    return sum(p.steps * job.objective(surrogate, n).flop(p.batch) for n, p in enumerate(job.model.training.phases))


def working_memory(job: Job, surrogate: nn.Module) -> float:
    """Bytes that training needs beside the parameters: of one step, or of a fit."""
    if isinstance(surrogate, Fitted):
        return surrogate.fit_cost()[1]
    matrices = [p for p in surrogate.parameters() if p.ndim == 2]
    if job.learns != "steps" or not matrices:
        return 0.0
    training, resolved = job.model.training, job.resolved["training"]
    # A network has its units for every stream, but where it says how many it has at a point.
    of_a_point: int | None = getattr(surrogate, "units_of_a_point", None)
    of_a_row = sum(p.shape[0] for p in matrices)
    kept, searching = 0.0, 0.0
    for number, (phase, part) in enumerate(zip(training.phases, (resolved, resolved.get("then")), strict=False)):
        options, optimizer = part["objective"], job.optimizer(surrogate.parameters(), number)
        if isinstance(optimizer, Searching):
            times = 1 if options["name"] == "residual" else options.get("steps", 1)
            searching = max(searching, optimizer.memory(phase.batch * times))
        jets = job.problem.dim + 3 if options.get("probes") is None else options["probes"] + 6
        points, streams = (1, jets) if options["name"] == "residual" else (options.get("steps", 0) + 1, 1)
        part_of_batch = phase.batch / max(1, training.workers) / phase.accumulate
        kept = max(kept, part_of_batch * points * (of_a_point or streams * of_a_row))
    averaged = 4.0 * sum(p.numel() for p in surrogate.parameters()) if any(p.average for p in training.phases) else 0.0
    return averaged + searching + 8.0 * 4.0 * kept
