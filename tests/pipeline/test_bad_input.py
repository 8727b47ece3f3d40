"""Bad input: one message with value, rule and remedy; status 2; nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline import resources
from pipeline.reading import set_key

PDE = """
import torch
from kernels.contracts import BrownianMotion, SemilinearPDE, along_paths
def mine(dim):
    {body}
    law = BrownianMotion()
    return SemilinearPDE(name="mine", dim=dim, horizon=1.0, law=law, driver=lambda t, x, y, z: 0.0 * y,
                         terminal=lambda x: x.sum(-1), sample_points=along_paths(dim, 1.0, law))
"""

WHOLE = "should be a whole number from 1 to 10^15"

BY_KEY: list[tuple[dict[str, Any], list[str]]] = [
    ({"problem.name": "viscous_burger"}, ["problem.name = 'viscous_burger'", "Did you mean 'viscous_burgers'?"]),
    ({"problem.dim": 0}, ["problem.dim = 0: should be a whole number from 1 to 10^6, for example dim: 100"]),
    ({"problem.dim": "ten"}, ["problem.dim = 'ten': should be a whole number from 1 to 10^6"]),
    ({"problem": {"name": "lqg", "dim": 10**6}}, ["problem: ", "llocate", "lower problem.dim"]),
    ({"problem.sigm": 1.0}, ["problem.sigm = 1.0", "no such option", "Did you mean 'sigma'?"]),
    ({"problem.sigma": -1.0}, ["problem", "-1.0", "> 0"]),
    ({"problem.sigma": "wide"}, ["problem.sigma = 'wide': should be a number"]),
    ({"problem.sigma": float("inf")}, ["problem.sigma = inf: should be a finite number"]),
    ({"problem": "lqg"}, ["problem = 'lqg': should be a mapping of a name, a dim", "for example problem: {name: lqg, dim: 100}"]),
    ({"problem": {"nam": "lqg", "dim": 4}}, ["problem.nam = 'lqg': no such key", "Did you mean 'name'?"]),
    ({"problem": {"name": "lqg"}}, ["problem.dim is missing", "whole number", "for example dim: 100"]),
    ({"problem": None}, ["problem = null (left empty): should be a mapping", "{name: lqg, dim: 100}"]),
    ({"sead": 1}, ["sead = 1: no such key", "Did you mean 'seed'?"]),
    ({"seed": -1}, ["seed = -1: should be a whole number from 0 to 2^63 - 1"]),
    ({"seed": 2**64}, ["seed = 18446744073709551616: should be a whole number from 0 to 2^63 - 1"]),
    ({"seed": 0.5}, ["seed = 0.5: should be a whole number"]),
    ({"training": 3}, ["training = 3: should be a mapping, for example training: {steps: 1500"]),
    ({"training.stepz": 1}, ["training.stepz = 1: no such key", "Did you mean 'steps'?"]),
    ({"training.steps": 0}, [f"training.steps = 0: {WHOLE}, for example steps: 1500"]),
    ({"training.steps": True}, [f"training.steps = True: {WHOLE}"]),
    ({"training.steps": 10**400}, ["training.steps = 1000", WHOLE]),
    ({"training.batch": 100}, ["training.batch = 100", "multiple of 32", "for example batch: 96"]),
    ({"training.accumulate": 0}, [f"training.accumulate = 0: {WHOLE}, for example accumulate: 4"]),
    ({"training.average": 1.0}, ["training.average = 1.0: should be a number between 0 and 1, or null"]),
    ({"training.precision": "tf23"}, ["training.precision = 'tf23': should be float32 or tf32", "did you mean 'tf32'?"]),
    ({"training.precision": "tf32"}, ["training.precision = 'tf32'", "a cpu device without TF32", "precision: float32"]),
    ({"training.objective": {"name": "residual", "weighting": "casual"}}, ["weighting = 'casual'", "Did you mean 'causal'?"]),
    ({"training.objective": {"name": "residual", "bins": 8}}, ["training.objective: bins = 8", "weighting = null"]),
    ({"training.checkpoint_every": float("inf")}, ["training.checkpoint_every = inf: should be a number > 0"]),
    ({"training.then": 3}, ["training.then = 3: should be a mapping", "then: {objective: residual"]),
    ({"training.then": {"batch": 100}}, ["training.then.batch = 100", "multiple of 32"]),
    ({"training.then": {"stepz": 5}}, ["training.then.stepz = 5: no such key", "Did you mean 'steps'?"]),
    ({"training.then": {"objective": "residul"}}, ["training.then.objective = 'residul'", "Did you mean 'residual'?"]),
    ({"training.then": {"optimizer": {"learning_rate": -1.0}}}, ["learning_rate", "-1.0", "> 0"]),
    ({"training.then": {"then": {}}}, ["training.then.then", "no such key"]),
    ({"training.optimizer": "sope"}, ["training.optimizer = 'sope'", "Did you mean 'soap'?"]),
    ({"training.optimizer": {"nam": "soap"}}, ["training.optimizer.nam = 'soap'", "Did you mean 'name'?"]),
    ({"training.optimizer.learning_rate": -1.0}, ["learning_rate", "-1.0", "> 0"]),
    ({"training.optimizer.lr": 1.0}, ["training.optimizer.lr = 1.0", "no such option"]),
    ({"training.optimizer.every": 10**19}, ["training.optimizer.every", "less than 2^63"]),
    ({"surrogate": 3}, ["surrogate = 3: should be a name of the catalogue, or a mapping", "{name: mlp, width: 128"]),
    ({"surrogate.widht": 8}, ["surrogate.widht = 8", "Did you mean 'width'?"]),
    ({"surrogate.width": 10_000_000}, ["width = 10000000", "parameters"]),
    ({"surrogate.width": 2.5}, ["surrogate.width = 2.5: should be a whole number"]),
    ({"correction.rtol": -1.0e-3}, ["correction.rtol = -0.001: should be a number between 0 and 1, for example rtol: 1.0e-3"]),
    ({"correction.rtol": "small"}, ["correction.rtol = 'small': should be a number between 0 and 1"]),
    ({"correction.rtol": float("nan")}, ["correction.rtol = nan: should be a number between 0 and 1"]),
    ({"correction.atol": 0.0}, ["correction.atol = 0.0: should be a number > 0, for example atol: 1.0e-6"]),
    ({"correction.max_paths": 100}, ["correction.max_paths = 100", "at least"]),
    ({"correction.estimator": "auto", "correction.max_paths": 19_000}, ["correction.max_paths = 19000", "at least 20480"]),
    ({"correction.max_paths": 10**15}, ["GB of memory", "GB are free", "correction.max_paths"]),
    ({"correction.max_paths": 1.5}, [f"correction.max_paths = 1.5: {WHOLE}"]),
    ({"correction.ranks": 64}, ["correction.ranks = 64", "oversubscribe"]),
    ({"correction.laplacian": 0}, ["correction.laplacian = 0: should be exact, auto, or a whole number"]),
    ({"correction.laplacian": "exactly"}, ["correction.laplacian = 'exactly'", "did you mean 'exact'?"]),
    ({"correction.pairs": "antithetical"}, ["correction.pairs = 'antithetical': should be one of", "did you mean 'antithetic'?"]),
    ({"correction.pairs": "quasi", "problem.dim": 30_000}, ["correction.pairs = 'quasi'", "problem.dim = 30000", "antithetic"]),
    ({"correction.gradient": "yes please"}, ["correction.gradient = 'yes please': should be true or false"]),
    ({"correction.bounds": 1}, ["correction.bounds = 1: should be true or false"]),
    ({"correction.estimator": "auti"}, ["correction.estimator = 'auti'", "Did you mean 'auto'?"]),
    ({"correction.estimator": {"name": "auto", "times": 2}}, ["correction.estimator.times = 2: 'auto' takes no options"]),
    ({"correction.estimator": {"name": "picard", "levels": 9, "samples": 9}}, ["GB of memory", "levels"]),
    ({"correction.estimator": {"name": "picard", "levels": 10, "samples": 2**62}}, ["GB of memory", "levels"]),
    ({"correction.estimator": {"name": "picard", "levels": 400, "samples": 4000}}, ["levels = 400: should be at most 10"]),
    ({"correction.estimator": {"name": "picard", "levels": 400, "samples": 1}}, ["levels = 400: should be at most 10"]),
    ({"correction.estimator": {"name": "quadrature_picard", "nodes": 10**6}}, ["nodes = 1000000: should be", "at most 200"]),
    ({"correction.estimator.times": 0}, ["times = 0"]),
    ({"correction.points": 0}, ["correction.points = 0: should be a whole number from 1", "reference", "{file: points.csv}"]),
    ({"correction.points": "referense"}, ["correction.points = 'referense'", "did you mean 'reference'?"]),
    ({"correction.points": {"file": "nowhere.npy"}}, ["correction.points.file = 'nowhere.npy'", "no such file"]),
    ({"correction.points": {}}, ["correction.points.file is missing: add the path of a .h5, .npy or .csv file"]),
    ({"correction.points": {"file": 3}}, ["correction.points.file = 3: should be the path of a .h5, .npy or .csv file"]),
    ({"correction.points": {"fil": "a.csv"}}, ["correction.points.fil = 'a.csv': no such key", "Did you mean 'file'?"]),
    ({"correction.points": {"interior": 5, "boundry": 5}}, ["correction.points.boundry = 5", "Did you mean 'boundary'?"]),
    ({"correction.points": {"interior": 0}}, ["correction.points = {'interior': 0}", "of at least one point"]),
    ({"correction.points": {"interior": -1}}, ["correction.points.interior = -1: should be a whole number from 0"]),
    ({"problem": {"file": "nowhere.py", "name": "mine", "dim": 3}}, ["problem.file", "nowhere.py", "no such file"]),
    ({"report.confidence": 1.0}, ["report.confidence = 1.0: should be a number > 0 and at most 0.999999, for example"]),
    ({"report.confidence": 1.0 - 1e-16}, ["report.confidence = 0.9999999999999999: should be", "confidence: 0.95"]),
    ({"report.simultaneous": "no"}, ["report.simultaneous = 'no': should be true or false"]),
    ({"report.baselines": ["linaer"]}, ["report.baselines = ['linaer']: should be a list", "did you mean 'linear'?"]),
    ({"report.baselines": "surrogate"}, ["report.baselines = 'surrogate': should be a list", "[surrogate, linear, mlp]"]),
    ({"name": "../x"}, ["name = '../x': should be at most 100 letters"]),
    ({"name": "x" * 300}, ["name = 'xxx", "at most 100 letters"]),
    ({"sweep": {"seed": 3}}, ["sweep = {'seed': 3}", "lists", "for example sweep: {training.steps: [500, 1500]"]),
    ({"sweep": {"seed": [1, 2, 1.0]}}, ["sweep", "{'seed': 1}", "list every value once"]),
    ({"sweep": {"seed": [*range(200)], "problem.dim": [*range(200)]}}, ["sweep: 40,000 runs", "split"]),
]


def write(path: Path, changes: dict[str, Any]) -> None:
    data = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        set_key(data, key, value)
    path.write_text(yaml.safe_dump(data, sort_keys=False))


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
        ("name: x\n", ["problem is missing", "{name: lqg, dim: 100}"]),
        ("nome: x\nproblem: {name: lqg, dim: 3}\n", ["nome = 'x': no such key", "Did you mean 'name'?"]),
        ("a: &x [1]\nb: *x\n", ["alias '*x'", "write the value out"]),
        ("\x00\x01", ["not YAML"]),
    ],
)
def test_a_file_that_is_no_job_is_refused(text: str, named: list[str], scasml: Callable[..., Any], job_file: Path) -> None:
    job_file.write_text(text)
    refused(scasml, job_file, named)
    assert not (Path.cwd() / "owned").exists()


def solved(value: str) -> str:
    """The user's problem with a solution of theirs."""
    source = PDE.format(body=f"from kernels.contracts import Solution; u = Solution(value=lambda t, x: {value}, source='mine')")
    return source.replace("0.0 * y,", "0.0 * y, solution=u,")


