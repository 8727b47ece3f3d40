"""The trained solver: of degree one in r, 0 at 0, reproducible, stored whole, blind to the job's own right-hand side."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from refinements import followed, known
from torch import Tensor

from kernels.contracts import ApproximateSolver, Fitted, LinearSystem
from kernels.estimators import flexible_krylov, iterative_refinement
from kernels.linear_systems import poisson_grid
from kernels.streams import Purpose, Stream
from kernels.surrogates import solver_network
from kernels.surrogates.solver_network import SolverNetwork

GRID = poisson_grid(15**2)


def trained(problem: LinearSystem = GRID, pairs: int = 40, steps: int = 200) -> SolverNetwork:
    surrogate = solver_network(problem, seed=0, pairs=pairs, width=32, steps=steps)
    surrogate.fit(Stream(1, Purpose.TRAINING))
    return surrogate


@pytest.fixture(scope="module")
def network() -> SolverNetwork:
    return trained()


@pytest.fixture(scope="module")
def untrained() -> SolverNetwork:
    """Random in all its weights, and strongly bent."""
    surrogate = trained(steps=1)
    for number, weights in enumerate((surrogate.weight, surrogate.inner, surrogate.outer)):
        weights.copy_(Stream(4, number).normal(*weights.shape, dtype=torch.float64) / math.sqrt(weights.shape[1]))
    return surrogate


def vector(number: int) -> Tensor:
    return Stream(6, number).normal(GRID.dim, dtype=torch.float64)


@pytest.mark.parametrize("factor", [2.0, -3.0, 1e-12, 1e200, -1e-250])
def test_a_multiple_of_r_is_answered_by_that_multiple(factor: float, network: SolverNetwork, untrained: SolverNetwork) -> None:
    for surrogate in (network, untrained):
        for r in (vector(0), GRID.rhs):
            z = surrogate.solve(r)
            assert (surrogate.solve(factor * r) / factor - z).norm() <= 1e-12 * z.norm()


def test_nothing_is_answered_by_nothing_and_what_it_cannot_see_too(network: SolverNetwork, untrained: SolverNetwork) -> None:
    zero = torch.zeros(GRID.dim, dtype=torch.float64)
    for surrogate in (network, untrained):
        assert surrogate.solve(zero).equal(zero)
        unseen = vector(1) - surrogate.basis @ (surrogate.basis.T @ vector(1))
        # Only rounding is left of it in the basis, whatever the network makes of that.
        assert 0.0 <= float(surrogate.solve(unseen).norm()) <= 1e-10 * float(surrogate.solve(vector(1)).norm())


def test_it_is_not_linear(network: SolverNetwork) -> None:
    apart = network.solve(vector(0)) + network.solve(vector(1))
    assert 1e-3 < float((network.solve(vector(0) + vector(1)) - apart).norm() / apart.norm()) < 0.3


def test_training_comes_near_the_best_linear_map_between_its_components(network: SolverNetwork) -> None:
    """Galerkin's (V^T A V)^-1, here formed with A, which training has never applied."""
    v = network.basis
    best = torch.linalg.inv(v.T @ GRID.matvec(v))

    def off(surrogate: SolverNetwork) -> float:
        distances = []
        for number in range(20):
            image = best @ (v.T @ (r := GRID.matvec(v @ (surrogate.writing * vector(number)[:40]))))
            distances.append(float((v.T @ surrogate.solve(r) - image).norm() / image.norm()))
        return sum(distances) / len(distances)

    assert off(network) < 0.02 and off(trained(steps=1)) > 0.05


def test_the_errors_it_returns_are_those_of_other_pairs_and_fall() -> None:
    surrogate = solver_network(GRID, seed=0, pairs=40, width=32, steps=200)
    errors = surrogate.fit(Stream(1, Purpose.TRAINING))
    stream = Stream(1, Purpose.TRAINING)
    assert GRID.pairs is not None
    GRID.pairs(40, stream)
    f, u = GRID.pairs(8, stream)
    found = torch.stack([surrogate.solve(r) for r in f.T], 1)
    literal = ((found - u).square().sum(0) / u.square().sum(0)).mean().sqrt()
    assert errors[-1] == pytest.approx(float(literal), rel=1e-9)
    assert len(errors) == 201 and errors[-1] < 0.75 * errors[0]


