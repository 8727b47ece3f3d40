"""Terms that are printed instead of summed: only those that an estimator can do without, and no other bias is lost."""

from typing import Any

import pytest
from oracles import ESTIMATORS, equation, small, some_points

from kernels.contracts import Estimator
from kernels.estimators.linearised import linearised
from kernels.estimators.telescoped import telescoped
from kernels.streams import Stream
from kernels.unsummed import unsummed
from kernels.variance_reduction import antithetic, quasi

REMAINDER = ("remainder",)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_can_be_left_out_is_a_later_term_with_biases_of_its_own(name: str) -> None:
    method = small(name)
    assert isinstance(method, Estimator)
    assert set(method.optional) <= set(method.terms[1:])
    own = [bias for biases in method.optional.values() for bias in biases]
    assert len(set(own)) == len(own) and set(own) <= set(method.biases)
    for wrapped in (antithetic(method), quasi(method, size=16)):
        assert wrapped.optional == method.optional


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_term_that_is_not_optional_is_never_left_out(name: str) -> None:
    method = small(name)
    assert unsummed(method, ()) is method
    for term in {*method.terms, *method.biases, "unknown"} - set(method.optional):
        with pytest.raises(ValueError, match="can be left out of the sum"):
            unsummed(method, (term,))


@pytest.mark.parametrize("method", [linearised(), telescoped(), antithetic(telescoped())], ids=lambda m: type(m).__name__)
def test_a_remainder_is_left_out_once(method: Any) -> None:
    moved = unsummed(method, REMAINDER)
    assert isinstance(moved, Estimator)
    assert moved.terms == method.terms[:-1] and not moved.optional
    for again in (lambda: unsummed(moved, REMAINDER), lambda: unsummed(method, 2 * REMAINDER)):
        with pytest.raises(ValueError, match="can be left out of the sum, and once"):
            again()


def test_a_term_that_is_printed_takes_its_own_biases_with_it_and_leaves_those_of_the_others() -> None:
    assert unsummed(linearised(), REMAINDER).biases == REMAINDER
    assert unsummed(telescoped(), REMAINDER).biases == (*REMAINDER, "time step left")


def test_a_printed_term_is_minus_its_draws_and_the_others_are_as_they_were() -> None:
    method, problem = telescoped(steps=2), equation("viscous_burgers", 3)
    moved = unsummed(method, REMAINDER)
    t, x = some_points(problem, 2)
    for term in (*moved.terms, *moved.biases):
        ours, theirs = (m.sample(problem, t, x, term, 5, Stream(1, 0)) for m in (moved, method))
        assert theirs.any() and ours.equal(-theirs if term == "remainder" else theirs)
        assert moved.flop(problem, term, 5) == method.flop(problem, term, 5) and moved.rows(term, 5) == method.rows(term, 5)
