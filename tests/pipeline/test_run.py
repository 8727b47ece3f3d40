"""Whole runs: outputs, reuse, ranks, sweeps, a user's own problem and points."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray
import yaml
from running import execute
from test_bad_input import PDE, write

import pipeline
from pipeline.job import load_job

from conftest import TINY, numbers  # isort: skip

RANKS = {"correction.oversubscribe": True}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; its job file lies beside it. Read it, do not change it."""
    place = tmp_path_factory.mktemp("finished")
    (place / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    done = execute(place / "tiny.yaml", place / "run", "--inline")
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def copy(finished: Path, tmp_path: Path, **keep: bool) -> tuple[Path, Path]:
    """A copy of the finished run: its job file and folder."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy" / "tiny.yaml", tmp_path / "copy" / "run"


def test_the_summary_has_the_fixed_keys_and_null_where_a_figure_does_not_apply(finished: Path) -> None:
    summary = json.loads((finished / "run" / "report.json").read_text())
    assert {"job", "hash", "problem", "dim", "points", "stages", "methods", "tolerance_met", "resumed"} <= set(summary)
    assert set(summary["stages"]) == {"train", "correct", "report"} and set(summary["methods"]) == {
        "surrogate",
        "linear",
        "mlp",
        "scasml",
    }
    keys = {"rel_l2", "linf", "l1", "rel_se", "coverage", "bias_estimate", "seconds", "flop", "paths"}
    for name, method in summary["methods"].items():
        assert keys <= set(method), name
        assert all(v is None or (not isinstance(v, float)) or math.isfinite(v) for v in method.values())
    assert summary["methods"]["surrogate"]["rel_se"] is None and summary["methods"]["surrogate"]["bias_estimate"] is None
    assert summary["methods"]["linear"]["bias_estimate"] is None and summary["methods"]["mlp"]["bias_estimate"] is None
    assert summary["tolerance_met"] is None and summary["resumed"] == 0
    scasml, surrogate = summary["methods"]["scasml"], summary["methods"]["surrogate"]
    last = scasml["trace"][-1]
    assert last["rel_l2"] == pytest.approx(scasml["rel_l2"]) and last["flop"] == pytest.approx(scasml["flop"])
    assert summary["reference_rel_se"] == 0.0 and not surrogate["trace"]
    assert scasml["rel_l2"] < 0.5 * surrogate["rel_l2"]
    plan = json.loads((finished / "run" / "plan.json").read_text())
    for name, pilot in (("scasml", plan["seconds"]), ("mlp", plan["mlp_seconds"])):
        assert summary["methods"][name]["wall_seconds"] > pilot > 0.0, "a method takes its pilot too"
    assert summary["methods"]["mlp"]["flop"] <= scasml["flop"] and summary["methods"]["linear"]["flop"] <= scasml["flop"]


def test_the_report_opens_in_xarray_with_every_variable_named(finished: Path) -> None:
    names = "u_surrogate u_linear u_linear_se u_mlp u_mlp_se u_scasml u_scasml_se u_scasml_bias ci_low ci_high u_reference u_reference_se paths t"
    # Without engine= xarray guesses by the first bytes.
    for engine in ("h5netcdf", None):
        check_dataset(finished / "run" / "report.h5", names.split(), engine)


def check_dataset(path: Path, names: list[str], engine: str | None) -> None:
    with xarray.open_dataset(path, engine=engine) as data:
        assert dict(data.sizes) == {"point": 40, "axis": 6}
        assert data["x"].dims == ("point", "axis")
        for name in names:
            assert data[name].dims == ("point",)
            assert data[name].attrs["long_name"] and data[name].attrs["units"]
        assert (data.ci_low < data.u_scasml).all() and (data.u_scasml < data.ci_high).all()
        for key in ("job", "correction_hash", "seed", "version", "versions", "commit", "device", "seconds"):
            assert key in data.attrs


def test_the_hdf5_tools_of_the_system_read_the_report(finished: Path) -> None:
    if not shutil.which("h5ls"):
        pytest.skip("h5ls is not installed")
    for tool in (["h5ls"], ["h5dump", "-H"]):
        shown = subprocess.run([*tool, str(finished / "run" / "report.h5")], capture_output=True, text=True, check=False)
        assert shown.returncode == 0 and "u_scasml_se" in shown.stdout


def test_the_page_holds_everything_itself(finished: Path) -> None:
    page = (finished / "run" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?![\"']?data:)", page)


def test_a_finished_run_is_left_as_it_is(finished: Path, scasml: Callable[..., Any]) -> None:
    before = {p: p.stat().st_mtime_ns for p in (finished / "run").rglob("*.h5")}
    done = scasml("run", finished / "tiny.yaml", "--inline", "--out", finished / "run")
    assert done.status == 0 and "scasml" in done.out
    assert {p: p.stat().st_mtime_ns for p in (finished / "run").rglob("*.h5")} == before


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_any_number_of_ranks_gives_the_same_bits(ranks: int, finished: Path, tmp_path: Path) -> None:
    job, run = copy(finished, tmp_path)
    shutil.rmtree(run / "chunks")
    for name in ("report.h5", "plan.json"):
        (run / name).unlink()
    write(job, {"correction.ranks": ranks, **RANKS})
    done = execute(job, run, "--inline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert numbers(run) == numbers(finished / "run")


def test_a_tighter_tolerance_reuses_the_surrogate_and_every_chunk(
    finished: Path, tmp_path: Path, scasml: Callable[..., Any]
) -> None:
    job, run = copy(finished, tmp_path)
    shutil.rmtree(run / "chunks")
    (run / "report.h5").unlink()
    write(job, {"correction.rtol": 3e-2, "report.baselines": ["surrogate"]})
    assert scasml("run", job, "--inline", "--out", run).status == 0
    trained = (run / "surrogate.h5").stat().st_mtime_ns
    first = json.loads((run / "report.json").read_text())
    waves = {p: p.stat().st_mtime_ns for p in run.glob("chunks/scasml/*")}
    write(job, {"correction.rtol": 1e-5})
    done = scasml("run", job, "--inline", "--out", run)
    assert done.status == 0
    second = json.loads((run / "report.json").read_text())
    assert second["methods"]["scasml"]["paths"] > first["methods"]["scasml"]["paths"]
    assert (run / "surrogate.h5").stat().st_mtime_ns == trained
    assert all(p.stat().st_mtime_ns == at for p, at in waves.items())
    computed, reused = map(int, re.findall(r"scasml: (\d+) chunks computed, (\d+) reused", (run / "log.txt").read_text())[-1])
    assert computed > 0 and reused > 0
    # Stopping early leaves no trace: a fresh run at the tighter tolerance has the same bits.
    (tmp_path / "fresh").mkdir()
    shutil.copy(run / "surrogate.h5", tmp_path / "fresh")
    assert scasml("run", job, "--inline", "--out", tmp_path / "fresh").status == 0
    assert numbers(tmp_path / "fresh") == numbers(run)
    assert first["tolerance_met"] is True and second["tolerance_met"] is False


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_checkpoint_is_refused(damage: str, finished: Path, tmp_path: Path, scasml: Callable[..., Any]) -> None:
    job, run = copy(finished, tmp_path)
    content = bytearray((run / "surrogate.h5").read_bytes())
    content[3000] ^= 1
    (run / "surrogate.h5").write_bytes({"truncate": bytes(content[:2000]), "flip": bytes(content), "empty": b""}[damage])
    (run / "report.h5").unlink()
    done = scasml("run", job, "--inline", "--out", run)
    assert done.status == 2 and "surrogate.h5" in done.err and "run the job again" in done.err and "Traceback" not in done.err


def test_correct_without_training_says_what_to_do(job_file: Path, scasml: Callable[..., Any]) -> None:
    done = scasml("correct", job_file, "--out", job_file.parent / "out")
    assert done.status == 2 and "scasml train" in done.err


def test_the_stages_one_by_one_make_the_same_report(finished: Path, job_file: Path, scasml: Callable[..., Any]) -> None:
    out = job_file.parent / "stages"
    for stage in ("train", "correct", "report"):
        assert scasml(stage, job_file, "--out", out).status == 0
    assert numbers(out) == numbers(finished / "run")


def test_a_failing_rank_ends_the_run_at_once_and_the_rest_is_kept(job_file: Path, scasml: Callable[..., Any]) -> None:
    marker = job_file.parent / "fail"
    body = f"import os, multiprocessing\n    if os.path.exists({str(marker)!r}) and 'PMI_RANK' in os.environ: os._exit(9)"
    (job_file.parent / "pde.py").write_text(PDE.format(body=body))
    write(job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}, "correction.ranks": 2, **RANKS})
    marker.touch()
    run = job_file.parent / "run"
    failed = scasml("run", job_file, "--inline", "--out", run)
    assert failed.status == 1 and "log.txt" in failed.err and not (run / "report.h5").exists()
    marker.unlink()
    assert scasml("run", job_file, "--inline", "--out", run, "--set", "correction.ranks=1").status == 0


def test_a_singleton_launch_is_refused(finished: Path) -> None:
    command = [sys.executable, "-m", "mpi4py", "-m", "pipeline.rank", str(finished / "run"), "--ranks", "2", "--stall", "600"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode != 0 and "2 ranks were asked for and 1 started" in found.stderr


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".h5"])
def test_a_users_own_points_are_evaluated(suffix: str, job_file: Path, scasml: Callable[..., Any]) -> None:
    table = np.column_stack((np.linspace(0.0, 0.5, 20), np.random.default_rng(0).uniform(-0.5, 0.5, (20, 6))))
    path = job_file.parent / f"p{suffix}"
    if suffix == ".npy":
        np.save(path, table)
    elif suffix == ".csv":
        np.savetxt(path, table, delimiter=",", header="t,x1,x2,x3,x4,x5,x6", comments="")
    else:
        with h5py.File(path, "w") as file:
            file["t"], file["x"] = table[:, 0], table[:, 1:]
    write(job_file, {"correction.points": {"file": path.name}})
    out = job_file.parent / "out"
    assert scasml("run", job_file, "--inline", "--out", out).status == 0
    with h5py.File(out / "report.h5") as report:
        np.testing.assert_allclose(report["x"][()], table[:, 1:], rtol=1e-6)
        assert report["u_scasml_se"][()][-1] == 0.0
        np.testing.assert_allclose(report["u_scasml"][()][-1], report["u_reference"][()][-1], rtol=1e-5)


def test_check_inspect_and_problems_inform_and_write_nothing(finished: Path, scasml: Callable[..., Any], tmp_path: Path) -> None:
    before = sorted(finished.rglob("*"))
    shown = scasml("check", finished / "tiny.yaml")
    assert shown.status == 0 and "FLOP" in shown.out and "paths" in shown.out and "memory" in shown.out
    for name in ("surrogate.h5", "report.h5", "points.h5"):
        shown = scasml("inspect", finished / "run" / name)
        assert shown.status == 0 and f"{name}: scasml/" in shown.out
    shown = scasml("problems")
    assert shown.status == 0 and all(name in shown.out for name in ("lqg", "allen_cahn", "viscous_burgers"))
    assert scasml("inspect", finished / "tiny.yaml").status == 2
    assert sorted(finished.rglob("*")) == before


def test_simultaneous_intervals_are_there_where_asked_for(finished: Path, tmp_path: Path) -> None:
    job, run = copy(finished, tmp_path)
    with h5py.File(run / "report.h5") as file:
        assert (file["simultaneous_high"][:] > file["ci_high"][:]).all()
    done = execute(job, run, "--inline", "--set", "report.simultaneous=false")
    assert done.returncode == 0, done.stderr
    with h5py.File(run / "report.h5") as file:
        assert np.isnan(file["simultaneous_high"][:]).all() and np.isfinite(file["ci_high"][:]).all()


ALONE = {"correction.max_paths": 60_000, "report.baselines": ["surrogate"]}


def test_a_gradient_that_is_asked_for_comes_with_intervals_that_hold(tmp_path: Path) -> None:
    """240 components: nearer to the truth than the surrogate's, and 88 % at least inside 95 % intervals (4 s.d. are 5.6 %)."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    job = load_job(
        tmp_path / "tiny.yaml",
        {"problem.name": "lqg", "training.steps": 150, "correction.gradient": True, "correction.bounds": False} | ALONE,
    )
    found = pipeline.run(job, out=tmp_path / "run", progress=False).gradient
    assert found is not None and found.reference is not None and found.freedom is not None
    summary = json.loads((tmp_path / "run" / "report.json").read_text())["gradient"]
    assert summary["rel_l2"] < 0.8 * summary["rel_l2_surrogate"] and 0.88 <= summary["coverage"] <= 1.0
    error = np.abs(found.value - found.reference)
    assert found.se is not None
    assert np.mean(error <= 1.96 * found.se) > 0.88 and np.mean(error <= 0.5 * 1.96 * found.se) < 0.8
    assert found.value.shape == found.freedom.shape == (40, 6) and np.isfinite(found.freedom).all()
    with h5py.File(tmp_path / "run" / "report.h5") as file:
        np.testing.assert_array_equal(file["grad_u"][:], found.value)
        assert file["grad_u"].dims[1].keys() == ["axis"] and (file["grad_u_se"][:] > 0.0).all()
