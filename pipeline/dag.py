"""train -> checkpoint -> fan-out -> report: the only door to Ray, and the same graph inline."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from torch import nn

from pipeline import training
from pipeline.correction import check_paths
from pipeline.errors import EngineError, InputError, Interrupted, NotedSignals
from pipeline.estimate import dearest_method, memory_needed
from pipeline.files import release
from pipeline.fold import fold
from pipeline.folders import RAY_STORAGE, prepare
from pipeline.job import Job, RunFolder
from pipeline.launch import correct_stage
from pipeline.points import count
from pipeline.progress import followed, log
from pipeline.report import Report
from pipeline.report_files import save
from pipeline.resources import check_resources, check_writable
from pipeline.stages import begun, interruptions, stage
from pipeline.team import Overlapped, Together
from pipeline.training import one_thread, train_here, train_stage
from pipeline.user_file import check_derivatives, check_user_file

OBJECT_STORE_BYTES = 100_000_000
PROBE_SECONDS = 5.0
LOOK_SECONDS = 0.5
GET_SECONDS = 60.0
CANCEL_SECONDS = 5.0
JOIN_SECONDS = 180.0
"""Time a cluster that is being started has for its nodes."""
MAX_FAILURES = 3
"""How often a training whose workers fail is taken up again."""

NO_CLUSTER = "Start a cluster there with `ray start --head --port=...`, or unset RAY_ADDRESS to run on this machine"


def preflight(job: Job, *, on_ray: bool = False, here: bool = True) -> None:
    """Refuse before anything runs or is written what would fail later; ``here`` says that this machine is to run it."""
    check_user_file(job)
    surrogate = job.surrogate()
    phases = range(len(job.model.training.phases))
    objectives = [job.objective(surrogate, n) for n in phases]
    if isinstance(surrogate, nn.Module) and job.learns == "steps":
        for n in phases:
            job.optimizer(surrogate.parameters(), n)
    points = count(job)
    if here:
        check_resources(job, memory_needed(job, on_ray=on_ray), on_ray=on_ray)
    check_derivatives(job, surrogate, objectives)
    check_paths(job, dearest_method(job, surrogate, points))


def report_stage(folder: RunFolder, job: Job) -> Report:
    """Fold what is there and write the report."""
    began, resumed = time.monotonic(), interruptions(folder)
    with stage(folder, "report"), one_thread():
        report = fold(folder, job, resumed=resumed)
        report.seconds["report"] = time.monotonic() - began
        save(report, folder)
    return report


def run_inline(job: Job, folder: RunFolder) -> Report:
    """The graph of one job in this process (and its MPI ranks)."""
    log(folder.log, "run opened")
    train_stage(folder, job)
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
            _until_answers(address)
            options |= {"address": address}
        else:
            token = Path(private) / "token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
            options |= {
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
            _until_joined(ray, signals)
            yield ray
        finally:
            ray.shutdown()


def probe(address: str) -> None:
    """InputError unless a Ray head answers at HOST:PORT; Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d+)", address)
    if found is None:
        return
    try:
        with socket.create_connection((found[1], int(found[2])), timeout=PROBE_SECONDS) as connection:
            connection.settimeout(PROBE_SECONDS)
            # A gRPC server speaks first: a SETTINGS frame of HTTP/2, whose fourth byte is its type. With TLS it waits.
            if os.environ.get("RAY_USE_TLS", "0") == "0" and connection.recv(9)[3:4] != b"\x04":
                raise OSError("what listens there is no Ray head")
    except (OSError, OverflowError) as error:
        raise InputError(f"RAY_ADDRESS = '{address}': {error or type(error).__name__}. {NO_CLUSTER}") from error


def expected_nodes() -> int:
    """Nodes that SCASML_RAY_NODES says a cluster will have; 1 where it says nothing."""
    text = os.environ.get("SCASML_RAY_NODES", "1")
    if not text.isdigit():
        raise InputError(f"SCASML_RAY_NODES = '{text}': how many nodes of a Ray cluster to wait for is a whole number")
    return int(text)


def _until_answers(address: str) -> None:
    """Wait for the head of a cluster that is being started; of others only ask once."""
    deadline = time.monotonic() + (JOIN_SECONDS if "SCASML_RAY_NODES" in os.environ else 0.0)
    while True:
        try:
            return probe(address)
        except InputError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_SECONDS)


def _until_joined(ray: Any, signals: NotedSignals) -> None:
    """Wait for the nodes that a cluster is to have; EngineError where they do not come."""
    wanted, deadline = expected_nodes(), time.monotonic() + JOIN_SECONDS
    while (there := sum(node["Alive"] for node in ray.nodes())) < wanted:
        signals.check()
        if time.monotonic() > deadline:
            raise EngineError(
                f"{there} of the {wanted} nodes of SCASML_RAY_NODES have joined the Ray cluster within {JOIN_SECONDS:.0f} s: "
                "the steps of its other nodes say why"
            )
        time.sleep(LOOK_SECONDS)


