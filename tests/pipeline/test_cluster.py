"""What a run waits for on a cluster that is being started, and which Slurm nodes its ranks get."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import cluster, dag
from pipeline.errors import EngineError, InputError, Interrupted, NotedSignals
from pipeline.job import RunFolder, job_from

from conftest import TINY  # isort: skip


class Ray:
    """What these functions need of Ray: nodes that join one after another, and groups of CPUs filled in order."""

    def __init__(self, *, names: list[str], cpus: int = 2) -> None:
        self.names, self.cpus, self.looks, self.removed = names, cpus, 0, False
        self.util = SimpleNamespace(
            placement_group=self._group,
            placement_group_table=lambda group: {"bundles_to_node_id": {b: f"id{b // cpus}" for b in range(group.size)}},
            remove_placement_group=lambda group: setattr(self, "removed", True),
        )

    def nodes(self) -> list[dict[str, Any]]:
        self.looks += 1
        found = [{"NodeID": f"id{n}", "Alive": True, "Resources": {f"slurm:{name}": 1.0}} for n, name in enumerate(self.names)]
        return found[: self.looks]

    def _group(self, bundles: list[dict[str, int]], strategy: str) -> Any:
        self.looks = len(self.names)
        return SimpleNamespace(size=len(bundles), wait=lambda seconds: True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(cluster, "JOIN_SECONDS", 0.3)


def test_a_run_waits_until_the_nodes_it_was_told_of_have_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCASML_RAY_NODES", "3")
    ray = Ray(names=["a", "b", "c"])
    cluster.until_joined(ray, NotedSignals())
    assert ray.looks == 3
    with pytest.raises(EngineError, match="2 of the 3 nodes"):
        cluster.until_joined(Ray(names=["a", "b"]), NotedSignals())
    monkeypatch.setenv("SCASML_RAY_NODES", "many")
    with pytest.raises(InputError, match="SCASML_RAY_NODES = 'many'"):
        cluster.until_joined(ray, NotedSignals())


def test_a_head_that_is_being_started_is_waited_for_and_another_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def probe(address: str) -> None:
        tries.append(address)
        if len(tries) < 3:
            raise InputError("nothing there yet")

    monkeypatch.setattr(cluster, "probe", probe)
    monkeypatch.delenv("SCASML_RAY_NODES", raising=False)
    with pytest.raises(InputError, match="nothing there yet"):
        cluster.until_answers("a:1", NotedSignals())
    monkeypatch.setenv("SCASML_RAY_NODES", "1")
    cluster.until_answers("a:1", NotedSignals())
    assert len(tries) == 3
    monkeypatch.setattr(cluster, "probe", lambda address: (_ for _ in ()).throw(InputError("nothing there")))
    with pytest.raises(EngineError, match="has not started within"):
        cluster.until_answers("a:1", NotedSignals())


def test_tf32_needs_a_gpu_which_several_workers_may_share() -> None:
    job = job_from({**TINY, "training": {"precision": "tf32", "batch": 64, "workers": 2}}, Path())
    with pytest.raises(InputError, match=r"training\.precision = 'tf32': the Ray cluster has no GPU"):
        cluster.check_gpus(job, 0.0)
    cluster.check_gpus(job, 1.0)


def test_waiting_ends_with_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCASML_RAY_NODES", "2")
    monkeypatch.setattr(cluster, "probe", lambda address: (_ for _ in ()).throw(InputError("nothing there")))
    for wait in (lambda s: cluster.until_answers("a:1", s), lambda s: cluster.until_joined(Ray(names=["a"]), s)):
        with NotedSignals() as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            with pytest.raises(Interrupted, match="SIGUSR1"):
                wait(signals)


@pytest.mark.parametrize(
    ("cpus", "ranks", "hosts"), [(3, 3, ["a", "a", "b"]), (4, 4, ["a", "a", "b", "b"]), (2, 3, ["a", "a", "a"])]
)
def test_ranks_are_where_their_cpus_are_held(cpus: int, ranks: int, hosts: list[str], tmp_path: Path) -> None:
    ray = Ray(names=["a", "b"])
    with cluster.slurm_hosts(ray, cpus, ranks, tmp_path / "log.txt") as found:
        assert found == hosts and not ray.removed
    assert ray.removed


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([{"CPU": 4.0}], [(4, False)]),
        # A node is still counted when it has gone, or its places are others': Ray gives up after a minute.
        ([{"CPU": 4.0}, {"CPU": 3.0}], [(4, False), (2, False)]),
        ([{"CPU": 8.0, "GPU": 1.0}], [(1, True)]),
    ],
)
def test_places_are_counted_again_whenever_a_training_waits_for_them_in_vain(
    there: list[dict[str, float]], expected: list[tuple[int, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    import ray.train.torch
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    asked, left = [], iter(there)

    class Trainer:
        def __init__(self, *given: Any, scaling_config: Any, **more: Any) -> None:
            asked.append((scaling_config.num_workers, scaling_config.use_gpu))

        def fit(self) -> None:
            if len(asked) < len(there):
                raise ControllerError(WorkerGroupStartupTimeoutError(asked[-1][0]))

    monkeypatch.setattr(ray, "cluster_resources", lambda: next(left))
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    job = job_from({**TINY, "training": {"batch": 128, "workers": 4}}, Path())
    folder = RunFolder(tmp_path)
    dag.train_on_ray(folder, job)
    assert asked == expected
    assert ("are taken in turn" in folder.log.read_text()) if expected[-1][0] < 4 else not folder.log.exists()