def profiled(value: str) -> str:
    """The user's problem with a profile of theirs."""
    return PDE.format(body="pass").replace("0.0 * y,", f"0.0 * y, profile=lambda t, x: {value},")


def with_jet(value: str, gradient: str = "torch.ones_like(x)", laplacian: str = "0.0 * t") -> str:
    """The user's problem with derivatives of g by hand."""
    body = "from kernels.contracts import Jet"
    jet = f"profile_jet=lambda t, x: Jet({value}, 0.0 * t, {gradient}, {laplacian}),"
    return PDE.format(body=body).replace("0.0 * y,", f"0.0 * y, {jet}")


def quadratic(driver: str, q: float) -> str:
    """The user's problem with a driver that is said to be quadratic in z."""
    return PDE.format(body="pass").replace("0.0 * y,", f"{driver}, quadratic={q},")


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("raise RuntimeError('no licence')", ["pde.py", "RuntimeError", "no licence", "line 1"]),
        ("def mine(dim:\n", ["pde.py", "SyntaxError", "line 1"]),
        (PDE.format(body="return 3"), ["returned int", "SemilinearPDE"]),
        (PDE.format(body="1/0"), ["ZeroDivisionError", "pde.py", "line 5"]),
        (PDE.format(body="pass").replace("def mine", "def yours"), ["problem.name", "no such function", "yours"]),
        (PDE.format(body="import torch; A = torch.ones(3, 2)").replace("0.0 * y", "0.0 * (x @ A).sum(-1)"), ["pde.py", "dtype"]),
        (PDE.format(body="import torch").replace("0.0 * y", "0.0 * y.float()"), ["driver returned torch.float32", "A.to(x)"]),
        (profiled("x.sum(-1) + 1.0 + t"), ["profile is", "off the terminal condition at the horizon", "must equal g there"]),
        (profiled("x + t[:, None]"), ["profile returned shape (4, 3)", "shape (4,)"]),
        (profiled("x.sum(-1) / 0.0"), ["profile is", "off the terminal condition"]),
        (PDE.format(body="pass").replace("0.0 * y,", "0.0 * y, profile=lambda x: x.sum(-1),"), ["profile fails", "takes (t, x)"]),
        (with_jet("x.sum(-1) + 1.0"), ["profile_jet: its value is 1.00e+00 off that of g", "leave profile_jet out"]),
        (with_jet("x.sum(-1)", gradient="2.0 * torch.ones_like(x)"), ["profile_jet: its gradient is 1.00e+00 off"]),
        (with_jet("x.sum(-1)", laplacian="0.0 * t + 2.0"), ["profile_jet: its laplacian is 2.00e+00 off"]),
        (quadratic("z.square().sum(-1)", 1.0), ["quadratic = 1.0", "leave it out"]),
        (quadratic("z.square().sum(-1) + y", 2.0), ["quadratic = 2.0", "free of y"]),
        (solved("1 / 0"), ["ZeroDivisionError", "pde.py"]),
        (solved("x"), ["solution.value returned shape (4, 3)", "shape (4,)"]),
        (PDE.format(body="open(__file__ + '.txt')"), ["pde.py", "without what lies beside it", "put into it"]),
    ],
)
def test_a_users_file_that_fails_is_named_with_its_line(
    source: str, named: list[str], scasml: Callable[..., Any], job_file: Path
) -> None:
    (job_file.parent / "pde.py").write_text(source)
    (job_file.parent / "pde.py.txt").touch()
    write(job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}})
    refused(scasml, job_file, named)


