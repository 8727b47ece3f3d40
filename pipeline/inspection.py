"""What an HDF5 file of a run holds, for a person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline import store
from pipeline.progress import sketch
from pipeline.tables import notes, table

TOLD_APART = ("format", "version", "complete", "job", "summary", "versions", "title", "seconds")
"""Attributes that are shown in a form of their own, or say nothing once the file is open."""


def inspection(path: Path, width: int) -> RenderableType:
    """Title, table of results, job, hashes and datasets of a file; what is in it decides which of these there are."""
    with store.opened(path, None) as file:
        told = {key: _plain(value) for key, value in file.attrs.items()}
        shown: list[RenderableType] = [Text(f"{path.name}: {told['format']}, version {told['version']}", style="bold")]
        if "title" in told:
            shown.append(Text(str(told["title"])))
        if "summary" in told:
            shown += [Text(""), table([(path.parent.name, told["summary"])], width), *map(Text, notes(told["summary"]))]
        if "step" in told and "loss" in file:
            shown.append(Text(f"training: step {told['step']} of {told['steps']}"))
            training = told.get("job", {}).get("training", {})
            border = training.get("steps") if "then" in training else None
            for loss in np.split(store.array(file, "loss"), [] if border is None else [border]):
                shown.append(Text(f"loss {_ends(loss)}  {sketch(loss.tolist())}".rstrip()))
        shown += [Text(""), *_facts(told)]
        if "job" in told:
            shown += [Text(""), Text("job:"), Text(_indented(yaml.safe_dump(told["job"], sort_keys=False)))]
        shown += [Text(""), _datasets(file)]
    return Group(*shown)


def _plain(value: Any) -> Any:
    """An attribute as it was before it was stored: JSON where it is JSON."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _facts(told: dict[str, Any]) -> Iterator[Text]:
    """One line for each other attribute."""
    for key, value in told.items():
        if key in TOLD_APART:
            continue
        yield Text(f"{key.replace('_', ' ')}: {value}")
    seconds = told.get("seconds")
    if isinstance(seconds, dict):
        yield Text("seconds: " + ", ".join(f"{stage} {spent:.1f}" for stage, spent in seconds.items()))
    elif seconds is not None:
        yield Text(f"seconds: {np.sum(seconds):.1f}")
    if isinstance(told.get("versions"), dict):
        yield Text("made with: " + ", ".join(f"{package} {version}" for package, version in told["versions"].items()))


def _ends(values: np.ndarray[Any, Any]) -> str:
    return f"{values[0]:.3e} -> {values[-1]:.3e}" if values.size else "-"


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines()).rstrip("\n")


def _datasets(file: Any) -> Table:
    """The arrays at the top, with their range; how many numbers the groups hold."""
    out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("dataset", "shape", "type", "from", "to", "what it is"):
        out.add_column(title, no_wrap=title != "what it is", overflow="fold")
    for name, node in file.items():
        if hasattr(node, "shape"):
            values = store.array(file, name)
            known = values[np.isfinite(values)] if values.dtype.kind in "fiu" else values[:0]
            ends = [f"{known.min():.4g}", f"{known.max():.4g}"] if known.size else ["-", "-"]
            shape = " x ".join(map(str, node.shape)) or "one"
            out.add_row(*map(Text, (name, shape, str(node.dtype), *ends, str(node.attrs.get("long_name", "")))))
        else:
            sizes: list[int] = []
            node.visititems(lambda _, inner, sizes=sizes: sizes.append(inner.size) if hasattr(inner, "shape") else None)
            out.add_row(*map(Text, (f"{name}/", f"{sum(sizes):,}", "", "", "", f"numbers in {len(sizes)} arrays")))
    return out
