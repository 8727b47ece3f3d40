"""TF32 for the matrix products of a loss: most steps of a phase, the last ones in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from pipeline.errors import InputError

COOL_DOWN = 0.2
"""Share of a phase's steps, its last ones, in float32 whatever its precision: TF32 leaves a residual a relative error of 6e-4."""

AMPERE = (8, 0)
"""Compute capability of the first GPUs with TF32."""


def check_precision(named: Sequence[tuple[str, str]], device: torch.device) -> None:
    """InputError where a phase, as (its key, its precision), asks for what the device does not have."""
    for key, precision in named:
        if precision == "tf32" and not (device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE):
            raise InputError(
                f"{key}.precision = 'tf32': this training runs on a {device.type} device without TF32. Use precision: float32, or "
                "Ray with a GPU of compute capability 8.0 or higher"
            )


@contextmanager
def matrix_products(precision: str, step: int, steps: int) -> Iterator[None]:
    """Matrix products at ``step`` of a phase of ``steps``, from 0: in TF32 where the phase has it and does not cool down."""
    backend = torch.backends.cuda.matmul
    if precision == "float32" or step >= (1.0 - COOL_DOWN) * steps:
        yield
        return
    before = backend.fp32_precision
    backend.fp32_precision = "tf32"
    try:
        yield
    finally:
        backend.fp32_precision = before
