"""SPRING: natural gradient on the residuals of a batch, with momentum."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from kernels.contracts import Batch
from kernels.optimizers._jacobian import jacobian


def spring(
    parameters: Iterable[Parameter], *, learning_rate: float = 0.1, momentum: float = 0.9, damping: float = 1e-3
) -> Optimizer:
    """Energy natural gradient by Woodbury's identity, with momentum (SPRING, arXiv 2401.10190; for PINNs, arXiv 2505.12149).

    phi <- m phi + J^T (J J^T + lambda I)^-1 (r - m J phi) and theta <- theta - lr phi, r the residuals and J their Jacobian, both over
    the root of their number. The kernel J J^T, (rows, rows), is formed and solved in double precision. It holds J, 4 bytes
    times rows times parameters, and takes one worker.

    :param learning_rate: share of a Gauss-Newton step that is taken, peak of the schedule, > 0
    :param momentum: weight m of the last direction where this batch says nothing, in [0, 1)
    :param damping: lambda over the mean of the kernel's diagonal, > 0
    """
    if learning_rate <= 0.0 or damping <= 0.0:
        raise ValueError(f"learning_rate = {learning_rate}, damping = {damping}: SPRING needs both > 0, for example 0.1 and 1e-3")
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum = {momentum}: should lie in [0, 1), for example 0.9")
    return Spring(parameters, {"lr": learning_rate, "momentum": momentum, "damping": damping})


class Spring(Optimizer):
    """The shell; the last direction phi is its state."""

    needs: Literal["residuals"] = "residuals"

    def memory(self, rows: int) -> float:
        """Bytes of the Jacobian, once in parts and once whole, and of the kernel with its factor."""
        size = sum(p.numel() for group in self.param_groups for p in group["params"])
        return 8.0 * rows * size + 16.0 * rows**2

    @torch.no_grad()
    def step(self, batch: Batch) -> None:  # type: ignore[override]
        """One step on the batch."""
        (group,) = self.param_groups
        parameters, momentum = group["params"], group["momentum"]
        r, slopes = jacobian(batch, parameters)
        scale = 1.0 / math.sqrt(len(r))
        last = [self.state[p].setdefault("direction", torch.zeros_like(p)) for p in parameters]
        kernel, rest = r.new_zeros(len(r), len(r), dtype=torch.float64), scale * r.double()
        for j, phi in zip(slopes, last, strict=True):
            j = scale * j.double()
            kernel.addmm_(j, j.mT)
            rest -= momentum * (j @ phi.double().flatten())
        kernel.diagonal().add_(group["damping"] * kernel.diagonal().mean().clamp_min(torch.finfo(kernel.dtype).tiny))
        factor, failed = torch.linalg.cholesky_ex(kernel)
        weights = torch.cholesky_solve(rest[:, None], factor)[:, 0] if not failed else rest / kernel.diagonal().sum()
        for p, j, phi in zip(parameters, slopes, last, strict=True):
            phi.mul_(momentum).add_((scale * weights @ j.double()).view_as(p))
            p.sub_(phi, alpha=group["lr"])
