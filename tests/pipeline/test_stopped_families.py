"""Corrections of every family that are stopped half way, or lose a file, end with the bits of one left alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from test_families import ITERATED, SAMPLED, asked

from pipeline import fanout, iteration, store
from pipeline.errors import InputError
from pipeline.files import TEMPORARY, release
from pipeline.folders import prepare
from pipeline.iteration_report import IterationReport
from pipeline.job import RunFolder, job_from
from pipeline.launch import correct_stage
from pipeline.report_files import variables
from pipeline.results import result
from pipeline.training import train_stage

pytestmark = pytest.mark.unchecked

NET = {"surrogate": {"width": 16, "depth": 2}, "training": {"steps": 10, "batch": 64}}
MEANS: dict[str, dict[str, Any]] = {
    "integral": SAMPLED["Integral"],
    "ball": {"problem": {"name": "cosine_ball", "dim": 3}, **NET, "correction": {"points": 4, "max_paths": 10_000}},
    "box": {"problem": {"name": "sine_box", "dim": 2}, **NET, "correction": {"points": 4, "max_paths": 10_000}},
    "trace": {**SAMPLED["Trace"], "correction": {"max_paths": 400}},
}


class Killed(BaseException):
    """What nothing catches, as nothing catches SIGKILL."""


def killed_at_the_third_save(saver: Any, where: Any, name: str, path_of: Any, patch: pytest.MonkeyPatch) -> list[Path]:
    """Let two saves of a kind come to their end, and leave of the third what a killed writer leaves."""
    saved: list[Path] = []

    def save(*arguments: Any, **named: Any) -> None:
        path = path_of(*arguments)
        if len(saved) == 2:
            (path.parent / f".half{TEMPORARY}").write_bytes(saved[0].read_bytes()[:500])
            raise Killed
        saver(*arguments, **named)
        saved.append(path)

    patch.setattr(where, name, save)
    return saved


def corrected(small: dict[str, Any], path: Path, **correction: Any) -> list[bytes]:
    """Everything that a run of this job computes after its training, without a page."""
    release()
    folder = prepare(job_from({**asked(small, **correction), "report": {"baselines": []}}, Path()), path)
    train_stage(folder, folder.load())
    correct_stage(folder, folder.load())
    report = result(folder, folder.load(), resumed=0)
    if isinstance(report, IterationReport):
        found = report.methods["scasml"].iteration
        return [found.values.tobytes(), found.residuals.tobytes(), *(part.numpy().tobytes() for part in found.state.values())]
    return [values.tobytes() for values in variables(report).values()]


def beside(whole: Path, name: str) -> Path:
    """A folder with the surrogate alone."""
    (whole.parent / name).mkdir()
    shutil.copy(whole / "surrogate.h5", whole.parent / name)
    return whole.parent / name


def robbed(small: dict[str, Any], folder: Path, lost: Path, **correction: Any) -> list[bytes]:
    """A file cut short is refused with the remedy, which helps."""
    lost.write_bytes(lost.read_bytes()[:-700])
    with pytest.raises(InputError, match=r"(is cut off|is damaged).*delete it and run the job again"):
        corrected(small, folder, **correction)
    lost.unlink()
    return corrected(small, folder, **correction)


@pytest.mark.parametrize("family", MEANS)
def test_a_mean_killed_between_chunks_and_robbed_of_one_has_the_undisturbed_bits(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = MEANS[family]
    whole = corrected(small, tmp_path / "whole")
    run = beside(tmp_path / "whole", "run")
    with monkeypatch.context() as patch:
        # A chunk a wave.
        patch.setattr(fanout, "FIRST_WAVE_FLOP", 1.0)
        patch.setattr(fanout, "WAVE_SECONDS", 1e-9)
        saved = killed_at_the_third_save(store.save_wave, store, "save_wave", lambda path, _: path, patch)
        with pytest.raises(Killed):
            corrected(small, run)
    assert {path.parent.name for path in saved} == {"scasml"} and list(run.rglob(f".*{TEMPORARY}"))
    assert robbed(small, run, saved[0]) == whole
    assert ", 1 reused" in (run / "log.txt").read_text() and not list(run.rglob(f".*{TEMPORARY}"))


@pytest.mark.parametrize("family", ["LinearSystem", "SnapshotStream"])
def test_a_fixed_point_killed_between_two_saves_has_the_undisturbed_bits(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, steps = ITERATED[family], {"max_steps": 8}
    whole = corrected(small, tmp_path / "whole", **steps)
    run = beside(tmp_path / "whole", "run")
    with monkeypatch.context() as patch:
        # A save a step.
        patch.setattr(iteration, "SAVE_SECONDS", -1.0)
        saved = killed_at_the_third_save(
            iteration._save, iteration, "_save", lambda folder, _, name, *__: iteration.path_of(folder, name), patch
        )
        with pytest.raises(Killed):
            corrected(small, run, **steps)
    assert saved == [iteration.path_of(RunFolder(run), "scasml")] * 2
    shutil.copytree(run, tmp_path / "robbed")
    assert corrected(small, run, **steps) == whole
    assert "scasml: 6 steps computed, 2 reused" in (run / "log.txt").read_text()
    lost = iteration.path_of(RunFolder(tmp_path / "robbed"), "scasml")
    assert robbed(small, tmp_path / "robbed", lost, **steps) == whole
