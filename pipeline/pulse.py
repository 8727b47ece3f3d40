"""Signs of life of ranks: a file that is touched while one computes, and rests while all wait or hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.fanout import Communicator

TOUCHES_PER_SECOND = 16
"""What a shared disk is asked for by all ranks together, as long as that keeps four touches within the stall time."""


def pulse_file(folder: Path) -> Path:
    """What the ranks of the run in ``folder`` touch."""
    return folder / ".alive"


class Pulse:
    """A thread that touches a file while this process computes.

    A chunk of a slow driver may take an hour and is alive; a stopped process touches nothing, and the
    others, who sooner or later wait for it, neither. So the file rests exactly if nothing goes on.
    """

    def __init__(self, file: Path, every: float) -> None:
        self._file, self._every, self._waiting = file, every, False
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while True:
            if not self._waiting:
                with suppress(OSError):
                    self._file.touch()
            time.sleep(self._every)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """This process depends on others while the body runs."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False


class Watched:
    """A communicator under which the pulse rests while it waits for other ranks."""

    def __init__(self, world: Communicator, file: Path, stall: float) -> None:
        self._world, self.rank, self.size = world, world.rank, world.size
        self.place = world.place
        self._pulse = Pulse(file, min(stall / 4.0, max(stall / 60.0, world.size / TOUCHES_PER_SECOND)))

    def take(self, total: int) -> Iterator[int]:
        """Indices as the world hands them out."""
        indices = self._world.take(total)
        while True:
            with self._pulse.waiting():
                index = next(indices, None)
            if index is None:
                return
            yield index

    def gather(self, item: Any) -> list[Any] | None:
        """Every rank's item on rank 0."""
        with self._pulse.waiting():
            return self._world.gather(item)

    def share(self, item: Any) -> Any:
        """Rank 0's item on every rank."""
        with self._pulse.waiting():
            return self._world.share(item)
