"""What the command line turns into an exit status."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


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


def _stop(signum: int, frame: object) -> None:
    raise Interrupted(f"stopped by {signal.Signals(signum).name}")


def stop_on_signals() -> None:
    """Turn Ctrl-C and SIGTERM into Interrupted; again after an engine has put in handlers of its own."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
