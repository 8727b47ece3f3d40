"""Chunks go to whichever rank is free."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TAKES = """
import time
from pipeline.fanout import World

world = World()
taken = []
for round in range(2):
    for index in world.take(40):
        taken.append((round, index))
        time.sleep(0.05 if world.rank == 0 else 0.005)
parts = world.gather(taken)
if parts is not None:
    print([len(part) for part in parts], sorted(i for part in parts for i in part) == [(r, i) for r in range(2) for i in range(40)])
world.close()
"""


def test_a_slow_rank_does_not_hold_the_rest_and_no_chunk_is_given_twice(tmp_path: Path) -> None:
    """One rank ten times slower than the other is given a tenth of the indices, where equal parts would be a half."""
    (tmp_path / "takes.py").write_text(TAKES)
    launcher = Path(sys.executable).with_name("mpiexec")
    command = [str(launcher if launcher.exists() else "mpiexec"), "-n", "2", sys.executable, "-m", "mpi4py", "takes.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    counts, whole = done.stdout.rsplit(maxsplit=1)
    slow, fast = map(int, counts.strip("[] \n").split(","))
    assert whole == "True" and slow + fast == 80
    assert slow < 25