def test_training_draws_the_same_bits_twice_and_never_looks_at_the_job_s_own_system(network: SolverNetwork) -> None:
    other = trained(replace(GRID, rhs=vector(2), solution=None))
    assert all(part.equal(other.state_dict()[name]) for name, part in network.state_dict().items())
    elsewhere = solver_network(GRID, seed=0, pairs=40, width=32, steps=1)
    elsewhere.fit(Stream(2, Purpose.TRAINING))
    assert not elsewhere.basis.equal(network.basis)


def test_all_it_learned_is_in_its_buffers(network: SolverNetwork) -> None:
    again = solver_network(GRID, seed=5, pairs=40, width=32, steps=200)
    again.load_state_dict(network.state_dict())
    assert again.solve(vector(0)).equal(network.solve(vector(0))) and again.answer().equal(network.answer())
    assert all(part.dtype == torch.float64 for part in network.state_dict().values()) and not list(network.parameters())
    assert isinstance(network, Fitted) and isinstance(network, ApproximateSolver)
    assert all(cost > 0.0 for cost in (*network.fit_cost(), network.solve_flop()))


def test_alone_it_stagnates_and_with_a_smoother_or_a_flexible_method_it_converges(network: SolverNetwork) -> None:
    problem, alone = known(GRID, network.solve), iterative_refinement(smoother="none")
    _, state, residuals = followed(alone, problem, most=30)
    assert residuals[-1] > 1e-2 and alone.verdict(state) == "stagnant"
    for method in (iterative_refinement(sweeps=4), flexible_krylov(method="fcg", symmetric=True), flexible_krylov()):
        steps, state, _ = followed(method, problem)
        assert steps < 30
        torch.testing.assert_close(method.value(state), GRID.solution, rtol=0.0, atol=1e-6 * float(GRID.solution.norm()))  # type: ignore[union-attr]


def test_under_a_random_network_the_solution_is_still_the_fixed_point(untrained: SolverNetwork) -> None:
    assert GRID.solution is not None
    size = float(GRID.solution.norm())
    at = known(GRID, untrained.solve, GRID.solution)
    # Enough memory that fgmres ends on all of the space at the latest.
    for method in (flexible_krylov(method="fcg", symmetric=True), flexible_krylov(memory=GRID.dim)):
        moved = method.value(method.step(at, method.start(at, Stream(0)))) - GRID.solution
        assert moved.norm() <= 1e-13 * size
    _, state, residuals = followed(method, known(GRID, untrained.solve))
    assert residuals[-1] <= 1e-8 and (method.value(state) - GRID.solution).norm() <= 1e-6 * size


def test_solutions_of_low_rank_are_learned_without_their_rounding() -> None:
    """Seven of ten components of a span of three dimensions are rounding: neither read nor written, so that no inf arises."""
    assert GRID.pairs is not None
    f, u = GRID.pairs(3, Stream(8, 0))

    def pairs(count: int, stream: Stream) -> tuple[Tensor, Tensor]:
        c = stream.normal(3, count, dtype=torch.float64)
        return f @ c, u @ c

    surrogate = trained(replace(GRID, pairs=pairs), pairs=10)
    assert int((surrogate.writing > 0.0).sum()) == 3 == int((surrogate.reading > 0.0).sum())
    assert (surrogate.solve(f[:, 0]) - u[:, 0]).norm() <= 0.05 * u[:, 0].norm()


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("no solved systems to learn from: give its record 'pairs'", lambda: solver_network(replace(GRID, pairs=None), seed=0)),
        ("pairs = 0: from 1 to dim = 225", lambda: solver_network(GRID, seed=0, pairs=0)),
        ("pairs = 226", lambda: solver_network(GRID, seed=0, pairs=226)),
        ("width = 0, steps = 500: a network has at least one unit", lambda: solver_network(GRID, seed=0, width=0)),
        ("width = 128, steps = 0", lambda: solver_network(GRID, seed=0, steps=0)),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_value(words: str, make: Any) -> None:
    with pytest.raises(ValueError, match=words):
        make()
