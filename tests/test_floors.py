"""The layout is a rule: who may import whom, read from the syntax tree."""

import ast
from pathlib import Path

import pytest

import kernels
import pipeline

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "kernels").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")])
DOORS = {"h5py": "store", "mpi4py": "fanout", "ray": "dag"}


def imports(source: str) -> set[str]:
    """Every dotted module a source imports, at any depth of nesting."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor a module stands on"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def offences(path: Path, source: str) -> list[str]:
    """The rules of the house that a source breaks."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    tops = {name.partition(".")[0] for name in imports(source)}
    rooms = {".".join(name.split(".")[:2]) for name in imports(source)}
    out = []
    if "tests" in tops:
        out.append("imports tests")
    if parts[0] == "kernels":
        out += [f"kernels import {top}" for top in sorted(tops & {"pipeline", "ray", "mpi4py", "h5py", "os", "pathlib", "time"})]
        if parts[1] == "estimators":
            out += [f"an estimator imports {room}" for room in sorted(rooms & {"kernels.surrogates", "kernels.equations"})]
        if parts[1] == "surrogates" and "kernels.estimators" in rooms:
            out.append("a surrogate imports estimators")
        if parts[1] == "equations":
            ours = {room for room in rooms if room.startswith("kernels.")} - {"kernels.contracts", "kernels.streams"}
            out += [f"an equation imports {room}" for room in sorted(ours)]
    else:
        for package, door in DOORS.items():
            # Ray Train's worker function lives with the training loop that it runs.
            doors = {door, "training"} if package == "ray" else {door}
            if package in tops and parts[1] not in doors:
                out.append(f"{package} has one door, pipeline/{door}.py")
    return out


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_stands_on_its_own_floor(path: Path) -> None:
    assert offences(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("kernels/x.py", "import pipeline.job"),
        ("kernels/x.py", "def f():\n    import h5py"),
        ("kernels/estimators/x.py", "from kernels.surrogates import mlp"),
        ("kernels/equations/x.py", "from kernels.moments import Moments"),
        ("pipeline/report.py", "import h5py"),
        ("pipeline/cli.py", "from mpi4py import MPI"),
        ("pipeline/cli.py", "import tests.conftest"),
    ],
)
def test_a_planted_offence_is_seen(name: str, source: str) -> None:
    assert offences(ROOT / name, source)


def test_ray_and_mpi_never_meet_in_a_module() -> None:
    for path in SOURCES:
        tops = {name.partition(".")[0] for name in imports(path.read_text())}
        assert not {"ray", "mpi4py"} <= tops, path


def test_the_packages_are_ours() -> None:
    assert Path(kernels.__file__).parent == ROOT / "kernels"
    assert Path(pipeline.__file__).parent == ROOT / "pipeline"


def test_nothing_is_pickled_or_evaluated() -> None:
    for path in SOURCES:
        names = imports(path.read_text())
        assert not names & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, path
        calls = {
            n.func.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert not calls & {"eval", "exec"}, path
