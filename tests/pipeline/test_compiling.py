"""Losses that torch compiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import THEN, folder_for, parameters

from pipeline.dag import preflight
from pipeline.errors import InputError
from pipeline.job import load_job
from pipeline.training import sample, train_here

LQG = {"problem": {"name": "lqg", "dim": 6}}
"""It has a profile, which ends at g at the last times of a path."""


@pytest.mark.parametrize("objective", ["path", "residual"])
@pytest.mark.parametrize("changes", [{}, LQG])
def test_a_loss_is_one_graph_of_the_same_value_and_gradient(objective: str, changes: dict[str, Any], job_file: Path) -> None:
    """A branch on data would break it in two, and nothing be compiled across the break."""
    job = load_job(job_file, {"training.objective": objective, **changes})
    surrogate = job.surrogate()
    loss = job.objective(surrogate)
    batch = sample(loss, job, 64, 0.5, 0, 0, 1)
    found = []
    for function in (loss, torch.compile(loss, fullgraph=True, dynamic=False, backend="aot_eager")):
        surrogate.zero_grad()
        value = function(*batch)
        value.sum().backward()
        found.append([value.detach(), *(p.grad.clone() for p in surrogate.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("then", [False, True])
def test_a_machine_that_cannot_compile_is_refused_by_name_before_anything_is_written(
    then: bool, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> Callable[..., Any]:
        raise RuntimeError("No working C++ compiler found in ['c++']\nand more")

    monkeypatch.setattr(torch, "compile", missing)
    key = "training.then.compile" if then else "training.compile"
    job = load_job(job_file, {"training.then": {**THEN, "compile": True}} if then else {key: True})
    named = rf"{key} = true: .*cpu here: No working C\+\+ compiler found in \['c\+\+'\]\. Install .*g\+\+.*leave {key} out"
    with pytest.raises(InputError, match=named):
        preflight(job)
    with pytest.raises(InputError, match=named):
        train_here(folder := folder_for(job, job_file.parent / "run"), job)
    assert not folder.surrogate.exists()


def test_a_job_that_does_not_compile_keeps_its_name(job_file: Path) -> None:
    plain = load_job(job_file)
    assert load_job(job_file, {"training.compile": False}).training_hash == plain.training_hash
    assert load_job(job_file, {"training.compile": True}).training_hash != plain.training_hash
    assert "compile" not in plain.resolved["training"]


@pytest.mark.slow
def test_a_compiled_training_has_its_own_bits_twice_and_ends_where_the_other_does(job_file: Path, tmp_path: Path) -> None:
    ends = []
    for n, compile in enumerate((False, True, True)):
        job = load_job(
            job_file, {"training.optimizer": "adam", "training.then": {**THEN, "optimizer": "adam", "compile": compile}}
        )
        train_here(folder := folder_for(job, tmp_path / str(n) / "run"), job)
        ends.append(parameters(folder))
    plain, first, second = ends
    assert torch.equal(first, second) and not torch.equal(first, plain)
    torch.testing.assert_close(first, plain, rtol=1e-2, atol=1e-3)
