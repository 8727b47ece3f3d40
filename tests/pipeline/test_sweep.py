"""Many runs of one file: checked before any begins, told apart, and shown in one table of their own."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from test_bad_input import write

from pipeline.dag import _await

from conftest import TINY  # isort: skip

QUICK = {"training.steps": 5, "correction.points": 16, "correction.max_paths": 10_000, "report.baselines": ["surrogate"]}


@pytest.fixture
def swept(job_file: Path) -> Callable[..., Path]:
    """A quick job with this sweep, and these changes."""

    def make(sweep: dict[str, Any], **changes: Any) -> Path:
        job_file.write_text(yaml.safe_dump(TINY))
        write(job_file, {**QUICK, **changes, "sweep": sweep})
        return job_file

    return make


def table_of(out: Path) -> tuple[Path, dict[str, Any]]:
    (folder,) = out.glob("tiny-sweep-*")
    return folder, json.loads((folder / "table.json").read_text())


def test_a_sweep_makes_one_table_in_json_html_and_print(swept: Callable[..., Path], scasml: Callable[..., Any]) -> None:
    job = swept({"seed": [0, 1], "correction.laplacian": [1, 2]})
    out = job.parent / "out"
    done = scasml("run", job, "--inline", "--out", out)
    assert done.status == 0, done.err
    folder, table = table_of(out)
    assert table["swept"] == ["seed", "correction.laplacian"] and table["name"] == "tiny"
    assert [run["set"] for run in table["runs"]] == [{"seed": s, "correction.laplacian": n} for s in (0, 1) for n in (1, 2)]
    assert all((out / run["folder"] / "report.h5").exists() and "scasml" in run["summary"]["methods"] for run in table["runs"])
    labels = ["seed=0 correction.laplacian=1", "seed=1 correction.laplacian=2"]
    page = (folder / "table.html").read_text()
    for label in labels:
        assert f"<td>{label}</td>" in page
        assert re.search(rf"^{label}  surrogate +\d", done.out, flags=re.M)
        assert f"{label}: estimated " in done.out and f"{label}: files: {out}/tiny-" in done.out
    assert not re.search(r"(src|href)\s*=|url\(|@import", page)
    assert f"{folder}/ (table.html, table.json)" in done.out
    # Equal trainings are done once.
    assert sum("surrogate taken from" in log.read_text() for log in out.glob("*/log.txt")) == 2
    # As a shell's pattern would have it, the folder of the table among them.
    assert folder in out.glob("tiny-*")
    shown = scasml("compare", *out.glob("tiny-*")).out
    alone = scasml("compare", folder)
    assert alone.status == 2 and "is the table of a sweep: name its runs" in alone.err
    assert len(re.findall(r"^(?!.* falls as ).*\bscasml\b", shown, flags=re.M)) == 4


def test_two_sweeps_never_share_a_table_and_the_same_one_does(swept: Callable[..., Path], scasml: Callable[..., Any]) -> None:
    out = swept({}).parent / "out"
    for sweep in ({"seed": [0, 1]}, {"seed": [0, 2]}, {"report.confidence": [0.9, 0.95]}, {"seed": [0, 1]}):
        done = scasml("run", swept(sweep), "--inline", "--out", out)
        assert done.status == 0, done.err
    assert len(list(out.glob("tiny-sweep-*"))) == 3


def test_runs_that_differ_in_what_is_not_hashed_have_folders_of_their_own_whatever_their_order(
    swept: Callable[..., Path], scasml: Callable[..., Any]
) -> None:
    out = swept({}).parent / "out"
    assert scasml("run", swept({"report.confidence": [0.9, 0.95]}), "--inline", "--out", out).status == 0
    runs = {r["set"]["report.confidence"]: r["folder"] for r in table_of(out)[1]["runs"]}
    assert len(set(runs.values())) == 2
    written = {path: path.stat().st_mtime_ns for path in out.glob("tiny-*/report.h5")}
    done = scasml("run", swept({"report.confidence": [0.95, 0.9]}), "--inline", "--out", out)
    assert done.status == 0 and {path: path.stat().st_mtime_ns for path in out.glob("tiny-*/report.h5")} == written


def test_no_run_is_begun_before_all_are_checked(swept: Callable[..., Path], scasml: Callable[..., Any]) -> None:
    job = swept({"seed": [0, 1]})
    out = job.parent / "out"
    assert scasml("run", job, "--inline", "--out", out).status == 0
    first, second = (out / run["folder"] for run in table_of(out)[1]["runs"])
    # The second run's folder comes to hold another job's surrogate, and the first one's vanishes.
    (second / "surrogate.h5").write_bytes((first / "surrogate.h5").read_bytes())
    (second / "job.yaml").unlink()
    for path in sorted(first.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    first.rmdir()
    before = sorted(out.rglob("*"))
    for command in ("run", "train", "correct", "report"):
        done = scasml(command, job, "--out", out, *(["--inline"] if command == "run" else []))
        assert done.status == 2 and "belongs to another job" in done.err, done.err
        assert sorted(out.rglob("*")) == before


def test_no_more_groups_are_in_flight_than_asked_for_and_all_are_submitted_in_order() -> None:
    """Seven groups of two ends each, three at once: six ends at most wait together, and each is fetched once."""
    submitted: list[int] = []
    most, fetched = [], []

    def wait(ends: list[int], timeout: float) -> tuple[list[int], list[int]]:
        most.append(len(ends))
        return ends[-1:], ends[:-1]

    def submit(number: int) -> list[int]:
        submitted.append(number)
        return [2 * number, 2 * number + 1]

    ray = SimpleNamespace(wait=wait, get=lambda end, timeout: fetched.append(end))
    signals = SimpleNamespace(check=lambda: None)
    _await(ray, deque(partial(submit, n) for n in range(7)), 3, signals)  # type: ignore[arg-type]
    assert submitted == list(range(7)) and sorted(fetched) == list(range(14)) and max(most) == 6
