"""Options of training: averages, parts of a batch, precision, the cost of saving, other numbers of workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_training import THEN, Stopping, folder_for, in_processes, parameters, result

from pipeline import precision, store, training
from pipeline.dag import preflight
from pipeline.errors import InputError
from pipeline.gradients import loss_and_gradient
from pipeline.job import Job, RunFolder, job_from, load_job
from pipeline.team import Solo
from pipeline.training import one_thread, train, train_here

from conftest import TINY  # isort: skip

ADAM = {"training.optimizer": "adam"}
LEARNING: dict[str, Any] = {"name": "residual", "probes": 2, "weighting": "rba", "rate": 0.3, "bins": 4, "curriculum": 0.5}
"""An objective with a memory of its own, random directions, and times that depend on the step."""


class Recording(Solo):
    """A team that notes the parameters before every step."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def add(self, parameters: Sequence[torch.nn.Parameter], before: Any, total: float, loss: float) -> float:
        self.seen.append(torch.cat([p.detach().flatten().double() for p in parameters]))
        return super().add(parameters, before, total, loss)


def trained(folder: RunFolder, job: Job, team: Solo | None = None) -> RunFolder:
    workers = max(1, job.model.training.workers)
    with one_thread():
        train(folder, job, shards=range(workers), of=workers, team=team or Solo())
    return folder


def of_network(folder: RunFolder) -> torch.Tensor:
    """The parameters alone: a surrogate's scales are not averaged."""
    surrogate = training.trained_surrogate(folder, folder.load())
    return torch.cat([p.flatten() for p in surrogate.parameters()])


def test_a_phase_ends_with_the_weighted_mean_of_its_parameters_and_the_next_begins_there(job_file: Path, tmp_path: Path) -> None:
    """Against the sum written out; the last parameters themselves are 0.05 % or more off it."""
    decay = 0.8
    alone = trained(folder_for(plain := load_job(job_file), tmp_path / "plain"), plain)
    job = load_job(job_file, {"training.average": decay, "training.then": THEN})
    watched = Recording()
    both = trained(folder_for(job, tmp_path / "both"), job, watched)
    path = [*watched.seen[1:40], last := of_network(alone).double()]
    weights = [(1.0 - decay) * decay ** (40 - k) / (1.0 - decay**40) for k in range(1, 41)]
    mean = sum(w * p for w, p in zip(weights, path, strict=True))
    assert sum(weights) == pytest.approx(1.0)
    assert (watched.seen[40] - mean).norm() < 1e-6 * mean.norm()
    assert (last - mean).norm() > 5e-4 * mean.norm()
    assert result(both).step == 52


