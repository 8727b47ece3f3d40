"""Losses that torch compiles. It does not trace the checks of shapes: what compiles runs without them, `pytest -o addopts=`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import THEN, Stopping, folder_for, parameters

from kernels import forward_laplacian
from pipeline import training
from pipeline.errors import InputError
from pipeline.job import load_job
from pipeline.training import sample, train, train_here

LQG = {"problem": {"name": "lqg", "dim": 6}}
"""It has a profile, which ends at g at the last times of a path."""


def compare(job: Any, *, whole: bool) -> None:
    """Value, gradient and losses of bins, as one graph where ``whole``."""
    torch.compiler.reset()
    surrogate = job.surrogate()
    loss = job.objective(surrogate)
    batch = sample(loss, job, 64, 0.5, 0, 0, 1)
    found = []
    for function in (loss, torch.compile(loss, fullgraph=whole, dynamic=False, backend="aot_eager")):
        surrogate.zero_grad()
        value = function(*batch)
        value.sum().backward()
        found.append([value.detach(), *(p.grad.clone() for p in surrogate.parameters())])
        if weighting := getattr(loss, "weighting", None):
            found[-1].append(weighting.seen.clone())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "changes", "whole"),
    [
        ("path", {}, True),
        ("path", LQG, True),
        ("residual", {}, True),
        ("residual", LQG, True),
        # Paths that drift are picked by an index, which no graph spans.
        ({"name": "path", "drift": 0.5}, {}, False),
        ({"name": "residual", "probes": 2, "weighting": "rba", "bins": 4}, {}, False),
    ],
)
def test_a_compiled_loss_has_the_same_value_and_gradient(
    objective: Any, changes: dict[str, Any], whole: bool, job_file: Path
) -> None:
    """As one graph where ``whole``: a branch on data would break it in two, and nothing be compiled across the break."""
    compare(load_job(job_file, {"training.objective": objective, **changes}), whole=whole)


NETWORKS: list[dict[str, Any]] = [
    {"name": "mlp", "depth": 2, "activation": "sin", "factorised": True, "frequencies": 2},
    {"name": "residual_network", "blocks": 1, "activation": "gelu"},
    {"name": "modified_mlp", "depth": 2, "factorised": True},
    {"name": "pirate_net", "blocks": 1, "activation": "sin", "frequencies": 1},
    {"name": "windowed_network", "depth": 2, "windows": 2},
]
SEPARABLE = {"name": "separable_network", "rank": 3, "activation": "sin"}
"""It has no layer that all streams pass through, and one backward alone."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "wide"),
    [*((network, wide) for network in NETWORKS for wide in (False, True)), (SEPARABLE, False)],
    ids=lambda given: given["name"] if isinstance(given, dict) else "pre-activations alone" if given else "autograd's backward",
)
def test_every_network_is_compiled_in_one_graph_with_either_backward(
    network: dict[str, Any], wide: bool, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_laplacian, "WIDE", 1 if wide else 10**9)
    job = load_job(job_file, {"training.objective": "residual", "surrogate": {**network, "width": 8}, **LQG})
    compare(job, whole=True)


@pytest.mark.parametrize("then", [False, True])
def test_a_machine_that_cannot_compile_is_refused_by_name_before_the_first_step(
    then: bool, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> Callable[..., Any]:
        raise RuntimeError("No working C++ compiler found in ['c++']\nand more")

    monkeypatch.setattr(torch, "compile", missing)
    key = "training.then.compile" if then else "training.compile"
    job = load_job(job_file, {"training.then": {**THEN, "compile": True}} if then else {key: True})
    named = rf"{key} = true: .*cpu here: No working C\+\+ compiler found in \['c\+\+'\]\. Install .*g\+\+.*leave {key} out"
    with pytest.raises(InputError, match=named):
        train_here(folder := folder_for(job, job_file.parent / "run"), job)
    assert not folder.surrogate.exists()


def test_the_phases_that_ask_for_it_are_compiled_and_no_other(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(training, "check_compiler", lambda key, device: None)
    monkeypatch.setattr(training, "compiled", lambda loss: asked.append(type(loss).__name__) or loss)
    job = load_job(job_file, {"training.steps": 2, "training.then": {**THEN, "compile": True}})
    train_here(folder_for(job, tmp_path / "run"), job)
    assert asked == [type(job.objective(job.surrogate(), 1)).__name__]


def test_a_job_that_does_not_compile_keeps_its_name(job_file: Path) -> None:
    plain = load_job(job_file)
    assert load_job(job_file, {"training.compile": False}).training_hash == plain.training_hash
    assert load_job(job_file, {"training.compile": True}).training_hash != plain.training_hash
    assert "compile" not in plain.resolved["training"]


@pytest.mark.slow
def test_a_compiled_training_keeps_its_bits_when_it_is_stopped_and_ends_where_the_other_does(
    job_file: Path, tmp_path: Path
) -> None:
    ends = []
    for n, (compile, stops) in enumerate([(False, False), (True, False), (True, True)]):
        changes = {"training.optimizer": "adam", "training.checkpoint_every": 1e-6}
        job = load_job(job_file, {**changes, "training.then": {**THEN, "optimizer": "adam", "compile": compile}})
        folder = folder_for(job, tmp_path / str(n) / "run")
        if stops:
            with pytest.raises(InterruptedError):
                train(folder, job, shards=range(1), of=1, team=Stopping(46))
        train_here(folder, job)
        ends.append(parameters(folder))
    plain, calm, stopped = ends
    assert torch.equal(calm, stopped)
    torch.testing.assert_close(calm, plain, rtol=1e-2, atol=1e-3)
