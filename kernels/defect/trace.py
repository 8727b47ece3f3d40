"""The trace that a compression of the matrix misses."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kernels.contracts import Compression, Trace

ORTHONORMAL = 1e-8
"""How far Q^T Q may be from a projection."""


def trace_defect(problem: Trace, surrogate: Compression, *, projected: bool = True) -> Trace:
    """tr(A) - tr(T) of the compression Q T Q^T, as the trace of a matrix that is small where the compression is good.

    projected   (I - Q Q^T) A (I - Q Q^T)    Hutch++ (Meyer, Musco, Musco, Woodruff, SOSA 2021)
    otherwise   A - Q T Q^T

    Both have that trace for every orthonormal Q, the first if T = Q^T A Q, as a sketch forms it; the second for
    every T. The first has the smaller Frobenius norm, thus the smaller variance: the second leaves A - Q T Q^T its
    blocks between the range of Q and the rest. ValueError where Q has columns that are not orthonormal (or 0).
    """
    basis, core = surrogate.basis, surrogate.core
    gram = basis.mT @ basis
    if (off := float(torch.linalg.norm(gram @ gram - gram))) > ORTHONORMAL:
        raise ValueError(
            f"|(Q^T Q)^2 - Q^T Q| = {off:.1e}: the basis of a compression should have orthonormal columns; take Q of its QR"
        )

    def off_range(columns: Tensor) -> Tensor:
        return columns - basis @ (basis.mT @ columns)

    def deflated(columns: Tensor, /) -> Tensor:
        return off_range(problem.matvec(off_range(columns)))

    def difference(columns: Tensor, /) -> Tensor:
        return problem.matvec(columns) - basis @ (core @ (basis.mT @ columns))

    dim, rank = basis.shape
    return replace(
        problem,
        name=f"defect of {problem.name}",
        matvec=deflated if projected else difference,
        value=None if problem.value is None else problem.value - float(core.trace()),
        positive=problem.positive and projected,
        cost=problem.cost + (8.0 if projected else 4.0) * dim * rank,
    )
