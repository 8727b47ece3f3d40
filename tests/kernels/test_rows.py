"""The check that a function works row by row sees one that does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rows import row_by_row
from torch import Tensor

X = torch.linspace(-1.0, 2.0, 24).reshape(8, 3)


def test_a_function_of_rows_passes() -> None:
    assert row_by_row(lambda x: (x.sum(-1), torch.sin(x)), X)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x - x.mean(0)).sum(-1),
        lambda x: x[:, 0] / x.abs().max(),
        lambda x: (x.sum(-1), x - 1e-3 * x[:1]),
        lambda x: x.cumsum(0),
        lambda x: torch.sort(x, 0).values,
        lambda x: x.sum(-1) if len(x) > 1 else x.sum(-1).expand(2),
    ],
    ids=["mean", "largest", "first row in the second output", "running sum", "sorted", "one row doubled"],
)
def test_a_planted_function_of_the_batch_is_seen(function: Callable[[Tensor], Any]) -> None:
    assert not row_by_row(function, X)
