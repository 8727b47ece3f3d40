"""Gradients against closed forms: coverage, biases that explain the miss, and the factor sigma."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from oracles import Formula, equation, perturbed, solution_of
from radial_control import control
from torch import Tensor

from kernels.contracts import BrownianMotion, GeometricBrownianMotion, ItoDiffusion, SemilinearPDE, Solution, along_paths
from kernels.defect import defect
from kernels.estimators.linearised import linearised
from kernels.gradients._gradient import GradientEstimator, gradient_draws
from kernels.gradients.bismut_elworthy_li import bismut_elworthy_li
from kernels.gradients.common_noise import DIFFERENCE, common_noise
from kernels.moments import Moments
from kernels.streams import Stream

DIM = 3
BURGERS = equation("viscous_burgers", DIM, sigma=0.5)
CONTROL = equation("lqg", DIM, isotropic=True)


def one_point(problem: SemilinearPDE, copies: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-0.3, 0.4, problem.dim, dtype=torch.float64) + (1.0 if problem.start else 0.0)
    return torch.full((copies,), 0.1 * problem.horizon, dtype=torch.float64), x.repeat(copies, 1)


def gradient_of(u: Any, t: Tensor, x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().double().requires_grad_()
        return torch.autograd.grad(u(t, leaf).sum(), leaf)[0]


def truth(problem: SemilinearPDE, surrogate: Any) -> np.ndarray:
    """sigma^T grad (u - u^) at the point, (dim,)."""
    t, x = one_point(problem)
    solution = solution_of(problem)
    gradient = gradient_of(solution.value, t, x) if solution.gradient is None else solution.gradient(t, x)
    if surrogate is not None:
        gradient = gradient - surrogate.value_and_gradient(t, x)[1]
    return problem.law.pull(t, x, gradient)[0].numpy()


def found(
    method: Any, names: Any, problem: SemilinearPDE, draws: int, copies: int, seed: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Sum over names of the means at independent copies of the point, and its standard errors: (copies, dim) twice."""
    t, x = one_point(problem, copies)
    mean, square = np.zeros((copies, problem.dim)), np.zeros((copies, problem.dim))
    for i, term in enumerate(names):
        sampled = method.sample(problem, t, x, term, draws, Stream(seed, i))
        assert sampled.shape == (copies, problem.dim, draws)
        moments = Moments.of(sampled.numpy())
        mean, square = mean + moments.mean, square + moments.standard_error**2
    return mean, np.sqrt(square)


def pooled(mean: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mean.mean(0), np.sqrt((error**2).sum(0)) / len(mean)


def near_control(t: Tensor, x: Tensor) -> Tensor:
    """The solution of CONTROL and a wave that is 0 at T."""
    return control(t, x.square().sum(-1), DIM) + 0.1 * (1.0 - t) * torch.sin(x.sum(-1) / DIM**0.5 + 1.0)


METHODS = {"weights": bismut_elworthy_li(), "differences": common_noise(estimator=linearised(times=2))}
METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


@pytest.mark.unchecked
@METHOD
@pytest.mark.parametrize(
    ("problem", "surrogate"),
    [(BURGERS, perturbed(BURGERS, 0.1)), (CONTROL, Formula(near_control))],
    ids=["burgers", "lqg"],
)
def test_intervals_of_every_component_cover_the_gradient_of_the_error(
    method: Any, problem: SemilinearPDE, surrogate: Any
) -> None:
    """50 seeds, 3 components: 95 % +- 7 % (4 s.d. of 150), seed fixed. Planted: grad for sigma^T grad, and a wrong sign."""
    draws = 400 if method is METHODS["weights"] else 24
    mean, error = found(method, method.terms, defect(problem, surrogate), draws, 50)
    z = truth(problem, surrogate)

    def coverage(value: np.ndarray) -> float:
        return float(np.mean(np.abs(value - z) <= 1.96 * error))

    assert coverage(mean) == pytest.approx(0.95, abs=0.07)
    centre, spread = pooled(mean, error)
    assert (np.abs(centre - z) <= 4.0 * spread).all()
    assert isinstance(problem.law, BrownianMotion)
    for planted in (centre / problem.law.sigma, -centre):
        assert (np.abs(planted - z) > 4.0 * spread).any()


def test_what_the_frozen_slopes_miss_is_made_up_by_the_renewed_ones() -> None:
    """Burgers and a surrogate far off: the first term alone misses by over 10 s.e., all of it by less than 4, bias taken off."""
    problem = equation("viscous_burgers", DIM, sigma=1.0)
    surrogate, method = perturbed(problem, 0.8), bismut_elworthy_li()
    error = defect(problem, surrogate)
    z = truth(problem, surrogate)
    frozen, frozen_error = pooled(*found(method, ("frozen",), error, 1000, 200))
    whole, whole_error = pooled(*found(method, method.terms, error, 1000, 60))
    bias, bias_error = pooled(*found(method, method.biases, error, 1000, 60, seed=4))
    assert (np.abs(frozen - z) > 10.0 * frozen_error).any()
    assert (np.abs(whole - bias - z) <= 4.0 * np.hypot(whole_error, bias_error)).all()
    assert np.linalg.norm(whole - z) < 0.5 * np.linalg.norm(frozen - z)


def test_without_a_surrogate_the_gradient_of_the_solution_itself_is_found() -> None:
    """Burgers: 4 s.e. of the sum less its bias; sees 10 % of the gradient."""
    method = bismut_elworthy_li()
    z = truth(BURGERS, None)
    mean, error = pooled(*found(method, method.terms, BURGERS, 500, 100))
    bias, bias_error = pooled(*found(method, method.biases, BURGERS, 500, 100, seed=4))
    both = np.hypot(error, bias_error)
    assert (np.abs(mean - bias - z) <= 4.0 * both).all()
    assert (4.0 * both < 0.1 * np.abs(z)).all()


@METHOD
def test_the_exact_surrogate_leaves_no_gradient_in_any_draw(method: Any) -> None:
    error = replace(defect(BURGERS, perturbed(BURGERS, 0.0)), zero_terminal=True)
    for name in (*method.terms, *method.biases):
        mean, spread = found(method, (name,), error, 8, 2)
        assert np.abs(mean).max() < 1e-9 and spread.max() < 1e-9


def discounted(law: Any) -> SemilinearPDE:
    """f = -y/2 under a geometric Brownian motion, solved by a product of square roots: constant slopes, so no bias."""
    rate = -0.5 + DIM * (0.5 * law.mu - 0.125 * law.sigma**2)

    def u(t: Tensor, x: Tensor) -> Tensor:
        return torch.exp(0.5 * x.log().sum(-1) + rate * (1.0 - t))

    return SemilinearPDE(
        name="discounted",
        dim=DIM,
        horizon=1.0,
        law=law,
        driver=lambda t, x, y, z: -0.5 * y,
        terminal=lambda x: u(torch.ones_like(x[:, 0]), x),
        sample_points=along_paths(DIM, 1.0, law, 1.0),
        start=1.0,
        solution=Solution(value=u, source="closed form"),
    )


@METHOD
def test_a_geometric_brownian_motion_has_its_own_sigma_in_z_and_out_of_it_in_the_gradient(method: Any) -> None:
    """60,000 and 2,000 draws: 4 s.e.; sees 6 %. Planted: sigma without x."""
    problem = discounted(GeometricBrownianMotion(mu=0.1, sigma=0.4))
    t, x = one_point(problem)
    draws = 60_000 if method is METHODS["weights"] else 2_000
    z = method.sample(problem, t, x, method.terms[0], draws, Stream(1, 1)).double()
    gradient = gradient_draws(problem.law, t, x, z)
    exact = gradient_of(solution_of(problem).value, t, x)
    for sampled, target in ((z, problem.law.pull(t, x, exact)), (gradient, exact)):
        error = sampled.std(-1) / draws**0.5
        assert ((sampled.mean(-1) - target).abs() <= 4.0 * error).all()
        assert (4.0 * error < 0.06 * target.abs()).all()
    assert ((z.mean(-1) / 0.4 - exact).abs() > 4.0 * z.std(-1) / draws**0.5).any()


def test_a_full_diffusion_matrix_is_solved_for() -> None:
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0.1, 0.0, 0.7]], dtype=torch.float64)
    law = ItoDiffusion(mu=lambda t, x: 0.0 * x, sigma=lambda t, x: (1.0 + x[:, :1, None] ** 2) * matrix)
    t, x = one_point(BURGERS, 2)
    gradient = torch.linspace(-1.0, 1.0, 2 * DIM * 4, dtype=torch.float64).reshape(2, DIM, 4)
    z = torch.stack([law.pull(t, x, gradient[:, :, k]) for k in range(4)], -1)
    torch.testing.assert_close(gradient_draws(law, t, x, z), gradient)


