"""Bounds bracket the truth for any surrogate, their gaps are of second order, and planted faults break them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from oracles import Formula, Zero, equation, perturbed
from radial_control import control
from torch import Tensor

import kernels.bounds._walk as walking
from kernels.bounds._bound import Bound, reading
from kernels.bounds.entropic import Entropic, entropic
from kernels.bounds.hopf_cole import hopf_cole
from kernels.bounds.pathwise import pathwise
from kernels.bounds.policy import policy
from kernels.contracts import BrownianMotion, GeometricBrownianMotion, Law, SemilinearPDE, Solution, along_paths
from kernels.defect import defect
from kernels.moments import Moments
from kernels.streams import Stream

DIM = 5
Nonlinearity = Callable[[Tensor, Tensor], Tensor]


def made(f: Nonlinearity, *, curvature: Any, sign: float = 1.0, **fields: Any) -> SemilinearPDE:
    """The problem of driver f(y, z) + c(t, x) solved by sign (1.5 + sin(w) exp(T - t)), w = sum x/sqrt d."""

    def u(t: Tensor, x: Tensor) -> Tensor:
        return sign * (1.5 + torch.sin(x.sum(-1) / DIM**0.5) * torch.exp(0.5 * (1.0 - t)))

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        w = x.sum(-1) / DIM**0.5
        scale = sign * torch.exp(0.5 * (1.0 - t))
        wave, slope = scale * torch.sin(w), (scale * torch.cos(w) / DIM**0.5)[:, None].expand_as(x)
        return f(y, z) - (f(sign * 1.5 + wave, slope) - wave)

    law = BrownianMotion()
    return SemilinearPDE(
        name="made",
        dim=DIM,
        horizon=1.0,
        law=law,
        driver=driver,
        terminal=lambda x: u(torch.ones_like(x[:, 0]), x),
        sample_points=along_paths(DIM, 1.0, law),
        solution=Solution(value=u, source="made"),
        curvature=curvature,
        **fields,
    )


def two_rates(law: Law, *, sign: float = 1.0) -> SemilinearPDE:
    """f = max(-0.1 y, -0.5 y + 0.6 sum z) or its mirror image, solved by the exponential or power that borrows throughout."""
    geometric = isinstance(law, GeometricBrownianMotion)
    assert isinstance(law, BrownianMotion | GeometricBrownianMotion)
    horizon, power = 0.5, 0.8 if geometric else 1.0
    slope = power * law.sigma
    rate = -0.5 + 0.6 * DIM * slope + 0.5 * DIM * slope**2 + DIM * power * (law.mu - (0.5 * law.sigma**2 if geometric else 0.0))

    def u(t: Tensor, x: Tensor) -> Tensor:
        total = (x.log() if geometric else x).sum(-1)
        return sign * torch.exp(power * total + rate * (horizon - t))

    def driver(t: Tensor, x: Tensor, y: Tensor, z: Tensor, /) -> Tensor:
        return sign * torch.maximum(-0.1 * sign * y, sign * (-0.5 * y + 0.6 * z.sum(-1)))

    return SemilinearPDE(
        name="two rates",
        dim=DIM,
        horizon=horizon,
        law=law,
        driver=driver,
        terminal=lambda x: u(torch.full_like(x[:, 0], horizon), x),
        sample_points=along_paths(DIM, horizon, law, 1.0 if geometric else 0.0),
        solution=Solution(value=u, source="linear where the sign of a difference is constant"),
        curvature="convex" if sign > 0 else "concave",
        pieces=((-0.1, 0.0, 0.0), (-0.5, 0.6, 0.0)),
    )


def quadratic(sign: float) -> Nonlinearity:
    return lambda y, z: -0.5 * sign * z.square().sum(-1)


def logistic(sign: float) -> Nonlinearity:
    return lambda y, z: -0.4 * sign * y.square()


LQG = replace(equation("lqg", DIM, isotropic=True), curvature="concave")
QUADRATIC = made(quadratic(1.0), curvature="concave", z_curvature=1.0)
CONVEX_QUADRATIC = made(quadratic(-1.0), curvature="convex", z_curvature=1.0, sign=-1.0)
SMOOTH = made(lambda y, z: -(1.0 + z.square().sum(-1)).sqrt(), curvature="concave", z_curvature=1.0)
LOGISTIC = made(logistic(1.0), curvature="concave")
CONVEX_LOGISTIC = made(logistic(-1.0), curvature="convex", sign=-1.0)
BORROWING = two_rates(BrownianMotion(sigma=0.3))
MIRRORED = two_rates(BrownianMotion(sigma=0.3), sign=-1.0)
STOCKS = two_rates(GeometricBrownianMotion(mu=0.05, sigma=0.3))

CASES = [
    ("lqg", LQG, hopf_cole()),
    ("quadratic", QUADRATIC, hopf_cole()),
    ("convex quadratic", CONVEX_QUADRATIC, hopf_cole()),
    ("smooth", SMOOTH, hopf_cole()),
    ("logistic", LOGISTIC, pathwise()),
    ("convex logistic", CONVEX_LOGISTIC, pathwise()),
    ("borrowing", BORROWING, entropic(gamma=3.0)),
    ("mirrored", MIRRORED, entropic(gamma=3.0)),
    ("stocks", STOCKS, entropic(gamma=3.0)),
]
"""A problem and the dual that bounds the other side of its policy bound."""

PROBLEMS = pytest.mark.parametrize(("problem", "dual"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])


class Control(Formula):
    """The solution of the isotropic lqg plus size sin(w + 1) (T - t), w = sum x/sqrt d."""

    def __init__(self, size: float) -> None:
        self.size = size
        super().__init__(self.value)

    def value(self, t: Tensor, x: Tensor) -> Tensor:
        bump = torch.sin(x.sum(-1) / DIM**0.5 + 1.0) * (1.0 - t)
        return control(t, x.square().sum(-1), DIM) + self.size * bump


def wrong(problem: SemilinearPDE, size: float) -> Any:
    """The exact solution plus a wave of amplitude size (T - t)."""
    return Control(size) if problem.name == "lqg" else perturbed(problem, size)


def places(problem: SemilinearPDE) -> tuple[Tensor, Tensor]:
    t, x = problem.sample_points(3, Stream(5, 0))
    return 0.5 * t.double(), x.double()


@dataclass(frozen=True)
class Found:
    """What a bound found at every point, less the truth."""

    upper: bool
    gap: np.ndarray
    """Outwards, >= 0 in mean."""
    error: np.ndarray

    @property
    def holds(self) -> bool:
        return bool((self.gap >= -4.0 * self.error).all())


def find(bound: Any, problem: SemilinearPDE, surrogate: Any, *, draws: int = 2000, seed: int = 1) -> Found:
    """Bounds of v on the defect, or of u on the plain problem without surrogate."""
    t, x = places(problem)
    assert problem.solution is not None
    truth = problem.solution.value(t, x)
    if surrogate is not None:
        truth = truth - surrogate.value_and_gradient(t, x)[0]
        problem = defect(problem, surrogate)
    sampled = bound.sample(problem, t, x, bound.terms[0], draws, Stream(seed, 2))
    assert sampled.shape == (3, draws) and sampled.dtype == torch.float64
    moments = Moments.of(sampled.numpy())
    upper = bound.side(problem) == "upper"
    outwards = 1.0 if upper else -1.0
    value = bound.read(problem, moments.mean)
    error = np.abs(bound.read(problem, moments.mean + 1e-3 * moments.standard_error) - value) * 1e3
    return Found(upper, outwards * (value - truth.numpy()), error)


def surrogates(problem: SemilinearPDE) -> dict[str, Any]:
    return {"good": wrong(problem, 0.05), "poor": wrong(problem, 1.0), "zero": Zero(), "none": None}


@PROBLEMS
@pytest.mark.parametrize("quality", ["good", "poor", "zero", "none"])
def test_the_two_bounds_bracket_the_truth_whatever_the_surrogate(problem: SemilinearPDE, dual: Any, quality: str) -> None:
    """4 s.e. at 3 points, seeds fixed: false positives 10^-4 a bound. Sees a bound 8 s.e. inside, and a vacuous one."""
    surrogate = surrogates(problem)[quality]
    found = [find(bound, problem, surrogate) for bound in (policy(), dual)]
    assert {f.upper for f in found} == {True, False}
    for one in found:
        assert one.holds
        assert not replace(one, gap=one.gap - 8.0 * one.error - np.maximum(one.gap, 0.0)).holds
        if quality == "good":
            assert (one.gap <= 0.03 + 4.0 * one.error).all()


@pytest.mark.parametrize("problem", [LQG, QUADRATIC, CONVEX_QUADRATIC], ids=["lqg", "made", "convex"])
@pytest.mark.parametrize("quality", ["poor", "zero"])
def test_the_exponential_of_a_quadratic_driver_is_the_solution_for_any_surrogate(problem: SemilinearPDE, quality: str) -> None:
    """Without a running c exactly, with one to its sampling: within 4 s.e. + 0.002, where the policy bound misses by more."""
    surrogate = surrogates(problem)[quality]
    exact, bound = (find(one, problem, surrogate, draws=4000) for one in (hopf_cole(steps=16), policy(steps=16)))
    slack = 0.0 if problem is LQG else 0.002
    assert (np.abs(exact.gap) <= 4.0 * exact.error + slack).all()
    assert (bound.gap > 4.0 * bound.error + slack).any()


def test_the_policy_bound_is_a_literal_simulation_of_the_controlled_path() -> None:
    """A float64 loop in the letters of lqg, mean and variance: false positives 10^-4; sees 5 % of the variance."""
    surrogate, steps = Control(0.5), 4
    t, x = torch.full((1,), 0.2, dtype=torch.float64), torch.full((1, DIM), 0.3, dtype=torch.float64)
    draws = policy(steps=steps).sample(defect(LQG, surrogate), t, x, "policy", 20_000, Stream(3, 1))[0]
    stream = Stream(3, 2)
    s, place = t.repeat(20_000), x.repeat(20_000, 1)
    total, h = -surrogate.u(t, x).repeat(20_000), 0.8 / steps
    for _ in range(steps):
        gradient = surrogate.value_and_gradient(s, place)[1]
        control, dw = -2.0 * gradient, h**0.5 * stream.normal(20_000, DIM).double()
        total = total + control.square().sum(-1) / 4.0 * h - 2.0**0.5 * (gradient * dw).sum(-1)
        place = place + control * h + 2.0**0.5 * dw
        s = s + h
    literal = total + LQG.terminal(place)
    assert abs(draws.mean() - literal.mean()) <= 4.0 * (draws.var() / 10_000).sqrt()
    assert (draws.var() / literal.var()).item() == pytest.approx(1.0, abs=0.05)


class Faulty(walking.Linearisable):
    """The driver with a planted fault."""

    fault = ""

    def slopes(self) -> tuple[Tensor, Tensor]:
        f_y, f_z = super().slopes()
        return f_y, {"wrong sign": -f_z, "no control": torch.zeros_like(f_z)}.get(self.fault, f_z)

    def source(self) -> Tensor:
        return torch.zeros_like(super().source()) if self.fault == "no intercept" else super().source()


@pytest.mark.parametrize("fault", ["", "wrong sign", "no control", "no intercept", "wrong measure"])
def test_planted_faults_of_the_policy_break_the_bracket(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Both bounds of lqg from a surrogate three quarters of the solution: sound without a fault, at least one broken by each."""
    monkeypatch.setattr(Faulty, "fault", fault)
    monkeypatch.setattr(walking, "Linearisable", Faulty)
    problem = LQG
    if fault == "wrong measure":
        problem = replace(LQG, law=Unshifted(sigma=LQG.law.sigma))  # type: ignore[attr-defined]
    surrogate = Formula(lambda t, x: 0.75 * Control(0.0).value(t, x))
    found = [find(bound, problem, surrogate, draws=4000) for bound in (policy(), hopf_cole())]
    assert all(one.holds for one in found) == (fault == "")


