"""What a job may name, for a person: every entry of the catalogue with its options, its dimensions and its truth."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeline import catalogue, family
from pipeline.errors import InputError, Interrupted, nearest
from pipeline.schema import CHOICES

KEYS = {**dict.fromkeys(catalogue.PROBLEMS, "problem"), **{room: key for key, room in reversed(CHOICES.items())}}
"""Room -> the first key of a job that names its entries."""

TRIED = (1, 2, 3, 4, 100)
"""Dimensions in which an equation is built to learn which it takes."""

REFERENCED = (10, 20, 50, 80, 100, 160, 200)
"""Dimensions in which an equation without a solution is asked for the value at its reference point."""

_PARAMETER = re.compile(r"^:param (\w+):\s*", flags=re.M)


def documentation(make: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The first paragraph of a docstring on one line, and what its ``:param`` lines say."""
    head, *rest = _PARAMETER.split(inspect.getdoc(make) or "")
    said = {name: " ".join(text.partition("\n:")[0].split()) for name, text in zip(rest[::2], rest[1::2], strict=True)}
    return " ".join(head.split("\n\n")[0].split()), said


def attempts(make: Callable[..., Any], dims: Iterable[int]) -> tuple[dict[int, Any], dict[int, str]]:
    """An equation in each of these dimensions, or why it refuses them."""
    built: dict[int, Any] = {}
    refused: dict[int, str] = {}
    for dim in dims:
        try:
            built[dim] = make(dim)
        except Interrupted:
            raise
        except Exception as error:
            refused[dim] = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return built, refused


def dimensions(make: Callable[..., Any], said: dict[str, str]) -> tuple[str, Any]:
    """Which dimensions an equation takes, by its own docstring or refusals, and the equation in the largest tried."""
    built, refused = attempts(make, TRIED)
    if not built:
        return f"dim: {said.get('dim', '')} ({refused[TRIED[-1]]})", None
    rule = said.get("dim") or f"a whole number from {min(built)}"
    texts = dict.fromkeys(f"not {dim}: {why.removeprefix(f'dim = {dim}: ')}" for dim, why in refused.items())
    return f"dim: {rule}{''.join(f' ({text})' for text in texts)}", built[max(built)]


def truth(make: Callable[..., Any], problem: Any) -> str:
    """What is known of the truth: everywhere, or of u at the reference point in some dimensions."""
    if family.of_record(problem) is not family.SEMILINEAR:
        return family.source(problem) or "none known"
    if problem.solution is not None:
        return problem.solution.source
    built, _ = attempts(make, REFERENCED)
    known = {dim: p.reference for dim, p in built.items() if p.reference is not None}
    if not known:
        return "none known"
    place = f"u(0, ({problem.start:g}, ..., {problem.start:g}))"
    values = "; ".join(f"{r.value} +- {r.error} for dim {dim} ({r.source})" for dim, r in known.items())
    return f"{place} alone, {values}" + ("" if len(known) == len(built) else "; no other dimension is known")


def entry(room: str, name: str, width: int) -> Iterator[str]:
    """Lines about one name."""
    make = catalogue.factory(room, name, KEYS[room])
    summary, said = documentation(make)

    def wrapped(text: str, first: str = "    ", then: str = "        ") -> list[str]:
        return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=then, break_on_hyphens=False)

    yield name
    yield from wrapped(summary, then="    ")
    if room in ("surrogates", "objectives", "estimators"):
        yield from wrapped(f"works on: {family.served(room, make).__name__}")
    if room in catalogue.PROBLEMS:
        rule, problem = dimensions(make, said)
        yield from wrapped(rule)
        if problem is not None:
            yield from wrapped(f"truth: {truth(make, problem)}")
    for option, (default, kind) in catalogue.options_of(make).items():
        value = "must be given" if default is inspect.Parameter.empty else json.dumps(default, default=str)
        yield from wrapped(f"{option}: {value}" + "".join(f" | {text}" for text in (kind, said.get(option)) if text))


def listing(rooms: list[str], width: int) -> Iterator[str]:
    """Lines about every name of these rooms, under the key that takes it."""
    for room in rooms:
        dim = "dim: ..., " if room in catalogue.PROBLEMS else ""
        yield f"# {room.replace('_', ' ')}"
        yield f"{KEYS[room]}: {{name: ..., {dim}option: value}}" + ("" if dim else ", or a bare name")
        yield ""
        for name in catalogue.names(room):
            yield from (f"  {line}" for line in entry(room, name, width - 2))
            yield ""
    if "equations" in rooms:
        yield "Your own equation: problem: {file: my_pde.py, name: my_pde, dim: 50}; the README shows such a file."


def rooms_for(words: list[str]) -> list[str]:
    """The rooms that words name: 'optimizers', 'optimizer' or 'training.optimizer'; all of them for none."""
    spellings: dict[str, list[str]] = {}
    for room in catalogue.ROOMS:
        for spelling in dict.fromkeys((room, catalogue.SINGULAR[room], KEYS[room])):
            spellings.setdefault(spelling, []).append(room)
    for word in words:
        if word not in spellings:
            raise InputError(f"'{word}': no such part of the catalogue.{nearest(word, spellings)}")
    return list(dict.fromkeys(room for word in words for room in spellings[word])) or list(catalogue.ROOMS)
