"""The telescoped estimator: its identity, its time steps and what they leave, its martingale, its books."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from estimates import Mean, estimate
from meter import Meter
from oracles import OneFeature, equation, written
from torch import Tensor

from kernels.contracts import NORMAL_FLOP, Cost, GeometricBrownianMotion, ItoDiffusion, Jet, SemilinearPDE, Solution
from kernels.defect import defect
from kernels.estimators.linearised import linearised
from kernels.estimators.telescoped import telescoped
from kernels.streams import Stream

pytestmark = pytest.mark.unchecked

Profile = Callable[[Tensor, Tensor], Tensor]


def sigmoid(t: Tensor, total: Tensor) -> Tensor:
    """The solution of viscous_burgers in sum x."""
    return torch.sigmoid(t + total)


def case(name: str, dim: int) -> tuple[SemilinearPDE, Profile]:
    """A problem and its solution in sum x."""
    if name == "viscous_burgers":
        return equation(name, dim), sigmoid
    return control(dim)


def control(dim: int) -> tuple[SemilinearPDE, Profile]:
    """u_t + Laplacian u - |grad u|^2 = 0 on [0, 1]: exp(-u) solves the heat equation, as 2 + cos(sum x/sqrt d) e^(t-1) does."""

    def u(t: Tensor, total: Tensor) -> Tensor:
        return -torch.log(2.0 + torch.cos(total / math.sqrt(dim)) * torch.exp(t - 1.0))

    problem = written(
        lambda t, x, y, z: -0.5 * z.square().sum(-1),
        terminal=lambda x: u(torch.ones_like(x[:, 0]), x.sum(-1)),
        dim=dim,
        sigma=math.sqrt(2.0),
    )
    return replace(problem, solution=Solution(value=lambda t, x: u(t, x.sum(-1)), source="Hopf-Cole transform")), u


def corrected(problem: SemilinearPDE, u: Profile, size: float, *, meets_terminal: bool = True) -> SemilinearPDE:
    """The defect of u plus a wave of that size, which vanishes at T if it is to meet g."""

    def off(t: Tensor, w: Tensor) -> Tensor:
        left = problem.horizon - t if meets_terminal else 1.0
        return u(t, w) + size * left * torch.sin(w / problem.dim**0.5 + 1.0)

    return defect(problem, OneFeature(off, meets_terminal=meets_terminal))


def one_point(problem: SemilinearPDE, copies: int = 1) -> tuple[Tensor, Tensor]:
    """A point early in time and off the origin."""
    x = torch.linspace(-0.3, 0.4, problem.dim, dtype=torch.float64)
    return torch.full((copies,), 0.1 * problem.horizon, dtype=torch.float64), x.repeat(copies, 1)


def error_at(problem: SemilinearPDE, error: SemilinearPDE, t: Tensor, x: Tensor) -> Tensor:
    assert problem.solution is not None and error.known is not None
    return problem.solution.value(t, x) - error.known.value_and_gradient(t, x)[0]


def bent(error: SemilinearPDE, factor: float) -> SemilinearPDE:
    """The planted fault: a gradient that is a multiple of the true one, as z = grad u in place of sigma^T grad u is."""
    known = error.known
    assert known is not None

    def value_and_gradient(t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = known.value_and_gradient(t, x)
        return value, factor * gradient

    return replace(error, known=replace(known, value_and_gradient=value_and_gradient))


@pytest.mark.parametrize("meets_terminal", [True, False], ids=["met", "missed"])
@pytest.mark.parametrize(("name", "dim"), [("viscous_burgers", 4), ("viscous_burgers", 10), ("control", 5)])
def test_a_known_error_is_recovered_up_to_the_printed_bias(name: str, dim: int, meets_terminal: bool) -> None:
    """8000 draws a term: false positives 6 in 10^5 a case (4 s.e.); bound to catch a bias of 2 % of u."""
    problem, u = case(name, dim)
    error = corrected(problem, u, 0.05, meets_terminal=meets_terminal)
    t, x = one_point(problem)
    v = error_at(problem, error, t, x)
    found = estimate(telescoped(steps=8), error, t, x, 8000, 1)
    assert problem.solution is not None
    assert found.agrees_with(v)
    assert found.error < 0.005 * problem.solution.value(t, x).abs()
    assert not found.off_by(0.02 * problem.solution.value(t, x)).agrees_with(v)


@pytest.mark.parametrize(("name", "dim"), [("viscous_burgers", 4), ("control", 5)])
def test_an_exact_surrogate_leaves_a_variance_and_a_bias_that_fall_as_one_over_the_steps(name: str, dim: int) -> None:
    """8, 16 and 32 steps, 8000 draws each: a variance is known to 2 % where draws are about normal.

    Variance of Y_n: the ratio over twice the steps is 2 within 20 %, which includes the next order. Bias: the change 2 (Y_2n - Y_n),
    of mean -C/n, likewise halves. A gradient of the wrong sign, or 20 % too large, leaves a variance that does not fall.
    """
    problem, u = case(name, dim)
    error = corrected(problem, u, 0.0)
    t, x = one_point(problem)

    def draws(term: str, steps: int, problem: SemilinearPDE = error) -> Tensor:
        return telescoped(steps=steps).sample(problem, t, x, term, 8000, Stream(2, steps))

    def falls(problem: SemilinearPDE) -> bool:
        variance = [draws("telescoped", steps, problem).var().item() for steps in (8, 16, 32)]
        return all(variance[i] / variance[i + 1] == pytest.approx(2.0, rel=0.2) for i in (0, 1))

    assert falls(error)
    assert not falls(bent(error, -1.0)) and not falls(bent(error, 1.2))
    change = [Mean.of(draws("time step", steps)) for steps in (8, 16, 32)]
    assert all(c.mean.abs() > 20.0 * c.error for c in change)
    assert all((change[i].mean / change[i + 1].mean).item() == pytest.approx(2.0, rel=0.2) for i in (0, 1))


def test_the_differences_of_two_resolutions_go_without_the_noise_of_the_martingale() -> None:
    """On an exact surrogate a draw of the time step spreads by less than a tenth of a draw of the base."""
    problem, u = case("control", 5)
    error = corrected(problem, u, 0.0)
    t, x = one_point(problem)
    spread = {
        term: telescoped().sample(error, t, x, term, 2000, Stream(3, i)).std()
        for i, term in enumerate(("telescoped", "time step"))
    }
    assert spread["time step"] < 0.1 * spread["telescoped"]


def test_a_concave_driver_makes_every_number_of_steps_an_upper_bound_that_tightens() -> None:
    """Control and a surrogate 0.3 off: u^ + Y_n - u is above 0 by more than 4 s.e., and falls from 1 to 2 to 4 steps."""
    problem, u = case("control", 5)
    error = corrected(problem, u, 0.3)
    t, x = one_point(problem)
    v = error_at(problem, error, t, x)
    excess = [
        Mean.of(telescoped(steps=steps).sample(error, t, x, "telescoped", 8000, Stream(4, steps)) - v[:, None])
        for steps in (1, 2, 4)
    ]
    assert all(e.mean > 4.0 * e.error for e in excess)
    assert excess[0].mean > 1.5 * excess[1].mean > 2.0 * excess[2].mean


def test_the_time_step_terms_and_bias_are_richardsons() -> None:
    """f = t^2, g = 0, T = 1, no noise: off 1/3 by O(1/n), after the time step by O(n^-2), after the printed bias by O(n^-3) or less."""
    problem = written(lambda t, x, y, z: t.square())
    t, x = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)

    def left(steps: int) -> tuple[float, float, float]:
        method = telescoped(steps=steps)
        y, change, bias = (
            method.sample(problem, t, x, term, 1, Stream(0, 0)).item() for term in ("telescoped", "time step", "time step left")
        )
        return y - 1 / 3, y + change - 1 / 3, y + change - bias - 1 / 3

    coarse, fine = left(8), left(16)
    assert coarse[0] / fine[0] == pytest.approx(2.0, rel=0.1)
    assert coarse[1] / fine[1] == pytest.approx(4.0, rel=0.1)
    assert coarse[2] / fine[2] > 7.5


def test_time_steps_whose_slopes_move_with_the_path_are_repaired_by_the_terms_and_the_bias() -> None:
    """f_y and f_z move with the path; 4 steps and their repairs against 32 steps and theirs, 20000 draws each.

    The bias of 4 steps is over 20 s.e.; agreement within 4 s.e. (false positives 6 in 10^5) and a thirtieth of that bias for the
    next order. Caught: no repair, its wrong sign, half of it.
    """
    problem = written(
        lambda t, x, y, z: 0.5 * y * (1.0 + x[:, 0]) + 10.0 * torch.sin(2.0 * x[:, 0]) * z[:, 0],
        terminal=lambda x: 1.0 + x[:, 0].square(),
        sigma=0.2,
    )
    t, x = torch.zeros(1), torch.full((1, 2), 0.5)

    def means(steps: int, draws: int) -> dict[str, Mean]:
        method = telescoped(steps=steps)
        names = ("telescoped", "time step", "time step left")
        return {term: Mean.of(method.sample(problem, t, x, term, draws, Stream(5, steps, i))) for i, term in enumerate(names)}

    fine, coarse = means(32, 20_000), means(4, 20_000)
    truth = fine["telescoped"] + fine["time step"]
    repair = (coarse["time step"].mean - coarse["time step left"].mean).item()
    bias = (coarse["telescoped"].mean - truth.mean).item()
    error = math.sqrt(sum(m.square.item() for m in (*coarse.values(), truth)))

    def repaired(repair: float) -> bool:
        return abs(bias + repair) <= 4.0 * error + abs(bias) / 30.0

    assert abs(bias) > 20.0 * error
    assert repaired(repair)
    assert not any(repaired(fault) for fault in (0.0, -repair, 0.5 * repair))


class Slopeless(OneFeature):
    """A surrogate that is never to be differentiated twice."""

    def jet(self, t: Tensor, x: Tensor, directions: Tensor | None) -> Jet:
        raise AssertionError("second derivatives were asked for")


def test_a_kinked_terminal_condition_is_served_by_gradients_alone() -> None:
    """Heat equation, g = |sum x|/sqrt d, u^ a smooth stand-in: E g(X_T) = E|N(m, T)| in closed form.

    40000 draws: 4 s.e., false positives 6 in 10^5, less than 1 % of u; the variance is below a fifth of plain draws. The mean is right
    for a gradient 3 % off too, a martingale being one whatever multiplies dW. Caught: the stand-in's own error.
    """
    dim, horizon = 4, 1.0
    problem = written(lambda t, x, y, z: torch.zeros_like(y), terminal=lambda x: x.sum(-1).abs() / math.sqrt(dim), dim=dim)

    def smooth(t: Tensor, w: Tensor) -> Tensor:
        return (w.square() / dim + 0.05 + 0.6 * (horizon - t)).sqrt()

    error = defect(problem, Slopeless(smooth, meets_terminal=False))
    t, x = torch.zeros(1, dtype=torch.float64), torch.full((1, dim), 0.1, dtype=torch.float64)
    m = 0.1 * math.sqrt(dim)
    truth = math.sqrt(2.0 / math.pi) * math.exp(-m * m / 2.0) + m * math.erf(m / math.sqrt(2.0))
    draws = telescoped().sample(error, t, x, "telescoped", 40_000, Stream(6, 0))
    plain = telescoped().sample(problem, t, x, "telescoped", 40_000, Stream(6, 1))
    u = Mean.of(draws + smooth(t, x.sum(-1))[:, None])
    assert abs(u.mean - truth) < 4.0 * u.error < 0.01 * truth
    assert draws.var() < 0.2 * plain.var()
    steep = Mean.of(
        telescoped().sample(bent(error, 1.03), t, x, "telescoped", 40_000, Stream(6, 0)) + smooth(t, x.sum(-1))[:, None]
    )
    assert abs(steep.mean - truth) < 4.0 * steep.error
    assert abs(smooth(t, x.sum(-1)) - truth) > 10.0 * u.error


@pytest.mark.parametrize(
    "law",
    [
        GeometricBrownianMotion(mu=0.05, sigma=0.3),
        ItoDiffusion(mu=lambda t, x: 0.1 * torch.sin(x), sigma=lambda t, x: 0.3 + 0.1 * torch.cos(x)),
    ],
    ids=["geometric", "ito"],
)
def test_under_other_laws_it_agrees_with_the_linearised_estimator(law: GeometricBrownianMotion | ItoDiffusion) -> None:
    """A driver curved in y and z, a surrogate off by 0.1: 4 s.e. of 8000 draws a term (false positives 6 in 10^5), below 10 % of v.

    Caught: that shift, and a gradient of the wrong sign."""
    problem = replace(
        written(
            lambda t, x, y, z: 0.3 * torch.sin(y) + z.square().sum(-1),
            terminal=lambda x: torch.cos(x.sum(-1) / 2.0),
            horizon=0.5,
            dim=3,
        ),
        law=law,
    )
    surrogate = OneFeature(lambda t, w: torch.cos(w / 2.0) * torch.exp(t - 0.5) + 0.1, meets_terminal=False)
    error = defect(problem, surrogate)
    t, x = torch.full((1,), 0.1, dtype=torch.float64), torch.full((1, 3), 1.0, dtype=torch.float64)
    residual_form = estimate(linearised(), error, t, x, 8000, 7, biases=False)
    telescopes = estimate(telescoped(steps=8), error, t, x, 8000, 8)

    def agree(found: Tensor) -> bool:
        width = 4.0 * (residual_form.value.square + telescopes.value.square + telescopes.bias.square).sqrt()
        return bool(((found - residual_form.value.mean).abs() < width).all())

    assert agree(telescopes.unbiased)
    assert not agree(telescopes.unbiased + 0.1 * residual_form.value.mean)
    assert not agree(estimate(telescoped(steps=8), bent(error, -1.0), t, x, 8000, 8).unbiased)


def test_at_the_horizon_every_draw_is_what_the_surrogate_misses() -> None:
    problem, u = case("viscous_burgers", 3)
    error = corrected(problem, u, 0.125, meets_terminal=False)
    x = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64).reshape(2, 3)
    t = torch.full((2,), problem.horizon, dtype=torch.float64)
    method = telescoped(steps=3)
    missed = error.terminal(x)[:, None].expand(-1, 5)
    torch.testing.assert_close(method.sample(error, t, x, "telescoped", 5, Stream(8, 0)), missed, rtol=0.0, atol=1e-14)
    for term in (*method.terms[1:], *method.biases):
        assert method.sample(error, t, x, term, 5, Stream(8, 1)).abs().max() < 1e-14


@pytest.mark.parametrize("term", ["telescoped", "time step", "time step left", "remainder", "higher order"])
def test_the_books_equal_the_rows_that_were_evaluated(term: str) -> None:
    """Looks at the surrogate's gradient, its residuals, g and normals, counted where they happen."""
    problem, u = case("viscous_burgers", 3)
    plain, count = corrected(problem, u, 0.1, meets_terminal=False), Counter[str]()
    known, local = plain.known, plain.local
    assert known is not None and local is not None

    def counted(name: str, function: Callable) -> Callable:
        def call(*arguments: object) -> object:
            key = name if name != "local" else ("source" if arguments[-1] else "driver")
            count[key] += len(arguments[0])  # type: ignore[arg-type]
            return function(*arguments)

        return call

    base = replace(known.problem, terminal=counted("g", known.problem.terminal), cost=Cost(driver=0.0, source=0.0, terminal=1.0))
    error = replace(
        plain,
        known=replace(known, problem=base, value_and_gradient=counted("driver", known.value_and_gradient)),
        local=counted("local", local),
        terminal=counted("terminal", plain.terminal),
    )
    t, x = one_point(problem)
    method, draws = telescoped(steps=3), 10
    method.sample(error, t, x, term, draws, Meter(count, 9, 0))
    # The defect's terminal and local look at the surrogate through their own closure, not through known.

    def booked(cost: Cost) -> float:
        return method.flop(replace(error, cost=cost), term, draws)

    nothing = Cost(driver=0.0, source=0.0, terminal=0.0)
    normals = NORMAL_FLOP * count["normals"]
    assert booked(nothing) == normals + count["g"]
    for kind in ("driver", "source", "terminal"):
        assert booked(replace(nothing, **{kind: 1.0})) - booked(nothing) == count[kind]
    assert count["driver"] > 0 and count["normals"] > 0
    assert method.rows(term, draws) >= draws


def test_it_refuses_a_path_without_steps_by_value() -> None:
    with pytest.raises(ValueError, match="steps = 0"):
        telescoped(steps=0)
