"""The problem that a surrogate's error solves."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kernels.contracts import Cost, Jet, Linearisable, LocalDriver, Paths, Probes, SemilinearPDE, Surrogate, Vectors
from kernels.streams import Stream


def linear_part(problem: SemilinearPDE, jet: Jet) -> Paths:
    """u_t + mu.grad u + (sigma^2/2) Laplacian u, (paths,): the residual without the driver."""
    law = problem.law
    return jet.dt + law.mu * jet.gradient.sum(-1) + 0.5 * law.sigma**2 * jet.laplacian


def residual(problem: SemilinearPDE, surrogate: Surrogate, t: Paths, x: Vectors, probes: Probes | None = None) -> Paths:
    """r = u_t + mu.grad u + (sigma^2/2) Laplacian u + f(t, x, u, sigma grad u) of the surrogate.

    Shapes: t (paths,), x (paths, dim), probes (paths, probes, dim) or None for the exact
    Laplacian; returns (paths,). With probes of identity covariance its mean over them is the
    exact residual: the Laplacian enters linearly.
    """
    jet = surrogate.jet(t, x, probes)
    return linear_part(problem, jet) + problem.driver(t, x, jet.value, problem.law.sigma * jet.gradient)


def defect(problem: SemilinearPDE, surrogate: Surrogate, *, probes: int | None = None) -> SemilinearPDE:
    """The semilinear PDE of v = u - u^, u^ the surrogate (SCaSML, arXiv 2504.16172, section 2).

    driver    f(t, x, u^ + v, z^ + zeta) - f(t, x, u^, z^) + r(t, x)
    terminal  g(x) - u^(T, x)

    ``probes`` > 0 samples the Laplacian inside r along that many random signs, a fresh set for
    every path: shared ones would tie the paths of a point together. None takes it exactly.
    """
    sigma = problem.law.sigma

    @torch.no_grad()
    def local(t: Tensor, x: Tensor, stream: Stream, with_source: bool, /) -> LocalDriver:
        if not with_source:
            value, gradient = surrogate.value_and_gradient(t, x)
            return Linearisable(problem.driver, t, x, value, sigma * gradient)
        jet = surrogate.jet(t, x, None if probes is None else stream.signs(t.shape[0], probes, problem.dim))
        return Linearisable(problem.driver, t, x, jet.value, sigma * jet.gradient, linear=linear_part(problem, jet))

    @torch.no_grad()
    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        jet = surrogate.jet(t, x, None)
        return linear_part(problem, jet) + problem.driver(t, x, jet.value + y, sigma * jet.gradient + z)

    @torch.no_grad()
    def terminal(x: Tensor, /) -> Tensor:
        if surrogate.meets_terminal:
            return torch.zeros_like(x[:, 0])
        end = torch.full_like(x[:, 0], problem.horizon)
        return problem.terminal(x) - surrogate.value_and_gradient(end, x)[0]

    base = problem.costs()
    first_order, full = surrogate.flop(probes)
    return replace(
        problem,
        name=f"defect of {problem.name}",
        driver=driver,
        terminal=terminal,
        terminal_jet=None,
        solution=None,
        local=local,
        cost=Cost(
            driver=first_order + base.driver,
            source=full + base.driver,
            terminal=0.0 if surrogate.meets_terminal else first_order + base.terminal,
        ),
    )
