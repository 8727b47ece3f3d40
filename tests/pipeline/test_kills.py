"""Runs that are killed, stopped or left hanging at any moment end, once resumed, with the undisturbed bits."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from running import TWO, all_gone, counts, execute, family, log_of, marks, ranks, started, stop, until
from test_bad_input import PDE, write

from pipeline import launch
from pipeline.errors import EngineError
from pipeline.files import release
from pipeline.folders import prepare
from pipeline.job import RunFolder, load_job
from pipeline.training import train_stage

from conftest import TINY, numbers  # isort: skip

LONG = {
    "training.steps": 1500,
    "training.checkpoint_every": 0.2,
    "correction.laplacian": 8,
    "correction.max_paths": 250_000,
    "report.baselines": ["surrogate", "mlp"],
}

CHUNK = r"scasml [1-9]\d*/"
MOMENTS = {
    "train": r"training [1-9]\d*/|surrogate\.h5",
    "correct": CHUNK,
    "baseline": r"mlp-\S+ [1-9]\d*/",
    "report": r"report began",
}


ENDS = {
    "train": ("train began", "train ended"),
    "correct": ("correct began", r"scasml: \d+ chunks"),
    "baseline": (r"scasml: \d+ chunks", "correct ended"),
    "report": ("report began", "report ended"),
}
"""First and last word of each stage in the log."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run long enough to be hit in the middle of every stage."""
    place = tmp_path_factory.mktemp("calm")
    (place / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    write(place / "tiny.yaml", LONG)
    assert execute(place / "tiny.yaml", place / "run", "--inline").returncode == 0
    return place


@pytest.fixture
def fresh(undisturbed: Path, tmp_path: Path) -> Path:
    """The same job with nothing done yet."""
    shutil.copy(undisturbed / "tiny.yaml", tmp_path)
    return tmp_path / "tiny.yaml"


@pytest.fixture
def trained(undisturbed: Path, fresh: Path) -> Path:
    """The same job with its surrogate, its correction still to do."""
    (fresh.parent / "run").mkdir()
    shutil.copy(undisturbed / "run" / "surrogate.h5", fresh.parent / "run")
    return fresh


def kill_in(stage: str, job: Path, run: Path, moment: str, delay: float) -> bool:
    """SIGKILL an inline run ``delay`` seconds after its log has come to a moment: whether that hit it in the stage."""
    process = started(job, run, moment, "--inline")
    since = len(log_of(run))
    time.sleep(delay)
    stop(process, group=True)
    if process.returncode != -signal.SIGKILL:
        assert process.returncode == 0, log_of(run)
        return False
    corrected = re.search(r"scasml: \d+ chunks", log_of(run)[since:] if stage == "correct" else log_of(run))
    return marks(run)[-1] == ("correct began" if stage == "baseline" else f"{stage} began") and bool(corrected) == (
        stage in ("baseline", "report")
    )


def resumed(job: Path, run: Path, undisturbed: Path, kills: int) -> None:
    """Run again to the end: the undisturbed bits, and as many interruptions reported as there were."""
    done = execute(job, run, "--inline", "--set", "correction.ranks=1")
    assert done.returncode == 0, done.stderr
    assert numbers(run) == numbers(undisturbed / "run")
    assert json.loads((run / "report.json").read_text())["resumed"] == kills


def test_a_run_killed_once_in_every_stage_ends_with_the_undisturbed_bits(fresh: Path, undisturbed: Path) -> None:
    run = fresh.parent / "run"
    for stage in MOMENTS:
        assert kill_in(stage, fresh, run, MOMENTS[stage], 0.1)
    assert 0 < int(re.findall(r"training resumes at step (\d+)", log_of(run))[0]) < 1500
    computed, reused = counts(run)
    assert computed > 0 and reused > 0
    resumed(fresh, run, undisturbed, len(MOMENTS))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("stage", MOMENTS)
def test_ten_kills_at_random_moments_of_each_stage_change_no_bit(stage: str, undisturbed: Path, fresh: Path) -> None:
    """Two ranks, moments uniform over the whole stage; a run that had left the stage before its kill is drawn again."""
    write(fresh, TWO)
    beginning, end = ENDS[stage]
    length = seconds_from(fresh, fresh.parent / "timed" / "run", beginning, end)
    method = "mlp" if stage == "baseline" else "scasml"
    rng, hits, delays, reuse = np.random.default_rng(0), 0, [], []
    for number in range(60):
        run, delay = fresh.parent / str(number) / "run", rng.uniform(0.0, length)
        if not kill_in(stage, fresh, run, beginning, delay):
            continue
        written, before = len(list(run.glob(f"chunks/{method}*/*"))), len(log_of(run))
        resumed(fresh, run, undisturbed, 1)
        delays.append(delay / length)
        said = re.findall(rf"{method}\S*: (\d+) chunks computed, (\d+) reused", log_of(run)[before:])
        reuse.append(tuple(map(int, said[-1])) if said else (0, 0))
        # Where nothing was left to compute, the log says nothing of it.
        assert (reuse[-1][1] > 0) is (written > 0) if said else written > 0
        hits += 1
        if hits == 10:
            break
    print(f"{stage}, {length:.2f} s: {number + 1 - hits} runs had left it; hit at", np.sort(delays).round(2), "of it")
    print("chunks computed and reused after each kill:", *reuse)
    assert hits == 10
    if stage in ("correct", "baseline"):
        assert (np.sum(reuse, 0) > 0).all()


def seconds_from(job: Path, run: Path, beginning: str, end: str) -> float:
    """How long an inline run takes from one word of its log to another."""
    process = started(job, run, beginning, "--inline")
    began = time.monotonic()
    until(lambda: re.search(end, log_of(run)), 120.0)
    took = time.monotonic() - began
    process.communicate(timeout=120)
    assert process.returncode == 0
    return took


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGKILL))],
    ids=lambda n: n.name,
)
def test_a_signal_in_the_correction_leaves_no_rank_and_a_resumable_run(number: int, trained: Path, undisturbed: Path) -> None:
    run = trained.parent / "run"
    write(trained, TWO)
    process = started(trained, run, CHUNK, "--inline")
    children = family(process)
    assert len(ranks(run)) >= 2
    status, shown = stop(process, number, group=number == signal.SIGINT)
    assert status == (-number if number == signal.SIGKILL else 3) and "Traceback" not in shown
    assert all_gone(children, run)
    assert not (run / "report.h5").exists() and marks(run)[-1] == "correct began"
    resumed(trained, run, undisturbed, 1)
    computed, reused = counts(run)
    assert computed > 0 and reused > 0


