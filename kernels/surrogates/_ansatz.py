"""What surrogates with the terminal condition built in share: u^(t, x) = p(t, x) + h(t) N, and the jet of the profile p."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from kernels.contracts import Jet, Paths, PointwiseField, SemilinearPDE, Vectors
from kernels.jets import STREAM_ROWS
from kernels.streams import Purpose, Stream

NORMALISATION_POINTS = 4096

AUTODIFF_FLOP = 1000.0
"""Arithmetic that a second derivative by automatic differentiation is booked at, a coordinate and direction: it takes a
core 10 to 20 ns, in which it multiplies some 10^3 floats."""


def clock(problem: SemilinearPDE, t: Paths) -> tuple[Paths, Paths]:
    """h = log(1 + l (T-t)/T) / log(1 + l), l the problem's ``layer``, and h'(t); both (paths,). h(T) = 0."""
    layer, horizon = problem.layer, problem.horizon
    inner = 1.0 + layer * (horizon - t) / horizon
    return torch.log(inner) / math.log1p(layer), -layer / (horizon * math.log1p(layer) * inner)


def time_features(h: Paths, clocks: int) -> tuple[Tensor, Tensor]:
    """h and, of k = 1..(clocks - 1)/2, cos(k pi h) and sin(k pi h); and their derivatives by h; both (paths, clocks)."""
    if clocks == 1:
        return h[:, None], torch.ones_like(h)[:, None]
    k = math.pi * torch.arange(1, clocks // 2 + 1, dtype=h.dtype, device=h.device)
    cos, sin = torch.cos(k * h[:, None]), torch.sin(k * h[:, None])
    return torch.cat((h[:, None], cos, sin), 1), torch.cat((torch.ones_like(h)[:, None], -k * sin, k * cos), 1)


SOON = 2.5e-7
"""Of the horizon: time left that derivatives of a profile are taken at. Single precision tells no earlier time from T,
where they may be infinite."""


def profile(problem: SemilinearPDE, t: Paths, x: Vectors) -> Paths:
    """The problem's profile, g where it has none."""
    return problem.terminal(x) if problem.profile is None else problem.profile(t, x)


def _before(problem: SemilinearPDE, t: Paths) -> Paths:
    """The times, or SOON before T where they come nearer."""
    return t if problem.profile is None else t.clamp_max(problem.horizon * (1.0 - SOON))


def _met(problem: SemilinearPDE, t: Paths, x: Vectors, p: Paths) -> Paths:
    """The profile at the times themselves, ``p`` having been taken at those of ``_before``: g at T."""
    if problem.profile is None:
        return p
    late = t > problem.horizon * (1.0 - SOON)
    if not torch.compiler.is_compiling() and not bool(late.any()):
        return p
    return torch.where(late, profile(problem, t, x), p)


def profile_gradient(problem: SemilinearPDE, t: Paths, x: Vectors) -> tuple[Paths, Vectors]:
    """The profile and its gradient, in closed form where the problem has one."""
    before = _before(problem, t)
    if problem.profile_jet is not None:
        jet = problem.profile_jet(before, x)
        p, gradient = jet.value, jet.gradient
    elif problem.hessian_form is not None:
        p, _, gradient, *_ = problem.hessian_form(before, x)
    else:
        p, _, gradient = _first_order(problem, before, x)
    return _met(problem, t, x, p), gradient


def _first_order(problem: SemilinearPDE, t: Paths, x: Vectors) -> tuple[Paths, Paths, Vectors]:
    """The profile, its t-derivative and its gradient by automatic differentiation."""
    with torch.enable_grad():
        time, place = t.detach().requires_grad_(), x.detach().requires_grad_()
        p = profile(problem, time, place)
        dt, gradient = torch.autograd.grad(p.sum(), (time, place), allow_unused=True, materialize_grads=True)
    return p.detach(), dt, gradient