def check_capacity(job: Job, nodes: list[float]) -> int:
    """CPUs to reserve for the correction on a cluster of nodes with these many; InputError for what would wait for ever."""
    workers, correction = job.model.training.workers, job.model.correction
    if workers > sum(nodes):
        raise InputError(
            f"training.workers = {workers}: more than the {sum(nodes):.0f} CPUs of the Ray cluster: lower it, or add nodes"
        )
    largest = int(max(nodes, default=0.0))
    if largest < 1:
        raise InputError("the Ray cluster has no node with a CPU: start it with --num-cpus, or wait for its workers to join")
    # srun spreads ranks over its own allocation; mpiexec starts all of them on the node of the task.
    room, where = (int(sum(nodes)), "nodes") if os.environ.get("SLURM_JOB_ID") else (largest, "largest node")
    if correction.ranks > room and not correction.oversubscribe:
        raise InputError(
            f"correction.ranks = {correction.ranks}: more than the {room} CPUs of the {where} of the Ray cluster. "
            "Lower it, or set correction.oversubscribe: true"
        )
    return min(correction.ranks, room)


@contextmanager
def _slurm_hosts(ray: Any, cpus: int, ranks: int) -> Iterator[list[str]]:
    """Hold so many CPUs of a Ray cluster over Slurm nodes; the node of each rank, as Slurm calls it.

    What trains meanwhile keeps its own cores. Nodes carry their names as a resource ``slurm:NAME`` (slurm/common.sh).
    """
    group = ray.util.placement_group([{"CPU": 1}] * cpus, strategy="PACK")
    try:
        ray.get(group.ready())
        names = {
            node["NodeID"]: key.removeprefix("slurm:")
            for node in ray.nodes()
            for key in node["Resources"]
            if key.startswith("slurm:")
        }
        held = ray.util.placement_group_table(group)["bundles_to_node_id"]
        hosts = [names[held[bundle]] for bundle in sorted(held)]
        # More ranks than CPUs share them in turn; ranks of a node are neighbours.
        yield sorted(hosts[rank % cpus] for rank in range(ranks))
    finally:
        ray.util.remove_placement_group(group)


def run_graph(work: list[tuple[Job, RunFolder]], begin: Callable[[], object]) -> None:
    """Every job's stages as Ray tasks: equal trainings once, as many different ones in flight as there are CPUs.

    Each of more would hold a process that waits for cores. ``begin`` writes the jobs into their folders; it is called once the cluster is known to be large enough.
    """
    with NotedSignals() as signals, _ray(signals) as ray:

        def train(folder: RunFolder) -> str:
            job = folder.load()
            train_stage(folder, job, train_on_ray if job.model.training.workers > 1 and job.learns == "steps" else train_here)
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
            with _slurm_hosts(ray, cpus, job.model.correction.ranks) as hosts:
                correct_stage(folder, job, hosts)
            return "corrected"

        def report(folder: RunFolder, corrected: str) -> None:
            report_stage(folder, folder.load())

        remote = {f.__name__: ray.remote(max_retries=0)(f) for f in (train, train_after, correct, correct_on_slurm, report)}
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [resources.get("CPU", 0.0) for resources in alive]
        named = all(any(key.startswith("slurm:") for key in resources) for resources in alive)
        reserved = [check_capacity(job, nodes) for job, _ in work]
        begin()
        tasks: list[Any] = []

        def submit(alike: list[tuple[Job, RunFolder, int]]) -> list[Any]:
            """The ends of jobs with one training."""
            first, ends = None, []
            for job, folder, ranks in alike:
                log(folder.log, "run opened")
                # Workers of Ray Train reserve their own cores; the task that waits for them holds none.
                own = remote["train"].options(num_cpus=0 if job.model.training.workers > 1 else 1)
                trained = own.remote(folder) if first is None else remote["train_after"].remote(first, folder)
                first = first or trained
                if named and job.model.correction.ranks > 1:
                    corrected = remote["correct_on_slurm"].options(num_cpus=0).remote(folder, trained, ranks)
                else:
                    corrected = remote["correct"].options(num_cpus=ranks).remote(folder, trained)
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
    """Train on Ray Train workers; where one is killed, all go on from the last checkpoint."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    workers = job.model.training.workers
    storage = folder.path / RAY_STORAGE
    for attempt in range(MAX_FAILURES + 1):
        trainer = TorchTrainer(
            _ray_worker,
            train_loop_config={"folder": str(folder.path)},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=ray.cluster_resources().get("GPU", 0) >= workers),
            # Attempts are counted here: what a worker refuses is not to be tried again.
            run_config=RunConfig(
                name=f"attempt-{attempt}", storage_path=str(storage), failure_config=FailureConfig(max_failures=0)
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            causes = list(getattr(error, "worker_failures", {}).values())
            for cause in causes:
                if isinstance(cause, InputError):
                    raise cause from error
            failure = " ".join(str(causes[0] if causes else error).split())
        else:
            shutil.rmtree(storage, ignore_errors=True)
            return
        log(folder.log, f"a training worker failed ({failure[:200]})")
        if attempt < MAX_FAILURES:
            begun(folder, "train")
    raise EngineError(
        f"training failed on Ray {MAX_FAILURES + 1} times, last with: {failure}. Its last checkpoint is kept: run again to resume"
    )


def _ray_worker(config: dict[str, str]) -> None:
    """One data-parallel worker of Ray Train; it finds the last checkpoint by itself."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    folder, device = RunFolder(Path(config["folder"])), ray.train.torch.get_device()
    team = Together(device) if device.type == "cpu" else Overlapped(device)
    with one_thread():
        training.train(folder, folder.load(), shards=range(rank, rank + 1), of=world, team=team, writes=rank == 0, device=device)
