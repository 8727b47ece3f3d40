"""Every parameter as matrices: what optimizers with two-sided preconditioners share."""

from __future__ import annotations

from torch import Tensor


def as_matrices(g: Tensor) -> Tensor:
    """A tensor as matrices (..., out, in); of fewer than two axes, as one column (n, 1)."""
    return g if g.ndim >= 2 else g.reshape(-1, 1)
