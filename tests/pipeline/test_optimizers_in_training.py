"""Every optimizer in a training: stopped and resumed through its file to the same bits; refused before it starts where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bad_input import refused, write
from test_training import Stopping, folder_for, in_processes, parameters, result
from torch import Tensor

from kernels.contracts import Searching
from kernels.objectives._weighting import Weighting
from pipeline.catalogue import names
from pipeline.errors import InputError
from pipeline.gradients import loss_and_gradient
from pipeline.job import load_job
from pipeline.search import check_search
from pipeline.training import one_thread, train, train_here


def quick(job_file: Path, optimizer: Any, **more: Any) -> Any:
    keys = {"steps": 5, "batch": 32, "checkpoint_every": 1e-9, "objective": "residual", "optimizer": optimizer, **more}
    return load_job(job_file, {f"training.{key}": value for key, value in keys.items()})


@pytest.mark.parametrize("name", names("optimizers"))
def test_a_training_stopped_and_resumed_ends_with_the_undisturbed_bits(
    name: str, job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = quick(job_file, name)
    monkeypatch.setattr("pipeline.training.SAVES_APART", 0.0, raising=False)
    calm, hit = folder_for(job, tmp_path / "calm"), folder_for(job, tmp_path / "hit")
    train_here(calm, job)
    module = job.surrogate()
    optimizer = job.optimizer(list(module.parameters()))
    searches = isinstance(optimizer, Searching) and optimizer.needs == "loss"
    with pytest.raises(InterruptedError), one_thread():
        train(hit, job, shards=range(1), of=1, team=Stopping(16 if searches else 3))
    assert 0 < result(hit).step < 5 and result(hit).optimizer["state"]
    train_here(hit, job)
    assert parameters(hit).equal(parameters(calm))
    np.testing.assert_array_equal(result(hit).losses, result(calm).losses)


@pytest.mark.parametrize("name", ["adam", "soap"])
def test_a_rate_for_all_widths_leaves_the_hash_alone_and_one_for_a_width_trains_by_itself(name: str, job_file: Path) -> None:
    plain, none, at_64 = (
        quick(job_file, {"name": name, "learning_rate": 0.01, **more}) for more in ({}, {"base_width": None}, {"base_width": 64})
    )
    assert plain.training_hash == none.training_hash != at_64.training_hash
    assert "base_width" not in plain.resolved["training"]["optimizer"]
    assert at_64.optimizer(list(at_64.surrogate().parameters())).param_groups[0]["lr"] > 0.01


def test_weights_of_time_follow_the_parameters_of_a_step_and_not_the_trials_of_its_search(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Tensor]] = [[]]
    learned: list[Tensor] = []

    def noted(*given: Any, weighting: Weighting, **more: Any) -> float:
        loss = loss_and_gradient(*given, weighting=weighting, **more)
        seen[-1].append(weighting.seen)
        return loss

    def adapt(weighting: Weighting) -> None:
        learned.append(weighting.seen)
        seen.append([])

    monkeypatch.setattr("pipeline.training.loss_and_gradient", noted)
    monkeypatch.setattr(Weighting, "adapt", adapt)
    job = quick(job_file, "lbfgs", objective={"name": "residual", "weighting": "rba"})
    train_here(folder_for(job, tmp_path / "run"), job)
    assert len(learned) == 5 and all(len(trials) > 1 and not trials[-1].equal(trials[0]) for trials in seen[:5])
    assert all(one.equal(trials[0]) for one, trials in zip(learned, seen[:5], strict=True))


def test_two_processes_search_a_line_to_the_bits_of_one(job_file: Path, tmp_path: Path) -> None:
    job = quick(job_file, "lbfgs", workers=2, batch=64)
    alone, together = folder_for(job, tmp_path / "alone"), folder_for(job, tmp_path / "together")
    train_here(alone, job)
    in_processes(together, 2, "Together")
    assert parameters(together).equal(parameters(alone))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"training": {"optimizer": "spring", "workers": 2, "batch": 64, "steps": 9}},
            ["training.workers = 2", "training.optimizer = 'spring'", "use workers: 1"],
        ),
        (
            {"training.then": {"optimizer": "ssbroyden", "steps": 9}, "surrogate": {"name": "mlp", "width": 128}},
            ["training.then.optimizer: ", "parameters: the dense inverse Hessian", "at most 20000", "or use lbfgs"],
        ),
        (
            {"training": {"optimizer": "spring", "objective": {"name": "residual", "probes": 2}, "steps": 9}},
            ["training.optimizer = 'spring'", "probes = 2: the loss is a product", "another optimizer"],
        ),
        ({"training.optimizer": {"name": "muon", "momentum": 1.5}}, ["training.optimizer: momentum = 1.5", "[0, 1)"]),
        ({"training.optimizer": {"name": "steepest_descent", "norm": "sgn"}}, ["norm = 'sgn'", "Did you mean 'sign'?"]),
    ],
    ids=["spring", "ssbroyden", "probes", "muon", "norm"],
)
def test_an_optimizer_that_cannot_train_the_job_is_refused_before_it_starts(
    changes: dict[str, Any], named: list[str], scasml: Callable[..., Any], job_file: Path
) -> None:
    write(job_file, changes)
    refused(scasml, job_file, named)


def test_an_objective_without_residuals_is_refused_by_name(job_file: Path) -> None:
    job = quick(job_file, "spring")
    surrogate: Any = job.surrogate()
    optimizer = job.optimizer(list(surrogate.parameters()))
    check_search(job, optimizer, job.objective(surrogate), 0)
    with pytest.raises(
        InputError, match=r"training\.optimizer = 'spring'.*objective = 'residual' has none \(.*use another objective"
    ):
        check_search(job, optimizer, object(), 0)
