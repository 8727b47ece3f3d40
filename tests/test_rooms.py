"""``from kernels.equations import lqg`` gives the factory, for every module of every room and whatever was imported before."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import kernels
import pipeline
from pipeline.catalogue import ROOMS, names

ENTRIES = [(room, name) for room in ROOMS for name in names(room)]


@pytest.mark.parametrize(("room", "name"), ENTRIES, ids=str)
def test_a_room_gives_the_factory_of_each_of_its_modules(room: str, name: str) -> None:
    package = importlib.import_module(f"kernels.{room}")
    module = importlib.import_module(f"kernels.{room}.{name}")
    make = vars(module).get(name)
    assert inspect.isfunction(make), f"kernels/{room}/{name}.py must define the function '{name}': jobs and imports name it so"
    assert getattr(package, name) is make
    assert name in dir(package) and name in package.__all__
    assert inspect.getdoc(make), f"'{name}' needs a docstring: `scasml catalogue` prints it"


@pytest.mark.parametrize(
    "before",
    [
        "",
        "import kernels.equations.lqg",
        "from kernels.equations.lqg import lqg as other",
        "import pipeline.job",
        "import kernels",
    ],
)
def test_the_import_of_the_interface_works_in_any_order(before: str) -> None:
    code = f"{before}\nfrom kernels.equations import lqg\nassert lqg(3).dim == 3\nfrom kernels.equations import *\nassert allen_cahn(3)"
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_opening_a_room_imports_nothing_of_it() -> None:
    code = "import sys, kernels.optimizers, kernels.equations; print([m for m in sys.modules if m.count('.') > 1 and 'kernels' in m])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("pipeline.cli", {"torch", "numpy", "h5py", "ray", "matplotlib"}),
        ("pipeline.rank, kernels.optimizers.soap", {"ray", "matplotlib", "scipy.stats", "pytorch_optimizer", "pipeline.dag"}),
    ],
)
def test_help_and_ranks_do_not_wait_for_what_they_do_not_need(modules: str, unwanted: set[str]) -> None:
    code = f"import sys, {modules}; print(sorted(sys.modules))"
    found = set(ast.literal_eval(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout))
    assert set(modules.split(", ")) < found and not unwanted & found


def test_the_interface_is_there_by_name() -> None:
    assert set(pipeline.__all__) == {"Report", "load_job", "load_jobs", "run"}
    for name in pipeline.__all__:
        assert getattr(pipeline, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'lead_job'"):
        getattr(pipeline, "lead_job")  # noqa: B009


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"no 'lgq'.*lqg"):
        getattr(importlib.import_module("kernels.equations"), "lgq")  # noqa: B009
    with pytest.raises(ImportError, match="lgq"):
        exec("from kernels.equations import lgq")


def test_a_module_without_its_factory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "__init__.py").write_text("import kernels\nkernels.open_room(__name__)\n")
    (tmp_path / "room" / "right.py").write_text("def right():\n    return 1\n")
    (tmp_path / "room" / "wrong.py").write_text("def other():\n    return 1\n")
    (tmp_path / "room" / "_private.py").write_text("def _private():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    room = importlib.import_module("room")
    assert isinstance(room, kernels.Room) and room.__all__ == ["right", "wrong"]
    assert room.right() == 1
    with pytest.warns(ImportWarning), pytest.raises(AttributeError, match=r"wrong\.py' defines no 'wrong'"):
        _ = room.wrong
    assert inspect.ismodule(importlib.import_module("room._private")) and inspect.ismodule(room._private)
