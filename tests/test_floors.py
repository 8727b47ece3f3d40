"""The layout is a rule: who may import whom, read from the syntax tree."""

import ast
from pathlib import Path

import pytest

import kernels
import pipeline

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "kernels").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")])
DOORS = {"h5py": "store", "mpi4py": "fanout", "ray": "dag"}
UNSERIALISED = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}

ABOVE = {"pipeline", "ray", "mpi4py", "h5py", "yaml", "pydantic", "typer", "rich"}
OUTSIDE = {
    *("os", "pathlib", "io", "shutil", "glob", "tempfile", "fileinput", "mmap"),
    *("subprocess", "multiprocessing", "threading", "concurrent", "signal", "asyncio"),
    *("time", "datetime", "socket", "urllib", "http", "requests"),
    *("random", "secrets", "uuid", "getpass", "platform"),
}
"""Files, processes, clocks, the net, and chance that no address names."""

GLOBAL_STATE = {
    *("open", "input", "print", "breakpoint"),
    *("torch.save", "torch.load", "numpy.save", "numpy.savez", "numpy.load", "numpy.loadtxt", "numpy.savetxt", "numpy.fromfile"),
    *("torch.manual_seed", "torch.seed", "torch.initial_seed", "torch.set_rng_state", "torch.cuda.manual_seed"),
    *("torch.cuda.manual_seed_all", "torch.random.manual_seed", "torch.random.seed"),
    *("torch.set_num_threads", "torch.set_default_dtype", "torch.set_default_device", "torch.use_deterministic_algorithms"),
}
WANTS_GENERATOR = {f"torch.{name}" for name in ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial")}
NEVER_GENERATOR = {f"torch.{name}" for name in ("rand_like", "randn_like", "randint_like", "poisson", "dropout")}
IN_PLACE = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_", "cauchy_", "log_normal_", "geometric_"}
ADDRESSED = {f"numpy.random.{name}" for name in ("Generator", "Philox", "SeedSequence", "BitGenerator")}


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


def full_names(tree: ast.AST) -> dict[str, str]:
    """What every imported name of a source stands for: {"np": "numpy", "randn": "torch.randn"}."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                found[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dotted(node: ast.AST) -> str:
    """The name a.b.c of an attribute chain, empty of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (inner := dotted(node.value)):
        return f"{inner}.{node.attr}"
    return ""


def reaches_out(source: str) -> list[str]:
    """What a source of kernels uses of files, global settings, and random numbers without an address."""
    tree = ast.parse(source)
    names, out = full_names(tree), []

    def meant(node: ast.AST) -> str:
        head, dot, rest = dotted(node).partition(".")
        return names.get(head, head) + dot + rest

    for node in ast.walk(tree):
        name = meant(node)
        if name.startswith("numpy.random.") and ".".join(name.split(".")[:3]) not in ADDRESSED:
            out.append(f"global random numbers: {name}")
        if not isinstance(node, ast.Call):
            continue
        called, given = meant(node.func), {keyword.arg for keyword in node.keywords}
        if called in GLOBAL_STATE:
            out.append(f"calls {called}")
        if called in NEVER_GENERATOR or (called in WANTS_GENERATOR and "generator" not in given):
            out.append(f"global random numbers: {called}")
        if isinstance(node.func, ast.Attribute) and node.func.attr in IN_PLACE and "generator" not in given:
            out.append(f"global random numbers: {node.func.attr}")
    return out


def undocumented(source: str) -> list[str]:
    """Public functions and classes of a module without a docstring."""
    kinds = ast.FunctionDef | ast.ClassDef
    found = (node for node in ast.parse(source).body if isinstance(node, kinds) and not node.name.startswith("_"))
    return [node.name for node in found if not ast.get_docstring(node)]


def offences(path: Path, source: str) -> list[str]:
    """The rules of the house that a source breaks."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    found = imports(source)
    tops = {name.partition(".")[0] for name in found}
    rooms = {".".join(name.split(".")[:2]) for name in found}
    out = []
    if "tests" in tops:
        out.append("imports tests")
    if tops & UNSERIALISED:
        out.append("pickles")
    if parts[0] == "kernels":
        out += [f"kernels import {top}" for top in sorted(tops & (ABOVE | OUTSIDE))]
        out += reaches_out(source)
        out += [f"{name} has no docstring" for name in undocumented(source)]
        if parts[1] == "estimators":
            out += [f"an estimator imports {room}" for room in sorted(rooms & {"kernels.surrogates", "kernels.equations"})]
        if parts[1] == "surrogates":
            out += [f"a surrogate imports {room}" for room in sorted(rooms & {"kernels.estimators", "kernels.equations"})]
        if parts[1] == "equations" and parts[-1] != "__init__":
            ours = {name for name in found if name.startswith("kernels")} - {"kernels.equations"}
            allowed = ("kernels.contracts", "kernels.equations._")
            out += [f"an equation imports {name}" for name in sorted(ours) if not name.startswith(allowed)]
    else:
        for package, door in DOORS.items():
            if package in tops and parts[1] != door:
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
        ("kernels/surrogates/x.py", "from kernels.estimators import picard"),
        ("kernels/surrogates/x.py", "import kernels.equations.lqg"),
        ("kernels/equations/x.py", "from kernels.moments import Moments"),
        ("kernels/equations/x.py", "from kernels.laws import BrownianMotion"),
        ("kernels/equations/x.py", "from kernels.equations.lqg import lqg"),
        ("kernels/equations/x.py", "from kernels.equations import lqg"),
        ("kernels/equations/x.py", "import kernels.equations.lqg"),
        ("kernels/equations/x.py", "import kernels"),
        *(("kernels/x.py", f"import {name}") for name in sorted(OUTSIDE | UNSERIALISED)),
        ("kernels/x.py", "def _f():\n    from os import environ"),
        ("kernels/x.py", "from concurrent.futures import ProcessPoolExecutor"),
        ("kernels/x.py", "open('a')"),
        ("kernels/x.py", "print(1)"),
        ("kernels/x.py", "import torch\ntorch.manual_seed(0)"),
        ("kernels/x.py", "from torch import manual_seed as s\ns(0)"),
        ("kernels/x.py", "import torch as th\nth.set_default_dtype(th.float64)"),
        ("kernels/x.py", "import torch\ntorch.randn(3)"),
        ("kernels/x.py", "from torch import rand\nrand(3)"),
        ("kernels/x.py", "import torch\ntorch.randn_like(x)"),
        ("kernels/x.py", "x.normal_()"),
        ("kernels/x.py", "import torch\ntorch.save(1, 'a')"),
        ("kernels/x.py", "import numpy as np\nnp.random.seed(0)"),
        ("kernels/x.py", "import numpy as np\nnp.random.rand(3)"),
        ("kernels/x.py", "import numpy\nnumpy.random.default_rng()"),
        ("kernels/x.py", "from numpy.random import normal\nnormal()"),
        ("kernels/x.py", "from numpy import random as r\nr.shuffle(x)"),
        ("kernels/x.py", "import numpy as np\nnp.load('a')"),
        ("kernels/x.py", "def f():\n    return 1"),
        ("kernels/x.py", "class A:\n    x = 1"),
        ("pipeline/report.py", "import h5py"),
        ("pipeline/cli.py", "from mpi4py import MPI"),
        ("pipeline/cli.py", "import tests.conftest"),
    ],
)
def test_a_planted_offence_is_seen(name: str, source: str) -> None:
    assert offences(ROOT / name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("kernels/x.py", "import torch\ntorch.randn(3, generator=torch.Generator().manual_seed(1))"),
        ("kernels/x.py", "import numpy as np\nnp.random.Generator(np.random.Philox(np.random.SeedSequence(1)))"),
        ("kernels/x.py", "def _f():\n    return 1"),
        ("kernels/equations/x.py", "from kernels.equations._radial import radial\nfrom kernels.contracts import SemilinearPDE"),
        ("pipeline/store.py", "import h5py\nimport os\nopen('a')"),
    ],
)
def test_what_is_allowed_is_no_offence(name: str, source: str) -> None:
    assert offences(ROOT / name, source) == []


def test_ray_and_mpi_never_meet_in_a_module() -> None:
    for path in SOURCES:
        tops = {name.partition(".")[0] for name in imports(path.read_text())}
        assert not {"ray", "mpi4py"} <= tops, path


def test_the_packages_are_ours() -> None:
    assert Path(kernels.__file__).parent == ROOT / "kernels"
    assert Path(pipeline.__file__).parent == ROOT / "pipeline"


def test_nothing_is_evaluated() -> None:
    for path in SOURCES:
        calls = {
            n.func.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert not calls & {"eval", "exec"}, path
