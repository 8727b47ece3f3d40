"""The problem that the error of a surrogate of Poisson's equation solves."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kernels.contracts.poisson import EllipticSurrogate, Poisson, PoissonCost


def poisson_defect(problem: Poisson, surrogate: EllipticSurrogate) -> Poisson:
    """The Poisson problem of v = u - u^, u^ the surrogate.

    source    f - Laplacian u^
    boundary  g - u^, which is 0 where u^ meets g by construction

    So v(x) = E (g - u^)(X_tau) - E int_0^tau (f - Laplacian u^)(X_t) dt, X = x + sqrt(2) W, tau its exit time: the generator
    of X is the Laplacian itself (Dynkin's formula).
    """

    @torch.no_grad()
    def source(x: Tensor, /) -> Tensor:
        return problem.source(x) - surrogate.laplacian(x)

    @torch.no_grad()
    def boundary(x: Tensor, /) -> Tensor:
        return torch.zeros_like(x[:, 0]) if surrogate.meets_boundary else problem.boundary(x) - surrogate.value(x)

    base, (value, laplacian) = problem.costs(), surrogate.flop()
    return replace(
        problem,
        name=f"defect of {problem.name}",
        source=source,
        boundary=boundary,
        boundary_jet=None,
        zero_boundary=surrogate.meets_boundary,
        solution=None,
        cost=PoissonCost(source=base.source + laplacian, boundary=0.0 if surrogate.meets_boundary else base.boundary + value),
    )