def test_a_signal_while_a_users_file_runs_is_a_signal_and_not_its_fault(scasml: Callable[..., Any], job_file: Path) -> None:
    (job_file.parent / "pde.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n" + PDE.format(body="pass"))
    write(job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}})
    done = scasml("check", job_file)
    assert done.status == 3 and "SIGINT" in done.err


def test_a_users_file_that_is_right_is_accepted(scasml: Callable[..., Any], job_file: Path) -> None:
    for source in (
        PDE.format(body="pass"),
        profiled("x.sum(-1) + 0.1 * (1.0 - t)"),
        with_jet("x.sum(-1)"),
        quadratic("z.square().sum(-1)", 2.0),
    ):
        (job_file.parent / "pde.py").write_text(source)
        write(job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}})
        assert scasml("check", job_file).status == 0


def kinked(profile: str) -> str:
    """The user's problem with g = max x, and what they know of it before T."""
    return PDE.format(body="pass").replace("x.sum(-1),", f"x.amax(-1), kinked=True, {profile}")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training.objective": "residual", "correction.estimator": "telescoped"}, ["training.objective: ", "'mine' has kinks"]),
        (
            {"training.objective": "path", "correction.estimator": "linearised"},
            ["correction.estimator = 'linearised': ", "'mine', whose kinks", "a profile", "estimator: telescoped"],
        ),
        (
            {"training.objective": "path", "correction.estimator": "telescoped", "correction.gradient": True},
            ["correction.gradient = true: ", "without gradient"],
        ),
        (
            {"surrogate": "gaussian_process", "training": {}, "correction.estimator": "telescoped"},
            ["surrogate = 'gaussian_process': ", "'mine', whose kinks", "use a network"],
        ),
    ],
)
def test_kinks_of_a_users_terminal_condition_are_refused_where_they_would_be_missed(
    changes: dict[str, Any], named: list[str], scasml: Callable[..., Any], job_file: Path
) -> None:
    (job_file.parent / "pde.py").write_text(kinked(""))
    write(job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}, **changes})
    refused(scasml, job_file, named)
    (job_file.parent / "pde.py").write_text(kinked("profile=lambda t, x: torch.where(t < 1.0, x.mean(-1), x.amax(-1)),"))
    assert scasml("check", job_file).status == 0


