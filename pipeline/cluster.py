"""A Ray cluster that others start: whether it answers, is whole and is large enough, and which Slurm nodes it is."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import EngineError, InputError, NotedSignals
from pipeline.job import Job
from pipeline.progress import log
from pipeline.schema import PHASES

PROBE_SECONDS = 5.0
LOOK_SECONDS = 0.5

JOIN_SECONDS = 180.0
"""Time a cluster that is being started has for its head, and for its nodes."""

GROUP_SECONDS = 60.0
"""Between two lines in the log while a correction waits for CPUs that others hold."""

SLURM_NODE = "slurm:"
"""With the name of a Slurm node behind it, a resource of the Ray node there (slurm/ray_node.sh)."""

NO_CLUSTER = "Start a cluster there with `ray start --head --port=...`, or unset RAY_ADDRESS to run on this machine"


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


def until_answers(address: str, signals: NotedSignals) -> None:
    """Wait for the head of a cluster that is being started; of others only ask once."""
    starting, deadline = "SCASML_RAY_NODES" in os.environ, time.monotonic() + JOIN_SECONDS
    while True:
        signals.check()
        try:
            return probe(address)
        except InputError as error:
            if not starting:
                raise
            if time.monotonic() > deadline:
                raise EngineError(f"the Ray head has not started within {JOIN_SECONDS:.0f} s: {error}") from error
            time.sleep(LOOK_SECONDS)


def until_joined(ray: Any, signals: NotedSignals) -> None:
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


def check_gpus(job: Job, gpus: float) -> None:
    """InputError where a cluster has no GPU for a job that needs one: for a phase in TF32 or for a correction."""
    if job.model.correction.device == "cuda" and gpus < 1:
        raise InputError("correction.device = 'cuda': the Ray cluster has no GPU: use device: cpu, or a cluster with GPUs")
    for key, phase in zip(PHASES, job.model.training.phases, strict=False):
        if phase.precision == "tf32" and gpus < 1:
            raise InputError(
                f"{key}.precision = 'tf32': the Ray cluster has no GPU. Use precision: float32, or a cluster with GPUs"
            )


def check_capacity(job: Job, nodes: list[float], *, spread: bool) -> int:
    """CPUs to reserve for the correction on a cluster of nodes with these many; InputError for what would wait for ever.

    ``spread`` says that its ranks may be on several nodes: srun starts them anywhere in its allocation, mpiexec on one.
    """
    correction = job.model.correction
    largest = int(max(nodes, default=0.0))
    if largest < 1:
        raise InputError("the Ray cluster has no node with a CPU: start it with --num-cpus, or wait for its workers to join")
    room, where = (int(sum(nodes)), "nodes") if spread else (largest, "largest node")
    if correction.ranks > room and not correction.oversubscribe:
        raise InputError(
            f"correction.ranks = {correction.ranks}: more than the {room} CPUs of the {where} of the Ray cluster. "
            "Lower it, or set correction.oversubscribe: true"
        )
    return min(correction.ranks, room)


@contextmanager
def slurm_hosts(ray: Any, cpus: int, ranks: int, file: Path) -> Iterator[list[str]]:
    """Hold so many CPUs of a Ray cluster over Slurm nodes; the node of each rank, as Slurm calls it.

    What trains meanwhile keeps its own cores.
    """
    group = ray.util.placement_group([{"CPU": 1}] * cpus, strategy="PACK")
    try:
        while not group.wait(GROUP_SECONDS):
            log(file, f"waiting for {cpus} CPUs of the Ray cluster for {ranks} ranks")
        names = {
            node["NodeID"]: key.removeprefix(SLURM_NODE)
            for node in ray.nodes()
            for key in node["Resources"]
            if key.startswith(SLURM_NODE)
        }
        held = ray.util.placement_group_table(group)["bundles_to_node_id"]
        hosts = [names[held[bundle]] for bundle in sorted(held)]
        # More ranks than CPUs share them in turn; ranks of a node are neighbours.
        yield sorted(hosts[rank % cpus] for rank in range(ranks))
    finally:
        ray.util.remove_placement_group(group)
