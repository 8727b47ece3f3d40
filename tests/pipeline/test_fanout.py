"""Work goes to whichever rank is free."""

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

SPREADS = """
import time
from pipeline.fanout import World, spread

world = World()

def piece(n):
    time.sleep(0.02)
    return n * n, world.rank

found = spread(world, [lambda n=n: piece(n) for n in range(20)])
squares, ranks = zip(*found)
everywhere = world.gather(found)
empty = spread(world, [])
if everywhere is not None:
    print(list(squares) == [n * n for n in range(20)], set(ranks) == {0, 1}, everywhere[0] == everywhere[1], empty == [])
world.close()
"""


def on_two_ranks(place: Path, program: str) -> str:
    """What a program prints on two ranks."""
    (place / "program.py").write_text(program)
    launcher = Path(sys.executable).with_name("mpiexec")
    command = [str(launcher if launcher.exists() else "mpiexec"), "-n", "2", sys.executable, "-m", "mpi4py", "program.py"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_slow_rank_does_not_hold_the_rest_and_no_chunk_is_given_twice(tmp_path: Path) -> None:
    """One rank ten times slower than the other is given a tenth of the indices, where equal parts would be a half."""
    counts, whole = on_two_ranks(tmp_path, TAKES).rsplit(maxsplit=1)
    slow, fast = map(int, counts.strip("[] \n").split(","))
    assert whole == "True" and slow + fast == 80
    assert slow < 25


def test_pieces_done_by_any_rank_have_their_results_on_all_in_order(tmp_path: Path) -> None:
    assert on_two_ranks(tmp_path, SPREADS).split() == ["True"] * 4
