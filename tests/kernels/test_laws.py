"""Path laws: where a path goes, the weight that gives z = sigma^T grad u, and the directions of the trace."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from estimates import Mean
from oracles import vectors
from torch import Tensor

import kernels.laws
from kernels.laws import BrownianMotion, GeometricBrownianMotion, ItoDiffusion, Law
from kernels.streams import Stream

DIM, DRAWS = 3, 100_000


def bend(x: Tensor) -> Tensor:
    """A full matrix sigma(x), nowhere singular, whose entry (i, j) depends on both coordinates."""
    i = torch.arange(x.shape[1], dtype=x.dtype)
    wave = torch.sin(x[:, :, None] + 2.0 * x[:, None, :] + i[:, None] - 0.5 * i)
    return 0.7 * torch.eye(x.shape[1], dtype=x.dtype) + 0.2 * wave


def diffusion(t: Tensor, x: Tensor) -> Tensor:
    return bend(x) * (1.0 + 0.2 * t)[:, None, None]


def diagonal(t: Tensor, x: Tensor) -> Tensor:
    return 0.6 + 0.4 * torch.sin(x + t[:, None])


def drift(t: Tensor, x: Tensor) -> Tensor:
    return 0.5 * torch.cos(x.roll(1, -1)) + 0.1 * t[:, None]


LAWS: dict[str, Law] = {
    "BrownianMotion": BrownianMotion(mu=0.3, sigma=0.7),
    "GeometricBrownianMotion": GeometricBrownianMotion(mu=0.4, sigma=0.6),
    "ItoDiffusion": ItoDiffusion(mu=drift, sigma=diffusion),
    "ItoDiffusion with diagonal sigma": ItoDiffusion(mu=drift, sigma=diagonal),
    "ItoDiffusion like GeometricBrownianMotion": ItoDiffusion(mu=lambda t, x: 0.4 * x, sigma=lambda t, x: 0.6 * x, steps=32),
}
every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


def sigma_of(law: Law, t: Tensor, x: Tensor) -> Tensor:
    """sigma(t, x) as a matrix, stated apart from the law's own use of it: (paths, dim, dim)."""
    if isinstance(law, BrownianMotion):
        return law.sigma * torch.eye(x.shape[1], dtype=x.dtype).expand(len(x), -1, -1)
    if isinstance(law, GeometricBrownianMotion):
        return torch.diag_embed(law.sigma * x)
    assert isinstance(law, ItoDiffusion)
    sigma = law.sigma(t, x)
    return torch.diag_embed(sigma) if sigma.ndim == 2 else sigma


def mu_of(law: Law, t: Tensor, x: Tensor) -> Tensor:
    if isinstance(law, BrownianMotion):
        return torch.full_like(x, law.mu)
    return law.mu * x if isinstance(law, GeometricBrownianMotion) else law.mu(t, x)  # type: ignore[union-attr]


def rows(n: int = 5, dim: int = DIM) -> tuple[Tensor, Tensor]:
    t = torch.linspace(0.0, 0.5, n, dtype=torch.float64)
    return t, torch.linspace(0.3, 1.4, n * dim, dtype=torch.float64).reshape(n, dim)


def test_every_law_of_the_module_is_tested_here() -> None:
    found = {
        name
        for name, value in vars(kernels.laws).items()
        if inspect.isclass(value) and value.__module__ == kernels.laws.__name__ and not getattr(value, "_is_protocol", False)
    }
    assert found == {type(law).__name__ for law in LAWS.values()}
    assert all(isinstance(law, Law) for law in LAWS.values())


@every_law
def test_drift_and_pull_are_those_of_the_coefficients(law: Law) -> None:
    """The planted pull is sigma grad for sigma^T grad, and grad alone."""
    t, x = rows()
    gradient = torch.sin(3.0 * x)
    sigma = sigma_of(law, t, x)
    torch.testing.assert_close(law.advect(t, x, gradient), (mu_of(law, t, x) * gradient).sum(-1))
    torch.testing.assert_close(law.pull(t, x, gradient), torch.einsum("pij,pi->pj", sigma, gradient))
    assert not torch.allclose(law.pull(t, x, gradient), gradient, rtol=1e-2)
    if not sigma.equal(sigma.mT):
        assert not torch.allclose(law.pull(t, x, gradient), torch.einsum("pij,pj->pi", sigma, gradient), rtol=1e-2)


def trace_along(directions: Tensor | None, factor: float, x: Tensor, hessian: Tensor) -> Tensor:
    d = vectors(directions, x)
    return factor * torch.einsum("pki,pij,pkj->p", d, hessian, d)


