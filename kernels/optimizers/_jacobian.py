"""Jacobian of a batch's residuals with respect to the parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from kernels.contracts import Batch

AT_ONCE = 64
"""Samples that are differentiated together where torch can map over them: more fill the memory and are no faster."""

FEW = 8
"""The same where it cannot, and every residual is swept through all samples of its group."""


def jacobian(batch: Batch, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Residuals (rows,), and for each parameter their derivatives (rows, size of the parameter).

    Sample by sample with torch.func, about three times the cost of the loss's gradient. Where a profile or a
    path asks for the value of a tensor, or differentiates by itself, that cannot be mapped: then by reverse mode in groups,
    which takes FEW times the gradient's work.
    """
    parameters = [p.detach() for p in parameters]
    try:
        return _mapped(batch, parameters)
    except RuntimeError as error:
        if "vmap" not in str(error) and "being transformed" not in str(error):
            raise
    return _grouped(batch, parameters)


def _mapped(batch: Batch, parameters: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    def of_one(parameters: list[Tensor], *sample: Tensor) -> tuple[Tensor, Tensor]:
        r = batch.residuals(parameters, *(part[None] for part in sample))
        return r, r

    each = vmap(jacrev(of_one, has_aux=True), in_dims=(None, *[0] * len(batch.parts)), chunk_size=AT_ONCE)
    slopes, r = each(parameters, *batch.parts)
    return r.flatten(), [slope.flatten(0, 1).flatten(1) for slope in slopes]


def _grouped(batch: Batch, parameters: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    found: list[Tensor] = []
    slopes: list[list[Tensor]] = [[] for _ in parameters]
    leaves = [p.requires_grad_() for p in parameters]
    for i in range(0, len(batch.parts[0]), FEW):
        with torch.enable_grad():
            r = batch.residuals(leaves, *(part[i : i + FEW] for part in batch.parts))
        each = torch.eye(len(r), dtype=r.dtype, device=r.device)
        grads = torch.autograd.grad(r, leaves, each, is_grads_batched=True, allow_unused=True, materialize_grads=True)
        found.append(r.detach())
        for parts, slope in zip(slopes, grads, strict=True):
            parts.append(slope.flatten(1))
    return torch.cat(found), [torch.cat(parts) for parts in slopes]
