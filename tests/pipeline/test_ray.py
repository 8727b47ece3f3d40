"""The Ray graph with two data-parallel workers and two ranks gives the bits of the inline one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_bad_input import write

from conftest import numbers  # isort: skip


@pytest.mark.timeout(400)
def test_ray_train_and_mpi_ranks_give_the_bits_of_the_inline_run(job_file: Path, tmp_path: Path) -> None:
    write(
        job_file,
        {"training.workers": 2, "correction.ranks": 2, "correction.oversubscribe": True, "report.baselines": ["surrogate"]},
    )
    command = [sys.executable, "-m", "pipeline", "run", str(job_file), "--out"]
    inline = subprocess.run(
        [*command, str(tmp_path / "inline"), "--inline"], capture_output=True, text=True, timeout=120, check=False
    )
    assert inline.returncode == 0, inline.stderr
    expected = numbers(tmp_path / "inline")
    shutil.rmtree(tmp_path / "inline")
    found = subprocess.run([*command, str(tmp_path / "ray")], capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "surrogate taken" not in (tmp_path / "ray" / "log.txt").read_text()
    assert numbers(tmp_path / "ray") == expected
