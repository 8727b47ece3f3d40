"""One MPI rank of a correction: ``python -m mpi4py -m pipeline.rank FOLDER --ranks N``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.correction import correct
from pipeline.fanout import World
from pipeline.job import RunFolder
from pipeline.training import one_thread


def main(arguments: list[str]) -> None:
    """Correct the run in FOLDER together with the other ranks."""
    parser = argparse.ArgumentParser(prog="python -m mpi4py -m pipeline.rank", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of a run with a trained surrogate")
    parser.add_argument("--ranks", type=int, required=True, help="number of ranks that were asked for")
    given = parser.parse_args(arguments)
    world = World()
    if world.size != given.ranks:
        raise SystemExit(
            f"{given.ranks} ranks were asked for and {world.size} started: this launcher and this MPI library do not "
            "belong together (see `python -m mpi4py --mpi-library`; with srun, try --mpi=pmi2)"
        )
    folder = RunFolder(given.folder)
    with one_thread():
        correct(folder, folder.load(), world)
    world.close()


if __name__ == "__main__":
    main(sys.argv[1:])
