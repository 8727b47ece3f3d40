"""Whose a file is: what differs between the job it names and the one at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TRAINING = ("seed", "problem", "surrogate", "training")
CORRECTION = (*TRAINING, "correction")
"""The parts of a resolved job that a training, and a correction, belong to."""

_FREE = {
    *("workers", "accumulate", "checkpoint_every"),
    *("rtol", "atol", "max_paths", "max_steps", "ranks", "oversubscribe", "device", "gradient", "bounds"),
}
"""Keys of these parts that decide no number."""


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], parts: tuple[str, ...]) -> list[str]:
    """'problem.dim 20, here 100' for every key of ``parts`` that differs.

    Where both jobs have a user's file its name is passed over: its content is what counts.

    >>> differences({"seed": 0, "training": {"steps": 5}}, {"seed": 0, "training": {"steps": 7}}, TRAINING)
    ['training.steps 5, here 7']
    """
    found = []

    def walk(a: Any, b: Any, where: str, key: str) -> None:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            for inner in [*a, *(k for k in b if k not in a)]:
                walk(a.get(inner), b.get(inner), f"{where}.{inner}", str(inner))
        elif a != b and key not in _FREE and not (key == "file" and a and b):
            found.append(f"{where} {a!r}, here {b!r}")

    for part in parts:
        walk(theirs.get(part), ours.get(part), part, part)
    return found


def explained(theirs: Mapping[str, Any], ours: Mapping[str, Any], parts: tuple[str, ...]) -> str:
    """What differs, in words, between two jobs whose hashes over ``parts`` differ."""
    found = differences(theirs, ours, parts)
    if found:
        what = "; ".join(found[:3])
    else:
        files = [name for name, place in _files(ours, parts) if place]
        otherwise = "it was made with other parameters of the surrogate, or by another release of this program"
        what = f"{' or '.join(files)} has changed" if files else otherwise
    return f"it belongs to job '{theirs.get('name')}', this one is '{ours.get('name')}': {what}"


def _files(job: Mapping[str, Any], parts: tuple[str, ...]) -> list[tuple[str, Any]]:
    """The user's files that count for ``parts``."""
    out = [(f"the {part}'s file", job.get(part, {}).get("file")) for part in ("problem", "surrogate")]
    if "correction" in parts:
        points = job.get("correction", {}).get("points")
        out.append(("the points' file", points.get("file") if isinstance(points, Mapping) else None))
    return out
