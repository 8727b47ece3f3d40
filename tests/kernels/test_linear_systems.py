"""Linear systems: the truth is a fixed point for every surrogate, divergence and stagnation are said, books are honest."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from refinements import backward_error, followed, known, learned, literal_pcg, wavy
from scipy.sparse.linalg import LinearOperator, gcrotmk
from torch import Tensor

from kernels.contracts import FixedPoint, LeastSquares, LinearSystem
from kernels.defect import linear_system_defect
from kernels.estimators import flexible_krylov, iterative_refinement, sirr
from kernels.estimators._cycle import Cycle
from kernels.estimators._progress import moved_on, patient_verdict, set_out
from kernels.linear_systems import ill_conditioned_least_squares, poisson_grid
from kernels.refine import refine
from kernels.streams import Purpose, Stream
from kernels.surrogates import learned_solver, perturbed_inverse, sketched_solver

GRID = poisson_grid(15**2)
METHODS: dict[str, Any] = {
    "refinement": iterative_refinement(sweeps=4),
    "refinement alone": iterative_refinement(smoother="none"),
    "fcg": flexible_krylov(method="fcg", symmetric=True),
    "fgmres": flexible_krylov(memory=20),
}


def dense(problem: LinearSystem) -> Tensor:
    return problem.matvec(torch.eye(problem.dim, dtype=torch.float64))


def perturbed(delta: float) -> LinearSystem:
    surrogate = perturbed_inverse(GRID, seed=0, delta=delta)
    surrogate.fit(Stream(3, Purpose.TRAINING))
    return linear_system_defect(GRID, surrogate)


def sketched(problem: LeastSquares) -> LeastSquares:
    surrogate = sketched_solver(problem, seed=0, sketch=160)
    surrogate.fit(Stream(2, Purpose.TRAINING))
    return linear_system_defect(problem, surrogate)


SQUARES = ill_conditioned_least_squares(20, rows=200, condition=100.0)
CASES = [*((method, lambda: learned(GRID, 40, "galerkin")) for method in METHODS.values())]
CASES += [(sirr(form=form), lambda: sketched(SQUARES)) for form in ("recursive", "momentum")]  # type: ignore[misc]
every_case = pytest.mark.parametrize(("method", "make"), CASES, ids=[*METHODS, "sirr", "sirr momentum"])


def test_the_grid_is_the_five_point_laplacian_and_its_solution_solves_it() -> None:
    one = 2.0 * np.eye(15) - np.eye(15, k=1) - np.eye(15, k=-1)
    literal = np.kron(one, np.eye(15)) + np.kron(np.eye(15), one)
    assert dense(GRID).equal(torch.from_numpy(literal))
    assert GRID.solution is not None and GRID.diagonal is not None and GRID.pairs is not None
    torch.testing.assert_close(GRID.matvec(GRID.solution), GRID.rhs, rtol=0.0, atol=1e-14)
    assert GRID.diagonal.equal(dense(GRID).diagonal())
    f, u = GRID.pairs(3, Stream(0, 9))
    torch.testing.assert_close(GRID.matvec(u), f, rtol=0.0, atol=1e-14)
    torch.testing.assert_close(f.norm(dim=0), torch.ones(3, dtype=torch.float64))


def test_the_least_squares_problem_has_its_condition_number_and_solution() -> None:
    matrix = SQUARES.matvec(torch.eye(20, dtype=torch.float64))
    assert SQUARES.solution is not None
    assert float(torch.linalg.cond(matrix)) == pytest.approx(100.0, rel=1e-9)
    assert float((SQUARES.rhs - matrix @ SQUARES.solution).norm()) == pytest.approx(1e-3, rel=1e-9)
    assert backward_error(SQUARES, SQUARES.solution) < 1e-15


@every_case
def test_a_correction_starts_at_the_surrogate_and_resumes_bit_by_bit(method: Any, make: Any) -> None:
    problem = make()
    assert isinstance(method, FixedPoint)
    state = method.start(problem, Stream(0, 0))
    assert method.value(state).equal(problem.known.solution)
    kept = {name: part.clone() for name, part in state.items()}
    first = method.step(problem, state)
    assert all(state[name].equal(part) for name, part in kept.items())
    assert all(part.dtype == torch.float64 for part in first.values())
    again = method.step(problem, {name: part.clone() for name, part in first.items()})
    assert method.value(again).equal(method.value(method.step(problem, first)))
    assert method.flop(problem) > 0.0


@every_case
def test_the_truth_is_a_fixed_point_of_every_correction(method: Any, make: Any) -> None:
    """Started at the truth a step moves by rounding alone, whatever B is; started elsewhere it moves by more than 1e-5."""
    problem = make()
    truth = problem.known.solution + problem.solution
    at = replace(problem, rhs=problem.known.rhs - problem.matvec(truth), known=replace(problem.known, solution=truth))
    moved = method.value(method.step(at, method.start(at, Stream(0, 0)))) - truth
    away = method.value(method.step(problem, method.start(problem, Stream(0, 0)))) - problem.known.solution
    size = truth.norm()
    bound = 1e-9 if isinstance(problem, LeastSquares) else 1e-13
    assert moved.norm() <= bound * size
    if method is not METHODS["refinement alone"]:
        assert away.norm() > 1e-5 * size


@every_case
def test_the_residual_certifies_the_value(method: Any, make: Any) -> None:
    problem = make()
    if method is METHODS["refinement alone"]:
        problem = perturbed(0.3)
    _, state, _ = followed(method, problem, 1e-8)
    x = method.value(state)
    if isinstance(problem, LeastSquares):
        left, scale = SQUARES.rmatvec(SQUARES.rhs - SQUARES.matvec(x)), SQUARES.rmatvec(SQUARES.rhs)
    else:
        left, scale = GRID.rhs - GRID.matvec(x), GRID.rhs
        assert GRID.solution is not None
        assert (x - GRID.solution).norm() <= 1e-6 * GRID.solution.norm()
    said = method.residual(problem, state)
    assert said.shape == (1,) and float(said) == pytest.approx(float(left.norm() / scale.norm()), rel=1e-6)
    assert float(said) <= 1.01e-8


@pytest.mark.parametrize("delta", [0.5, 0.1, 0.01])
def test_refinement_contracts_by_the_size_of_the_perturbation(delta: float) -> None:
    steps, _, residuals = followed(METHODS["refinement alone"], perturbed(delta), 1e-10)
    assert 0.6 * delta <= residuals[-1] ** (1.0 / (steps + 1)) <= delta


def test_a_learned_solve_alone_stagnates_and_a_smoother_heals_it() -> None:
    problem = learned(GRID, 40)
    alone, state = METHODS["refinement alone"], None
    state = alone.start(problem, Stream(0, 0))
    for _ in range(4):
        state = alone.step(problem, state)
    assert alone.verdict(state) == "stagnant"
    steps, state, _ = followed(METHODS["refinement"], problem)
    assert steps < 60 and METHODS["refinement"].verdict(state) == "converging"


def test_a_diverging_refinement_is_stopped_at_its_best_iterate() -> None:
    problem, method = perturbed(3.0), METHODS["refinement alone"]
    state = method.start(problem, Stream(0, 0))
    for _ in range(30):
        state = method.step(problem, state)
    assert method.verdict(state) == "diverging" and method.step(problem, state) is state
    assert float(method.residual(problem, state)) <= float(problem.rhs.norm() / problem.scale)


def test_conjugate_gradients_and_gmres_are_those_of_the_textbook_and_of_scipy() -> None:
    problem, cycle = learned(GRID, 40, "galerkin"), Cycle(1, 1)
    zero = known(GRID, problem.known.solve)  # type: ignore[union-attr]
    assert followed(METHODS["fcg"], zero)[0] == literal_pcg(GRID, lambda r: cycle(zero, r))
    plain = followed(flexible_krylov(method="fcg", smoother="none"), GRID)[0]
    assert plain == literal_pcg(GRID, lambda r: r)
    a = LinearOperator((225, 225), matvec=lambda v: GRID.matvec(torch.from_numpy(v)).numpy(), dtype=float)
    bent = wavy(lambda r: cycle(problem, r), 0.3)
    m = LinearOperator((225, 225), matvec=lambda v: bent(torch.from_numpy(np.ascontiguousarray(v))).numpy(), dtype=float)
    x, _ = gcrotmk(a, GRID.rhs.numpy(), M=m, m=6, k=0, maxiter=1, rtol=0.0)
    state = (method := flexible_krylov(smoother="none")).start(known(GRID, bent), Stream(0, 0))
    for _ in range(6):
        state = method.step(known(GRID, bent), state)
    np.testing.assert_allclose(method.value(state).numpy(), x, rtol=0.0, atol=1e-12 * np.abs(x).max())


def test_fgmres_starts_anew_and_its_residual_never_grows_under_garbage() -> None:
    g = Stream(5, 0).normal(225, 225).double()
    problem, method = known(GRID, lambda r: g @ r), flexible_krylov(smoother="none", memory=5)
    _, state, residuals = followed(method, problem, 1e-8, 23)
    assert all(after <= before * (1.0 + 1e-12) for before, after in pairwise(residuals))
    assert state["directions"].shape == (225, 3)
    assert float(method.residual(problem, state)) == pytest.approx(residuals[-1], rel=1e-9)


def test_an_exact_answer_needs_no_correction() -> None:
    problem = known(GRID, lambda r: torch.full_like(r, torch.nan) if not r.any() else r, GRID.solution)
    problem = replace(problem, rhs=torch.zeros_like(GRID.rhs))
    for method in METHODS.values():
        state = method.step(problem, method.start(problem, Stream(0, 0)))
        assert (method.value(state) - GRID.solution).norm() <= 1e-13 * GRID.solution.norm()  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("with_solve", [True, False])
def test_the_books_of_a_cycle_equal_its_products(before: int, after: int, with_solve: bool) -> None:
    count = [0]

    def counted(v: Tensor) -> Tensor:
        count[0] += 1
        return GRID.matvec(v)

    problem = known(GRID, lambda r: r) if with_solve else GRID
    cycle = Cycle(before, after)
    cycle(replace(problem, matvec=counted), GRID.rhs)
    books = cycle.flop(replace(problem, cost=1.0)) - cycle.flop(replace(problem, cost=0.0))
    assert books == count[0]


def test_recursive_refinement_reaches_the_backward_error_of_qr_and_beyond() -> None:
    squares = ill_conditioned_least_squares(20, rows=200, condition=1e6)
    problem, method = sketched(squares), sirr()
    state = method.start(problem, Stream(0, 0))
    for _ in range(10):
        state = method.step(problem, state)
    assert backward_error(squares, method.value(state)) <= 1e-16


def test_momentum_contracts_by_the_distortion_of_the_sketch() -> None:
    """0.35 up to the fluctuations of 160 rows; without the momentum it would be 0.83."""
    problem = sketched(ill_conditioned_least_squares(20, rows=200, condition=10.0))
    steps, _, residuals = followed(sirr(form="momentum"), problem, 1e-12)
    assert (residuals[-1] / residuals[0]) ** (1.0 / steps) == pytest.approx((20 / 160) ** 0.5, rel=0.25)


def test_refine_solves_says_what_happened_and_changes_method_when_it_diverges() -> None:
    a, b = dense(GRID), GRID.rhs
    near = perturbed(0.3).known
    assert near is not None and GRID.solution is not None
    for mode in ("richardson", "fcg", "fgmres"):
        result = refine(a, b, near.solve if mode != "fcg" else lambda r: r, mode=mode)  # type: ignore[arg-type]
        assert (result.x - GRID.solution).norm() <= 1e-6 * GRID.solution.norm()
        assert not result.diverged and not result.stagnated and result.residuals[-1] <= 1e-8 and 0.0 < result.rate < 1.0
    wild = refine(GRID.matvec, b, lambda r: 3.0 * near.solve(r))
    assert wild.diverged and wild.residuals[-1] <= 1e-8
    blind = learned(GRID, 40).known
    assert blind is not None
    stuck = refine(a, b, blind.solve)
    assert stuck.stagnated and not stuck.diverged and stuck.residuals[-1] > 1e-3
    assert not refine(a, b, blind.solve, smoother="jacobi", sweeps=4).stagnated


@pytest.mark.parametrize("name", ["learned", "galerkin", "perturbed", "sketched"])
def test_a_surrogate_keeps_all_it_learned_in_its_buffers(name: str) -> None:
    def make() -> Any:
        if name == "sketched":
            return sketched_solver(SQUARES, seed=0, sketch=160)
        if name == "perturbed":
            return perturbed_inverse(GRID, seed=0)
        return learned_solver(GRID, seed=0, pairs=40, form="galerkin" if name == "galerkin" else "regression")

    first, second = make(), make()
    losses = first.fit(Stream(2, Purpose.TRAINING))
    assert losses and all(np.isfinite(losses)) and all(cost > 0.0 for cost in first.fit_cost())
    second.load_state_dict(first.state_dict())
    row = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    assert second.plug_in(*row).equal(first.plug_in(*row)) and first.plug_in(*row).dtype == torch.float64
    assert second.solve(first.plug_in(*row)).equal(first.solve(first.plug_in(*row)))
    assert all(part.dtype == torch.float64 for part in first.state_dict().values())


def test_a_learned_solve_is_exact_on_what_it_has_seen() -> None:
    surrogate = learned_solver(GRID, seed=0, pairs=40)
    surrogate.fit(Stream(1, Purpose.TRAINING))
    assert GRID.pairs is not None
    f, u = GRID.pairs(40, Stream(1, Purpose.TRAINING))
    torch.testing.assert_close(surrogate.solve(f[:, 7]), u[:, 7], rtol=0.0, atol=1e-10)
    ridged = learned_solver(GRID, seed=0, pairs=40, ridge=0.1)
    ridged.fit(Stream(1, Purpose.TRAINING))
    assert (ridged.solve(f[:, 7]) - u[:, 7]).norm() > 1e-4 * u[:, 7].norm()


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("dim = 10: the unknowns are an m x m grid; take dim = 9 or 16", lambda: poisson_grid(10)),
        ("smoothness = -1.0", lambda: poisson_grid(9, smoothness=-1.0)),
        ("rows = 20: a residual off the range", lambda: ill_conditioned_least_squares(20, rows=20)),
        ("condition = 0.5", lambda: ill_conditioned_least_squares(20, condition=0.5)),
        ("misfit = -1.0", lambda: ill_conditioned_least_squares(20, misfit=-1.0)),
        (r"rhs of shape \(3,\)", lambda: replace(GRID, rhs=torch.zeros(3, dtype=torch.float64))),
        ("rhs holds nan", lambda: replace(GRID, rhs=torch.full((225,), torch.nan, dtype=torch.float64))),
        ("symmetric = False", lambda: replace(GRID, symmetric=False)),
        ("diagonal = 0 in places", lambda: replace(GRID, diagonal=torch.zeros(225, dtype=torch.float64))),
        ("rows = 5, dim = 20", lambda: replace(SQUARES, rows=5)),
        ("no solved systems", lambda: learned_solver(replace(GRID, pairs=None), seed=0)),
        ("pairs = 0", lambda: learned_solver(GRID, seed=0, pairs=0)),
        ("ridge = -1.0", lambda: learned_solver(GRID, seed=0, ridge=-1.0)),
        ("form = 'x'", lambda: learned_solver(GRID, seed=0, form="x")),  # type: ignore[arg-type]
        ("up to dim = 2048", lambda: perturbed_inverse(poisson_grid(50**2), seed=0)),
        ("delta = -1.0", lambda: perturbed_inverse(GRID, seed=0, delta=-1.0)),
        ("sketch = 20", lambda: sketched_solver(SQUARES, seed=0, sketch=20)),
        ("a surrogate of the same problem", lambda: linear_system_defect(poisson_grid(9), learned_solver(GRID, seed=0))),
        ("smoother = 'x'", lambda: iterative_refinement(smoother="x")),  # type: ignore[arg-type]
        ("sweeps = 0", lambda: iterative_refinement(sweeps=0)),
        ("sweeps before, after = -1, 0", lambda: Cycle(-1, 0)),
        ("method = 'x'", lambda: flexible_krylov(method="x")),  # type: ignore[arg-type]
        ("memory = 0", lambda: flexible_krylov(memory=0)),
        ("form = 'x'", lambda: sirr(form="x")),  # type: ignore[arg-type]
        ("depth = 13", lambda: sirr(depth=13)),
        ("nothing approximates the inverse", lambda: METHODS["refinement alone"].start(GRID, Stream(0))),
        ("gives no diagonal", lambda: Cycle(0, 2)(replace(GRID, diagonal=None), GRID.rhs)),
        ("take fgmres", lambda: METHODS["fcg"].start(replace(GRID, positive=False), Stream(0))),
        ("without a sketch", lambda: sirr().start(SQUARES, Stream(0))),
        ("not positive definite", lambda: refine(-dense(GRID), GRID.rhs, lambda r: r, mode="fcg")),
        ("not symmetric", lambda: refine(dense(GRID).triu(), GRID.rhs, lambda r: r, mode="fcg")),
        ("A should be square", lambda: refine(dense(GRID)[:3], GRID.rhs, lambda r: r)),
        ("one vector", lambda: refine(dense(GRID), GRID.rhs[:, None], lambda r: r)),
        ("tol = 0.0", lambda: refine(dense(GRID), GRID.rhs, lambda r: r, tol=0.0)),
        ("max_steps = 0", lambda: refine(dense(GRID), GRID.rhs, lambda r: r, max_steps=0)),
        ("mode = 'x'", lambda: refine(dense(GRID), GRID.rhs, lambda r: r, mode="x")),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_served_is_refused_with_its_value(words: str, make: Any) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("norms", "said"),
    [([1.0, 30.0, 0.5], "converging"), ([1.0, 2e8], "diverging"), ([1.0, math.nan], "diverging"), ([1.0] * 302, "stagnant")],
)
def test_a_residual_that_may_grow_on_the_way_is_given_time_and_not_for_ever(norms: list[float], said: str) -> None:
    progress = set_out(torch.tensor(norms[0], dtype=torch.float64))
    for norm in norms[1:]:
        progress = moved_on(progress, torch.tensor(norm, dtype=torch.float64))
    assert patient_verdict(progress) == said
