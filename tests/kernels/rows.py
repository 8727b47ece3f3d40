"""Whether a function works row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def row_by_row(function: Callable[..., Any], *arguments: Tensor, rtol: float = 0.0, atol: float = 1e-6) -> bool:
    """Whether every output of a function of batches is the same for a row alone, in another order, and in the whole batch.

    Same to ``atol`` of the largest entry, and ``rtol`` of its own: a matrix product may round otherwise in another shape.
    """

    def outputs(rows: Any) -> tuple[Tensor, ...]:
        found = function(*(argument[rows] for argument in arguments))
        return found if isinstance(found, tuple) else (found,)

    count = len(arguments[0])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    alone = [torch.cat(parts) for parts in zip(*(outputs(slice(i, i + 1)) for i in range(count)), strict=True)]
    whole, shuffled = outputs(slice(None)), outputs(order)
    return all(
        len(w) == count
        and a.shape == w.shape
        and torch.allclose(a, w, rtol=rtol, atol=atol * w.abs().max().item())
        and torch.allclose(s, w[order], rtol=rtol, atol=atol * w.abs().max().item())
        for w, a, s in zip(whole, alone, shuffled, strict=True)
    )
