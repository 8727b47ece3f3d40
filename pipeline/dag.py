"""train -> checkpoint -> fan-out -> report: the only door to Ray, and the same graph inline."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from pipeline import training
from pipeline.card import check_card
from pipeline.cluster import NO_CLUSTER, SLURM_NODE, check_capacity, check_gpus, slurm_hosts, until_answers, until_joined
from pipeline.correction import check_estimator, check_kinks, check_paths
from pipeline.errors import EngineError, InputError, Interrupted, NotedSignals
from pipeline.estimate import dearest_method, memory_needed
from pipeline.files import release
from pipeline.folders import RAY_STORAGE, prepare
from pipeline.job import Job, RunFolder
from pipeline.launch import correct_stage
from pipeline.points import count
from pipeline.precision import check_precision
from pipeline.progress import followed, log
from pipeline.resources import check_resources, check_writable
from pipeline.results import AnyReport, result, save
from pipeline.search import check_search
from pipeline.stages import begun, interruptions, stage
from pipeline.team import Overlapped, Together
from pipeline.training import one_thread, train_here, train_stage
from pipeline.user_file import check_derivatives, check_user_file

OBJECT_STORE_BYTES = 100_000_000
LOOK_SECONDS = 0.5
GET_SECONDS = 60.0
CANCEL_SECONDS = 5.0
MAX_FAILURES = 3
"""How often a training whose workers fail is taken up again."""

STARVED = ("WorkerGroupStartupTimeoutError", "WorkerGroupStartupFailedError")
"""What Ray says after a minute without places for all processes."""


def preflight(job: Job, *, on_ray: bool = False, here: bool = True) -> None:
    """Refuse before anything runs or is written what would fail later; ``here`` says that this machine is to run it."""
    check_user_file(job)
    surrogate = job.surrogate()
    phases = range(len(job.model.training.phases) if job.learns == "steps" else 0)
    objectives = [job.objective(surrogate, n) for n in phases]
    if isinstance(surrogate, nn.Module) and phases:
        for n in phases:
            check_search(job, job.optimizer(surrogate.parameters(), n), objectives[n], n)
        if not on_ray:
            check_precision(training.named_precisions(job), torch.device("cpu"))
    check_kinks(job, surrogate)
    points = count(job)
    if here:
        if not on_ray:
            check_card(job)
        check_resources(job, memory_needed(job, on_ray=on_ray), on_ray=on_ray)
    check_derivatives(job, surrogate, objectives)
    check_estimator(job)
    if not job.family.iterated:
        check_paths(job, dearest_method(job, surrogate, points))


def report_stage(folder: RunFolder, job: Job) -> AnyReport:
    """Fold what is there and write the report."""
    began, resumed = time.monotonic(), interruptions(folder)
    with stage(folder, "report"), one_thread():
        report = result(folder, job, resumed=resumed)
        report.seconds["report"] = time.monotonic() - began
        save(report, folder)
    return report


def run_inline(job: Job, folder: RunFolder) -> AnyReport:
    """The graph of one job in this process (and its MPI ranks)."""
    log(folder.log, "run opened")
    train_stage(folder, job)
    correct_stage(folder, job)
    return report_stage(folder, job)


def run(job: Job, out: str | Path | None = None, *, progress: bool = True) -> AnyReport:
    """Train, correct and report one job in this process; resumes what is there.

    Raises InputError for what cannot run. The report's files are in ``out``, by default
    ``runs/<name>-<hash>``. ``progress`` prints a line now and then.
    """
    preflight(job)
    path = job.default_out if out is None else Path(out)
    check_writable(path, "out =")
    folder = prepare(job, path)
    try:
        with followed([folder.log], plain=True) if progress else nullcontext():
            return run_inline(folder.load(), folder)
    finally:
        release(folder.path)


# The same graph on Ray.


@contextmanager
def _ray(signals: NotedSignals) -> Iterator[Any]:
    """Ray on the cluster of RAY_ADDRESS, or on this machine, guarded by a token."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with tempfile.TemporaryDirectory() as private:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
        address = os.environ.get("RAY_ADDRESS")
        if address:
            until_answers(address, signals)
            options |= {"address": address}
        else:
            token = Path(private) / "token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
            # Without an address Ray joins whatever was last started on this machine.
            options |= {
                "address": "local",
                "num_cpus": len(os.sched_getaffinity(0)),
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_memory": int(0.8 * psutil.virtual_memory().available),
            }
        import ray

        try:
            ray.init(**options)
        except ConnectionError as error:
            raise InputError(f"RAY_ADDRESS = '{address}': {error} {NO_CLUSTER}") from error
        except SystemExit as stop:
            # What Ray's own handler makes of SIGTERM while it starts.
            raise Interrupted("stopped by SIGTERM") from stop
        signals.again()
        try:
            until_joined(ray, signals)
            yield ray
        finally:
            ray.shutdown()


