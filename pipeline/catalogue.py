"""What a job may name: one module of kernels a name, one factory a module, options from its signature."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import os
import pkgutil
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import InputError, Interrupted, nearest
from pipeline.messages import shown

PROBLEMS = ("equations", "integrands", "elliptic", "traces", "eigenproblems", "linear_systems", "dynamics", "experiments")
"""Rooms of problems, one a family."""
ROOMS = (*PROBLEMS, "surrogates", "objectives", "optimizers", "estimators")
SINGULAR = {room: room.removesuffix("s") for room in ROOMS}
TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null", Any: "any value"}
LARGEST = 2**63


def names(room: str) -> list[str]:
    """Every name a job can use for ``room``, one of ROOMS."""
    package = importlib.import_module(f"kernels.{room}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def factory(room: str, name: str, where: str, *, also: Iterable[str] = ()) -> Callable[..., Any]:
    """The factory ``kernels.<room>.<name>.<name>``; ``where`` is the job key that named it, ``also`` what it takes beside them."""
    known = names(room)
    if name not in known:
        raise InputError(f"{where} = {shown(name)}: no such {SINGULAR[room]}.{nearest(name, [*known, *also])}")
    return getattr(importlib.import_module(f"kernels.{room}.{name}"), name)


def problem_room(name: str, where: str) -> str:
    """The room in which a problem of this name stands."""
    rooms = {known: room for room in PROBLEMS for known in names(room)}
    if name not in rooms:
        raise InputError(f"{where} = {shown(name)}: no such problem.{nearest(name, rooms)}")
    return rooms[name]


def learns(make: Callable[..., Any]) -> Literal["steps", "fit", "nothing"]:
    """How a surrogate's factory gets its parameters: by steps of training, by a fit of its own, or as arrays of a file."""
    if "arrays" in inspect.signature(make).parameters:
        return "nothing"
    return "fit" if hasattr(typing.get_type_hints(make).get("return"), "fit") else "steps"


def user_factory(file: Path, name: str, where: str) -> Callable[..., Any]:
    """The function ``name`` of a user's own Python file: the only code a job can run."""
    if not os.path.isfile(file):
        raise InputError(f"{where}.file = '{file}': no such file. Paths are relative to the job file.")
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise InputError(f"{where}.file = '{file}' cannot be read: {error.strerror}") from error
    spec = importlib.util.spec_from_file_location(f"user_problem_{digest}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{where}.file = '{file}': not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    # A dataclass with postponed annotations looks for its module there.
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except Interrupted:
        raise
    except (Exception, SystemExit) as error:
        sys.modules.pop(module.__name__, None)
        raise InputError(f"{where}.file = '{file}' {_raised(error, file)}") from error
    functions = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__]
    if name not in functions:
        raise InputError(f"{where}.name = '{name}': '{file.name}' defines no such function.{nearest(name, functions)}")
    return getattr(module, name)


def build(make: Callable[..., Any], where: str, *args: Any, file: Path | None = None, **options: Any) -> Any:
    """Call a factory; its refusals become messages about the job key ``where``."""
    try:
        return make(*args, **options)
    except Interrupted:
        raise
    except (Exception, SystemExit) as error:
        if file is not None:
            raise InputError(f"{where}: '{file.name}' {_raised(error, file)}") from error
        if isinstance(error, ValueError):
            raise InputError(f"{where}: {error}") from error
        if _too_large(error):
            raise InputError(f"{where}: {' '.join(str(error).split())}: lower problem.dim, or the sizes given there") from error
        raise


def _too_large(error: BaseException) -> bool:
    """Whether it says that something does not fit in memory or in an integer; torch says so in a RuntimeError."""
    words = str(error).lower()
    return isinstance(error, (MemoryError, OverflowError)) or (
        isinstance(error, RuntimeError) and ("memory" in words or "overflow" in words)
    )


def _parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a job may set: the keyword-only parameters, but for the seed, which is the job's own."""
    return {n: p for n, p in inspect.signature(make).parameters.items() if p.kind is p.KEYWORD_ONLY and n != "seed"}


def options_of(make: Callable[..., Any]) -> dict[str, tuple[Any, str]]:
    """Option -> (default or ``inspect.Parameter.empty``, its type in words)."""
    hints = typing.get_type_hints(make)
    return {name: (p.default, _type_names(hints.get(name, Any))) for name, p in _parameters(make).items()}


def checked_options(make: Callable[..., Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``given`` against the options of ``make``, with their defaults filled in."""
    parameters = _parameters(make)
    for key, value in given.items():
        if key not in parameters:
            own = f"{where}.{key} = {shown(value)}: '{make.__name__}' has no such option."
            raise InputError(own + nearest(key, [*parameters, "name"]))
    try:
        hints = typing.get_type_hints(make)
    except (NameError, TypeError) as error:
        raise InputError(f"{where}: the annotations of '{make.__name__}' cannot be read: {error}") from error
    options = {}
    for name, parameter in parameters.items():
        if name in given:
            options[name] = _as_type(given[name], hints.get(name, Any), f"{where}.{name}")
        elif parameter.default is parameter.empty:
            wanted = _type_names(hints.get(name, Any))
            raise InputError(f"{where}.{name} is missing: '{make.__name__}' cannot do without it; add {name}, {wanted}")
        else:
            options[name] = parameter.default
    return options


def _branches(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _type_names(hint: Any) -> str:
    """'a whole number or null' for ``int | None``."""

    def named(branch: Any) -> str:
        if typing.get_origin(branch) is typing.Literal:
            return " or ".join(str(value) for value in typing.get_args(branch))
        return TYPES.get(branch, f"of type {getattr(branch, '__name__', branch)}")

    return " or ".join(map(named, _branches(hint)))


def _as_type(value: Any, hint: Any, where: str) -> Any:
    branches = _branches(hint)
    if float in branches and type(value) is int:
        value = float(value) if abs(value) < LARGEST else math.inf
    elif int in branches and float not in branches and type(value) is float and value.is_integer():
        value = int(value)
    literals = [v for b in branches if typing.get_origin(b) is typing.Literal for v in typing.get_args(b)]
    fits = hint is Any or type(value) in branches or any(type(value) is type(v) and value == v for v in literals)
    if not fits and not (value is None and type(None) in branches):
        close = nearest(value, literals) if isinstance(value, str) and literals else ""
        raise InputError(f"{where} = {shown(value)}: should be {_type_names(hint)}{close and '.'}{close}")
    if isinstance(value, (int, float)) and not abs(value) < LARGEST:
        raise InputError(f"{where} = {shown(value)}: should be a finite number, less than 2^63 in size")
    return value


def _raised(error: BaseException, file: Path) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    at = f" at line {lines[-1]}" if lines else ""
    return f"raised {type(error).__name__}{at}: {error}. The file must run before the job can."