@pytest.mark.parametrize("at", [39, 40, 51])
def test_a_stopped_average_and_what_an_objective_has_learned_go_on_to_the_undisturbed_bits(
    at: int, job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVES_APART", 0.0)
    causal = {"name": "path", "weighting": "causal", "tolerance": 30.0, "curriculum": 0.9}
    then = {**THEN, "objective": LEARNING, "average": 0.5}
    averaged = {"training.average": 0.9, "training.objective": causal, "training.then": then}
    job, saving = load_job(job_file, averaged), load_job(job_file, averaged | {"training.checkpoint_every": 1e-9})
    calm = trained(folder_for(job, tmp_path / "calm"), job)
    hit = folder_for(job, tmp_path / "hit")
    with pytest.raises(InterruptedError):
        trained(hit, saving, Stopping(at))
    assert bool(result(hit).average) is bool(result(hit).objective) is (at != 40)
    trained(hit, job)
    assert parameters(hit).equal(parameters(calm))


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_an_average_that_forgets_all_or_nothing_is_refused(decay: float, job_file: Path) -> None:
    with pytest.raises(InputError, match=r"training.average = .*between 0 and 1, or null.*average: 0.99"):
        load_job(job_file, {"training.average": decay})


class Squares(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.slope * x).square().mean()


@pytest.mark.parametrize(("of", "parts"), [(1, 1), (1, 6), (2, 3), (3, 2)])
def test_shards_and_parts_give_the_loss_and_gradient_of_the_whole_batch(of: int, parts: int) -> None:
    module, x = Squares(), torch.linspace(-1.0, 3.0, 12, dtype=torch.float64)
    module.slope.grad = torch.tensor(100.0, dtype=torch.float64)

    def draw(n: int, count: int) -> list[torch.Tensor]:
        return [x[n * 12 // count : (n + 1) * 12 // count]]

    loss = loss_and_gradient(module, [module.slope], draw, shards=range(of), of=of, parts=parts, team=Solo())
    mean = x.square().mean().item()
    assert loss == pytest.approx(4.0 * mean, rel=1e-14)
    assert module.slope.grad.item() == pytest.approx(4.0 * mean, rel=1e-14)


def test_a_batch_taken_in_parts_trains_the_parameters_of_one_piece(job_file: Path, tmp_path: Path) -> None:
    found = []
    for parts in (1, 4):
        job = load_job(job_file, {"training.accumulate": parts, "training.batch": 128, **ADAM})
        found.append(parameters(trained(folder_for(job, tmp_path / str(parts)), job)))
    assert (found[0] - found[1]).norm() < 1e-5 * found[0].norm()


@pytest.mark.parametrize(("workers", "kind"), [(4, "Together"), (2, "Overlapped")])
def test_parts_of_workers_in_processes_and_weights_they_learn_give_the_bits_of_one_process(
    workers: int, kind: str, job_file: Path, tmp_path: Path
) -> None:
    split = {"training.workers": workers, "training.accumulate": 2, "training.batch": 64 * workers, "training.steps": 20}
    job = load_job(job_file, split | {"training.objective": LEARNING})
    alone, together = folder_for(job, tmp_path / "alone"), folder_for(job, tmp_path / "together")
    train_here(alone, job)
    in_processes(together, 2, kind)
    assert parameters(together).equal(parameters(alone))
    np.testing.assert_array_equal(result(together).losses, result(alone).losses)


def test_two_processes_take_the_samples_of_four_workers_by_the_ring_too(job_file: Path, tmp_path: Path) -> None:
    """Equal to rounding, which grows over the steps: the ring adds two by two. A shard left out would be off by far more."""
    split = {"training.workers": 4, "training.accumulate": 2, "training.batch": 256, "training.steps": 10, **ADAM}
    job = load_job(job_file, split | {"training.objective": LEARNING})
    alone, together = folder_for(job, tmp_path / "alone"), folder_for(job, tmp_path / "together")
    train_here(alone, job)
    in_processes(together, 2, "Overlapped")
    assert (parameters(together) - parameters(alone)).norm() < 1e-5 * parameters(alone).norm()
    np.testing.assert_allclose(result(together).losses, result(alone).losses, rtol=1e-4)


def test_a_batch_that_does_not_divide_into_its_parts_is_refused_with_one_that_does(job_file: Path) -> None:
    with pytest.raises(InputError, match=r"training.batch = 128: .* 32 x workers x accumulate = 192,.*example batch: 192"):
        load_job(job_file, {"training.batch": 128, "training.workers": 2, "training.accumulate": 3})
    with pytest.raises(InputError, match=r"training.then.batch = 32: .* = 64,.*example batch: 64"):
        load_job(job_file, {"training.then": {**THEN, "accumulate": 2}})


@pytest.mark.parametrize("objective", ["path", "residual"])
@pytest.mark.parametrize("surrogate", [{"name": "mlp"}, {"name": "separable_network"}, {"name": "separable_network", "rank": 16}])
def test_the_memory_of_a_step_is_at_least_what_autograd_keeps_and_not_far_above(
    surrogate: dict[str, Any], objective: str
) -> None:
    """Measured 1.1 to 3.8 times; three orders more of every coordinate would be 4 to 8, matrices of two axes alone a thirtieth."""
    training_ = {"objective": objective, "batch": 32}
    job = job_from({"name": "x", "problem": {"name": "lqg", "dim": 100}, "surrogate": surrogate, "training": training_}, Path())
    network = job.surrogate()
    assert isinstance(network, torch.nn.Module)
    loss, kept = job.objective(network), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(*training.sample(loss, job, 32, 0.5, 0, 0, 1))
    assert 1.0 <= training.working_memory(job, network) / sum(size for size, _ in kept.values()) <= 4.0


def test_parts_need_the_memory_of_one_part_and_an_average_that_of_the_parameters() -> None:
    def needed(**options: Any) -> float:
        job = job_from({**TINY, "training": {"objective": "residual", "steps": 1, **options}}, Path())
        surrogate = job.surrogate()
        assert isinstance(surrogate, torch.nn.Module)
        return training.working_memory(job, surrogate)

    assert needed(batch=640, accumulate=5) == needed(batch=128) < needed(batch=640)
    parameters = 16 * (6 + 2) + 16 + 16 * 16 + 16 + 16 + 1
    assert needed(batch=64, average=0.9) == needed(batch=64) + 4.0 * parameters
    assert needed(batch=64, optimizer="ssbroyden") == needed(batch=64) + 32.0 * parameters**2
    assert needed(batch=64, optimizer="spring") == needed(batch=64) + 8.0 * 64 * parameters + 16.0 * 64**2


@pytest.mark.parametrize("then", [False, True])
def test_tf32_is_refused_where_there_is_no_such_device_and_nothing_is_written(
    then: bool, job_file: Path, scasml: Callable[..., Any]
) -> None:
    where = "training.then" if then else "training"
    key = f"{where}.precision"
    job = load_job(job_file, {"training.then": {**THEN, "precision": "tf32"}} if then else {key: "tf32"})
    named = rf"{key} = 'tf32': .*cpu.*precision: float32.*Ray with a GPU"
    with pytest.raises(InputError, match=named):
        preflight(job)
    with pytest.raises(InputError, match=named):
        trained(folder := folder_for(job, job_file.parent / "run"), job)
    assert not folder.surrogate.exists()


def test_tf32_holds_for_the_bulk_of_a_phase_and_is_put_back() -> None:
    backend = torch.backends.cuda.matmul
    before, seen = backend.fp32_precision, []
    for step in range(10):
        with precision.matrix_products("tf32", step, 10):
            seen.append(backend.fp32_precision)
        assert backend.fp32_precision == before
    assert seen == ["tf32"] * 8 + [before] * 2
    with precision.matrix_products("float32", 0, 10):
        assert backend.fp32_precision == before
    with pytest.raises(KeyError), precision.matrix_products("tf32", 0, 10):
        raise KeyError
    assert backend.fp32_precision == before


def test_saving_takes_less_than_a_fiftieth_of_the_time(job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a step takes a second and a checkpoint a quarter: 12.5 s pass between two, and the last step saves."""
    now, steps = 0.0, []

    class Slow(Solo):
        def add(self, parameters: Any, before: Any, total: float, loss: float) -> float:
            nonlocal now
            now += 1.0
            return super().add(parameters, before, total, loss)

    def save(path: Path, reached: store.Checkpoint, **named: Any) -> None:
        nonlocal now
        now += 0.25
        steps.append(reached.step)

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(store, "save_checkpoint", save)
    job = load_job(job_file, {"training.checkpoint_every": 0.5})
    trained(folder_for(job, tmp_path / "run"), job, Slow())
    assert steps == [1, 14, 27, 40]
    rare = load_job(job_file, {"training.checkpoint_every": 15.0})
    steps.clear()
    trained(folder_for(rare, tmp_path / "rare"), rare, Slow())
    assert steps == [16, 32, 40]


@pytest.mark.parametrize(("workers", "accumulate", "exact"), [(1, 1, False), (4, 1, False), (1, 2, True), (2, 1, True)])
def test_a_training_stopped_under_two_workers_goes_on_under_any_number(
    workers: int, accumulate: int, exact: bool, job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same samples; bit for bit where a gradient is the same sum of parts. Adam: SOAP's eigenbases amplify last bits.
    Another stream of samples, as one keyed by workers would be, is off by 1e-3 and more."""
    monkeypatch.setattr(training, "SAVES_APART", 0.0)
    two = {"training.workers": 2, "training.batch": 128, **ADAM}
    job, saving = load_job(job_file, two), load_job(job_file, two | {"training.checkpoint_every": 1e-9})
    calm = trained(folder_for(job, tmp_path / "calm"), job)
    hit = folder_for(job, tmp_path / "hit")
    with pytest.raises(InterruptedError):
        trained(hit, saving, Stopping(20))
    other = load_job(job_file, {**two, "training.workers": workers, "training.accumulate": accumulate})
    assert other.training_hash == job.training_hash
    trained(hit, other)
    assert result(hit).step == 40
    apart = (parameters(hit) - parameters(calm)).norm() / parameters(calm).norm()
    assert apart == 0.0 if exact else apart < 1e-5
