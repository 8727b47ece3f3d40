"""A refused job in one sentence: the key's path, the value, the rule, and the nearest valid spelling or an example."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.errors import nearest
from pipeline.schema import JobModel, Rule

LONGEST = 80
"""Characters of a value that a message shows."""


def shown(value: Any) -> str:
    """A value of a job as a message shows it."""
    text = "null (left empty)" if value is None else repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The records that a field of this annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from models(inner)


def fields_at(path: list[str]) -> dict[str, FieldInfo]:
    """The keys of a job that may stand under ``path``."""
    fields = dict(JobModel.model_fields)
    for part in path:
        inner = models(fields[part].annotation) if part in fields else ()
        fields = {name: field for model in inner for name, field in model.model_fields.items()}
    return fields


def rule_of(field: FieldInfo) -> Rule:
    """What a key's value should be."""
    (rule,) = (m for m in field.metadata if isinstance(m, Rule))
    return rule


def explain(error: ValidationError, data: Mapping[str, Any]) -> str:
    """The first problem of a pydantic report on ``data``. A misspelt key goes before what it leaves out."""
    found = [(e["type"], _path(e["type"], e["loc"], data)) for e in error.errors()]
    kind, path = min(found, key=lambda f: (f[0] != "extra_forbidden", f[0] != "missing", len(f[1])))
    if kind == "missing":
        return _missing(path, data)
    where, value = ".".join(path), _at(path, data)
    if kind == "extra_forbidden":
        known = [*fields_at(path[:-1]), *(["sweep"] if len(path) == 1 else [])]
        return f"{where} = {shown(value)}: no such key.{nearest(path[-1], known)}"
    rule = rule_of(fields_at(path[:-1])[path[-1]])
    return f"{where} = {shown(value)}: should be {rule.text}{_spelling(value, rule)}, for example {path[-1]}: {rule.example}"


def _path(kind: str, loc: tuple[int | str, ...], data: Any) -> list[str]:
    """The keys in ``loc``: pydantic also puts there which branch of a union it tried, and places in lists."""
    path: list[str] = []
    for place, part in enumerate(loc, start=1):
        if isinstance(data, Mapping) and part in data:
            path.append(str(part))
            data = data[part]
        elif kind == "missing" and place == len(loc):
            path.append(str(part))
    return path


def _at(path: list[str], data: Any) -> Any:
    for part in path:
        data = data[part]
    return data


def _missing(path: list[str], data: Mapping[str, Any]) -> str:
    """A key that is not there; where one beside it looks like a misspelling of it, that one is named."""
    given, fields = _at(path[:-1], data), fields_at(path[:-1])
    close = difflib.get_close_matches(path[-1], [k for k in given if k not in fields], n=1)
    if close:
        return f"{'.'.join([*path[:-1], close[0]])} = {shown(given[close[0]])}: no such key. Did you mean '{path[-1]}'?"
    rule = rule_of(fields[path[-1]])
    return f"{'.'.join(path)} is missing: add {rule.text}, for example {path[-1]}: {rule.example}"


def _spelling(value: Any, rule: Rule) -> str:
    """' (did you mean X?)' for the first text in ``value`` that is close to a valid spelling and is none."""
    for word in value if isinstance(value, list) else [value]:
        close = difflib.get_close_matches(word, rule.choices, n=1, cutoff=0.5) if isinstance(word, str) else []
        if close and close[0] != word:
            return f" (did you mean '{close[0]}'?)"
    return ""