def trace_of(law: Law, t: Tensor, x: Tensor, hessian: Tensor) -> Tensor:
    sigma = sigma_of(law, t, x)
    return torch.einsum("pij,pkj,pik->p", sigma, sigma, hessian)


def hessians(x: Tensor) -> Tensor:
    full = torch.cos(torch.arange(x.shape[0] * x.shape[1] ** 2, dtype=x.dtype)).reshape(*x.shape, x.shape[1])
    return full + full.mT


@every_law
def test_the_trace_is_exact_along_the_exact_directions(law: Law) -> None:
    t, x = rows()
    directions, factor = law.directions(t, x, None)
    torch.testing.assert_close(trace_along(directions, factor, x, hessians(x)), trace_of(law, t, x, hessians(x)))
    assert law.isotropic == (directions is None)


@every_law
@pytest.mark.parametrize("probes", [1, 2])
def test_the_trace_along_signs_has_the_exact_one_for_its_mean(law: Law, probes: int) -> None:
    """The mean over all 2^(probes dim) sets of signs, without sampling. Planted: K signs without 1/K; sigma^T for sigma."""
    (t, x), every = rows(1), list(itertools.product((-1.0, 1.0), repeat=probes * DIM))
    signs = torch.tensor(every, dtype=torch.float64).reshape(-1, probes, DIM)
    many_t, many_x = t.expand(len(signs)), x.expand(len(signs), -1)
    directions, factor = law.directions(many_t, many_x, signs)
    assert directions is not None and directions.shape == signs.shape
    exact = trace_of(law, t, x, hessians(x))

    def mean(directions: Tensor) -> Tensor:
        return trace_along(directions, factor, many_x, hessians(x).expand(len(signs), -1, -1)).mean(0, keepdim=True)

    torch.testing.assert_close(mean(directions), exact)
    if probes > 1:
        assert not torch.allclose(mean(directions * math.sqrt(probes)), exact, rtol=0.1)
    sigma = sigma_of(law, t, x)
    if not sigma.equal(sigma.mT):
        assert not torch.allclose(mean(signs @ sigma[0] / math.sqrt(probes)), exact, rtol=1e-2)


@every_law
def test_a_step_moves_by_the_coefficients_to_first_order(law: Law) -> None:
    """X after h is x + mu h + sigma dW up to O(h), dW = sqrt h e: the miss over h is bounded, that without mu or sigma not."""
    t, x = rows()
    e = torch.cos(2.0 * x)

    def miss(h: float, scale: float = 1.0) -> float:
        elapsed, increment = torch.full_like(t, h), math.sqrt(h) * e
        expected = x + torch.einsum("pij,pj->pi", sigma_of(law, t, x), increment)
        return (law.move(t, x, elapsed, scale * increment) - expected).abs().max().item()

    assert miss(1e-6) < 2e-6
    assert miss(1e-6, scale=1.5) > 1e-4
    still = law.move(t, x, torch.full_like(t, 1e-6), torch.zeros_like(x)) - x
    ito = torch.zeros_like(x)
    if isinstance(law, GeometricBrownianMotion):
        # exp(sigma W - sigma^2 t/2) at W = 0: the second-order part of W^2 = t is missing there.
        ito = -0.5 * law.sigma**2 * x
    torch.testing.assert_close(still / 1e-6, mu_of(law, t, x) + ito, rtol=1e-5, atol=1e-6)


@every_law
def test_no_time_moves_nothing(law: Law) -> None:
    t, x = rows()
    end, weight = law.travel(t, x, torch.zeros_like(t), Stream(1, 0), torch.ones_like(x))
    assert torch.equal(end, x)
    assert weight().isfinite().all() and not weight().any()


@pytest.mark.parametrize("law", [law for law in LAWS.values() if law.exact], ids=lambda law: type(law).__name__)
def test_two_exact_moves_are_one(law: Law) -> None:
    t, x = rows()
    h, k = torch.full_like(t, 0.3), torch.full_like(t, 0.9)
    first, second = torch.sin(5.0 * x), torch.cos(7.0 * x)
    twice = law.move(t + h, law.move(t, x, h, first), k, second)
    torch.testing.assert_close(twice, law.move(t, x, h + k, first + second))


def moments(law: Law, s: float, x: float, shift: float) -> tuple[float, float]:
    """Mean and variance of a component of X after s from x, dX = mu dt + sigma (dW + shift dt)."""
    if isinstance(law, BrownianMotion):
        return x + (law.mu + law.sigma * shift) * s, law.sigma**2 * s
    # The Ito diffusion that is tested against it has the same coefficients.
    mu, sigma = 0.4 + 0.6 * shift, 0.6
    return x * math.exp(mu * s), x**2 * math.exp(2.0 * mu * s) * math.expm1(sigma**2 * s)


