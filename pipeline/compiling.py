"""A loss compiled by torch: what lies between two matrix products becomes one loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from pipeline.errors import InputError

# No pool of compiling processes, which would outlive a training that is killed.
OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"compile_threads": 1}


def check_compiler(key: str, device: torch.device) -> None:
    """InputError where code for ``device`` cannot be compiled here, found out by compiling some."""
    try:
        torch.compile(torch.sin, options=OPTIONS)(torch.zeros(8, device=device))
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"{key} = true: torch.compile does not work for {device.type} here: {reason}. Install what it needs (a C++ compiler "
            f"such as g++ for a CPU, Triton for a GPU), or leave {key} out"
        ) from error


def compiled(loss: nn.Module) -> nn.Module:
    """The same loss; its code is made for the shapes of the first batch, when that comes."""
    return cast(nn.Module, torch.compile(loss, dynamic=False, options=OPTIONS))
