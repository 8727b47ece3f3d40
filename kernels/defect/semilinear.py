"""The semilinear PDE that a surrogate's error solves."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kernels.axes import Probes
from kernels.contracts import Cost, Jet, Known, Linearisable, LocalDriver, Paths, SemilinearPDE, Surrogate, Vectors
from kernels.streams import Stream


def linear_part(problem: SemilinearPDE, t: Paths, x: Vectors, jet: Jet, factor: float) -> Paths:
    """u_t + mu.grad u + (factor/2) jet.laplacian, (paths,): the residual without the driver."""
    return jet.dt + problem.law.advect(t, x, jet.gradient) + 0.5 * factor * jet.laplacian


def residual(problem: SemilinearPDE, surrogate: Surrogate, t: Paths, x: Vectors, signs: Probes | None = None) -> Paths:
    """r = u_t + mu.grad u + tr(sigma sigma^T Hess u)/2 + f(t, x, u, sigma^T grad u) of the surrogate.

    Shapes: t (paths,), x (paths, dim), signs (paths, probes, dim) or None for the exact trace;
    returns (paths,). With signs of identity covariance its mean over them is the exact residual:
    the trace enters linearly.
    """
    directions, factor = problem.law.directions(t, x, signs)
    jet = surrogate.jet(t, x, directions)
    z = problem.law.pull(t, x, jet.gradient)
    return linear_part(problem, t, x, jet, factor) + problem.driver(t, x, jet.value, z)


def defect(problem: SemilinearPDE, surrogate: Surrogate, *, probes: int | None = None) -> SemilinearPDE:
    """The semilinear PDE of v = u - u^, u^ the surrogate (SCaSML, arXiv 2504.16172, section 2).

    driver    f(t, x, u^ + v, z^ + zeta) - f(t, x, u^, z^) + r(t, x)
    terminal  g(x) - u^(T, x)

    ``probes`` > 0 samples the Laplacian inside r along that many random signs, a fresh set for
    every path: shared ones would tie the paths of a point together. None takes it exactly.
    """
    law = problem.law

    def jet_at(t: Tensor, x: Tensor, signs: Tensor | None) -> tuple[Jet, Tensor, Tensor]:
        directions, factor = law.directions(t, x, signs)
        jet = surrogate.jet(t, x, directions)
        return jet, law.pull(t, x, jet.gradient), linear_part(problem, t, x, jet, factor)

    @torch.no_grad()
    def local(t: Tensor, x: Tensor, stream: Stream, with_source: bool, /) -> LocalDriver:
        if not with_source:
            value, gradient = surrogate.value_and_gradient(t, x)
            return Linearisable(problem.driver, t, x, value, law.pull(t, x, gradient))
        signs = None if probes is None else stream.signs(t.shape[0], probes, problem.dim)
        jet, z, linear = jet_at(t, x, signs)
        return Linearisable(problem.driver, t, x, jet.value, z, linear=linear)

    @torch.no_grad()
    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        jet, z_hat, linear = jet_at(t, x, None)
        return linear + problem.driver(t, x, jet.value + y, z_hat + z)

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
        profile=None,
        profile_jet=None,
        hessian_form=None,
        zero_terminal=surrogate.meets_terminal,
        kinked=problem.kinked and not surrogate.meets_terminal,
        solution=None,
        reference=None,
        local=local,
        known=Known(problem=problem, value_and_gradient=surrogate.value_and_gradient, cost=first_order),
        cost=Cost(
            driver=first_order + base.driver,
            source=full + base.driver,
            terminal=0.0 if surrogate.meets_terminal else first_order + base.terminal,
        ),
    )
