"""Faults in what a run has left: lost waves, damaged and tampered files, a log of noise, another budget."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from running import TWO, log_of, ranks
from test_bad_input import write

import pipeline
from pipeline import store
from pipeline.job import RunFolder, load_job

from conftest import TINY, numbers  # isort: skip

LONG = {"correction.max_paths": 300_000, "correction.laplacian": 8, "report.baselines": ["surrogate"]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of several waves."""
    place = tmp_path_factory.mktemp("calm")
    (place / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    write(place / "tiny.yaml", LONG)
    pipeline.run(load_job(place / "tiny.yaml"), out=place / "run")
    return place


@pytest.fixture
def again(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the finished run without its report; the job lies beside it."""
    shutil.copytree(undisturbed, tmp_path / "copy")
    (tmp_path / "copy" / "run" / "report.h5").unlink()
    return tmp_path / "copy" / "tiny.yaml"


@pytest.mark.parametrize("lost", ["first", "middle", "last"])
def test_any_lost_wave_is_computed_again_to_the_same_bits(
    lost: str, undisturbed: Path, again: Path, scasml: Callable[..., Any]
) -> None:
    run = again.parent / "run"
    waves = list(RunFolder(run).waves("scasml"))
    assert len(waves) > 3
    waves[{"first": 0, "middle": len(waves) // 2, "last": -1}[lost]].unlink()
    assert scasml("report", again, "--out", run).status == 2
    done = scasml("run", again, "--inline", "--out", run)
    assert done.status == 0, done.err
    assert len(list(RunFolder(run).waves("scasml"))) >= len(waves)
    assert numbers(run) == numbers(undisturbed / "run")


def test_a_smaller_budget_afterwards_equals_a_fresh_run_of_it(again: Path, undisturbed: Path, scasml: Callable[..., Any]) -> None:
    write(again, {"correction.max_paths": 150_000})
    fresh = again.parent / "fresh"
    assert scasml("run", again, "--inline", "--out", fresh).status == 0
    assert scasml("run", again, "--inline", "--out", again.parent / "run").status == 0
    assert numbers(again.parent / "run") == numbers(fresh) != numbers(undisturbed / "run")


def test_a_tolerance_unmet_within_the_budget_is_said_and_is_no_failure(again: Path, scasml: Callable[..., Any]) -> None:
    write(again, {"correction.rtol": 1e-9, "correction.max_paths": 400_000})
    run = again.parent / "run"
    done = scasml("run", again, "--inline", "--out", run)
    assert done.status == 0 and "max_paths" in done.out and "nothing is recomputed" in done.out
    summary = json.loads((run / "report.json").read_text())
    assert summary["tolerance_met"] is False
    with h5py.File(run / "report.h5") as file:
        assert file["paths"][()].sum() == summary["methods"]["scasml"]["paths"] <= 400_000


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_wave_is_one_message_with_any_number_of_ranks(number: int, again: Path, scasml: Callable[..., Any]) -> None:
    run = again.parent / "run"
    # Not the wave that is looked at before anything starts.
    damage(list(RunFolder(run).waves("scasml"))[-1])
    write(again, {**TWO, "correction.ranks": number})
    done = scasml("correct", again, "--out", run)
    returned = time.time()
    assert done.status == 2 and done.err.count("\n") == 1 and "Traceback" not in done.err + log_of(run)
    assert re.search(r"wave-\d+\.h5' is damaged.*restore it", done.err)
    assert not ranks(run) and not (run / "report.h5").exists()
    if number == 2:
        # The line of the rank was the log's last before the launcher's own.
        assert log_of(run).count(" refused: ") == 1 and returned - (run / "log.txt").stat().st_mtime < 5.0


def test_a_log_with_bytes_that_are_no_text_is_read_all_the_same(again: Path, scasml: Callable[..., Any]) -> None:
    run = again.parent / "run"
    with open(run / "log.txt", "ab") as log:
        log.write(b"\xff\xfe noise of a library\n")
    done = scasml("report", again, "--out", run)
    assert done.status == 0, done.err
    assert json.loads((run / "report.json").read_text())["resumed"] == 0


def test_interruptions_are_counted_and_the_commands_of_its_stages_are_none(job_file: Path, scasml: Callable[..., Any]) -> None:
    run = job_file.parent / "run"
    for command in ("train", "train", "correct", "correct", "report", "report"):
        assert scasml(command, job_file, "--out", run).status == 0
        count = json.loads((run / "report.json").read_text())["resumed"] if command == "report" else 0
        assert count == 0
    with open(run / "log.txt", "a") as log:
        log.write("12:00:00 correct began\n12:00:00 report began\n")
    assert scasml("report", job_file, "--out", run).status == 0
    assert json.loads((run / "report.json").read_text())["resumed"] == 2


THREADS = """
import sys
from pathlib import Path
import torch
from pipeline import dag
from pipeline.job import RunFolder
seen = []
fold = dag.result
def noted(*arguments, **options):
    seen.append(torch.get_num_threads())
    return fold(*arguments, **options)
dag.result = noted
folder = RunFolder(Path(sys.argv[1]))
before = torch.get_num_threads()
dag.report_stage(folder, folder.load())
assert torch.get_num_threads() == before
print(before, *seen)
"""


def test_the_bits_of_a_report_do_not_depend_on_the_threads_of_the_machine(again: Path, undisturbed: Path) -> None:
    run = again.parent / "run"
    for threads in (1, 4):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        line = [sys.executable, "-c", THREADS, str(run)]
        found = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
        before, inside = found.stdout.split()
        # So few points give the same bits on any number of threads, so the number itself is looked at.
        assert inside == "1" and (threads == 1 or os.cpu_count() == 1 or before != "1")
        assert numbers(run) == numbers(undisturbed / "run")


def resealed(path: Path, change: Callable[[h5py.File], None]) -> None:
    """Change a file and give it a right checksum again, as an attacker would."""
    path.write_bytes(path.read_bytes()[: -store.SEAL])
    with h5py.File(path, "r+") as file:
        change(file)
    path.write_bytes(path.read_bytes() + store.seal(path.read_bytes()))


def external_group(file: h5py.File) -> None:
    del file["parameters"]
    file["parameters"] = h5py.ExternalLink(str(Path(file.filename).with_name("elsewhere.h5")), "parameters")


def soft_group(file: h5py.File) -> None:
    file.move("parameters", "other")
    file["parameters"] = h5py.SoftLink("/other")


def virtual_weight(file: h5py.File) -> None:
    del file["loss"]
    layout = h5py.VirtualLayout((40,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(Path(file.filename).with_name("elsewhere.h5")), "loss", shape=(40,))
    file.create_virtual_dataset("loss", layout)


def other_shape(file: h5py.File) -> None:
    weight = next(name for name, node in file["parameters"].items() if getattr(node, "ndim", 0) == 2)
    del file["parameters"][weight]
    store.put(file["parameters"], weight, np.ones((2, 2), dtype=np.float32))


def not_finite(file: h5py.File) -> None:
    for node in file["parameters"].values():
        if getattr(node, "ndim", 0) == 2:
            node[0, 0] = np.nan


TRICKS: dict[str, Callable[[h5py.File], None]] = {
    "external group": external_group,
    "soft group": soft_group,
    "virtual loss": virtual_weight,
    "no loss": lambda file: file.__delitem__("loss"),
    "no parameters": lambda file: file.__delitem__("parameters"),
    "no step": lambda file: file.attrs.__delitem__("step"),
    "step of text": lambda file: file.attrs.__setitem__("step", "many"),
    "job that is not JSON": lambda file: file.attrs.__setitem__("job", "{"),
    "skeleton of noise": lambda file: file["parameters/skeleton"].write_direct(
        np.zeros(file["parameters/skeleton"].shape, dtype=np.uint8)
    ),
    "parameters of another shape": other_shape,
    "parameters that are not finite": not_finite,
}


@pytest.mark.parametrize("kind", TRICKS)
def test_a_trick_inside_a_checkpoint_is_refused_even_with_a_right_checksum(
    kind: str, undisturbed: Path, again: Path, scasml: Callable[..., Any]
) -> None:
    run = again.parent / "run"
    shutil.copy(undisturbed / "run" / "surrogate.h5", run / "elsewhere.h5")
    resealed(run / "surrogate.h5", TRICKS[kind])
    done = scasml("run", again, "--inline", "--out", run)
    assert done.status == 2 and "surrogate.h5" in done.err and "Traceback" not in done.err, done.err[-500:]
