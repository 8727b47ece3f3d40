"""One progress mechanism for every engine: lines in the run's log, which the terminal follows."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=160)
_COUNTED = re.compile(r"^\S+ (?P<stage>[\w .-]+?) (?P<done>\d+)/(?P<total>\d+)(?: (?P<detail>.*))?$")


def log(path: Path, message: str) -> None:
    """Append one timed line; 'stage done/total detail' becomes a bar."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%H:%M:%S')} {message}\n")


@contextmanager
def followed(logs: list[Path]) -> Iterator[None]:
    """Show what is appended to the logs while the body runs: bars on a terminal, lines otherwise."""
    offsets = {path: path.stat().st_size if path.exists() else 0 for path in logs}
    done = threading.Event()
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
    )
    tasks: dict[str, TaskID] = {}

    def show(path: Path, line: str) -> None:
        label = f"{path.parent.name}: " if len(logs) > 1 else ""
        match = _COUNTED.match(line)
        if not (console.is_terminal and match):
            console.print(f"{label}{line}", markup=False)
            return
        stage = label + match["stage"]
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, detail="")
        bars.update(tasks[stage], completed=int(match["done"]), total=int(match["total"]), detail=match["detail"] or "")

    def drain() -> None:
        for path in logs:
            if path.exists():
                with open(path, encoding="utf-8") as file:
                    file.seek(offsets[path])
                    lines = file.read()
                    complete = lines.rfind("\n") + 1
                    offsets[path] += len(lines[:complete].encode())
                for line in lines[:complete].splitlines():
                    show(path, line)

    def watch() -> None:
        while not done.wait(0.3):
            drain()

    thread = threading.Thread(target=watch, daemon=True)
    with bars:
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            drain()
