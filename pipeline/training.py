"""The training loop: data parallel over blocks of a global batch; saves, resumes, same bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kernels.contracts import Fitted, Surrogate
from kernels.streams import Purpose, Stream
from pipeline import store
from pipeline.chunks import MIN_DRAWS, POINTS_PER_BLOCK
from pipeline.errors import EngineError, InputError
from pipeline.job import SAMPLE_BLOCK, Job, RunFolder
from pipeline.points import count
from pipeline.progress import log

WARM_UP = 0.1
PROGRESS_SECONDS = 2.0
MAX_FAILURES = 3


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


def sample(objective: Any, job: Job, step: int, shard: int, shards: int) -> tuple[Tensor, ...]:
    """One worker's part of the global batch: whole blocks, each with a stream of its own.

    A block's stream is addressed (seed, training, step, block of the global batch), never by worker.
    """
    blocks = job.model.training.batch // SAMPLE_BLOCK
    mine = range(shard * blocks // shards, (shard + 1) * blocks // shards)
    parts = [objective.sample(SAMPLE_BLOCK, Stream(job.model.seed, Purpose.TRAINING, step, b)) for b in mine]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def train(
    folder: RunFolder,
    job: Job,
    *,
    shards: range,
    of: int,
    writes: bool = True,
    device: torch.device | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
) -> None:
    """Train to the last step from wherever the folder's checkpoint stands.

    This process takes the given ``shards`` of the batch out of ``of``; ``wrap`` makes the loss
    module data parallel where other processes take the rest. Every process reads the checkpoint,
    one writes it.
    """
    options = job.model.training
    surrogate = job.surrogate()
    module = surrogate if isinstance(surrogate, nn.Module) else None
    if module is None:
        raise InputError(f"surrogate '{job.model.surrogate.name}' has no parameters to train")
    device = device or torch.device("cpu")
    module.to(device)
    objective = job.objective(surrogate)
    optimizer = job.optimizer(module.parameters())
    peaks = [group["lr"] for group in optimizer.param_groups]
    losses: list[float] = []
    start, before = 0, 0.0
    if folder.surrogate.exists():
        checkpoint = store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)
        module.load_state_dict(checkpoint.parameters)
        if checkpoint.step == options.steps:
            return
        optimizer.load_state_dict(checkpoint.optimizer)
        losses, start, before = checkpoint.losses.tolist(), checkpoint.step, checkpoint.seconds
        if writes:
            log(folder.log, f"training resumes at step {start} of {options.steps}")
    loss_module = wrap(objective)
    began = saved = shown = time.monotonic()
    for step in range(start, options.steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule(step, options.steps)
        optimizer.zero_grad()
        total = 0.0
        for shard in shards:
            batch = sample(objective, job, step, shard, of)
            loss = loss_module(*(part.to(device) for part in batch)) / len(shards)
            loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise InputError(
                f"training: the loss is {total} at step {step + 1}: lower training.optimizer.learning_rate, "
                "or look for a driver or terminal condition that overflows float32"
            )
        optimizer.step()
        losses.append(total)
        now = time.monotonic()
        last = step + 1 == options.steps
        if writes and (last or now - shown > PROGRESS_SECONDS):
            log(folder.log, f"training {step + 1}/{options.steps} loss {np.mean(losses[-50:]):.3e}")
            shown = now
        if writes and (last or now - saved > options.checkpoint_every):
            checkpoint = store.Checkpoint(
                step=step + 1,
                steps=options.steps,
                parameters=module.state_dict(),
                optimizer=optimizer.state_dict() if not last else {},
                losses=np.asarray(losses),
                seconds=before + now - began,
            )
            store.save_checkpoint(folder.surrogate, checkpoint, training_hash=job.training_hash, job=job.resolved)
            saved = time.monotonic()


def train_here(folder: RunFolder, job: Job) -> None:
    """Train in this process; several workers' shards are taken in turn, to the same gradient."""
    workers = max(1, job.model.training.workers)
    with one_thread():
        train(folder, job, shards=range(workers), of=workers)


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
        seconds=time.monotonic() - began,
    )
    store.save_checkpoint(folder.surrogate, checkpoint, training_hash=job.training_hash, job=job.resolved)


