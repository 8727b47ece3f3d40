"""Every key of a job with its meaning, rule and default, as a job that is valid itself."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.messages import models, rule_of
from pipeline.schema import JobModel

SECTIONS = ("problem", "training", "correction", "report")
SWEEP = "sweep: {training.steps: [500, 1500], seed: [0, 1, 2]}"


def reference(width: int) -> Iterator[str]:
    """The lines of an annotated job in YAML."""
    yield from _comment("A job. Only name and problem are required; every other value below is the default.", width, "")
    yield ""
    yield from _keys(JobModel, width, "")
    yield from _comment("Several runs in one graph and one table: lists of values over any keys, each with each.", width, "")
    yield f"# {SWEEP}"


def _keys(model: type[BaseModel], width: int, indent: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name in SECTIONS and not indent:
            yield from _comment(str(field.description), width, indent)
            yield f"{name}:"
            yield from _keys(next(models(field.annotation)), width, "  ")
        else:
            yield from _comment(f"{' '.join(str(field.description).split())} Value: {rule_of(field).text}.", width, indent)
            yield f"{indent}{_line(name, field)}"
        if not indent:
            yield ""


def _line(name: str, field: FieldInfo) -> str:
    """'steps: 1500'; where nothing is the default, an example behind a #."""
    if field.is_required():
        return f"{name}: {rule_of(field).example}"
    if field.default is None:
        return f"# {name}: {rule_of(field).example}"
    return f"{name}: {_yaml(field.default)}"


def _yaml(value: Any) -> str:
    """A default on one line of YAML."""
    if isinstance(value, BaseModel):
        return str(value.model_dump()["name"])
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _comment(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False)
