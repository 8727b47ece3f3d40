"""What training minimises vanishes at the exact solution, grows away from it, and can be lowered."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from itertools import pairwise
from math import gamma
from typing import Any

import pytest
import torch
from descent import step
from oracles import EQUATIONS, Formula, Zero, equation, factory, manufactured, of_semilinear, perturbed, room, written

from kernels.contracts import Jet, Searching, SemilinearPDE
from kernels.objectives.path import PathLoss, path
from kernels.objectives.residual import residual
from kernels.streams import Stream
from kernels.surrogates.mlp import mlp

OBJECTIVES, OPTIMIZERS = of_semilinear("objectives"), room("optimizers")
manufactured_of = cache(lambda name: manufactured(equation(name, 4)))


def burgers() -> SemilinearPDE:
    return equation("viscous_burgers", 4)


def exact(problem: SemilinearPDE) -> Formula:
    assert problem.solution is not None
    return Formula(problem.solution.value)


def path_loss(problem: SemilinearPDE, surrogate: Any, steps: int, paths: int = 8000, drift: float = 0.0) -> float:
    objective = path(problem, surrogate, steps=steps, drift=drift)
    batch = [v.double() for v in objective.sample(paths, Stream(1, steps))]
    return objective(*batch).item()


def falls_with_steps(problem: SemilinearPDE, surrogate: Any, drift: float = 0.0) -> bool:
    losses = [path_loss(problem, surrogate, steps, drift=drift) for steps in (8, 16, 32)]
    return all(0.35 < after / before < 0.65 for before, after in pairwise(losses))


def test_the_path_loss_of_the_exact_solution_falls_like_one_over_the_steps() -> None:
    """Seeds fixed, 8000 paths. One loss has a measured relative standard deviation of 4 %, the ratio of two 0.026 about
    0.47: [0.35, 0.65] is 4 s.d. (false positives 10^-4); it catches an error that does not fall with the step."""
    problem = burgers()
    assert falls_with_steps(problem, exact(problem))
    assert not falls_with_steps(problem, perturbed(problem, 0.3))


@pytest.mark.parametrize("size", [0.05, -0.05])
def test_the_path_loss_is_larger_off_the_solution_by_more_than_its_spread(size: float) -> None:
    """Same paths for both. A squared error of the size of the bump's comes on top of the time step's."""
    problem = burgers()
    right, wrong = path_loss(problem, exact(problem), 32), path_loss(problem, perturbed(problem, size), 32)
    assert wrong > 1.5 * right


def test_the_path_loss_integrates_a_driver_linear_in_time_without_error() -> None:
    """f = 2t, g = 0, u = 1 - t^2: the trapezoidal rule leaves rounding, the rule of left ends a tenth of u squared."""
    problem = written(lambda t, x, y, z: 2.0 * t)
    assert path_loss(problem, Formula(lambda t, x: 1.0 - t.square() + 0.0 * x[:, 0]), 4, 100) < 1e-12


def test_the_path_loss_sees_a_driver_of_the_wrong_sign() -> None:
    problem = equation("lqg", 3)
    wrong = dataclasses.replace(problem, driver=lambda t, x, y, z: -problem.driver(t, x, y, z))
    assert path_loss(wrong, exact(problem), 16, 200) > 3.0 * path_loss(problem, exact(problem), 16, 200)


def test_the_times_of_a_path_rise_from_its_point_to_the_horizon() -> None:
    problem = burgers()
    objective = path(problem, Zero(), steps=5)
    none = torch.empty(0, dtype=torch.long)
    times, positions, increments, shifts = objective.paths(*objective.sample(50, Stream(2, 0)), none)
    assert not len(shifts)
    assert times.shape == (50, 6) and positions.shape == (50, 6, 4) and increments.shape == (50, 5, 4)
    assert (times.diff(dim=1) >= 0).all()
    assert (times[:, -1] == problem.horizon).all()
    moved = positions[:, :-1] + problem.law.mu * times.diff(dim=1)[..., None] + problem.law.sigma * increments
    torch.testing.assert_close(moved, positions[:, 1:], rtol=1e-5, atol=1e-6)


def test_paths_along_the_linearised_drift_keep_the_exact_solution_a_minimum() -> None:
    """All paths drift: the loss of the exact solution still falls like one over the steps, which it would not
    if the drift's share of the martingale were left out; same bounds as without drift."""
    problem = equation("quadratic_gradient", 3)

    class Still(PathLoss):
        def paths(self, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
            *rest, shifts = super().paths(*batch)
            return *rest, torch.zeros_like(shifts)

    assert falls_with_steps(problem, exact(problem), drift=1.0)
    right = path(problem, exact(problem), steps=64, drift=1.0)
    batch = [v.double() for v in right.sample(2000, Stream(1, 2))]
    planted = Still(problem, exact(problem), 64, 1.0)
    assert planted(*batch) > 3.0 * right(*batch)


def test_on_drifting_paths_the_gradient_sees_f_less_its_linear_part() -> None:
    """f = -|z|^2: with b = f_z(z^) held, d/dz (f - b.z) = 0 at z^, so that no term but z.dW and u^ itself has a gradient."""
    problem = written(lambda t, x, y, z: -z.square().sum(-1))
    slope = torch.ones((), dtype=torch.float64, requires_grad=True)

    class Tilted(Zero):
        def value_and_gradient(self, t: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return (slope * x.sum(-1)).detach(), slope * torch.ones_like(x)

    for drift, moved in ((1.0, False), (0.0, True)):
        objective = path(problem, Tilted(), steps=4, drift=drift)
        t, x, _, *moving = (v.double() for v in objective.sample(10, Stream(1, 3)))
        still = torch.zeros(10, 4, problem.dim, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(objective(t, x, still, *moving), slope)
        assert (gradient.abs() > 1e-3).item() is moved


def test_a_share_of_the_paths_follows_the_drift_of_the_linearised_equation() -> None:
    """b = f_z(u^) = -strength sigma grad u^: u^ = |x|^2/2 pulls to the origin, from where these paths start too."""
    problem = dataclasses.replace(equation("lqg", 3), start=2.0)
    bowl = Formula(lambda t, x: 0.5 * x.square().sum(-1) + 0.0 * t)
    objective = path(problem, bowl, steps=4, drift=0.3)
    *batch, moving = objective.sample(20, Stream(2, 1))
    assert moving.tolist() == [True] * 6 + [False] * 14
    times, positions, increments, shifts = objective.paths(*(v.double() for v in batch), moving.nonzero()[:, 0])
    assert len(shifts) == 6
    assert (positions[:6:2, 0] == 2.0).all() and (times[:6:2, 0] == 0.0).all()
    assert (times[1:6:2, 0] > 0.0).all() and (times[6:, 0] > 0.0).all()
    torch.testing.assert_close(shifts, -math.sqrt(2.0) * positions[:6, :-1] * times[:6].diff(dim=1)[..., None])
    moved = positions[:, :-1] + math.sqrt(2.0) * increments
    torch.testing.assert_close(positions[6:, 1:], moved[6:])
    torch.testing.assert_close(positions[:6, 1:], moved[:6] + math.sqrt(2.0) * shifts)
    assert objective.flop(20) > path(problem, bowl, steps=4).flop(20)


@pytest.mark.parametrize("problem_name", EQUATIONS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_lowest_at_the_solution_of_every_equation(name: str, problem_name: str) -> None:
    """The same batch for the solution and for surrogates off by a fifth to either side: what is left is a time step's, or 0."""
    made = manufactured_of(problem_name)
    losses = []
    for size in (0.0, 0.2, -0.2):
        surrogate = made.surrogate(lambda t, w, size=size: size * torch.sin(2.0 * w + 1.0), meets_terminal=False)
        objective = factory("objectives", name)(made.problem, surrogate)
        batch = objective.sample(400, Stream(3, 0))
        losses.append(objective(*(v.double() for v in batch)).item() / made.size**2)
    assert losses[0] < 0.5 * min(losses[1:])
    if name == "residual":
        assert losses[0] < 1e-12 < 1e-6 < min(losses[1:])


def test_the_residual_loss_of_a_constant_is_that_of_its_driver() -> None:
    """u = 0 leaves f(t, x, 0, 0) = 0.5 alone: 0.25 to the last bit."""
    problem = dataclasses.replace(burgers(), driver=lambda t, x, y, z: 0.5 + y)
    objective = residual(problem, Zero())
    assert objective(*objective.sample(10, Stream(4, 0))).item() == 0.25


@pytest.mark.parametrize(
    ("times", "expected"), [("uniform", 1.0 / 3.0), ("arcsine", math.pi * gamma(3.5) * gamma(1.5) / gamma(5.0))]
)
def test_the_residual_loss_is_an_integral_over_time_with_the_weight_of_its_law(times: Any, expected: float) -> None:
    """r = s from t = 0 to T = 1: the integral of s^2/p, which is pi B(7/2, 3/2) for the arcsine law. A sample of (r/p)^2 has
    a relative s.d. below 1: 40,000 give 0.5 %, and 2.5 % is 5 s.e.; the two laws differ by 16 %."""
    begin = dataclasses.replace(
        written(lambda t, x, y, z: t + 0.0 * y), sample_points=lambda n, stream: (torch.zeros(n), stream.normal(n, 2))
    )
    objective = residual(begin, Zero(), times=times)
    assert objective(*objective.sample(40_000, Stream(4, 1))).item() == pytest.approx(expected, rel=0.025)


def test_a_point_at_the_horizon_has_a_finite_loss() -> None:
    late = dataclasses.replace(burgers(), sample_points=lambda n, stream: (torch.ones(n), stream.normal(n, 4)))
    objective = residual(late, Zero(), times="arcsine")
    assert math.isfinite(objective(*objective.sample(10, Stream(4, 2))).item())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_draws_the_same_batch_from_the_same_stream(name: str) -> None:
    objective = factory("objectives", name)(burgers(), Zero())
    batch, again, other = (objective.sample(20, Stream(5, i)) for i in (0, 0, 1))
    assert all(a.equal(b) for a, b in zip(batch, again, strict=True))
    assert not any(a.equal(b) for a, b in zip(batch, other, strict=True))
    assert objective.flop(20) == pytest.approx(2.0 * objective.flop(10))


@pytest.mark.parametrize("objective_name", OBJECTIVES)
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_a_short_training_run_lowers_the_loss(objective_name: str, optimizer_name: str) -> None:
    """Loss on one batch kept aside, before and after 30 steps, 8 of those that search: 'lower' means by a fifth, which no step or a climb is not."""
    net = mlp(burgers(), seed=0, width=16, depth=2)
    objective = factory("objectives", objective_name)(net.problem, net)
    # A rate of SPRING is the share of a Gauss-Newton step.
    optimizer = factory("optimizers", optimizer_name)(net.parameters(), learning_rate=0.3 if optimizer_name == "spring" else 1e-2)
    aside = objective.sample(256, Stream(6, 0))
    before = objective(*aside).item()
    steps = 8 if isinstance(optimizer, Searching) else 30
    for n in range(steps):
        step(optimizer, objective, objective.sample(128, Stream(6, 1 + n)))
    assert objective(*aside).item() < 0.8 * before


def test_a_path_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps = 0"):
        path(burgers(), Zero(), steps=0)


def test_a_batch_of_blocks_has_the_loss_of_its_blocks_whatever_drifts() -> None:
    """Which paths drift travels with them: the mean over two blocks drawn apart is the loss of both together."""
    problem = equation("quadratic_gradient", 3)
    objective = path(problem, perturbed(problem, 0.3), steps=4, drift=0.4)
    blocks = [objective.sample(10, Stream(7, n)) for n in range(2)]
    both = objective(*(torch.cat(column) for column in zip(*blocks, strict=True)))
    torch.testing.assert_close(both, torch.stack([objective(*block) for block in blocks]).mean())


@pytest.mark.parametrize("make", [path, residual])
@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_a_share_of_drifting_paths_outside_zero_and_one_is_refused(make: Any, share: float) -> None:
    with pytest.raises(ValueError, match=r"drift = .*\[0, 1\]"):
        make(burgers(), Zero(), drift=share)


class Constant(Zero):
    """grad u^ = a everywhere: f_z of lqg is -strength sqrt(2) a, and paths drift by -2 strength a."""

    def value_and_gradient(self, t: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 0.5 * x.sum(-1), torch.full_like(x, 0.5)


@pytest.mark.parametrize("times", ["uniform", "arcsine"])
def test_points_of_the_residual_loss_drift_for_as_long_as_they_travel(times: Any) -> None:
    """With a constant drift -2 a the Euler steps are exact: X_s - x + 2 a (s - t) is normal of variance 2 (s - t).

    Half of 4000 paths drift, half of those from the reference point. Means and variances of their 3 coordinates, 4 s.e.;
    planted: no drift at all, which is off by 0.3 in the mean.
    """
    problem = dataclasses.replace(equation("lqg", 3), start=2.0)
    objective = residual(problem, Constant(), times=times, drift=0.5)
    t, x, elapsed, weight, moving, normals = objective.sample(4000, Stream(2, 2))
    assert moving.tolist() == [True] * 2000 + [False] * 2000
    assert (x[:2000:2] == 2.0).all() and (t[:2000:2] == 0.0).all() and (x[1:2000:2].norm(dim=1) <= 1.0 + 1e-5).all()
    s, y = objective._moved(t, x, elapsed, moving, normals)
    torch.testing.assert_close(s, t + elapsed)
    assert y[2000:].equal(x[2000:])
    noise = ((y - x + elapsed[:, None]) / (2.0 * elapsed[:, None]).sqrt())[:2000]
    assert abs(noise.mean().item()) < 4.0 / math.sqrt(6000) and abs(noise.var().item() - 1.0) < 4.0 * math.sqrt(2.0 / 6000)
    still = ((y - x) / (2.0 * elapsed[:, None]).sqrt())[:2000]
    assert still.mean().item() < -0.3
    assert (weight == 1.0).all() if times == "uniform" else (weight.mean() - 1.0).abs() < 0.1


def test_the_exact_solution_has_no_residual_where_paths_drift_and_another_has() -> None:
    problem = equation("quadratic_gradient", 3)
    for surrogate, most in ((exact(problem), 1e-16), (perturbed(problem, 0.3), math.inf)):
        objective = residual(problem, surrogate, drift=0.7)
        t, x, elapsed, weight, moving, normals = objective.sample(50, Stream(3, 1))
        batch = (t.double(), x.double(), elapsed.double(), weight.double(), moving, normals.double())
        assert objective(*batch).item() <= most
        assert objective(*batch).item() > 1e-6 or most < 1.0


def test_a_surrogate_without_time_derivative_is_seen_by_the_residual_loss() -> None:
    """The planted fault of a residual without u_t: the exact solution would then have a loss far from 0."""
    problem = burgers()

    class Frozen(Formula):
        def jet(self, t: torch.Tensor, x: torch.Tensor, probes: torch.Tensor | None) -> Jet:
            full = super().jet(t, x, probes)
            return Jet(full.value, torch.zeros_like(full.dt), full.gradient, full.laplacian)

    objective = residual(problem, Frozen(exact(problem).u))
    assert objective(*(v.double() for v in objective.sample(50, Stream(3, 0)))).item() > 1e-3
