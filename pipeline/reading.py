"""YAML text -> plain data: text, numbers, lists and mappings, and nothing else."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import InputError
from pipeline.messages import shown
from pipeline.schema import DEFAULTS

LARGEST_FILE = 1_000_000
LARGEST_SWEEP = 10_000

_FAILURES = (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, TypeError)


class _Loader(yaml.SafeLoader):
    """Safe YAML; 1e-3 is a number; a key given twice is refused, and so are aliases, a few of which can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise InputError(f"alias '*{self.peek_event().anchor}': write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise InputError(f"key '{key.value}' stands twice, again at line {key.start_mark.line + 1}: keep one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _plain(text: str) -> Any:
    """YAML as plain data; raises one of _FAILURES for what is no YAML or holds anything else."""
    return json.loads(json.dumps(yaml.load(text, Loader=_Loader)))  # noqa: S506 - a SafeLoader


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds."""
    if not os.path.isfile(path):
        raise InputError(f"'{path}': no such job file; name one such as jobs/quickstart.yaml")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"'{path}' has {path.stat().st_size:,} bytes: a job file has at most {LARGEST_FILE:,}")
        data = _plain(path.read_text(encoding="utf-8-sig"))
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"'{path}': {error}") from error
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}") from error
    except _FAILURES as error:
        raise InputError(f"'{path}' is not YAML of text, numbers, lists and mappings: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InputError(f"'{path}' holds a {type(data).__name__}: a job is a mapping such as 'name: ...', 'problem: {{...}}'")
    return data


def parse_override(text: str) -> tuple[str, Any]:
    """'training.steps=200' -> ('training.steps', 200)."""
    key, sign, value = text.partition("=")
    if not sign or not all(key.split(".")):
        raise InputError(f"--set {text}: should read key=value, for example training.steps=200")
    try:
        return key, _plain(value)
    except _FAILURES as error:
        raise InputError(f"--set {text}: the value is neither text, number, list nor mapping in YAML") from error


def set_key(data: dict[str, Any], key: str, value: Any) -> None:
    """Put ``value`` at the dotted ``key``; a bare name on the way becomes a choice with options."""
    *parents, last = str(key).split(".")
    for parent in parents:
        inner = data.get(parent)
        if inner is None:
            inner = data[parent] = {}
        elif isinstance(inner, str) and parent in (*DEFAULTS, "problem"):
            inner = data[parent] = {"name": inner}
        if not isinstance(inner, dict):
            raise InputError(f"{key}: '{parent}' is {shown(inner)}, not a mapping that could hold '{last}'")
        data = inner
    data[last] = deepcopy(value)


def holder(data: Any, where: str) -> tuple[Any, str]:
    """The mapping that holds a dotted key, None where it is not there, and the key's last part."""
    *above, key = where.split(".")
    for part in above:
        data = data.get(part)
        if data is None:
            break
    return data, key


def variants(sweep: Any) -> list[dict[str, Any]]:
    """What each run of a sweep sets: every combination of a mapping's lists, or each mapping of a list as it stands."""
    if sweep is None:
        return [{}]
    if isinstance(sweep, list) and sweep and all(isinstance(run, dict) and run for run in sweep):
        variants = [dict(run) for run in sweep]
    elif isinstance(sweep, dict) and all(isinstance(v, list) and v for v in sweep.values()):
        if math.prod(map(len, sweep.values())) > LARGEST_SWEEP:
            raise InputError(
                f"sweep: {math.prod(map(len, sweep.values())):,} runs, and at most {LARGEST_SWEEP:,} are served: "
                "split it into several job files"
            )
        variants = [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
    else:
        raise InputError(
            f"sweep = {shown(sweep)}: should map keys to non-empty lists of values, for example "
            "sweep: {training.steps: [500, 1500], seed: [0, 1, 2]}, or list the runs, for example "
            "[{problem.dim: 20, training.steps: 500}, {problem.dim: 40, training.steps: 1500}]"
        )
    return variants
