"""Run a command that ends with the process that started it: ``python tether.py PARENT COMMAND ...``.

A launcher whose parent is killed with SIGKILL gets SIGTERM and takes its ranks along. Asking for that
in this program, which then becomes the command, needs no code between fork and exec of a parent with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def end_with_parent(number: int) -> None:
    """Have the kernel send this process signal ``number`` when the thread that started it ends."""
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, number)


def main(arguments: list[str]) -> None:
    """Become the command, unless the parent is gone already."""
    end_with_parent(signal.SIGTERM)
    if os.getppid() != int(arguments[0]):
        sys.exit(128 + signal.SIGTERM)
    os.execvp(arguments[1], arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