@pytest.mark.parametrize(
    ("problem", "bound"), [(LOGISTIC, policy()), (LOGISTIC, pathwise()), (SMOOTH, policy())], ids=["policy", "pathwise", "smooth"]
)
def test_a_curvature_stated_the_wrong_way_round_breaks_a_bound(problem: SemilinearPDE, bound: Any) -> None:
    surrogate = wrong(problem, 3.0)
    assert find(bound, problem, surrogate).holds
    assert not find(bound, replace(problem, curvature="convex"), surrogate, draws=20_000).holds


def test_a_curvature_in_z_stated_too_small_breaks_the_exponential_bound() -> None:
    assert find(hopf_cole(), replace(LQG, z_curvature=2.0), Control(1.0)).holds
    assert not find(hopf_cole(), replace(LQG, z_curvature=0.3), Control(1.0), draws=40_000).holds


def test_an_entropic_bound_that_does_not_pay_for_the_drift_breaks_the_bracket(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(entropic(gamma=0.1), BORROWING, None).holds
    monkeypatch.setattr(Entropic, "_excess", lambda self, problem, s, x, q, least: torch.zeros_like(least))
    assert not find(entropic(gamma=0.1), BORROWING, None).holds


@dataclass(frozen=True, kw_only=True)
class Unshifted(BrownianMotion):
    """A planted fault: the drift of the control is left out, by taking the noise to be of its own size again."""

    def move(self, t: Tensor, x: Tensor, elapsed: Tensor, increment: Tensor) -> Tensor:
        centred = increment - increment.reshape(3, -1, x.shape[1]).mean(1).repeat_interleave(len(x) // 3, 0)
        return super().move(t, x, elapsed, centred)


def width(bounds: tuple[Any, Any], problem: SemilinearPDE, size: float) -> float:
    """Mean distance of a problem's two bounds for a surrogate off by ``size``, both from one noise."""
    found = [find(bound, problem, wrong(problem, size), draws=1000) for bound in bounds]
    return float(sum(one.gap for one in found).mean())


@pytest.mark.parametrize(
    ("problem", "dual", "sizes"),
    [
        (LQG, hopf_cole(steps=32), (0.5, 1.0, 2.0)),
        (SMOOTH, hopf_cole(steps=32), (0.5, 1.0, 2.0)),
        (LOGISTIC, pathwise(steps=32), (0.5, 1.0, 2.0)),
    ],
    ids=["lqg", "smooth", "logistic"],
)
def test_the_bracket_shrinks_with_the_square_of_the_surrogates_error(problem: SemilinearPDE, dual: Any, sizes: Any) -> None:
    """Slope 2 +- 0.2 between neighbouring sizes less the step's own width, seeds fixed. Planted: a width of first order."""
    bounds = policy(steps=32), dual
    floor = width(bounds, problem, 0.0)
    widths = np.array([width(bounds, problem, size) for size in sizes]) - floor
    found = np.diff(np.log(widths)) / np.diff(np.log(sizes))
    assert found == pytest.approx(2.0, abs=0.2)
    assert np.diff(np.log(np.sqrt(widths))) / np.diff(np.log(sizes)) != pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("problem", [LQG, BORROWING], ids=["lqg", "borrowing"])
def test_with_the_exact_surrogate_the_variance_of_a_policy_falls_as_one_over_the_steps(problem: SemilinearPDE) -> None:
    """From 4 to 16 steps by 4 within 25 %; 12,000 draws each, of which 4 s.e. are 8 %."""
    t, x = places(problem)
    error = defect(problem, wrong(problem, 0.0))
    few, many = (policy(steps=n).sample(error, t, x, "policy", 4000, Stream(1, 3)).var(1).mean().item() for n in (4, 16))
    assert few / many == pytest.approx(4.0, rel=0.25)


@pytest.mark.parametrize(("problem", "dual"), [(LQG, hopf_cole), (LOGISTIC, pathwise)], ids=["lqg", "logistic"])
def test_with_the_exact_surrogate_the_bracket_falls_as_one_over_the_steps(problem: SemilinearPDE, dual: Any) -> None:
    """From 4 to 16 steps by 4 within 40 %, one noise for both sides."""
    few, many = (width((policy(steps=n), dual(steps=n)), problem, 0.0) for n in (4, 16))
    assert few / many == pytest.approx(4.0, rel=0.4)


def test_the_entropic_bound_of_the_exact_surrogate_off_its_kinks_is_the_solution_in_every_draw() -> None:
    """No step, no noise: to float rounding. A price of entropy that reaches across the kink moves it outwards."""
    surrogate = perturbed(BORROWING, 0.0)
    assert np.abs(find(entropic(gamma=3.0), BORROWING, surrogate, draws=8).gap).max() < 1e-6
    assert find(entropic(gamma=0.3), BORROWING, surrogate, draws=8).gap.min() > 0.05


@pytest.mark.parametrize("bound", [policy(), hopf_cole(), pathwise(), entropic(gamma=1.0)], ids=lambda b: type(b).__name__)
def test_at_T_every_draw_is_what_the_surrogate_misses(bound: Any) -> None:
    problem = {"HopfCole": LQG, "Entropic": BORROWING}.get(type(bound).__name__, LOGISTIC)
    surrogate = Formula(lambda t, x: wrong(problem, 0.0).u(t, x) + 0.25)
    x = places(problem)[1]
    t = torch.full((3,), problem.horizon, dtype=torch.float64)
    error = defect(problem, surrogate)
    draws = bound.read(error, bound.sample(error, t, x, bound.terms[0], 4, Stream(2, 2)).numpy())
    assert draws == pytest.approx(-0.25, abs=1e-5)


def test_the_safe_end_of_a_curved_bound_holds_as_often_as_it_says() -> None:
    """400 seeds of 64 draws of the exact exponential: 97.5 % +- 4 s.d. (3.1 %); planted: a bound 2 s.e. inside."""
    surrogate, bound = Control(1.0), hopf_cole(steps=4)
    t, x = places(LQG)
    problem = defect(LQG, surrogate)
    truth = (Control(0.0).value(t, x) - surrogate.value(t, x)).numpy()[:1]
    draws = bound.sample(problem, t[:1], x[:1], "exponential", 400 * 64, Stream(7, 1)).reshape(400, 64).numpy()
    read = reading(bound, problem, Moments.of(draws), 0.95)
    assert np.mean(read.safe <= truth) == pytest.approx(0.975, abs=0.031)
    assert np.mean(read.safe + 2.0 * np.std(read.value) <= truth) < 0.9


def test_exponential_draws_bound_only_where_their_mean_is_known() -> None:
    """A relative standard error of 0.07 and one of 1 at two points; the mirrored problem has the mirrored end."""
    moments = Moments.of(np.array([[0.8, 1.2, 0.9, 1.1], [1e-6, 1e-6, 1e-6, 1.0]]))
    read, mirrored = (reading(hopf_cole(), problem, moments, 0.95) for problem in (LQG, CONVEX_QUADRATIC))
    safe = -np.log(moments.mean[0] + 3.1824463 * moments.standard_error[0])
    assert read.safe[0] == pytest.approx(safe) and mirrored.safe[0] == pytest.approx(-safe)
    assert np.isnan([read.safe[1], read.value[1], mirrored.safe[1], mirrored.value[1]]).all()


@pytest.mark.parametrize("bound", [policy(), hopf_cole(), pathwise(), entropic(gamma=1.0)], ids=lambda b: type(b).__name__)
def test_every_bound_keeps_the_protocol_and_its_own_books(bound: Any) -> None:
    """FLOP count the surrogate's rows: one a step, and for the entropic bound one more and one jet."""
    problem = {"HopfCole": LQG, "Entropic": BORROWING}.get(type(bound).__name__, LOGISTIC)
    assert isinstance(bound, Bound) and bound.biases == () and len(bound.terms) == 1

    class Counted(Formula):
        rows = 0

        def value_and_gradient(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            Counted.rows += len(t)
            assert len(t) <= 3 * bound.rows(bound.terms[0], 16)
            return super().value_and_gradient(t, x)

        def flop(self, probes: int | None) -> tuple[float, float]:
            return 1e9, 0.0

    t, x = places(problem)
    error = defect(problem, Counted(wrong(problem, 0.0).u))
    bound.sample(error, t, x, bound.terms[0], 16, Stream(3, 3))
    ends = 2 * 3 * 16
    booked = 3 * bound.flop(error, bound.terms[0], 16) / 1e9
    assert Counted.rows - ends <= booked <= Counted.rows + 1.0


@pytest.mark.parametrize(
    ("complaint", "call"),
    [
        ("curvature is None", lambda: find(policy(), equation("viscous_burgers", DIM), None)),
        ("curvature is None", lambda: find(pathwise(), equation("viscous_burgers", DIM), None)),
        ("z_curvature = None", lambda: find(hopf_cole(), LOGISTIC, None)),
        ("pieces = ", lambda: find(entropic(gamma=1.0), LQG, None)),
        ("f depends on y", lambda: find(hopf_cole(), replace(BORROWING, z_curvature=1.0), wrong(BORROWING, 0.1))),
        ("f depends on z", lambda: find(pathwise(), LQG, Control(0.1))),
        (
            "misses the largest of its pieces",
            lambda: find(entropic(gamma=1.0), replace(BORROWING, pieces=BORROWING.pieces[:1]), wrong(BORROWING, 0.1)),
        ),
        (
            "moves with",
            lambda: find(policy(), replace(LOGISTIC, driver=lambda t, x, y, z: -t * y.square()), wrong(LOGISTIC, 0.1)),
        ),
        ("steps = 0", lambda: policy(steps=0)),
        ("gamma = 0.0", lambda: entropic(gamma=0.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bound_that_would_not_hold_is_refused(complaint: str, call: Any) -> None:
    with pytest.raises(ValueError, match=complaint):
        call()
