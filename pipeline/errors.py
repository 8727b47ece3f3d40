"""What the command line turns into an exit status."""

from __future__ import annotations

import difflib
import re
import signal
import threading
from collections.abc import Iterable
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; a launcher's or a user's end; what Slurm is asked to send before a time limit or a preemption."""


class InputError(Exception):
    """Bad input: one message with the value, the rule and the remedy. Exit status 2."""


class Interrupted(Exception):
    """Stopped before the end, resumable. Exit status 3."""


class EngineError(Exception):
    """A worker, rank or launcher failed under us. Exit status 1; what is finished is kept."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """' Did you mean X?' or a list of the choices.

    >>> nearest("sead", ["seed", "steps"])
    " Did you mean 'seed'?"
    """
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(known) or 'none'}."


def as_line(error: InputError | OSError) -> str:
    """An error as the one line by which a rank tells the process that launched it; see ``from_lines``."""
    return f"{'refused' if isinstance(error, InputError) else 'failed'}: {' '.join(str(error).split())}"


def from_lines(text: str) -> InputError | EngineError | None:
    """The first error that ranks left in their log as ``as_line``, after the time of day.

    >>> from_lines("12:00:00 scasml 1/2 chunks\\n12:00:01 refused: no such file\\n")
    InputError('no such file')
    """
    found = re.search(r"^\S+ (refused|failed): (.*)$", text, re.MULTILINE)
    if found is None:
        return None
    return InputError(found[2]) if found[1] == "refused" else EngineError(found[2])


def _stop(signum: int, frame: object) -> None:
    raise Interrupted(f"stopped by {signal.Signals(signum).name}")


def stop_on_signals() -> None:
    """Turn Ctrl-C, SIGTERM and SIGUSR1 into Interrupted, raised wherever Python is."""
    for number in STOPPING:
        signal.signal(number, _stop)


class NotedSignals:
    """Ctrl-C, SIGTERM and SIGUSR1 are noted while this is entered, and raised by ``check``.

    For code that waits inside an engine which would swallow what a signal handler raises. Outside the
    main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self._came: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> NotedSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in STOPPING}
            self.again()
        return self

    def again(self) -> None:
        """Take the signals back from an engine that has put in handlers of its own."""
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, signum: int, frame: object) -> None:
        self._came = signum

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self._came is not None:
            _stop(self._came, None)

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
