"""One progress mechanism for every engine: lines in the run's log, which the terminal follows."""

from __future__ import annotations

import itertools
import math
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=160)

_COUNTED = re.compile(r"^\S+ (?P<stage>[\w .-]+?) (?P<done>\d+)/(?P<total>\d+)(?: (?P<detail>.*))?$")
_CLOSED = re.compile(r"^\S+ (?P<stage>[\w.-]+): (?P<computed>\d+) chunks computed, (?P<reused>\d+) reused$")
_LOSS = re.compile(r"^loss (\S+)$")
_BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 24
_MARK = re.compile(r"^\S+ (?:train|correct|report) (?:began|ended|refused|written)$")
_END = re.compile(r"^\S+ report (?:ended|written)$")
RUNS = "runs"


def log(path: Path, message: str) -> None:
    """Append one timed line; 'stage done/total detail' becomes a bar."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%H:%M:%S')} {message}\n")


def curve(values: Sequence[float], width: int = CURVE_WIDTH) -> str:
    """Positive values as a line of blocks, on a logarithmic scale; what has no logarithm is left out.

    >>> curve([100.0, 10.0, 1.0])
    '█▄▁'
    """
    heights = [math.log(v) for v in values if 0.0 < v < math.inf]
    if not heights:
        return ""
    count = min(width, len(heights))
    cuts = [i * len(heights) // count for i in range(count + 1)]
    means = [sum(heights[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, span = min(means), max(means) - min(means)
    return "".join(_BLOCKS[int((m - low) / span * (len(_BLOCKS) - 1)) if span else 0] for m in means)


def sketch(values: Sequence[float]) -> str:
    """The curve of ``values`` where the terminal can show it."""
    return curve(values) if console.encoding.startswith("utf") else ""


class _Bars:
    """The bars of a terminal: the stages of one run, or how many of several runs are finished and what each is doing."""

    def __init__(self, progress: Progress, stages: Mapping[str, int | None], runs: int) -> None:
        self._progress, self._several = progress, runs > 1
        self._tasks: dict[str, TaskID] = {}
        self._losses: dict[str, list[float]] = {}
        if self._several:
            self._add(RUNS, runs)
        else:
            for stage, total in stages.items():
                self._add(stage, total)

    def _add(self, stage: str, total: int | None) -> TaskID:
        self._tasks[stage] = self._progress.add_task(stage, total=total, detail="", start=stage == RUNS)
        return self._tasks[stage]

    def _task(self, label: str, stage: str) -> TaskID:
        """The bar of a stage, whose clock runs from now on; 'mlp-2-4' belongs to the 'mlp' that was announced."""
        short = label + stage.partition("-")[0]
        key = short if short in self._tasks else label + stage
        task = self._tasks[key] if key in self._tasks else self._add(key, None)
        self._progress.start_task(task)
        return task

    def _hide(self, label: str, before: TaskID | None = None) -> None:
        """Take away a run's bars that never began (up to ``before``), and with several runs all bars of one that is finished."""
        for key, task in self._tasks.items():
            if task == before:
                break
            finished = self._several and before is None
            if key != RUNS and key.startswith(label) and (finished or not self._progress.tasks[task].completed):
                self._progress.update(task, visible=False)

    def take(self, label: str, line: str) -> bool:
        """Show a line as progress of a bar; False where it is none."""
        if match := _COUNTED.match(line):
            task, detail = self._task(label, match["stage"]), match["detail"] or ""
            if loss := _LOSS.match(detail):
                with suppress(ValueError):
                    self._losses.setdefault(label, []).append(float(loss[1]))
                detail = f"{detail} {sketch(self._losses.get(label, []))}".rstrip()
            self._progress.update(task, completed=int(match["done"]), total=int(match["total"]), detail=detail)
            self._hide(label, before=task)
        elif match := _CLOSED.match(line):
            chunks = int(match["computed"]) + int(match["reused"])
            detail = f"{match['reused']} of them there before" if int(match["reused"]) else ""
            self._progress.update(self._task(label, match["stage"]), completed=chunks, total=chunks, detail=detail)
        elif _END.match(line):
            self._hide(label)
            if self._several:
                self._progress.advance(self._tasks[RUNS])
        return bool(match or _MARK.match(line))


class _Tail:
    """What is appended to a file from now on, by whole lines; bytes that are no text are shown as their codes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        self._offset += len(new)
        return new.decode("utf-8", "backslashreplace").splitlines()


@contextmanager
def followed(
    logs: Sequence[Path],
    *,
    stages: Mapping[str, int | None] | None = None,
    labels: Sequence[str] | None = None,
    plain: bool = False,
) -> Iterator[None]:
    """Show what is appended to the logs while the body runs: bars on a terminal, lines otherwise or where ``plain``.

    ``stages`` are the bars of a single run from the start, with their totals where they are known;
    ``labels`` tell several runs apart. Nothing that goes wrong here stops the body or hides its error.
    """
    tails = [_Tail(path) for path in logs]
    names = [""] * len(logs) if len(logs) == 1 else [f"{name}: " for name in labels or [path.parent.name for path in logs]]
    done = threading.Event()
    with_bars = console.is_terminal and not plain
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        console=console,
    )
    bars = _Bars(progress, stages or {}, len(logs)) if with_bars else None

    def drain() -> None:
        for tail, label in zip(tails, names, strict=True):
            with suppress(OSError, ValueError):
                for line in tail.lines():
                    if bars is None or not bars.take(label, line):
                        text = f"{label}{line}".encode(console.encoding, "backslashreplace").decode(console.encoding)
                        console.print(text, markup=False, soft_wrap=True)

    def watch() -> None:
        while not done.wait(0.3):
            drain()

    thread = threading.Thread(target=watch, daemon=True)
    with progress if with_bars else nullcontext():
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            drain()