CLOSED = ["BrownianMotion", "GeometricBrownianMotion", "ItoDiffusion like GeometricBrownianMotion"]


def run(
    law: Law, elapsed: float, shift: float | None, *, seed: int = 1, dim: int = DIM, draws: int = DRAWS
) -> tuple[Tensor, Tensor]:
    """Ends (draws, dim) of paths from t = 0.1 and x = (0.8, 1.0, ...), and their weights."""
    x = (0.8 + 0.2 * torch.arange(dim, dtype=torch.float64)).expand(draws, -1).contiguous()
    t, s = torch.full((draws,), 0.1, dtype=torch.float64), torch.full((draws,), elapsed, dtype=torch.float64)
    end, weight = law.travel(t, x, s, Stream(seed, 0), None if shift is None else torch.full_like(x, shift))
    return end, weight()


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("shift", [None, 0.5])
def test_a_path_ends_with_the_mean_and_variance_of_its_law(name: str, shift: float | None) -> None:
    """100000 paths, 4 s.e. (false positives 2 in 10^4 for three means): catches a mean or a spread that is 1 % off.

    The variance of the lognormal is known to 1 %: 4 % is allowed, which catches sigma^2/2 for sigma^2. The Euler scheme may
    be off by half of a step's h beside that.
    """
    law, s = LAWS[name], 0.5
    end, _ = run(law, s, shift)
    allowed = 0.0 if law.exact else 0.5 / law.steps * s  # type: ignore[attr-defined]
    for i in range(DIM):
        mean, variance = moments(law, s, 0.8 + 0.2 * i, shift or 0.0)
        found = Mean.of(end[:, i])
        assert abs(found.mean - mean) <= 4.0 * found.error + allowed * abs(mean)
        assert not abs(1.01 * found.mean - mean) <= 4.0 * found.error + allowed * abs(mean) or not law.exact
        assert end[:, i].var().item() == pytest.approx(variance, rel=0.04)


Wave = Callable[[Tensor], Tensor]


def wave_of(law: Law) -> Wave:
    """cos sum x, or of logarithms where the law is geometric: expectations in closed form."""
    return (lambda x: torch.cos(x.sum(-1))) if isinstance(law, BrownianMotion) else (lambda x: torch.cos(x.log().sum(-1)))


def z_of_wave(law: Law, s: float, shift: float) -> float:
    """Every component of sigma^T grad E cos(...) after s from the start of ``run``."""
    x = 0.8 + 0.2 * torch.arange(DIM, dtype=torch.float64)
    if isinstance(law, BrownianMotion):
        sigma, phase = law.sigma, x.sum().item() + DIM * (law.mu + law.sigma * shift) * s
    else:
        sigma = 0.6
        phase = x.log().sum().item() + DIM * (0.4 + sigma * shift - 0.5 * sigma**2) * s
    return -sigma * math.sin(phase) * math.exp(-0.5 * sigma**2 * DIM * s)


def vanishes(draws: Tensor, slack: float = 0.0) -> bool:
    """Means of (draws, dim) within 4 s.e. of 0 at every component, and ``slack`` for a time step."""
    found = Mean.of(draws.T)
    return bool((found.mean.abs() <= 4.0 * found.error + slack).all())


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("shift", [None, 0.5])
def test_the_weight_gives_z_in_closed_form(name: str, shift: float | None) -> None:
    """E[h(X) I] = sigma^T grad E h(X). 100000 paths, 4 s.e. (false positives 2 in 10^4), which is some 3 % of z.

    Planted: z = grad u, the weight over half the time, and the wrong sign.
    """
    law, s = LAWS[name], 0.5
    end, weight = run(law, s, shift)
    z = z_of_wave(law, s, shift or 0.0)
    draws, slack = wave_of(law)(end)[:, None] * weight, 0.0 if law.exact else 0.02 * abs(z)
    assert vanishes(draws - z, slack)
    scale = 0.7 if isinstance(law, BrownianMotion) else 0.6
    for planted in (draws / scale, 2.0 * draws, -draws):
        assert not vanishes(planted - z, slack)


