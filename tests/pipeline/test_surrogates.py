"""Jobs whose surrogate is fitted by its own solver, or given by its user as arrays in a file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from conftest import numbers
from torch import nn

from kernels.equations import lqg
from kernels.streams import Stream
from kernels.surrogates import mlp
from pipeline import store, training, weights
from pipeline.correction import base_values
from pipeline.errors import InputError
from pipeline.estimate import memory_needed
from pipeline.folders import prepare
from pipeline.job import Job, RunFolder, job_from
from pipeline.training import train_stage, trained_surrogate, training_flop

DIM = 4
FITTED: dict[str, Any] = {
    "name": "fitted",
    "problem": {"name": "viscous_burgers", "dim": DIM},
    "surrogate": {"name": "gaussian_process", "points": 40, "length_scale": 2.0},
    "correction": {"estimator": {"name": "linearised", "times": 1}, "laplacian": "exact", "points": 20, "max_paths": 60_000},
    "report": {"baselines": ["surrogate"]},
}
GIVEN = {**FITTED, "name": "given", "surrogate": {"name": "given_network", "file": "weights.npz"}}


def state() -> dict[str, np.ndarray]:
    """The arrays of a small torch model, named as its state dict names them."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(1 + DIM, 8), nn.Tanh(), nn.Linear(8, 1))
    return {name: p.numpy(force=True) for name, p in model.state_dict().items()}


def job(folder: Path, data: dict[str, Any]) -> Job:
    folder.mkdir(exist_ok=True)
    if data["surrogate"].get("file") == "weights.npz" and not (folder / "weights.npz").exists():
        np.savez(folder / "weights.npz", **state())
    return job_from(json.loads(json.dumps(data)), folder)


def opened(path: Path) -> RunFolder:
    path.mkdir()
    return RunFolder(path)


@pytest.mark.parametrize("data", [FITTED, GIVEN], ids=["fitted", "given"])
def test_the_stage_leaves_a_finished_checkpoint_that_rebuilds_the_surrogate(data: dict[str, Any], tmp_path: Path) -> None:
    mine, folder = job(tmp_path / "job", data), opened(tmp_path / "run")
    train_stage(folder, mine)
    owner, _, finished = store.checkpoint_owner(folder.surrogate)
    assert owner == mine.training_hash and finished
    losses = store.load_checkpoint(folder.surrogate, training_hash=owner, job=mine.resolved).losses
    t, x = mine.problem.sample_points(5, Stream(9, 0))
    here = mine.surrogate()
    if data is FITTED:
        assert losses.tolist() == here.fit(Stream(0, training.Purpose.TRAINING))  # type: ignore[attr-defined]
        assert "fit ends" in folder.log.read_text()
    else:
        assert losses.size == 0
        assert "nothing is trained" in folder.log.read_text()
    assert trained_surrogate(folder, mine).jet(t, x, None).laplacian.equal(here.jet(t, x, None).laplacian)


@pytest.mark.parametrize(
    "surrogate",
    [
        {"name": "mlp", "depth": 2, "activation": "gelu", "factorised": True, "frequencies": 2},
        {"name": "residual_network", "blocks": 1},
        {"name": "modified_mlp", "depth": 2},
        {"name": "pirate_net", "blocks": 1},
        {"name": "windowed_network", "windows": 4, "depth": 2},
        {"name": "separable_network", "rank": 4},
    ],
    ids=lambda surrogate: surrogate["name"],
)
def test_every_network_is_trained_in_two_phases_and_rebuilt_from_its_checkpoint(
    surrogate: dict[str, Any], tmp_path: Path
) -> None:
    """By paths first and by the residual then; all of its parameters have left their start."""
    training = {"steps": 2, "batch": 32, "then": {"steps": 2, "batch": 32, "objective": {"name": "residual"}}}
    mine = job(tmp_path / "job", {**FITTED, "surrogate": {**surrogate, "width": 8}, "training": training})
    folder, start = opened(tmp_path / "run"), mine.surrogate()
    train_stage(folder, mine)
    trained = trained_surrogate(folder, mine)
    assert isinstance(start, nn.Module) and isinstance(trained, nn.Module)
    before, after = start.state_dict(), trained.state_dict()
    moved = {name for name, _ in start.named_parameters() if not after[name].equal(before[name])}
    assert moved == {name for name, _ in start.named_parameters()}
    assert base_values(trained, *mine.problem.sample_points(5, Stream(9, 0))).shape == (5,)
    with pytest.raises(InputError, match=r"surrogate.activation = 'relu': should be tanh or sin"):
        job(tmp_path / "job", {**FITTED, "surrogate": {**surrogate, "activation": "relu"}})


