"""Two laws every estimator keeps on every equation: an exact surrogate leaves nothing, no surrogate changes nothing.

Three predicates say so, and each is shown faulty estimators and defects that it must refuse:

nothing_left     every single draw of every term and bias of an exact surrogate's correction is 0 to rounding
error_recovered  a surrogate's known error is what its correction finds, to a quarter of it
same_draws       without a surrogate every draw of every term and bias is the plain method's

Equations without a known truth take part with a wave that is made their solution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from estimates import estimate
from oracles import (
    EQUATIONS,
    ESTIMATORS,
    Manufactured,
    Zero,
    equation,
    exact_surrogate,
    linear,
    manufactured,
    small,
    some_points,
)
from torch import Tensor

from kernels.contracts import SemilinearPDE
from kernels.defect import defect
from kernels.estimators.linearised import linearised
from kernels.streams import Stream

pytestmark = pytest.mark.unchecked

DIM, ROUNDING, WITHIN, OFF = 4, 1e-7, 0.25, 5e-3

equation_of, manufactured_of = cache(lambda name: equation(name, DIM)), cache(lambda name: manufactured(equation_of(name)))


def drops_the_driver(method: Any) -> bool:
    """Feynman-Kac solves linear problems alone; elsewhere it is the baseline."""
    return tuple(method.terms) == ("terminal",)


def reads_the_known_part(method: Any) -> bool:
    """Whether draws change when a defect hides what it was formed from: such a form never looks at a residual.

    An exact surrogate leaves it the spread of its time step (test_telescoped.py); the other law holds.
    """
    made = manufactured_of("viscous_burgers")
    error = defect(made.problem, made.surrogate(lambda t, w: 0.1 * torch.sin(w), meets_terminal=True))
    t, x = some_points(error, 2)
    shown, hidden = (method.sample(e, t, x, method.terms[0], 2, Stream(1, 0)) for e in (error, replace(error, known=None)))
    return not shown.equal(hidden)


PLAIN = [(e, q) for e in ESTIMATORS for q in EQUATIONS if not drops_the_driver(small(e)) or linear(equation_of(q))]
RESIDUAL_FORMS = [name for name in ESTIMATORS if not reads_the_known_part(small(name))]
PAIRS = [(e, q) for e, q in PLAIN if e in RESIDUAL_FORMS]
every_pair = pytest.mark.parametrize(("name", "problem_name"), PAIRS, ids=lambda p: p)


@dataclass(frozen=True)
class Nothing:
    """The planted estimator that returns zero under the terms of another."""

    like: Any

    @property
    def terms(self) -> tuple[str, ...]:
        return self.like.terms

    @property
    def biases(self) -> tuple[str, ...]:
        return self.like.biases

    def sample(self, problem: SemilinearPDE, t: Tensor, x: Tensor, term: str, draws: int, stream: Stream) -> Tensor:
        return torch.zeros(len(t), draws, dtype=t.dtype)


def bent(error: SemilinearPDE, bend: Callable[[Tensor, Tensor], Tensor]) -> SemilinearPDE:
    """A defect whose source r, of which f is the driver's part, is tampered with."""
    inner, known = error.local, error.known
    assert inner is not None and known is not None

    class Bent:
        def __init__(self, at: Any, f: Tensor) -> None:
            self.at, self.f = at, f
            self.increment, self.slopes = at.increment, at.slopes

        def source(self) -> Tensor:
            return bend(self.at.source(), self.f)

    def local(t: Tensor, x: Tensor, stream: Stream, with_source: bool) -> Bent:
        value, gradient = known.value_and_gradient(t, x)
        f = known.problem.driver(t, x, value, known.problem.law.pull(t, x, gradient))
        return Bent(inner(t, x, stream, with_source), f)

    return replace(error, local=local)


FAULTS: dict[str, Callable[[SemilinearPDE], SemilinearPDE]] = {
    "driver of the wrong sign": lambda error: bent(error, lambda r, f: r - 2.0 * f),
    "residual of the wrong sign": lambda error: bent(error, lambda r, f: -r),
    "no residual": lambda error: bent(error, lambda r, f: torch.zeros_like(r)),
    "no terminal error": lambda error: replace(error, terminal=lambda x: torch.zeros_like(x[:, 0])),
}


def draws_of(method: Any, problem: SemilinearPDE, t: Tensor, x: Tensor, draws: int) -> Iterator[Tensor]:
    """Draws of every term and bias, each from the stream of its own."""
    for i, term in enumerate((*method.terms, *method.biases)):
        yield method.sample(problem, t, x, term, draws, Stream(1, i))


def nothing_left(method: Any, error: SemilinearPDE, size: float) -> bool:
    t, x = some_points(error, 2)
    return all(bool((draws.abs() < ROUNDING * size).all()) for draws in draws_of(method, error, t, x, 4))