def run_graph(work: list[tuple[Job, RunFolder]], begin: Callable[[], object]) -> None:
    """Every job's stages as Ray tasks: equal trainings once, as many different ones in flight as there are CPUs.

    Each of more would hold a process that waits for cores. ``begin`` writes the jobs into their folders; it is called once the cluster is known to be large enough.
    """
    with NotedSignals() as signals, _ray(signals) as ray:
        gpus = ray.cluster_resources().get("GPU", 0.0)

        def in_parallel(job: Job) -> bool:
            """Whether Ray Train does it: for several workers, and for one where there are GPUs."""
            return job.learns == "steps" and (job.model.training.workers > 1 or gpus > 0.0)

        def train(folder: RunFolder) -> str:
            job = folder.load()
            train_stage(folder, job, train_on_ray if in_parallel(job) else train_here)
            return "trained"

        def train_after(first: str, folder: RunFolder) -> str:
            # A training equal to one that has just finished: its surrogate is taken over.
            train_stage(folder, folder.load())
            return first

        def correct(folder: RunFolder, trained: str) -> str:
            correct_stage(folder, folder.load())
            return "corrected"

        def correct_on_slurm(folder: RunFolder, trained: str, cpus: int) -> str:
            job = folder.load()
            with slurm_hosts(ray, cpus, job.model.correction.ranks, folder.log) as hosts:
                correct_stage(folder, job, hosts)
            return "corrected"

        def report(folder: RunFolder, corrected: str) -> None:
            report_stage(folder, folder.load())

        remote = {f.__name__: ray.remote(max_retries=0)(f) for f in (train, train_after, correct, correct_on_slurm, report)}
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [resources.get("CPU", 0.0) for resources in alive]
        named = all(any(key.startswith(SLURM_NODE) for key in resources) for resources in alive)
        reserved = [check_capacity(job, nodes, spread=named) for job, _ in work]
        for job, _ in work:
            check_gpus(job, gpus)
        begin()
        tasks: list[Any] = []
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)

        def submit(alike: list[tuple[Job, RunFolder, int]]) -> list[Any]:
            """The ends of jobs with one training."""
            first, ends = None, []
            for job, folder, ranks in alike:
                log(folder.log, "run opened")
                # Workers of Ray Train reserve their own cores; the task that waits for them holds none, and lives as long as this driver.
                own = remote["train"].options(
                    **({"num_cpus": 0, "scheduling_strategy": here} if in_parallel(job) else {"num_cpus": 1})
                )
                trained = own.remote(folder) if first is None else remote["train_after"].remote(first, folder)
                first = first or trained
                if named and job.model.correction.ranks > 1:
                    corrected = remote["correct_on_slurm"].options(num_cpus=0).remote(folder, trained, ranks)
                else:
                    cards = 1 if job.model.correction.device == "cuda" else 0
                    corrected = remote["correct"].options(num_cpus=ranks, num_gpus=cards).remote(folder, trained)
                ends.append(remote["report"].remote(folder, corrected))
                tasks.extend((trained, corrected, ends[-1]))
            return ends

        groups: dict[str, list[tuple[Job, RunFolder, int]]] = {}
        for (job, folder), ranks in zip(work, reserved, strict=True):
            groups.setdefault(job.training_hash, []).append((job, folder, ranks))
        waiting: deque[Callable[[], list[Any]]] = deque(partial(submit, alike) for alike in groups.values())
        try:
            _await(ray, waiting, max(1, int(sum(nodes))), signals)
        except Interrupted:
            # On a cluster that lives on they would run on, until this driver is missed.
            for task in tasks:
                ray.cancel(task, recursive=True)
            ray.wait(tasks, num_returns=len(tasks), timeout=CANCEL_SECONDS)
            raise


