"""Bad input: one message with value, rule and remedy; status 2; nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

PDE = """
import torch
from kernels.contracts import BrownianMotion, SemilinearPDE, along_paths
def mine(dim):
    {body}
    law = BrownianMotion()
    return SemilinearPDE(name="mine", dim=dim, horizon=1.0, law=law, driver=lambda t, x, y, z: 0.0 * y,
                         terminal=lambda x: x.sum(-1), sample_points=along_paths(dim, 1.0, law))
"""

BY_KEY: list[tuple[dict[str, Any], list[str]]] = [
    ({"problem.name": "viscous_burger"}, ["problem.name", "viscous_burger", "viscous_burgers"]),
    ({"problem.dim": 0}, ["problem.dim", "0", "greater than or equal to 1"]),
    ({"problem.dim": "ten"}, ["problem.dim", "ten", "integer"]),
    ({"problem.sigm": 1.0}, ["problem.sigm", "'sigma'"]),
    ({"problem.sigma": -1.0}, ["problem", "-1.0", "> 0"]),
    ({"sead": 1}, ["sead", "'seed'"]),
    ({"seed": -1}, ["seed", "-1"]),
    ({"training.stepz": 1}, ["training.stepz", "'steps'"]),
    ({"training.steps": 0}, ["training.steps", "0"]),
    ({"training.steps": True}, ["training.steps", "True", "integer"]),
    ({"training.batch": 100}, ["training.batch", "100", "multiple of 32"]),
    ({"training.optimizer": "sope"}, ["training.optimizer", "sope", "soap"]),
    ({"training.optimizer.learning_rate": -1.0}, ["learning_rate", "-1.0", "> 0"]),
    ({"training.optimizer.lr": 1.0}, ["training.optimizer.lr", "no such option"]),
    ({"surrogate.widht": 8}, ["surrogate.widht", "'width'"]),
    ({"surrogate.width": 10_000_000}, ["width = 10000000", "parameters"]),
    ({"surrogate.width": 2.5}, ["surrogate.width", "2.5", "int"]),
    ({"correction.rtol": -1.0e-3}, ["correction.rtol", "-0.001", "greater than 0"]),
    ({"correction.rtol": "small"}, ["correction.rtol", "small", "number"]),
    ({"correction.rtol": float("nan")}, ["correction.rtol", "nan"]),
    ({"correction.max_paths": 100}, ["correction.max_paths", "100", "at least"]),
    ({"correction.ranks": 64}, ["correction.ranks", "64", "oversubscribe"]),
    ({"correction.laplacian": 0}, ["correction.laplacian", "0", "'exact'"]),
    ({"correction.estimator": {"name": "picard", "levels": 9, "samples": 9}}, ["GB of memory", "levels"]),
    ({"correction.estimator.times": 0}, ["times = 0"]),
    ({"correction.points": {"file": "nowhere.npy"}}, ["correction.points.file", "nowhere.npy", "no such file"]),
    ({"problem": {"file": "nowhere.py", "name": "mine", "dim": 3}}, ["problem.file", "nowhere.py", "no such file"]),
    ({"report.confidence": 1.0}, ["report.confidence", "1.0"]),
    ({"report.baselines": ["linaer"]}, ["report.baselines", "linaer"]),
    ({"name": "../x"}, ["name", "../x"]),
    ({"sweep": {"seed": 3}}, ["sweep", "lists"]),
]


def write(path: Path, changes: dict[str, Any]) -> None:
    from pipeline.job import _set

    data = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        _set(data, key, value)
    path.write_text(yaml.safe_dump(data))


def refused(scasml: Callable[..., Any], job_file: Path, named: list[str]) -> str:
    before = sorted(p.name for p in job_file.parent.iterdir())
    out = job_file.parent / "out"
    done = scasml("run", job_file, "--inline", "--out", out)
    assert done.status == 2, done.out + done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert "Traceback" not in done.err + done.out
    for text in named:
        assert text in done.err, f"{text!r} is not in {done.err!r}"
    assert sorted(p.name for p in job_file.parent.iterdir()) == before
    return done.err


@pytest.mark.parametrize(("changes", "named"), BY_KEY, ids=[f"{next(iter(c))}={next(iter(c.values()))}"[:50] for c, _ in BY_KEY])
def test_a_bad_value_is_refused_by_key_value_and_rule(
    changes: dict[str, Any], named: list[str], scasml: Callable[..., Any], job_file: Path
) -> None:
    write(job_file, changes)
    refused(scasml, job_file, named)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("- a\n- b\n", ["list", "mapping"]),
        ("just text", ["str", "mapping"]),
        ("name: [1, 2", ["not YAML"]),
        ("name: a\nname: b\n", ["name", "twice"]),
        ("name: !!python/object/apply:os.system ['touch owned']\n", ["not YAML"]),
        ("", ["NoneType", "mapping"]),
        ("name: x\n", ["problem", "missing"]),
        ("\x00\x01", ["not YAML"]),
    ],
)
def test_a_file_that_is_no_job_is_refused(text: str, named: list[str], scasml: Callable[..., Any], job_file: Path) -> None:
    job_file.write_text(text)
    refused(scasml, job_file, named)
    assert not (Path.cwd() / "owned").exists()


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("raise RuntimeError('no licence')", ["pde.py", "RuntimeError", "no licence", "line 1"]),
        ("def mine(dim:\n", ["pde.py", "SyntaxError", "line 1"]),
        (PDE.format(body="return 3"), ["returned int", "SemilinearPDE"]),
        (PDE.format(body="1/0"), ["ZeroDivisionError", "pde.py", "line 5"]),
        (PDE.format(body="pass").replace("def mine", "def yours"), ["problem.name", "no such function", "yours"]),
    ],
)
def test_a_users_file_that_fails_is_named_with_its_line(
    source: str, named: list[str], scasml: Callable[..., Any], job_file: Path
) -> None:
    (job_file.parent / "pde.py").write_text(source)
    write(job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}})
    refused(scasml, job_file, named)


def test_a_users_file_that_is_right_is_accepted(scasml: Callable[..., Any], job_file: Path) -> None:
    (job_file.parent / "pde.py").write_text(PDE.format(body="pass"))
    write(job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}})
    assert scasml("check", job_file).status == 0


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (np.zeros((5, 6)), ["shape (5, 6)", "(points, 7)"]),
        (np.full((5, 7), np.nan), ["row 1", "finite"]),
        (np.full((5, 7), 0.6), ["row 1", "t = 0.6", "[0, 0.5]"]),
        (np.array(["a", "b"]), ["table of numbers"]),
    ],
)
def test_points_that_do_not_fit_are_refused(
    table: np.ndarray, named: list[str], scasml: Callable[..., Any], job_file: Path
) -> None:
    np.save(job_file.parent / "p.npy", table)
    write(job_file, {"correction.points": {"file": "p.npy"}})
    refused(scasml, job_file, ["p.npy", *named])


@pytest.mark.parametrize("override", ["training.steps", "=3", "training.steps=[1", "name.x=3"])
def test_a_bad_override_is_refused(override: str, scasml: Callable[..., Any], job_file: Path) -> None:
    done = scasml("check", job_file, "--set", override)
    assert done.status == 2 and done.err.startswith("error: ")


def test_a_missing_job_file_is_refused(scasml: Callable[..., Any], tmp_path: Path) -> None:
    done = scasml("run", tmp_path / "none.yaml")
    assert done.status == 2 and "none.yaml" in done.err


def test_more_workers_than_cores_are_refused_where_ray_would_wait_for_ever(scasml: Callable[..., Any], job_file: Path) -> None:
    write(job_file, {"training.workers": 64, "training.batch": 2048})
    done = scasml("run", job_file, "--out", job_file.parent / "out")
    assert done.status == 2 and "training.workers = 64" in done.err
    assert not (job_file.parent / "out").exists()