@pytest.mark.parametrize("data", [FITTED, GIVEN], ids=["fitted", "given"])
def test_an_equal_one_is_taken_over_and_a_finished_one_left(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = job(tmp_path / "job", data)
    first, second = prepare(mine, tmp_path / "a"), prepare(mine, tmp_path / "b")
    train_stage(first, mine)
    monkeypatch.setattr(training, "settle", lambda *_: pytest.fail("computed again"))
    train_stage(first, mine)
    train_stage(second, mine)
    assert first.surrogate.read_bytes() == second.surrogate.read_bytes()
    assert "taken from" in second.log.read_text()


def test_another_jobs_checkpoint_is_refused_with_what_differs(tmp_path: Path) -> None:
    folder = opened(tmp_path / "run")
    train_stage(folder, job(tmp_path / "job", FITTED))
    other = {**FITTED, "surrogate": {**FITTED["surrogate"], "points": 30}}
    with pytest.raises(InputError, match=r"surrogate.points 40, here 30"):
        train_stage(folder, job(tmp_path / "job", other))


def test_a_given_network_is_named_by_the_content_of_its_file(tmp_path: Path) -> None:
    here = job(tmp_path / "a", GIVEN)
    arrays = state()
    (tmp_path / "b").mkdir()
    np.savez(tmp_path / "b" / "weights.npz", **{**arrays, "0.bias": arrays["0.bias"] + 1})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "other.npz").write_bytes((tmp_path / "a" / "weights.npz").read_bytes())
    renamed = {**GIVEN, "surrogate": {"name": "given_network", "file": "other.npz"}}
    assert job(tmp_path / "b", GIVEN).training_hash != here.training_hash
    assert job(tmp_path / "c", renamed).training_hash == here.training_hash


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (
            FITTED,
            {"training": {"steps": 5}},
            "training.steps: 'gaussian_process' is fitted by its own solver.*leave the training",
        ),
        (GIVEN, {"training": {"workers": 2}}, "training.workers: 'given_network' comes trained"),
        (GIVEN, {"surrogate": {"name": "given_network"}}, "surrogate.file is missing: 'given_network' takes its parameters"),
        (FITTED, {"surrogate": {"name": "mlp", "file": "w.npz"}}, r"surrogate.file = 'w.npz': 'mlp' reads no file"),
        (GIVEN, {"surrogate": {"name": "given_network", "file": "none.npz"}}, "surrogate.file = 'none.npz': no such file"),
        (FITTED, {"surrogate": {"name": "gaussian_process", "point": 5}}, "surrogate.point = 5: .*Did you mean 'points'"),
    ],
    ids=str,
)
def test_keys_that_do_not_apply_are_refused(data: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        job(tmp_path, {**data, **changes})


def hostile() -> dict[str, tuple[str, bytes, str]]:
    def packed(save: Callable[[io.BytesIO], None]) -> bytes:
        memory = io.BytesIO()
        save(memory)
        return memory.getvalue()

    def boastful(memory: io.BytesIO) -> None:
        header = packed(
            lambda m: np.lib.format.write_array_header_1_0(m, {"descr": "<f8", "fortran_order": False, "shape": (2**50,)})
        )
        with zipfile.ZipFile(memory, "w") as archive:
            archive.writestr("weight_0.npy", header)

    good = packed(lambda m: np.savez(m, **state()))
    objects = packed(lambda m: np.savez(m, weight_0=np.array([{}], dtype=object)))
    return {
        "pickled": ("w.npz", objects, "cannot be read.*pickle"),
        "no zip": ("w.npz", b"nothing of the kind", "cannot be read"),
        "cut off": ("w.npz", good[: len(good) // 2], "cannot be read"),
        "a header of a petabyte": ("w.npz", packed(boastful), "cannot be read"),
        "integers": ("w.npz", packed(lambda m: np.savez(m, weight_0=np.ones((2, 2), int))), "'weight_0' is of type int64"),
        "half": ("w.npz", packed(lambda m: np.savez(m, weight_0=np.ones((2, 2), np.float16))), "type float16: should be float32"),
        "a pickle": ("w.pt", good, "weights come in .npz or .h5"),
        "no hdf5": ("w.h5", b"nothing of the kind", "cannot be read"),
    }


@pytest.mark.parametrize("what", hostile())
def test_a_file_that_is_no_set_of_arrays_is_refused_by_name(what: str, tmp_path: Path) -> None:
    name, content, message = hostile()[what]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"(?s)surrogate.file = .*{name}.*{message}"):
        weights.read_weights(tmp_path / name)


def test_a_file_that_unpacks_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MAX_BYTES", 100)
    np.savez_compressed(tmp_path / "w.npz", weight_0=np.zeros((100, 100)))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("weight_0", (1000, 1000), "f8", compression="gzip")
    for name in ("w.npz", "w.h5"):
        with pytest.raises(InputError, match="at most 0 GB are read"):
            weights.read_weights(tmp_path / name)


def test_links_in_an_hdf5_file_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["weight_0"] = h5py.ExternalLink("/etc/passwd", "x")
    with pytest.raises(InputError, match="a link"):
        weights.read_weights(tmp_path / "w.h5")


def test_npz_and_hdf5_of_either_byte_order_hold_the_same_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{name: array.astype(">f4") for name, array in state().items()})
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, array in state().items():
            file[name] = array
    one, other = weights.read_weights(tmp_path / "w.npz"), weights.read_weights(tmp_path / "w.h5")
    assert set(one) == set(other) == set(state())
    assert all(one[name].equal(other[name]) for name in one)


def test_a_refused_network_names_the_key_of_the_job(tmp_path: Path) -> None:
    wrong = {**GIVEN, "problem": {"name": "viscous_burgers", "dim": DIM + 1}}
    with pytest.raises(InputError, match=r"surrogate: weight of layer 0 has shape \(8, 5\).*6"):
        job(tmp_path, wrong).surrogate()
    relu = {**GIVEN, "surrogate": {**GIVEN["surrogate"], "activation": "relu"}}
    with pytest.raises(InputError, match="surrogate: activation = 'relu'"):
        job(tmp_path, relu).surrogate()


def test_a_fit_that_fails_is_bad_input_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "pde.py").write_text(
        "from dataclasses import replace\nfrom kernels.equations.viscous_burgers import viscous_burgers\n\n\n"
        "def mine(dim):\n    return replace(viscous_burgers(dim), driver=lambda t, x, y, z: y / 0.0)\n"
    )
    broken, folder = {**FITTED, "problem": {"file": "pde.py", "name": "mine", "dim": DIM}}, opened(tmp_path / "run")
    with pytest.raises(InputError, match=r"surrogate: the fit fails: .*finite"):
        train_stage(folder, job(tmp_path, broken))
    assert not folder.surrogate.exists()