def test_the_bias_of_a_wide_difference_is_what_it_prints() -> None:
    """A step of half the spread of a path: its miss is over 10 s.e., and the printed bias explains all but a tenth."""
    problem = equation("viscous_burgers", DIM, sigma=1.0)
    wide, narrow = (common_noise(estimator=linearised(times=2), step=step) for step in (0.5, 0.05))
    t, x = one_point(problem)
    error = defect(problem, perturbed(problem, 0.5))
    one, other = (m.sample(error, t, x, "linear", 3000, Stream(2, 2)) for m in (wide, narrow))
    bias = wide.sample(error, t, x, DIFFERENCE, 3000, Stream(2, 2))
    miss, printed = (one - other).mean(-1), bias.mean(-1)
    assert (miss.abs() > 10.0 * (one - other).std(-1) / 3000**0.5).any()
    assert (miss - printed).norm() < 0.15 * miss.norm()


def test_common_noise_lacks_the_factor_of_the_dimension_that_weights_bring() -> None:
    problem = equation("viscous_burgers", 12, sigma=0.5)
    error = defect(problem, perturbed(problem, 0.3))
    t, x = one_point(problem)
    weighted, shared = (m.sample(error, t, x, m.terms[0], 100, Stream(4, 4)).var(-1).sum() for m in METHODS.values())
    assert weighted > 12.0 * shared


@METHOD
def test_gradient_estimators_keep_the_protocol_and_their_own_books(method: Any) -> None:
    """Booked against counted residuals: within 15 %, and never more rows alive than said."""

    class Counted(Formula):
        jets = 0

        def jet(self, t: Tensor, x: Tensor, directions: Tensor | None) -> Any:
            Counted.jets += len(t)
            assert len(t) <= 2 * method.rows(name, 64)
            return super().jet(t, x, directions)

        def flop(self, probes: int | None) -> tuple[float, float]:
            return 0.0, 1e9

    assert isinstance(method, GradientEstimator)
    error = replace(defect(BURGERS, Counted(perturbed(BURGERS, 0.2).u)), zero_terminal=True)
    t, x = one_point(BURGERS, 2)
    for name in (*method.terms, *method.biases):
        if name in ("time step", "higher order") and method is METHODS["differences"]:
            continue  # of the linearised estimator, whose own tests count them
        Counted.jets = 0
        method.sample(error, t, x, name, 64, Stream(6, 1))
        assert 2.0 * method.flop(error, name, 64) / 1e9 == pytest.approx(Counted.jets, rel=0.15)


def test_a_step_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="step = 0"):
        common_noise(estimator=linearised(), step=0.0)
