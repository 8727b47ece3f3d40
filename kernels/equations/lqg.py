"""Linear-quadratic-Gaussian control: the Hamilton-Jacobi-Bellman equation with quadratic Hamiltonian."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from kernels.contracts import (
    BrownianMotion,
    Jet,
    Purpose,
    SemilinearPDE,
    Solution,
    Stream,
    along_paths,
    require_dim,
    uniform_ball,
    uniform_sphere,
)


def lqg(dim: int, *, strength: float = 1.0, isotropic: bool = False, coefficient_seed: int = 0) -> SemilinearPDE:
    """u_t + Laplacian u - strength |grad u|^2 = 0 on [0, 1], g = log((1 + x.A x)/2).

    x.A x = sum_{i<d} c1_i (x_i - x_{i+1})^2 + c2_i x_{i+1}^2, c uniform on [1/2, 3/2] from
    ``coefficient_seed`` (Fan, Sun, Yang, Lu, arXiv 2504.16172); ``isotropic`` takes A = I
    instead (E, Han, Jentzen, CMS 2017), and points along the paths from 0 instead of the unit ball.
    In (mu, sigma, f): 0, sqrt 2, -strength |z|^2 / 2.
    Concave in (y, z). Exact by the Hopf-Cole transform and one quadrature, to 12 digits.

    :param strength: weight of the control, > 0; the nonlinearity grows with it
    :param isotropic: A = I instead of seeded coefficients
    :param coefficient_seed: seed of the coefficients c
    """
    require_dim(dim)
    if not (math.isfinite(strength) and strength > 0.0):
        raise ValueError(f"strength = {strength}: the Hopf-Cole transform needs a finite strength > 0")
    if dim < 2 and not isotropic:
        raise ValueError(f"dim = {dim}: the seeded quadratic form couples neighbours and needs dim >= 2; or isotropic: true")
    horizon, law = 1.0, BrownianMotion(sigma=math.sqrt(2.0))
    form = torch.eye(dim, dtype=torch.float64) if isotropic else _coupled_form(dim, coefficient_seed)
    diagonal = form.diagonal().contiguous()
    off = form.diagonal(1).contiguous()
    trace = float(diagonal.sum())

    def apply_form(x: Tensor) -> Tensor:
        a, b = diagonal.to(x), off.to(x)
        out = x * a
        out[:, :-1] += b * x[:, 1:]
        out[:, 1:] += b * x[:, :-1]
        return out

    def terminal(x: Tensor, /) -> Tensor:
        return torch.log(0.5 * (1.0 + (x * apply_form(x)).sum(-1)))

    def profile(t: Tensor, x: Tensor, /) -> Tensor:
        return torch.log(0.5 * (1.0 + (x * apply_form(x)).sum(-1) + 2.0 * trace * (horizon - t)))

    def profile_jet(t: Tensor, x: Tensor, /) -> Jet:
        ax = apply_form(x)
        q = 1.0 + (x * ax).sum(-1) + 2.0 * trace * (horizon - t)
        gradient = ax * (2.0 / q)[:, None]
        fall = 2.0 * trace / q
        return Jet(torch.log(0.5 * q), -fall, gradient, fall - gradient.square().sum(-1))

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        return -0.5 * strength * z.square().sum(-1)

    eigenvalues, eigenvectors = torch.linalg.eigh(form)

    def weights(t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes s, logarithms of the integrand on them (points, nodes), and 1/(1 + 4 tau s a)."""
        low = min(-40.0, -40.0 / strength)
        w = torch.arange(low, 8.0, 0.12, dtype=torch.float64)
        s = w.exp()
        tau = horizon - t.double()
        y2 = (x.double() @ eigenvectors).square()
        damping = 1.0 / (1.0 + 4.0 * tau[:, None, None] * s[:, None] * eigenvalues)
        exponent = 0.5 * damping.log().sum(-1) - torch.einsum("pnd,pd->pn", damping * eigenvalues, y2) * s
        return s, strength * w - s + exponent, damping

    def value(t: Tensor, x: Tensor, /) -> Tensor:
        out = []
        for t_part, x_part in zip(t.split(64), x.split(64), strict=True):
            _, log_integrand, _ = weights(t_part, x_part)
            integral = torch.logsumexp(log_integrand, -1) + math.log(0.12)
            out.append(-(strength * math.log(2.0) - math.lgamma(strength) + integral) / strength)
        return torch.cat(out)

    def gradient(t: Tensor, x: Tensor, /) -> Tensor:
        out = []
        for t_part, x_part in zip(t.split(64), x.split(64), strict=True):
            s, log_integrand, damping = weights(t_part, x_part)
            density = torch.softmax(log_integrand, -1) * s
            mean = torch.einsum("pn,pnd->pd", density, damping) * eigenvalues
            out.append(2.0 / strength * (mean * (x_part.double() @ eigenvectors)) @ eigenvectors.T)
        return torch.cat(out)

    return SemilinearPDE(
        name="lqg",
        dim=dim,
        horizon=horizon,
        law=law,
        driver=driver,
        terminal=terminal,
        profile=profile,
        profile_jet=profile_jet,
        curvature="concave",
        z_curvature=strength,
        quadratic=-strength,
        sample_points=along_paths(dim, horizon, law) if isotropic else uniform_ball(dim, horizon),
        boundary_points=None if isotropic else uniform_sphere(dim, horizon),
        solution=Solution(
            value=value, gradient=gradient, error=1e-11, source="Hopf-Cole transform and trapezoidal quadrature, 12 digits"
        ),
    )


def _coupled_form(dim: int, seed: int) -> Tensor:
    """A of x.A x = sum_{i<d} c1_i (x_i - x_{i+1})^2 + c2_i x_{i+1}^2, tridiagonal."""
    c = Stream(seed, Purpose.PROBLEM).uniform(2, dim - 1).double() + 0.5
    form = np.zeros((dim, dim))
    i = np.arange(dim - 1)
    form[i, i] += c[0].numpy()
    form[i + 1, i + 1] += c.sum(0).numpy()
    form[i, i + 1] = form[i + 1, i] = -c[0].numpy()
    return torch.from_numpy(form)