def test_cost_and_memory_follow_how_a_surrogate_gets_its_parameters(tmp_path: Path) -> None:
    fitted, given = job(tmp_path, FITTED), job(tmp_path, GIVEN)
    large = job(tmp_path, {**FITTED, "surrogate": {"name": "gaussian_process", "points": 4000}})
    trained = job(tmp_path, {**FITTED, "surrogate": {"name": "mlp"}, "training": {"steps": 10}})
    assert training_flop(given, given.surrogate()) == 0.0
    assert 0.0 < training_flop(fitted, fitted.surrogate()) < 1e-3 * training_flop(large, large.surrogate())
    assert training_flop(trained, trained.surrogate()) > 0.0
    assert memory_needed(large) > memory_needed(fitted) + 1e9 and memory_needed(given) > 0.0


@pytest.mark.parametrize("data", [FITTED, GIVEN], ids=["fitted", "given"])
def test_the_whole_graph_runs_and_its_folder_stands_alone(
    data: dict[str, Any], tmp_path: Path, scasml: Callable[..., Any]
) -> None:
    """The folder is found again after the user's file is gone, and running it is a no-op."""
    mine = job(tmp_path / "job", data)
    file = mine.folder / "job.yaml"
    file.write_text(yaml.safe_dump(data))
    done = scasml("run", file, "--out", tmp_path / "run", "--inline")
    assert done.status == 0, done.err
    before = numbers(tmp_path / "run")
    (mine.folder / "weights.npz").unlink(missing_ok=True)
    again = scasml("run", tmp_path / "run" / "job.yaml", "--out", tmp_path / "run", "--inline")
    assert again.status == 0, again.err
    assert numbers(tmp_path / "run") == before
    assert yaml.safe_load((tmp_path / "run" / "job.yaml").read_text())["training"] == {}
    checked = scasml("check", tmp_path / "run" / "job.yaml")
    assert checked.status == 0, checked.err


def test_the_surrogate_at_the_points_is_rounded_to_float64_not_to_float32() -> None:
    """Its float32 value lies about 1e-7 away, a hundred thousand times the rounding that is allowed here."""
    problem = lqg(10)
    surrogate = mlp(problem, seed=0)
    t, x = problem.sample_points(50, Stream(0, 0))
    with torch.no_grad():
        once = surrogate.value_and_gradient(t, x)[0].double().numpy()
    values = base_values(surrogate, t, x)
    assert values.dtype == np.float64 and not np.allclose(once, values, rtol=1e-9, atol=0.0)
    with torch.no_grad():
        wide = surrogate.double().value_and_gradient(t.double(), x.double())[0].numpy()
    np.testing.assert_allclose(values, wide, rtol=1e-12)