@pytest.mark.parametrize("victim", ["rank", "mpiexec"])
def test_a_rank_or_launcher_that_is_killed_ends_the_run_at_once(victim: str, trained: Path, undisturbed: Path) -> None:
    run = trained.parent / "run"
    write(trained, TWO)
    process = started(trained, run, CHUNK, "--inline")
    children = family(process)
    launched = next(c for c in children if c.name() == "mpiexec")
    (launched if victim == "mpiexec" else [c for c in ranks(run) if c in children and not c.children()][-1]).kill()
    launched.wait(timeout=5.0)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 1 and "log.txt" in shown and "Traceback" not in shown
    assert all_gone(children, run) and not (run / "report.h5").exists()
    resumed(trained, run, undisturbed, 1)


WAITING = "(0.0 * y if not wait() else y)"
DRIVER = """
def wait():
    import os, time
    while os.path.exists({marker!r}):
        open({slept!r}, "w").close()
        time.sleep(0.1)
"""


def test_a_slow_driver_is_waited_for_and_a_hung_rank_is_not(job_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = job_file.parent
    marker, slept, run = place / "marker", place / "slept", place / "run"
    source = PDE.format(body="pass").replace("0.0 * y,", f"{WAITING},")
    assert WAITING in source
    (place / "pde.py").write_text(source + DRIVER.format(marker=str(marker), slept=str(slept)))
    write(job_file, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}, **LONG, **TWO, "training.steps": 4})
    folder = prepare(load_job(job_file), run)
    release()
    train_stage(folder, folder.load())
    marker.touch()
    monkeypatch.setattr(launch, "STALL_SECONDS", 40.0)
    with ThreadPoolExecutor(1) as pool:
        stage = pool.submit(launch.correct_stage, folder, folder.load())
        until(slept.exists)
        # Every rank is in its first chunk now, and stays there for twice the time a hung one is given.
        monkeypatch.setattr(launch, "STALL_SECONDS", 3.0)
        time.sleep(6.0)
        assert not stage.done(), stage.exception()
        marker.unlink()
        until(lambda: re.search(CHUNK, log_of(run)))
        children = psutil.Process().children(recursive=True)
        hung = [c for c in ranks(run) if c in children and not c.children()][-1]
        os.kill(hung.pid, signal.SIGSTOP)
        began = time.monotonic()
        error = stage.exception(timeout=60.0)
    assert isinstance(error, EngineError) and "hangs" in str(error) and time.monotonic() - began < 30.0
    assert all_gone([hung], run)
    assert not (run / ".alive").exists()


def test_a_rank_that_raises_ends_the_run_and_its_reason_is_in_the_log(trained: Path, undisturbed: Path) -> None:
    run, marker = trained.parent / "run", trained.parent / "fail"
    source = PDE.format(body="pass").replace(
        "0.0 * y,", f"0.0 * y if not __import__('os').path.exists({str(marker)!r}) else 1 / 0,"
    )
    assert "1 / 0" in source
    (trained.parent / "pde.py").write_text(source)
    (run / "surrogate.h5").unlink()
    write(trained, {"problem": {"file": "pde.py", "name": "mine", "dim": 3}, "training.steps": 4, **TWO})
    folder = prepare(load_job(trained), run)
    release()
    train_stage(folder, folder.load())
    marker.touch()
    with pytest.raises(EngineError, match=r"status \d+.*log\.txt"):
        launch.correct_stage(folder, folder.load())
    assert "ZeroDivisionError" in log_of(run) and not ranks(run)
    assert not list(RunFolder(run).waves("scasml"))
