"""Surrogates of Poisson's equation with the boundary values built in: u^ = g + b (N - g), b the domain's bump."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import Paths, Poisson, SpaceJet, Vectors
from kernels.surrogates._ansatz import curvature_by_autodiff


def boundary_jet(problem: Poisson, x: Vectors) -> SpaceJet:
    """g inside the domain with its derivatives, automatic ones where the problem gives none."""
    if problem.zero_boundary:
        zero = torch.zeros_like(x[:, 0])
        return SpaceJet(zero, torch.zeros_like(x), zero)
    if problem.boundary_jet is not None:
        return problem.boundary_jet(x)
    with torch.enable_grad():
        place = x.detach().requires_grad_()
        g = problem.boundary(place)
        gradient = torch.zeros_like(x)
        if g.requires_grad:
            (gradient,) = torch.autograd.grad(g.sum(), place)
    laplacian = torch.zeros_like(g)
    if g.requires_grad:
        laplacian = curvature_by_autodiff(lambda _, y: problem.boundary(y), g, x, None)
    return SpaceJet(g.detach(), gradient, laplacian)


def met_value(problem: Poisson, x: Vectors, n: Paths) -> Paths:
    """u^ where the surrogate's free part has the value n."""
    b = problem.domain.bump(x).value
    return b * n if problem.zero_boundary else (g := problem.boundary(x)) + b * (n - g)


def met_laplacian(problem: Poisson, x: Vectors, n: SpaceJet) -> Paths:
    """Laplacian of u^: that of g, and b D(N - g) + 2 grad b.grad(N - g) + (N - g) D b."""
    g, b = boundary_jet(problem, x), problem.domain.bump(x)
    across = (b.gradient * (n.gradient - g.gradient)).sum(1)
    return g.laplacian + b.value * (n.laplacian - g.laplacian) + 2.0 * across + (n.value - g.value) * b.laplacian


def typical_size(problem: Poisson, x: Tensor) -> Tensor:
    """What N should be of the order of: the root mean squares of g and of f/(2 dim), summed."""
    wide = x.double()
    g = problem.boundary(wide).double().square().mean().sqrt()
    return g + problem.source(wide).double().square().mean().sqrt() / (2.0 * problem.dim)