def test_kinks_are_served_by_a_path_objective_and_a_telescoped_estimator(scasml: Callable[..., Any], job_file: Path) -> None:
    (job_file.parent / "pde.py").write_text(kinked(""))
    write(job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}, "correction.estimator": "telescoped"})
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


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.steps", ["--set training.steps: should read key=value", "training.steps=200"]),
        ("=3", ["--set =3: should read key=value"]),
        ("training..steps=3", ["--set training..steps=3: should read key=value"]),
        ("training.steps=[1", ["--set training.steps=[1", "YAML"]),
        ("name.x=3", ["name.x: 'name' is 'tiny', not a mapping that could hold 'x'"]),
        ("seed.x=3", ["seed.x: 'seed' is 0, not a mapping that could hold 'x'"]),
        ("training.steps=many", ["training.steps = 'many'", WHOLE]),
        ("training.steps=", ["training.steps = null (left empty)", WHOLE]),
        ("problem=lqg", ["problem = 'lqg'", "{name: lqg, dim: 100}"]),
        ("problem.dim=-3", ["problem.dim = -3"]),
        ("correction={rtol: 2}", ["correction.rtol = 2"]),
    ],
)
def test_a_bad_override_is_refused(override: str, named: list[str], scasml: Callable[..., Any], job_file: Path) -> None:
    done = scasml("check", job_file, "--set", override)
    assert done.status == 2 and done.err.startswith("error: ") and done.err.count("\n") == 1
    for text in named:
        assert text in done.err, done.err


def test_an_override_of_a_swept_key_is_refused(scasml: Callable[..., Any], job_file: Path) -> None:
    write(job_file, {"sweep": {"seed": [0, 1]}})
    done = scasml("check", job_file, "--set", "seed=3")
    assert done.status == 2 and "--set seed" in done.err and "sweep" in done.err


def test_a_missing_job_file_is_refused(scasml: Callable[..., Any], tmp_path: Path) -> None:
    done = scasml("run", tmp_path / "none.yaml")
    assert done.status == 2 and "none.yaml" in done.err


def test_a_run_that_writes_more_than_the_disk_holds_is_refused(
    scasml: Callable[..., Any], job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    refused(
        scasml, job_file, ["the run writes about", "1e-06 GB are free", "lower correction.max_paths", "--out on another disk"]
    )
