"""One MPI rank of a correction: ``python -m mpi4py -m pipeline.rank FOLDER --ranks N --stall SECONDS``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from pipeline.correction import correct
from pipeline.errors import InputError, as_line
from pipeline.fanout import World
from pipeline.job import RunFolder
from pipeline.progress import log
from pipeline.pulse import Watched, pulse_file
from pipeline.tether import end_with_parent
from pipeline.training import one_thread

ABORTED = 65
"""Status with which a rank that has said why in the log ends all of them."""


def main(arguments: list[str]) -> None:
    """Correct the run in FOLDER together with the other ranks."""
    parser = argparse.ArgumentParser(prog="python -m mpi4py -m pipeline.rank", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of a run with a trained surrogate")
    parser.add_argument("--ranks", type=int, required=True, help="number of ranks that were asked for")
    parser.add_argument("--stall", type=float, required=True, help="seconds after which ranks that show no life are stopped")
    given = parser.parse_args(arguments)
    # A launcher that is killed outright leaves its ranks behind.
    end_with_parent(signal.SIGKILL)
    # Sent to all of a Slurm job it is for the process that launched the ranks, which ends them in order.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    world = World()
    if world.size != given.ranks:
        raise SystemExit(
            f"{given.ranks} ranks were asked for and {world.size} started: this launcher and this MPI library do not "
            "belong together (see `python -m mpi4py --mpi-library`; with srun, try --mpi=pmi2)"
        )
    folder = RunFolder(given.folder)
    try:
        with one_thread():
            correct(folder, folder.load(), Watched(world, pulse_file(folder.path), given.stall))
    except (InputError, OSError) as error:
        # mpi4py turns the status into an abort of every rank; a traceback would say less than the message.
        log(folder.log, as_line(error))
        raise SystemExit(ABORTED) from error
    world.close()


if __name__ == "__main__":
    main(sys.argv[1:])
