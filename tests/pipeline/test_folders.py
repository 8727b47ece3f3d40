"""A folder of another job is refused with both named, whatever of it is left there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_bad_input import PDE, write

import pipeline
from pipeline import store
from pipeline.correction import scasml_method
from pipeline.errors import InputError
from pipeline.files import LOCK, release
from pipeline.folders import check_folder, is_run, prepare
from pipeline.job import Job, RunFolder, load_job
from pipeline.plan import Candidate

from conftest import TINY  # isort: skip

QUICK = {"training.steps": 4, "correction.max_paths": 30_000, "report.baselines": []}
MINE = {"problem": {"file": "pde.py", "name": "mine", "dim": 6}, "correction.points": {"file": "p.npy"}}


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    yield
    release()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a problem and points of the user's; its job lies beside it."""
    place = tmp_path_factory.mktemp("finished")
    (place / "job.yaml").write_text(yaml.safe_dump(TINY))
    (place / "pde.py").write_text(PDE.format(body="pass"))
    np.save(place / "p.npy", np.full((20, 7), 0.1))
    write(place / "job.yaml", {**QUICK, **MINE})
    job = load_job(place / "job.yaml")
    pipeline.run(job, out=place / "run")
    wave = store.Wave(np.zeros((1, 3), int), np.ones(1, int), np.ones((1, 16)), np.ones((1, 16)), np.ones(1), 1.0)
    named = {"job": RunFolder(place / "run").load().resolved, "correction_hash": job.correction_hash}
    shutil.rmtree(place / "run" / "chunks")
    store.save_wave(place / "run" / "chunks" / "scasml" / "wave-000000.h5", wave, owner="owner", named=named)
    return place


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def keep_only(run: Path, part: str) -> None:
    for path in run.iterdir():
        if path.name != part:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def refused(place: Path, changes: dict[str, Any]) -> str:
    """The message by which the changed job is refused; nothing is written."""
    job = load_job(place / "job.yaml", changes)
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError) as error:
        check_folder(job, place / "run")
    assert sorted(place.rglob("*")) == before
    return str(error.value)


PARTS = ["job.yaml", "surrogate.h5", "points.h5", "chunks", "report.h5"]


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_of_another_training_is_refused_with_both_named(part: str, place: Path) -> None:
    keep_only(place / "run", part)
    text = refused(place, {"seed": 7, "name": "other", "training.checkpoint_every": 1.0})
    for named in ("'tiny'", "'other'", "seed 0, here 7", "--out", str(place / "run")):
        assert named in text, text
    assert "checkpoint_every" not in text and "file" not in text.replace("delete the file", "").replace(".file", "")


@pytest.mark.parametrize("part", ["points.h5", "chunks", "report.h5"])
def test_a_folder_of_another_correction_is_refused_with_what_differs(part: str, place: Path) -> None:
    keep_only(place / "run", part)
    text = refused(place, {"correction.laplacian": "exact", "correction.ranks": 2, "correction.rtol": 0.1})
    assert "correction.laplacian 2, here 'exact'" in text
    assert "ranks" not in text and "rtol" not in text and "max_paths" not in text


@pytest.mark.parametrize("part", ["job.yaml", "surrogate.h5"])
def test_a_training_alone_serves_another_correction(part: str, place: Path) -> None:
    keep_only(place / "run", part)
    assert check_folder(load_job(place / "job.yaml", {"correction.laplacian": "exact"}), place / "run").path == place / "run"


@pytest.mark.parametrize("part", [*PARTS, "all"])
def test_a_users_file_that_has_changed_is_called_that(part: str, place: Path) -> None:
    if part == "job.yaml":
        (place / "run" / "surrogate.h5").unlink()
    elif part != "all":
        keep_only(place / "run", part)
    (place / "pde.py").write_text(PDE.format(body="pass") + "# changed\n")
    text = refused(place, {})
    assert "the problem's file" in text and "has changed" in text and "problem_" not in text


def test_a_points_file_that_has_changed_is_called_that(place: Path) -> None:
    np.save(place / "p.npy", np.full((20, 7), 0.2))
    assert "the points' file has changed" in refused(place, {}).replace("the problem's file or ", "")


def test_the_same_job_is_let_in_with_other_budgets_and_another_name(place: Path) -> None:
    changes = {"name": "again", "correction.rtol": 0.1, "correction.ranks": 2, "training.checkpoint_every": 1.0}
    assert prepare(load_job(place / "job.yaml", changes), place / "run").load().model.name == "again"


def test_a_file_made_by_another_release_is_called_that(job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = load_job(job_file)
    store.save_points(tmp_path / "run" / "points.h5", torch.zeros(4), torch.zeros(4, 6), "older", job.resolved)
    with pytest.raises(InputError, match="another release"):
        check_folder(job, tmp_path / "run")


def test_chunks_belong_to_the_last_bit_of_the_surrogates_parameters(job_file: Path) -> None:
    """Trainings by other numbers of workers have one name and may differ in it."""
    job = load_job(job_file)
    ours, theirs = job.surrogate(), job.surrogate()
    candidate = Candidate({"name": "linearised", "times": 2, "steps": 1}, 2, "none")
    assert scasml_method(job, ours, 4, candidate).owner == scasml_method(job, theirs, 4, candidate).owner
    last = list(theirs.parameters())[-1]
    last.data.copy_(torch.nextafter(last, last + 1.0))
    assert scasml_method(job, ours, 4, candidate).owner != scasml_method(job, theirs, 4, candidate).owner


@pytest.mark.parametrize("content", ["name: mine\n", "- a\n", "", yaml.safe_dump(TINY)])
def test_a_job_file_that_no_run_has_written_is_not_overwritten(
    content: str, job_file: Path, tmp_path: Path, scasml: Callable[..., Any]
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "job.yaml").write_text(content)
    done = scasml("run", job_file, "--inline", "--out", tmp_path / "theirs")
    assert done.status == 2 and "would be overwritten" in done.err and "--out" in done.err
    assert (tmp_path / "theirs" / "job.yaml").read_text() == content
    assert not is_run(RunFolder(tmp_path / "theirs"))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: [1"])
def test_a_job_file_that_cannot_be_read_is_named(content: bytes, job_file: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"job\.yaml' cannot be read.*delete it"):
        check_folder(load_job(job_file), tmp_path)
    assert not is_run(RunFolder(tmp_path))


def test_the_check_writes_nothing_and_the_folder_is_held_afterwards(job_file: Path, tmp_path: Path) -> None:
    job: Job = load_job(job_file)
    assert not check_folder(job, tmp_path / "run").path.exists()
    folder = prepare(job, tmp_path / "run")
    assert sorted(os.listdir(folder.path)) == [LOCK, "job.yaml"] and is_run(folder)
