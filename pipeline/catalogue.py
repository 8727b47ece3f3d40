"""What a job may name: one module of kernels a name, one factory a module, options from its signature."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import pkgutil
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import InputError, nearest

ROOMS = ("equations", "surrogates", "objectives", "optimizers", "estimators")
SINGULAR = {room: room.removesuffix("s") for room in ROOMS}


def names(room: str) -> list[str]:
    """Every name a job can use for ``room``, one of ROOMS."""
    package = importlib.import_module(f"kernels.{room}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def factory(room: str, name: str, where: str) -> Callable[..., Any]:
    """The factory ``kernels.<room>.<name>.<name>``; ``where`` is the job key that named it."""
    known = names(room)
    if name not in known:
        raise InputError(f"{where} = '{name}': no such {SINGULAR[room]}.{nearest(name, known)}")
    return getattr(importlib.import_module(f"kernels.{room}.{name}"), name)


def learns(make: Callable[..., Any]) -> Literal["steps", "fit", "nothing"]:
    """How a surrogate's factory gets its parameters: by steps of training, by a fit of its own, or as arrays of a file."""
    if "arrays" in inspect.signature(make).parameters:
        return "nothing"
    return "fit" if hasattr(typing.get_type_hints(make).get("return"), "fit") else "steps"


def user_factory(file: Path, name: str, where: str) -> Callable[..., Any]:
    """The function ``name`` of a user's own Python file: the only code a job can run."""
    if not file.is_file():
        raise InputError(f"{where}.file = '{file}': no such file. Paths are relative to the job file.")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(f"user_problem_{digest}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{where}.file = '{file}': not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"{where}.file = '{file}' {_raised(error, file)}") from error
    functions = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__]
    if name not in functions:
        raise InputError(f"{where}.name = '{name}': '{file.name}' defines no such function.{nearest(name, functions)}")
    return getattr(module, name)


def build(make: Callable[..., Any], where: str, *args: Any, file: Path | None = None, **options: Any) -> Any:
    """Call a factory; its refusals become messages about the job key ``where``."""
    try:
        return make(*args, **options)
    except (ValueError, TypeError) as error:
        if file is None and isinstance(error, TypeError):
            raise
        raise InputError(f"{where}: {error}" if file is None else f"{where}: '{file.name}' {_raised(error, file)}") from error
    except (Exception, SystemExit) as error:
        if file is None:
            raise
        raise InputError(f"{where}: '{file.name}' {_raised(error, file)}") from error


def checked_options(make: Callable[..., Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``given`` against the keyword-only parameters of ``make``, with their defaults filled in."""
    parameters = {n: p for n, p in inspect.signature(make).parameters.items() if p.kind is p.KEYWORD_ONLY and n != "seed"}
    for key in given:
        if key not in parameters:
            raise InputError(f"{where}.{key}: '{make.__name__}' has no such option.{nearest(key, parameters)}")
    try:
        hints = typing.get_type_hints(make)
    except (NameError, TypeError) as error:
        raise InputError(f"{where}: the annotations of '{make.__name__}' cannot be read: {error}") from error
    options = {}
    for name, parameter in parameters.items():
        if name in given:
            options[name] = _as_type(given[name], hints.get(name, Any), f"{where}.{name}")
        elif parameter.default is parameter.empty:
            raise InputError(f"{where}.{name} is missing: '{make.__name__}' cannot do without it")
        else:
            options[name] = parameter.default
    return options


def _as_type(value: Any, hint: Any, where: str) -> Any:
    allowed = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if float in allowed and type(value) is int:
        value = float(value)
    if hint is Any or type(value) in allowed or (value is None and type(None) in allowed):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{where} = {value}: not a finite number")
        return value
    wanted = " or ".join(getattr(a, "__name__", str(a)) for a in allowed)
    raise InputError(f"{where} = {value!r}: should be of type {wanted}")


def _raised(error: BaseException, file: Path) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    at = f" at line {lines[-1]}" if lines else ""
    return f"raised {type(error).__name__}{at}: {error}. The file must run before the job can."
