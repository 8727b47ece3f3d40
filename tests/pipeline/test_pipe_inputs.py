"""Bad input, continued: whatever a user hands over, it is refused by name before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from test_bad_input import PDE, refused, write

from pipeline.errors import InputError
from pipeline.job import load_job, load_jobs
from pipeline.reading import parse_override

MINE = {"problem": {"file": "pde.py", "name": "mine", "dim": 3}}


@pytest.mark.parametrize(
    "text", ["{[a, b]: 1}\n", "? {a: 1}\n: 2\n", "name: 2024-01-01\n", "name: !!binary aGk=\n", "--- \na: 1\n---\nb: 2\n"]
)
def test_yaml_that_is_not_plain_data_is_refused(text: str, scasml: Callable[..., Any], job_file: Path) -> None:
    job_file.write_text(text)
    refused(scasml, job_file, [job_file.name])


@pytest.mark.parametrize("override", ["seed=2024-01-01", "seed=!!binary aGk=", "seed=!!set {a}", "training={[a]: 2}"])
def test_an_override_that_is_not_plain_data_is_refused(override: str, scasml: Callable[..., Any], job_file: Path) -> None:
    done = scasml("check", job_file, "--set", override)
    assert done.status == 2 and override.partition("=")[0] in done.err and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 2**64}, ["seed"]),
        ({"correction.points": 10**10, "correction.max_paths": 10**15}, ["memory"]),
        ({"correction.laplacian": 10**9}, ["memory"]),
        ({"correction.estimator.times": 10**9}, ["memory"]),
    ],
    ids=str,
)
def test_numbers_that_nothing_can_hold_are_refused(
    changes: dict[str, Any], named: list[str], scasml: Callable[..., Any], job_file: Path
) -> None:
    write(job_file, changes)
    done = scasml("check", job_file)
    assert done.status == 2 and all(text in done.err for text in named), done.err


def test_an_option_of_a_choice_given_as_text_can_be_set(job_file: Path) -> None:
    write(job_file, {"training.optimizer": "soap"})
    job = load_job(job_file, dict([parse_override("training.optimizer.learning_rate=1e-2")]))
    assert job.resolved["training"]["optimizer"] == {"name": "soap", "learning_rate": 0.01, "every": 10}


def test_a_sweep_over_a_misspelt_key_is_refused(job_file: Path) -> None:
    job_file.write_text(job_file.read_text() + "sweep: {training.stepz: [1, 2]}\n")
    with pytest.raises(InputError, match=r"training\.stepz.*'steps'"):
        load_jobs(job_file)


def h5(path: Path, **columns: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values


PLACE = {"t": np.linspace(0.0, 0.5, 5), "x": np.zeros((5, 6))}

POINTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "h5 without t": ("p.h5", lambda p: h5(p, x=PLACE["x"])),
    "h5 of two lengths": ("p.h5", lambda p: h5(p, t=np.zeros(4), x=PLACE["x"])),
    "h5 that is text": ("p.h5", lambda p: p.write_text("t,x\n")),
    "empty npy": ("p.npy", lambda p: p.write_bytes(b"")),
    "npy of records": ("p.npy", lambda p: np.save(p, np.zeros(5, dtype=[("t", "f8"), ("x", "f8", (6,))]))),
    "npy of complex numbers": ("p.npy", lambda p: np.save(p, np.full((5, 7), 1j))),
    "npy that is a pickle": ("p.npy", lambda p: np.save(p, np.array([{}, 1], dtype=object), allow_pickle=True)),
    "ragged csv": ("p.csv", lambda p: p.write_text("0.1,1,2,3,4,5,6\n0.1,2\n")),
    "csv of bytes": ("p.csv", lambda p: p.write_bytes(b"\xff\xfe\x00")),
    "csv without rows": ("p.csv", lambda p: p.write_text("t,x1,x2,x3,x4,x5,x6\n")),
    "npz called npy": ("p.npy", lambda p: [np.savez(p.with_suffix(".npz"), **PLACE), p.with_suffix(".npz").rename(p)]),
    "npy that claims a huge shape": (
        "p.npy",
        lambda p: p.write_bytes(
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (10**15, 7), }".ljust(128)
        ),
    ),
    "csv with a number beyond float32": ("p.csv", lambda p: p.write_text("0.1,1,2,3,4,5,1e39\n")),
    "csv with a huge field": ("p.csv", lambda p: p.write_text("0.1," + "1" * 200_000 + "\n")),
    "a folder": ("p.csv", lambda p: p.mkdir()),
    "another suffix": ("p.txt", lambda p: p.write_text("0.1,1,2,3,4,5,6\n")),
}


@pytest.mark.parametrize("kind", POINTS)
def test_a_points_file_that_is_not_one_is_refused_by_name(kind: str, scasml: Callable[..., Any], job_file: Path) -> None:
    name, make = POINTS[kind]
    make(job_file.parent / name)
    write(job_file, {"correction.points": {"file": name}})
    refused(scasml, job_file, ["correction.points.file", name])


@pytest.mark.parametrize("name", ["points.h5", "report.h5", "surrogate.h5"])
def test_a_points_file_may_have_the_name_of_a_file_of_ours(name: str, scasml: Callable[..., Any], job_file: Path) -> None:
    h5(job_file.parent / name, **PLACE)
    write(
        job_file,
        {"correction.points": {"file": name}, "training.steps": 3, "report.baselines": [], "correction.max_paths": 30_000},
    )
    out = job_file.parent / "out"
    for _ in range(2):
        done = scasml("run", job_file, "--inline", "--out", out)
        assert done.status == 0, done.err
    with h5py.File(out / "report.h5") as report:
        np.testing.assert_allclose(report["t"][()], PLACE["t"], rtol=1e-6)


@pytest.mark.parametrize("body", ["import sys; sys.exit(0)", "raise KeyError('a')", "raise EOFError", "import no_such_package"])
@pytest.mark.parametrize("where", ["import", "call"])
def test_a_users_file_that_stops_is_refused(body: str, where: str, scasml: Callable[..., Any], job_file: Path) -> None:
    (job_file.parent / "pde.py").write_text(f"{body}\n" if where == "import" else PDE.format(body=body))
    write(job_file, MINE)
    refused(scasml, job_file, ["pde.py"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("terminal=lambda x: x.sum(-1)", "terminal=lambda x: 1 / 0"),
        ("terminal=lambda x: x.sum(-1)", "terminal=lambda x: x"),
        ("driver=lambda t, x, y, z: 0.0 * y", "driver=lambda t, x, y, z: 1 / 0"),
        ("driver=lambda t, x, y, z: 0.0 * y", "driver=lambda t, x, y, z: None"),
        ("driver=lambda t, x, y, z: 0.0 * y", "driver=lambda t, x, y, z: 0.0 * y[:, None]"),
        ("dim=dim", "dim=dim + 2"),
        ("sample_points=along_paths(dim,", "sample_points=along_paths(dim + 2,"),
    ],
)
def test_a_users_function_that_fails_or_has_another_shape_is_refused(
    old: str, new: str, scasml: Callable[..., Any], job_file: Path
) -> None:
    source = PDE.format(body="pass")
    assert old in source
    (job_file.parent / "pde.py").write_text(source.replace(old, new))
    write(job_file, MINE)
    refused(scasml, job_file, ["pde.py"])


TERMINAL, DRIVER = "lambda x: x.sum(-1)", "lambda t, x, y, z: 0.0 * y"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (TERMINAL, "lambda x: torch.from_numpy(np.exp(-x.numpy().max(-1)))"),
        (TERMINAL, "lambda x: torch.exp(-x.detach().amax(-1))"),
        (DRIVER, "lambda t, x, y, z: torch.from_numpy(np.sin(y.numpy()))"),
    ],
)
@pytest.mark.parametrize("surrogate", ["mlp", "gaussian_process"])
def test_a_users_function_without_derivatives_is_refused(
    old: str, new: str, surrogate: str, scasml: Callable[..., Any], job_file: Path
) -> None:
    source = "import numpy as np" + PDE.format(body="pass")
    (job_file.parent / "pde.py").write_text(source.replace(old, new))
    data = yaml.safe_load(job_file.read_text())
    data["surrogate"] = {"name": surrogate}
    if surrogate != "mlp":
        del data["training"]
    job_file.write_text(yaml.safe_dump({**data, **MINE}))
    refused(scasml, job_file, ["problem: 'pde.py' raised", "has no derivatives", "without numpy"])
    (job_file.parent / "pde.py").write_text(source)
    assert scasml("check", job_file).status == 0


@pytest.mark.parametrize("hint", ["Optional[float]", "float | None", "int | float"])
def test_an_option_of_a_users_problem_may_be_annotated_as_python_allows(
    hint: str, scasml: Callable[..., Any], job_file: Path
) -> None:
    source = "from __future__ import annotations\nfrom typing import Optional\n" + PDE.format(body="pass")
    (job_file.parent / "pde.py").write_text(source.replace("def mine(dim)", f"def mine(dim, *, a: {hint} = None)"))
    write(job_file, {**MINE, "problem.a": 1.0})
    done = scasml("check", job_file)
    assert done.status == 0, done.err


def test_an_option_with_an_annotation_of_no_meaning_is_refused(scasml: Callable[..., Any], job_file: Path) -> None:
    source = "from __future__ import annotations\n" + PDE.format(body="pass")
    (job_file.parent / "pde.py").write_text(source.replace("def mine(dim)", "def mine(dim, *, a: Unknown = None)"))
    write(job_file, {**MINE, "problem.a": 1.0})
    refused(scasml, job_file, ["problem: the annotations of 'mine' cannot be read", "Unknown"])


def test_an_option_of_few_words_and_one_that_must_be_given(scasml: Callable[..., Any], job_file: Path) -> None:
    source = "from typing import Literal\n" + PDE.format(body="pass")
    source = source.replace("def mine(dim)", "def mine(dim, *, n: int, kind: Literal['call', 'put'] = 'call')")
    (job_file.parent / "pde.py").write_text(source)
    write(job_file, MINE)
    refused(scasml, job_file, ["problem.n is missing", "a whole number"])
    write(job_file, {"problem.n": 1e3, "problem.kind": "cal"})
    refused(scasml, job_file, ["problem.kind = 'cal': should be call or put", "Did you mean 'call'?"])
    write(job_file, {"problem.kind": "put"})
    assert load_job(job_file).resolved["problem"]["n"] == 1000
    assert scasml("check", job_file).status == 0


def test_a_users_file_may_define_dataclasses_with_postponed_annotations(scasml: Callable[..., Any], job_file: Path) -> None:
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Rates:\n    r: float = 0.1\n"
    )
    (job_file.parent / "pde.py").write_text(source + PDE.format(body="Rates()"))
    write(job_file, MINE)
    done = scasml("check", job_file)
    assert done.status == 0, done.err


@pytest.mark.parametrize("path", ["/proc/xx", "/dev/null/xx", "x" * 300], ids=["no such place", "below a file", "too long"])
@pytest.mark.parametrize("command", ["run", "train", "check"])
def test_a_folder_that_cannot_be_written_is_bad_input(
    command: str, path: str, scasml: Callable[..., Any], job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(job_file.parent)
    done = scasml(command, job_file, "--out", path)
    assert done.status == 2 and path in done.err and "name a folder" in done.err, done.err
    assert sorted(job_file.parent.iterdir()) == [job_file]


def test_an_output_folder_that_is_a_file_is_refused(scasml: Callable[..., Any], job_file: Path) -> None:
    (job_file.parent / "taken").write_text("x")
    done = scasml("run", job_file, "--inline", "--out", job_file.parent / "taken")
    assert done.status == 2 and "taken" in done.err and (job_file.parent / "taken").read_text() == "x"
