"""What a run's log says of its stages: each one begins and ends there, so interruptions can be counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import InputError
from pipeline.job import RunFolder
from pipeline.progress import log

_MARK = re.compile(r"^\S+ (?:train|correct|report) (began|ended|refused)$", re.MULTILINE)


def begun(folder: RunFolder, name: str) -> None:
    """Note that a stage begins, or is taken up again after a failure."""
    log(folder.log, f"{name} began")


@contextmanager
def stage(folder: RunFolder, name: str) -> Iterator[None]:
    """Note the beginning of a stage, and its end if it comes to that, be it that the stage is refused."""
    begun(folder, name)
    try:
        yield
    except InputError:
        log(folder.log, f"{name} refused")
        raise
    log(folder.log, f"{name} ended")


def interruptions(folder: RunFolder) -> int:
    """How often a stage was begun and did not come to its end: killed, stopped or failed, not refused."""
    if not folder.log.exists():
        return 0
    # Ranks and libraries write there too, in whatever encoding.
    marks = _MARK.findall(folder.log.read_text(encoding="utf-8", errors="replace"))
    return max(0, 2 * marks.count("began") - len(marks))