def profile_laplacian(problem: SemilinearPDE, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
    """The profile with its derivatives, the second one sum_k d_k.Hess d_k over ``directions``."""
    before = _before(problem, t)
    # Along signs of an isotropic law the exact Laplacian is what its samples have for a mean.
    if problem.profile_jet is not None and problem.law.isotropic:
        jet = problem.profile_jet(before, x)
    elif problem.hessian_form is not None:
        p, dt, gradient, diagonal, c, v = problem.hessian_form(before, x)
        jet = Jet(p, dt, gradient, _along(diagonal, c, v, directions))
    else:
        p, dt, gradient = _first_order(problem, before, x)
        curvature = curvature_by_autodiff(lambda t, x: profile(problem, t, x), before, x, directions)
        jet = Jet(p, dt, gradient, curvature)
    return replace(jet, value=_met(problem, t, x, jet.value))


def _along(diagonal: Vectors, c: Paths, v: Vectors, directions: Tensor | None) -> Paths:
    """sum_k d_k.(diag(a) + c v v^T) d_k, (paths,)."""
    if directions is None:
        return diagonal.sum(-1) + c * v.square().sum(-1)
    if directions.ndim == 2:
        squares = directions.square()
        return (diagonal * squares).sum(-1) + c * (v.square() * squares).sum(-1)
    projected = torch.bmm(directions, v[:, :, None])[:, :, 0]
    return (directions.square().sum(1) * diagonal).sum(-1) + c * projected.square().sum(-1)


def curvature_by_autodiff(function: PointwiseField, t: Paths, x: Vectors, directions: Tensor | None) -> Paths:
    """sum_k d_k.Hess d_k in x of a function of (t, x), (paths,), by reverse mode twice, all directions of a few rows at once."""
    count = directions.shape[1] if directions is not None else x.shape[1]
    at_once = max(1, STREAM_ROWS // count)
    parts = []
    for i in range(0, x.shape[0], at_once):
        rows = x[i : i + at_once]
        if directions is None:
            along = torch.eye(count, dtype=x.dtype, device=x.device).expand(rows.shape[0], -1, -1)
        elif directions.ndim == 2:
            along = directions[i : i + at_once].diag_embed()
        else:
            along = directions[i : i + at_once]
        with torch.enable_grad():
            points = rows.detach().repeat_interleave(count, 0).requires_grad_()
            times = t[i : i + at_once].repeat_interleave(count, 0)
            (gradient,) = torch.autograd.grad(function(times, points).sum(), points, create_graph=True)
            slope = (gradient * along.flatten(0, 1)).sum(-1)
            # A function that is linear in x has a gradient without a second derivative.
            second = torch.zeros_like(points)
            if slope.requires_grad:
                (second,) = torch.autograd.grad(slope.sum(), points, allow_unused=True, materialize_grads=True)
        parts.append((second.unflatten(0, (-1, count)) * along).sum((1, 2)))
    return torch.cat(parts)


def profile_flop(problem: SemilinearPDE, probes: int | None) -> float:
    """Model FLOP of one row of ``profile_laplacian``: nothing to speak of in closed form."""
    if problem.hessian_form is not None or (problem.profile_jet is not None and problem.law.isotropic):
        return 0.0
    return AUTODIFF_FLOP * problem.dim * (problem.dim if probes is None else probes)


def composed(p: Jet, s: Tensor, clock: tuple[Paths, Paths], n: Jet) -> Jet:
    """The jet of p + s h N, from those of p and N, the clock h and h'; ``n.dt`` is N's derivative by h."""
    h, h_t = clock
    return Jet(
        value=p.value + s * h * n.value,
        dt=p.dt + s * (h_t * n.value + h * h_t * n.dt),
        gradient=p.gradient + (s * h)[:, None] * n.gradient,
        laplacian=p.laplacian + s * h * n.laplacian,
    )


class Normalised(nn.Module):
    """The problem, and means and standard deviations of x and g(x) along its own paths, from ``seed``."""

    mean: Tensor
    spread: Tensor
    terminal_mean: Tensor
    terminal_spread: Tensor

    def __init__(self, problem: SemilinearPDE, seed: int) -> None:
        super().__init__()
        self.problem = problem
        stream = Stream(seed, Purpose.INITIALISATION, 1)
        t, x = problem.sample_points(NORMALISATION_POINTS, stream)
        elapsed = (problem.horizon - t) * stream.uniform(t.shape[0])
        x, _ = problem.law.travel(t, x, elapsed, stream)
        with torch.no_grad():
            g = problem.terminal(x)
        self.register_buffer("mean", x.mean())
        self.register_buffer("spread", (x.var(0).mean() + 1e-12).sqrt())
        self.register_buffer("terminal_mean", g.mean())
        self.register_buffer("terminal_spread", (g.var() + 1e-12).sqrt())
