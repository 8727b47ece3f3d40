"""Training: any number of workers, any history, the same bits; a sibling's surrogate is taken only from a run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_bad_input import write

from kernels.streams import Purpose, Stream
from pipeline import store, training
from pipeline.chunks import MIN_DRAWS, POINTS_PER_BLOCK
from pipeline.errors import EngineError, InputError
from pipeline.estimate import memory_needed
from pipeline.figures import _training
from pipeline.job import Job, RunFolder, job_from, load_job
from pipeline.stages import interruptions
from pipeline.team import Solo
from pipeline.training import one_thread, train, train_here, train_stage, trained_surrogate, training_flop

from conftest import TINY  # isort: skip


THEN: dict[str, Any] = {"objective": "residual", "optimizer": {"name": "soap", "learning_rate": 1e-3}, "steps": 12, "batch": 32}


def folder_for(job: Job, path: Path) -> RunFolder:
    path.mkdir(parents=True)
    folder = RunFolder(path)
    folder.job_file.write_text(yaml.safe_dump(job.resolved))
    return folder


def result(folder: RunFolder) -> store.Checkpoint:
    job = folder.load()
    return store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)


def parameters(folder: RunFolder) -> torch.Tensor:
    return torch.cat([p.flatten() for p in result(folder).parameters.values()])


def test_two_workers_train_the_parameters_of_one(job_file: Path, tmp_path: Path) -> None:
    # Adam: SOAP's eigenbases turn a last-bit difference of the gradient into percents within 100 steps.
    found = []
    for workers in (1, 2):
        drifting = {"training.objective": {"name": "path", "drift": 0.3}, "training.batch": 128}
        job = load_job(job_file, {"training.workers": workers, "training.steps": 100, "training.optimizer": "adam"} | drifting)
        folder = folder_for(job, tmp_path / str(workers))
        train_here(folder, job)
        found.append(parameters(folder))
    assert not found[0].equal(torch.zeros_like(found[0]))
    assert ((found[0] - found[1]).norm() / found[0].norm()).item() < 1e-5


WORKER = """
import sys
from pathlib import Path
import torch
from torch import distributed
from pipeline import team
from pipeline.job import RunFolder
from pipeline.training import one_thread, train
rank, size, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[4]
folder = RunFolder(Path(sys.argv[3]))
job = folder.load()
workers = job.model.training.workers
distributed.init_process_group("gloo", init_method=f"file://{folder.path}/meeting", rank=rank, world_size=size)
crew = getattr(team, kind)(torch.device("cpu"))
with one_thread():
    train(folder, job, shards=range(rank, workers, size), of=workers, team=crew, writes=rank == 0)
distributed.destroy_process_group()
"""


def in_processes(folder: RunFolder, size: int, kind: str) -> None:
    lines = [[sys.executable, "-c", WORKER, str(rank), str(size), str(folder.path), kind] for rank in range(size)]
    workers = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for line in lines]
    for worker in workers:
        _, shown = worker.communicate(timeout=100)
        assert worker.returncode == 0, shown


@pytest.mark.parametrize(("workers", "size", "kind"), [(6, 3, "Together"), (2, 2, "Overlapped")])
def test_workers_in_processes_give_the_bits_and_losses_of_one_process(
    workers: int, size: int, kind: str, job_file: Path, tmp_path: Path
) -> None:
    """Also where each process takes the samples of several: gradients of six added up two by two would have other last bits."""
    batch = 32 * workers
    job = load_job(job_file, {"training.workers": workers, "training.batch": batch, "training.then": {**THEN, "batch": batch}})
    alone, together = folder_for(job, tmp_path / "alone"), folder_for(job, tmp_path / "together")
    train_here(alone, job)
    in_processes(together, size, kind)
    assert parameters(together).equal(parameters(alone))
    np.testing.assert_array_equal(result(together).losses, result(alone).losses)


class Stopping(Solo):
    """A team that is gone after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def add(self, parameters: Any, before: Any, total: float, loss: float) -> float:
        self.left -= 1
        if self.left < 0:
            raise InterruptedError
        return super().add(parameters, before, total, loss)