def error_recovered(method: Any, error: SemilinearPDE, v: Tensor) -> bool:
    """2000 draws of every term at 2 points, of biases that are of second order in v; what is left is below a quarter of v."""
    t, x = some_points(error, 2)
    return bool((estimate(method, error, t, x, 2000, 3, biases=False).value.mean - v).norm() < WITHIN * v.norm())


def same_draws(method: Any, plain: Any, problem: SemilinearPDE) -> bool:
    t, x = (v.float() for v in some_points(problem, 2))
    pairs = zip(draws_of(method, defect(problem, Zero()), t, x, 4), draws_of(plain, problem, t, x, 4), strict=True)
    return all(torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item()) for ours, theirs in pairs)


def in_error(made: Manufactured, method: Any, *, meets_terminal: bool) -> tuple[SemilinearPDE, Tensor]:
    """The defect of a surrogate that is half a per cent off in a way the method can see, and the error v at the points."""
    horizon = made.problem.horizon

    def off(t: Tensor, w: Tensor) -> Tensor:
        if drops_the_driver(method):
            # A constant alone has no residual under every law.
            return torch.full_like(w, OFF)
        wave = torch.sin(w + 1.0 + t / horizon)
        return OFF * (wave * (horizon - t) / horizon if meets_terminal else 1.0 + 0.5 * wave)

    surrogate = made.surrogate(off, meets_terminal=meets_terminal and not drops_the_driver(method))
    t, x = some_points(made.problem, 2)
    return defect(made.problem, surrogate), made.truth(t, x) - surrogate.value(t, x)


def exact_defect(made: Manufactured) -> SemilinearPDE:
    return defect(made.problem, made.surrogate(lambda t, w: torch.zeros_like(w), meets_terminal=False))


@every_pair
def test_the_exact_solution_leaves_nothing_to_correct_in_any_draw(name: str, problem_name: str) -> None:
    problem = equation_of(problem_name)
    error = defect(problem, exact_surrogate(problem))
    t, x = some_points(problem, 3)
    assert problem.solution is not None
    assert nothing_left(small(name), error, problem.solution.value(t, x).abs().max().item())


@every_pair
def test_an_exact_wave_leaves_nothing_and_a_driver_of_the_wrong_sign_does(name: str, problem_name: str) -> None:
    """The fault is planted where it changes anything: where the source is used, and the driver is not 0 on the solution."""
    made, method = manufactured_of(problem_name), small(name)
    error = exact_defect(made)
    assert nothing_left(method, error, made.size)
    if not drops_the_driver(method):
        assert not nothing_left(method, FAULTS["driver of the wrong sign"](error), made.size)


@every_pair
@pytest.mark.parametrize("meets_terminal", [True, False], ids=["met", "missed"])
def test_a_known_error_is_recovered(name: str, problem_name: str, meets_terminal: bool) -> None:
    method = small(name)
    assert error_recovered(method, *in_error(manufactured_of(problem_name), method, meets_terminal=meets_terminal))


@every_pair
@pytest.mark.parametrize("fault", ["driver of the wrong sign", "residual of the wrong sign", "no residual"])
def test_a_known_error_is_not_recovered_through_a_faulty_defect(name: str, problem_name: str, fault: str) -> None:
    method = small(name)
    if drops_the_driver(method):
        pytest.skip("it never asks for a source")
    error, v = in_error(manufactured_of(problem_name), method, meets_terminal=True)
    assert not error_recovered(method, FAULTS[fault](error), v)


@every_pair
def test_a_known_error_is_not_recovered_without_its_terminal_part_nor_by_an_estimator_that_returns_zero(
    name: str, problem_name: str
) -> None:
    method = small(name)
    error, v = in_error(manufactured_of(problem_name), method, meets_terminal=False)
    assert not error_recovered(method, FAULTS["no terminal error"](error), v)
    assert not error_recovered(Nothing(method), error, v)


@pytest.mark.parametrize(("name", "problem_name"), PLAIN, ids=lambda p: p)
def test_no_surrogate_gives_the_plain_method_draw_by_draw(name: str, problem_name: str) -> None:
    problem, method = equation_of(problem_name), small(name)
    assert same_draws(method, method, problem)
    assert not same_draws(Nothing(method), method, problem)


@pytest.mark.parametrize("problem_name", EQUATIONS)
def test_the_spread_of_linear_draws_is_linear_in_the_surrogates_error(problem_name: str) -> None:
    """The same draws at two errors ten times apart; their spread differs by 10 within 5 %: the rest is of second order."""
    made = manufactured_of(problem_name)
    t, x = some_points(made.problem, 3)

    def spread(size: float) -> float:
        surrogate = made.surrogate(lambda t, w: size * torch.sin(w + 1.0), meets_terminal=False)
        draws = linearised().sample(defect(made.problem, surrogate), t, x, "linear", 64, Stream(5, 0))
        return draws.std(1).norm().item()

    assert spread(1e-2) / spread(1e-3) == pytest.approx(10.0, rel=0.05)
