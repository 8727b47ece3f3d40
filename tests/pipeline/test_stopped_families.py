"""Corrections of every family that are stopped half way, or lose a file, end with the bits of one left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from conftest import numbers
from test_families import ITERATED, SAMPLED, job

from pipeline import fanout, iteration, run, store
from pipeline.errors import InputError
from pipeline.files import TEMPORARY, release
from pipeline.job import RunFolder

pytestmark = pytest.mark.unchecked

MEANS: dict[str, dict[str, Any]] = {
    "integral": SAMPLED["Integral"],
    "ball": {**SAMPLED["Poisson"], "correction": {"points": 20, "max_paths": 40_000}},
    "box": {
        "problem": {"name": "sine_box", "dim": 2},
        "surrogate": {"width": 16, "depth": 2},
        "training": {"steps": 20, "batch": 64},
        "correction": {"points": 20, "max_paths": 40_000},
    },
    "trace": {**SAMPLED["Trace"], "correction": {"max_paths": 1500}},
}


class Killed(BaseException):
    """What nothing catches, as nothing catches SIGKILL."""


def killed_at_the_third_save(saver: Any, where: Any, name: str, path_of: Any, patch: pytest.MonkeyPatch) -> list[Path]:
    """Let two saves of a kind come to their end, and leave of the third what a killed writer leaves."""
    saved: list[Path] = []

    def save(*arguments: Any, **named: Any) -> None:
        path = path_of(*arguments)
        if len(saved) == 2:
            (path.parent / f".half{TEMPORARY}").write_bytes(path.parent.joinpath(saved[0].name).read_bytes()[:500])
            raise Killed
        saver(*arguments, **named)
        saved.append(path)

    patch.setattr(where, name, save)
    return saved


def ends_alike(small: dict[str, Any], folder: Path, whole: Path, lost: Path, **correction: Any) -> None:
    """Resumed, the bits are those of ``whole``; so they are after a file cut short is refused and deleted."""
    assert not (folder / "report.h5").exists() and list(folder.rglob(f".*{TEMPORARY}"))
    lost.write_bytes(lost.read_bytes()[:-700])
    release()
    with pytest.raises(InputError, match=r"(is cut off|is damaged).*delete it and run the job again"):
        run(job(small, **correction), folder, progress=False)
    lost.unlink()
    release()
    run(job(small, **correction), folder, progress=False)
    assert numbers(folder) == numbers(whole)
    assert not list(folder.rglob(f".*{TEMPORARY}"))


@pytest.mark.parametrize("family", MEANS)
def test_a_mean_stopped_between_chunks_and_robbed_of_one_has_the_undisturbed_bits(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = copy.deepcopy(MEANS[family])
    run(job(small), tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        # A chunk a wave.
        patch.setattr(fanout, "FIRST_WAVE_FLOP", 1.0)
        patch.setattr(fanout, "WAVE_SECONDS", 1e-9)
        saved = killed_at_the_third_save(store.save_wave, store, "save_wave", lambda path, _: path, patch)
        with pytest.raises(Killed):
            run(job(small), tmp_path / "run", progress=False)
    assert {path.parent.name for path in saved} == {"scasml"}
    ends_alike(small, tmp_path / "run", tmp_path / "whole", saved[0])
    log = (tmp_path / "run" / "log.txt").read_text()
    assert ", 1 reused" in log


@pytest.mark.parametrize("family", ["LinearSystem", "SnapshotStream"])
def test_a_fixed_point_killed_between_two_saves_has_the_undisturbed_bits(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, steps = ITERATED[family], {"max_steps": 8}
    run(job(small, **steps), tmp_path / "whole", progress=False)
    for lost in (False, True):
        folder = tmp_path / f"lost-{lost}"
        with monkeypatch.context() as patch:
            # A save a step.
            patch.setattr(iteration, "SAVE_SECONDS", -1.0)
            saved = killed_at_the_third_save(
                iteration._save, iteration, "_save", lambda run, _, name, *__: iteration.path_of(run, name), patch
            )
            with pytest.raises(Killed):
                run(job(small, **steps), folder, progress=False)
        assert saved == [iteration.path_of(RunFolder(folder), "scasml")] * 2
        if lost:
            ends_alike(small, folder, tmp_path / "whole", saved[0], **steps)
            continue
        release()
        run(job(small, **steps), folder, progress=False)
        assert numbers(folder) == numbers(tmp_path / "whole")
        assert "scasml: 6 steps computed, 2 reused" in (folder / "log.txt").read_text()
