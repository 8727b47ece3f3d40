"""train -> checkpoint -> fan-out -> report: the only door to Ray, and the same graph inline."""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from torch import nn

from kernels.streams import Purpose, Stream
from pipeline import catalogue, store
from pipeline.correction import check_paths, scasml_method
from pipeline.errors import EngineError, InputError, Interrupted, stop_on_signals
from pipeline.estimate import dearest_choice
from pipeline.job import Job, RunFolder
from pipeline.launch import correct_stage
from pipeline.points import count
from pipeline.progress import followed, log
from pipeline.report import Report, fold
from pipeline.report_files import finished, save
from pipeline.resources import check_resources, check_writable
from pipeline.training import memory_needed, train_stage

OBJECT_STORE_BYTES = 100_000_000


def preflight(job: Job, *, on_ray: bool = False) -> None:
    """Refuse before anything runs or is written what would fail later."""
    check_functions(job)
    surrogate = job.surrogate()
    job.objective(surrogate)
    if isinstance(surrogate, nn.Module) and job.learns == "steps":
        job.optimizer(surrogate.parameters())
    points = count(job)
    check_resources(job, memory_needed(job), on_ray=on_ray)
    check_paths(job, scasml_method(job, surrogate, points, dearest_choice(job)))


def check_functions(job: Job) -> None:
    """Try a problem's functions on a few points: a user's own file fails here, not in a rank."""
    file = job.model.problem.file
    if file is None:
        return
    problem = job.problem

    def expect(name: str, found: Any, shape: tuple[int, ...]) -> None:
        if not isinstance(found, torch.Tensor) or tuple(found.shape) != shape:
            what = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(f"{name} returned {what}; it must return a tensor of shape {shape}")

    def attempt() -> None:
        if problem.dim != job.model.problem.dim:
            raise ValueError(f"its dim is {problem.dim}, and problem.dim = {job.model.problem.dim} was asked for")
        t, x = problem.sample_points(4, Stream(job.model.seed, Purpose.POINTS))
        expect("sample_points", t, (4,))
        expect("sample_points", x, (4, problem.dim))
        expect("terminal", problem.terminal(x), (4,))
        expect("driver", problem.driver(t, x, torch.zeros_like(t), torch.zeros_like(x)), (4,))

    catalogue.build(attempt, "problem", file=job.folder / file)


def check_folder(job: Job, out: Path | None) -> RunFolder:
    """The run's folder, to be or of an earlier run of this job; another job's is refused with both named."""
    folder = RunFolder((out or job.default_out).absolute())
    if folder.path.exists() and not folder.path.is_dir():
        raise InputError(f"--out {folder.path}: that is a file; name a folder, new or of an earlier run of this job")
    if folder.surrogate.exists():
        store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)
    if folder.points.exists():
        store.load_points(folder.points, job.correction_hash)
    return folder


def prepare(job: Job, out: Path | None) -> RunFolder:
    """The run's folder with its resolved job; another job's folder is refused with both named."""
    folder = check_folder(job, out)
    for name, source in job.files.items():
        store.commit(folder.path / name, source.read_bytes())
    store.commit(folder.job_file, yaml.safe_dump(job.settled, sort_keys=False).encode())
    return folder


def report_stage(folder: RunFolder, job: Job) -> Report:
    """Fold what is there and write the report."""
    began = time.monotonic()
    report = fold(folder, job, resumed=_resumed(folder))
    report.seconds["report"] = time.monotonic() - began
    save(report, folder)
    log(folder.log, "report written")
    return report


def _resumed(folder: RunFolder) -> int:
    """How often this folder was opened before."""
    if not folder.log.exists():
        return 0
    return max(0, folder.log.read_text(encoding="utf-8").count(" run opened") - 1)


def run_inline(job: Job, folder: RunFolder) -> Report:
    """The graph of one job in this process (and its MPI ranks)."""
    log(folder.log, "run opened")
    train_stage(folder, job, on_ray=False)
    correct_stage(folder, job)
    return report_stage(folder, job)


def run(job: Job, out: str | Path | None = None, *, progress: bool = True) -> Report:
    """Train, correct and report one job in this process; resumes what is there.

    Raises InputError for what cannot run. The report's files are in ``out``, by default
    ``runs/<name>-<hash>``. ``progress`` prints a line now and then.
    """
    preflight(job)
    path = job.default_out if out is None else Path(out)
    check_writable(path, "out =")
    folder = prepare(job, path)
    with followed([folder.log], plain=True) if progress else nullcontext():
        return run_inline(folder.load(), folder)


@contextmanager
def _ray() -> Iterator[Any]:
    """Ray on the cluster of RAY_ADDRESS, or on this machine, guarded by a token."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with tempfile.TemporaryDirectory() as private:
        address = os.environ.get("RAY_ADDRESS")
        if not address:
            token = Path(private) / "token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
        import ray

        if address:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        else:
            cores = len(os.sched_getaffinity(0))
            ray.init(
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level="warning",
                _memory=int(0.8 * psutil.virtual_memory().available),
            )
        if threading.current_thread() is threading.main_thread():
            stop_on_signals()
        try:
            yield ray
        finally:
            ray.shutdown()


def run_graph(work: list[tuple[Job, RunFolder]]) -> None:
    """Every job's stages as Ray tasks: independent ones side by side, equal trainings once."""
    with _ray() as ray:

        def train(folder: RunFolder) -> str:
            train_stage(folder, folder.load(), on_ray=True)
            return "trained"

        def correct(folder: RunFolder, trained: str) -> str:
            correct_stage(folder, folder.load())
            return "corrected"

        def report(folder: RunFolder, corrected: str) -> None:
            report_stage(folder, folder.load())

        remote = {f.__name__: ray.remote(max_retries=0)(f) for f in (train, correct, report)}
        trainings: dict[str, Any] = {}
        ends = []
        for job, folder in work:
            log(folder.log, "run opened")
            workers = job.model.training.workers
            after = trainings.get(job.training_hash)
            # Workers of Ray Train reserve their own cores; a task that waits for them holds none.
            own = remote["train"].options(num_cpus=0 if workers > 1 or after is not None else 1)
            trained = own.remote(folder) if after is None else ray.remote(num_cpus=1)(_train_after).remote(after, folder)
            trainings.setdefault(job.training_hash, trained)
            ranks = min(job.model.correction.ranks, max(1, int(ray.cluster_resources().get("CPU", 1))))
            corrected = remote["correct"].options(num_cpus=ranks).remote(folder, trained)
            ends.append(remote["report"].remote(folder, corrected))
        try:
            ray.get(ends)
        except SystemError as error:
            # A signal that arrives inside Ray's C code comes out wrapped.
            raise error.__cause__ if isinstance(error.__cause__, Interrupted) else error from None
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, (InputError, Interrupted, EngineError)) else None
            raise cause or EngineError(str(error)) from error
        except ray.exceptions.RayError as error:
            raise EngineError(f"Ray failed: {error}. What is finished is kept: run the same command again") from error


def _train_after(first: str, folder: RunFolder) -> str:
    """A training equal to one that has just finished: its surrogate is taken over."""
    train_stage(folder, folder.load(), on_ray=False)
    return first


def finished_all(work: list[tuple[Job, RunFolder]]) -> bool:
    """Whether every run already has its report."""
    return all(finished(folder, job) is not None for job, folder in work)