def test_the_weight_is_that_of_the_noise_alone_where_it_is_known() -> None:
    """Of Brownian and geometric paths it is (W_s - W_t)/(s - t), path by path, whatever the shift."""
    s = 0.5
    noise = math.sqrt(s) * Stream(1, 0).normal(1000, DIM)
    for name in ("BrownianMotion", "GeometricBrownianMotion"):
        for shift in (None, 0.5):
            _, weight = run(LAWS[name], s, shift, draws=1000)
            torch.testing.assert_close(weight, noise.double() / s, rtol=1e-6, atol=1e-7)


def general_z(law: ItoDiffusion, elapsed: float, shift: float | None, h: Wave, draws: int) -> Tensor:
    """sigma^T grad E h(X) by central differences of the start, common random numbers: (draws, dim)."""
    dim, step = 2, 1e-4
    x = (0.8 + 0.2 * torch.arange(dim, dtype=torch.float64)).expand(draws, -1)
    t, s = torch.full((draws,), 0.1, dtype=torch.float64), torch.full((draws,), elapsed, dtype=torch.float64)
    moved = None if shift is None else torch.full((draws, dim), shift, dtype=torch.float64)
    slopes = []
    for e in torch.eye(dim, dtype=torch.float64):
        up, down = (h(law.travel(t, x + sign * step * e, s, Stream(1, 0), moved)[0]) for sign in (1, -1))
        slopes.append((up - down) / (2.0 * step))
    return torch.einsum("pij,pi->pj", sigma_of(law, t, x), torch.stack(slopes, 1))


def frozen_weight(law: ItoDiffusion, elapsed: float, shift: float | None, draws: int) -> Tensor:
    """The planted weight without the derivative process: sigma(x)^T sum sigma(X_r)^-T dW_r over the time."""
    dim = 2
    x = (0.8 + 0.2 * torch.arange(dim, dtype=torch.float64)).expand(draws, -1)
    t, h = torch.full((draws,), 0.1, dtype=torch.float64), elapsed / law.steps
    noise = math.sqrt(h) * Stream(1, 0).normal(law.steps, draws, dim).double()
    extra, here, gathered = 0.0 if shift is None else h * shift, x, torch.zeros_like(x)
    for k in range(law.steps):
        sigma = sigma_of(law, t + k * h, here)
        gathered = gathered + torch.linalg.solve(sigma.mT, noise[k][:, :, None])[:, :, 0]
        here = law.move(t + k * h, here, torch.full_like(t, h), noise[k] + extra)
    return torch.einsum("pij,pi->pj", sigma_of(law, t, x), gathered) / elapsed


@pytest.mark.parametrize("sigma", [diffusion, diagonal], ids=["full", "diagonal"])
@pytest.mark.parametrize("shift", [None, 0.5])
def test_the_weight_of_a_general_diffusion_agrees_with_finite_differences(sigma: Any, shift: float | None) -> None:
    """2 dimensions, 100000 paths of 4 Euler steps on common random numbers: within 4 s.e. (1 to 3 % of z) of the differences.

    The weight is that of the Euler path itself, so nothing is allowed for the step. False positives 10^-4 a case. Planted: the
    weight without the derivative process, z = grad u, and sigma for sigma^T in the pull.
    """
    law, s = ItoDiffusion(mu=drift, sigma=sigma, steps=4), 0.6

    def h(x: Tensor) -> Tensor:
        return torch.sin(1.3 * x[:, 0] + 0.4) * torch.cos(0.9 * x[:, 1])

    end, weight = run(law, s, shift, dim=2, draws=DRAWS)
    z = general_z(law, s, shift, h, DRAWS)
    value = h(end)[:, None] - h(end).mean()
    ours = value * weight
    assert vanishes(ours - z)
    assert not vanishes(value * frozen_weight(law, s, shift, DRAWS) - z)
    start = torch.tensor([[0.8, 1.0]], dtype=torch.float64)
    matrix = sigma_of(law, torch.full((1,), 0.1, dtype=torch.float64), start)[0]
    gradient = torch.linalg.solve(matrix.T, ours.T).T
    assert not vanishes(gradient - z)
    if not matrix.equal(matrix.T):
        assert not vanishes(gradient @ matrix.T - z)


@pytest.mark.parametrize(
    ("law", "options", "named"),
    [
        (BrownianMotion, {"sigma": 0.0}, "sigma=0.0"),
        (BrownianMotion, {"mu": math.nan}, "mu=nan"),
        (GeometricBrownianMotion, {"sigma": -1.0}, "sigma=-1.0"),
        (GeometricBrownianMotion, {"sigma": math.inf}, "sigma=inf"),
        (ItoDiffusion, {"mu": drift, "sigma": diagonal, "steps": 0}, "steps = 0"),
    ],
)
def test_impossible_coefficients_are_refused_by_value(law: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        law(**options)