def _ray_worker(config: dict[str, str]) -> None:
    """One data-parallel worker of Ray Train; after a failure it finds the last checkpoint by itself."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    folder = RunFolder(Path(config["folder"]))
    with one_thread():
        train(
            folder,
            folder.load(),
            shards=range(rank, rank + 1),
            of=world,
            writes=rank == 0,
            device=ray.train.torch.get_device(),
            wrap=lambda module: ray.train.torch.prepare_model(module),
        )


def train_on_ray(folder: RunFolder, job: Job) -> None:
    """Train on Ray Train workers with DistributedDataParallel; a killed worker resumes."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    workers = job.model.training.workers
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"folder": str(folder.path)},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=ray.cluster_resources().get("GPU", 0) >= workers),
        run_config=RunConfig(
            name="training", storage_path=str(folder.path / "ray"), failure_config=FailureConfig(max_failures=MAX_FAILURES)
        ),
    )
    result = trainer.fit()
    if result.error is not None:
        raise EngineError(
            f"training failed on Ray {MAX_FAILURES + 1} times: {result.error}. Its last checkpoint is kept: run again to resume"
        )


def train_stage(folder: RunFolder, job: Job, *, on_ray: bool) -> None:
    """Train unless this folder, or a sibling run with the same training, has done it."""
    if folder.surrogate.exists():
        owner, _, finished = store.checkpoint_owner(folder.surrogate)
        if owner == job.training_hash and finished:
            return
    else:
        for other in sorted(folder.path.parent.glob("*/surrogate.h5")):
            try:
                owner, _, finished = store.checkpoint_owner(other)
            except InputError:
                continue
            if owner == job.training_hash and finished:
                store.commit(folder.surrogate, other.read_bytes())
                log(folder.log, f"surrogate taken from '{other.parent.name}', trained for the same problem and options")
                return
    if job.learns != "steps":
        settle(folder, job)
    elif on_ray and job.model.training.workers > 1:
        train_on_ray(folder, job)
    else:
        train_here(folder, job)


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
    try:
        surrogate.load_state_dict(checkpoint.parameters)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"'{folder.surrogate}' holds parameters of another shape: delete it and train anew") from error
    return surrogate.requires_grad_(False)


def training_flop(job: Job, surrogate: Surrogate) -> float:
    """Model FLOP of the training stage."""
    if isinstance(surrogate, Fitted):
        return surrogate.fit_cost()[0]
    training = job.model.training
    return training.steps * job.objective(surrogate).flop(training.batch) if job.learns == "steps" else 0.0


def memory_needed(job: Job) -> float:
    """Bytes at the peak of training and of a chunk: parameters and buffers, optimizer, activations or a fit's matrices."""
    surrogate = job.surrogate()
    assert isinstance(surrogate, nn.Module)
    held = sum(4.0 * 6.0 * p.numel() for p in surrogate.parameters())
    held += sum(2.0 * b.numel() * b.element_size() for b in surrogate.buffers())
    probes = job.probes or 1
    rows = POINTS_PER_BLOCK * max(job.estimator().rows(term, MIN_DRAWS) for term in job.estimator().terms)
    chunk = 4.0 * rows * job.problem.dim * (16.0 + probes)
    return held + _working_memory(job, surrogate) + chunk + 8.0 * count(job) * (2.0 * job.problem.dim + 40.0)


def _working_memory(job: Job, surrogate: nn.Module) -> float:
    """Bytes that training needs beside the parameters: of one step, or of a fit."""
    if isinstance(surrogate, Fitted):
        return surrogate.fit_cost()[1]
    matrices = [p for p in surrogate.parameters() if p.ndim == 2]
    if job.learns != "steps" or not matrices:
        return 0.0
    options = job.resolved["training"]["objective"]
    streams = job.problem.dim + 3 if options["name"] == "residual" else options.get("steps", 1)
    rows = job.model.training.batch / max(1, job.model.training.workers) * streams
    return 8.0 * 4.0 * rows * max(p.shape[0] for p in matrices) * len(matrices)