def _await(ray: Any, waiting: deque[Callable[[], list[Any]]], at_once: int, signals: NotedSignals) -> None:
    """Submit groups of tasks, ``at_once`` of them in flight, and wait for all their ends.

    Looks up often: a signal ends the wait, as does the first task that fails.
    """
    flight: list[list[Any]] = []
    try:
        while waiting or flight:
            signals.check()
            while waiting and len(flight) < at_once:
                flight.append(waiting.popleft()())
            ready, _ = ray.wait([end for group in flight for end in group], timeout=LOOK_SECONDS)
            for end in ready:
                ray.get(end, timeout=GET_SECONDS)
            flight = [left for group in flight if (left := [end for end in group if end not in ready])]
    except ray.exceptions.RayTaskError as error:
        known = isinstance(error.cause, (InputError, Interrupted, EngineError, OSError))
        raise (error.cause if known else EngineError(str(error))) from error
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray failed: {error}. What is finished is kept: run the same command again") from error


def train_on_ray(folder: RunFolder, job: Job) -> None:
    """Train on Ray Train workers; where one is killed, all go on from the last checkpoint, in as many as the cluster has places for."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    # Ray's watcher tells workers of a node that is about to go; ours save by the clock, and it takes a process for each training.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    workers = max(1, job.model.training.workers)
    storage = folder.path / RAY_STORAGE
    failures = 0
    for number in itertools.count():
        there = ray.cluster_resources()
        kind, places = ("GPU", int(there["GPU"])) if there.get("GPU", 0.0) >= 1.0 else ("CPU", int(there.get("CPU", 1.0)))
        processes = processes_for(workers, places)
        if processes < workers:
            log(
                folder.log,
                f"samples of {workers} training workers are taken in turn by {processes} on the {places} {kind}s there are",
            )
        trainer = TorchTrainer(
            _ray_worker,
            train_loop_config={"folder": str(folder.path)},
            scaling_config=ScalingConfig(num_workers=processes, use_gpu=kind == "GPU"),
            # Attempts are counted here: what a worker refuses is not to be tried again.
            run_config=RunConfig(
                name=f"attempt-{number}",
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            if type(getattr(error, "controller_failure", None)).__name__ in STARVED:
                # The places were taken by others, or lost with their node since they were counted.
                continue
            causes = list(getattr(error, "worker_failures", {}).values())
            for cause in causes:
                if isinstance(cause, InputError):
                    raise cause from error
            failure = " ".join(str(causes[0] if causes else error).split())
        else:
            shutil.rmtree(storage, ignore_errors=True)
            return
        log(folder.log, f"a training worker failed ({failure[:200]})")
        failures += 1
        if failures > MAX_FAILURES:
            raise EngineError(
                f"training failed on Ray {failures} times, last with: {failure}. Its last checkpoint is kept: run again to resume"
            )
        begun(folder, "train")


def processes_for(workers: int, places: int) -> int:
    """How many processes train: each takes the samples of equally many workers, and there are places for all.

    >>> [processes_for(4, places) for places in (8, 4, 3, 1, 0)], processes_for(3, 2)
    ([4, 4, 2, 1, 1], 1)
    """
    return max(n for n in range(1, workers + 1) if workers % n == 0 and n <= max(1, places))


def _ray_worker(config: dict[str, str]) -> None:
    """One data-parallel worker of Ray Train; it finds the last checkpoint by itself."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    rank, processes = context.get_world_rank(), context.get_world_size()
    folder, device = RunFolder(Path(config["folder"])), ray.train.torch.get_device()
    job, team = folder.load(), Together(device) if device.type == "cpu" else Overlapped(device)
    workers = max(1, job.model.training.workers)
    with one_thread():
        shards = range(rank, workers, processes)
        training.train(folder, job, shards=shards, of=workers, team=team, writes=rank == 0, device=device)