@pytest.mark.parametrize("at", [40, 41])
def test_two_phases_stopped_before_at_and_after_their_border_end_with_the_undisturbed_bits(
    at: int, job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVES_APART", 0.0)
    job = load_job(job_file, {"training.then": THEN, "training.checkpoint_every": 1e-9})
    calm, hit = folder_for(job, tmp_path / "calm"), folder_for(job, tmp_path / "hit")
    train_here(calm, job)
    with pytest.raises(InterruptedError), one_thread():
        train(hit, job, shards=range(1), of=1, team=Stopping(at))
    assert result(hit).step == at < result(hit).steps == 52
    train_here(hit, job)
    assert parameters(hit).equal(parameters(calm))
    np.testing.assert_array_equal(result(hit).losses, result(calm).losses)


def test_the_second_phase_begins_where_the_first_ends_with_its_own_loss(job_file: Path, tmp_path: Path) -> None:
    one, two = load_job(job_file), load_job(job_file, {"training.then": THEN})
    first, both = folder_for(one, tmp_path / "one"), folder_for(two, tmp_path / "two")
    train_here(first, one)
    train_here(both, two)
    losses = result(both).losses
    assert losses[:40].tolist() == result(first).losses.tolist()
    surrogate = trained_surrogate(first, one)
    assert two.training_hash != one.training_hash
    assert isinstance(surrogate, torch.nn.Module)
    mine = list(surrogate.requires_grad_().parameters())
    objective, optimizer = two.objective(surrogate, 1), two.optimizer(mine, 1)
    for step in range(12):
        optimizer.param_groups[0]["lr"] = THEN["optimizer"]["learning_rate"] * training.schedule(step, 12)
        optimizer.zero_grad()
        loss = objective(*objective.sample(32, Stream(0, Purpose.TRAINING, 40 + step, 0)))
        loss.backward()
        optimizer.step()
        assert losses[40 + step] == loss.item()
    ended = result(both).parameters
    assert all(ended[name].equal(value) for name, value in surrogate.state_dict().items())
    more = training_flop(two, surrogate) - training_flop(one, surrogate)
    assert more == pytest.approx(12 * objective.flop(32))


def test_workers_go_on_from_the_step_that_the_writer_sees(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = load_job(job_file)
    folder = folder_for(job, tmp_path / "run")
    train_here(folder, job)
    seen = store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)
    stale = [store.Checkpoint(7, seen.steps, seen.parameters, {}, seen.losses[:7], 0.0, 0.0, "cpu")] * 2
    monkeypatch.setattr(store, "load_checkpoint", lambda *a, **k: stale.pop() if stale else seen)

    class Agreed(Solo):
        def agree(self, step: int) -> int:
            return seen.step

    assert training._agreed_checkpoint(folder, job, Agreed()) is seen and not stale
    monkeypatch.setattr(training, "SETTLE_SECONDS", -1.0)
    stale += [store.Checkpoint(7, seen.steps, seen.parameters, {}, seen.losses[:7], 0.0, 0.0, "cpu")]
    with pytest.raises(EngineError, match=r"stands at step 7 here and at step 40.*share"):
        training._agreed_checkpoint(folder, job, Agreed())


def test_a_loss_that_is_not_finite_is_the_same_for_every_worker_and_refused(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVES_APART", 0.0)
    job = load_job(job_file)

    class Broken(Solo):
        def add(self, parameters: Any, before: Any, total: float, loss: float) -> float:
            return float("nan")

    with pytest.raises(InputError, match=r"loss is nan at step 1: lower training\.optimizer\.learning_rate"):
        train(folder_for(job, tmp_path / "run"), job, shards=range(1), of=1, team=Broken())
    two = load_job(job_file, {"training.then": THEN, "training.checkpoint_every": 1e-9})
    folder = folder_for(two, tmp_path / "two")
    with pytest.raises(InterruptedError):
        train(folder, two, shards=range(1), of=1, team=Stopping(40))
    with pytest.raises(InputError, match=r"loss is nan at step 41: lower training\.then\.optimizer\.learning_rate"):
        train(folder, two, shards=range(1), of=1, team=Broken())


def test_a_surrogate_is_taken_from_a_sibling_run_and_nowhere_else(job_file: Path, tmp_path: Path) -> None:
    job = load_job(job_file)
    first, second, third = (folder_for(job, tmp_path / "runs" / name) for name in ("a", "b", "c"))
    train_stage(first, job)
    train_stage(second, job)
    assert "surrogate taken from 'a'" in second.log.read_text() and interruptions(second) == 0
    for run in (first, second):
        run.job_file.unlink()
    train_stage(third, job)
    assert "surrogate taken" not in third.log.read_text() and "train ended" in third.log.read_text()
    assert parameters(third).equal(
        torch.cat(
            [
                p.flatten()
                for p in store.load_checkpoint(first.surrogate, training_hash=job.training_hash, job=TINY).parameters.values()
            ]
        )
    )


def test_a_sibling_that_cannot_be_read_is_passed_over(job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = load_job(job_file)
    damaged, closed, mine = (folder_for(job, tmp_path / "runs" / name) for name in ("a", "b", "c"))
    damaged.surrogate.write_bytes(b"noise")
    closed.surrogate.write_bytes(b"")
    (tmp_path / "runs" / "d").mkdir()
    (tmp_path / "runs" / "d" / "surrogate.h5").mkdir()
    read = Path.read_text

    def guarded(path: Path, *arguments: Any, **options: Any) -> str:
        if path == closed.job_file:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", guarded)
    train_stage(mine, job)
    assert result(mine).step == 40


def test_core_seconds_count_every_process_of_a_team(tmp_path: Path) -> None:
    job = job_from(TINY, Path())
    folder = RunFolder(tmp_path)
    train(folder, job, shards=range(1), of=2, team=Solo())
    seen = store.load_checkpoint(folder.surrogate, training_hash=job.training_hash, job=job.resolved)
    assert seen.core_seconds == pytest.approx(2.0 * seen.seconds) and seen.device == "cpu"


def test_the_memory_needed_is_that_of_the_larger_phase() -> None:
    def needed(*batches: int) -> float:
        first, *rest = ({"objective": "residual", "batch": batch, "steps": 1} for batch in batches)
        job = job_from({**TINY, "training": {**first, **({"then": rest[0]} if rest else {})}}, Path())
        surrogate = job.surrogate()
        assert isinstance(surrogate, torch.nn.Module)
        return training.working_memory(job, surrogate)

    assert needed(64, 640) == needed(640, 64) == needed(640) > needed(64)


def test_the_memory_needed_holds_the_rows_of_a_printed_bias() -> None:
    data = {**TINY, "correction": {**TINY["correction"], "estimator": {"name": "picard", "levels": 2, "samples": 16}}}
    job = job_from(data, Path())
    rows = POINTS_PER_BLOCK * job.estimator().rows("truncation", MIN_DRAWS)
    assert rows == POINTS_PER_BLOCK * MIN_DRAWS * 16**2
    assert memory_needed(job) > 4.0 * rows * job.problem.dim * 16.0


def test_two_phases_are_shown_apart(job_file: Path, scasml: Callable[..., Any]) -> None:
    """Their losses are not comparable: no mean and no sketch over both."""
    write(job_file, {"training.steps": 60, "training.then": {"objective": "residual", "steps": 60, "batch": 32}})
    run = job_file.parent / "run"
    assert scasml("train", job_file, "--out", run).status == 0
    shown = scasml("inspect", run / "surrogate.h5").out
    assert "step 120 of 120" in shown and len(re.findall(r"^loss \S+ -> \S+", shown, flags=re.M)) == 2
    losses = np.repeat([1.0, 1e-4], 60)
    report: Any = SimpleNamespace(losses=losses, job={"training": {"steps": 60, "then": {}}})
    lines = _training(report).axes[0].get_lines()[1:]
    assert [set(np.round(line.get_ydata(), 12)) for line in lines] == [{1.0}, {1e-4}]
