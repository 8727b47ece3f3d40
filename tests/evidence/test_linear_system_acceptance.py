"""Iterative refinement of linear systems and least squares: convergence factors, iteration counts, backward errors.

Five-point Laplacian on a 63 x 63 grid; solvers learned from smooth solutions, after HINTS (Nat. Mach. Intell. 2024);
least squares of Xu and Lu (SIRR, AISTATS 2025) by the measure of Epperly, Meier, Nakatsukasa (arXiv 2406.03468).
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from refinements import backward_error, followed, known, learned, literal_pcg, wavy
from scipy.sparse.linalg import LinearOperator, gcrotmk, lsqr
from torch import Tensor

from kernels.contracts import LeastSquares, LinearSystem
from kernels.defect import linear_system_defect
from kernels.estimators import flexible_krylov, iterative_refinement, sirr
from kernels.estimators._cycle import Cycle
from kernels.linear_systems import ill_conditioned_least_squares, poisson_grid
from kernels.refine import refine
from kernels.streams import Purpose, Stream
from kernels.surrogates import perturbed_inverse, sketched_solver, solver_network

pytestmark = [pytest.mark.slow, pytest.mark.unchecked]

POISSON = poisson_grid(63**2)
PAIRS = (100, 400)


@pytest.fixture(scope="module")
def regressions() -> dict[int, LinearSystem]:
    return {pairs: learned(POISSON, pairs) for pairs in PAIRS}


@pytest.fixture(scope="module")
def galerkins() -> dict[int, LinearSystem]:
    return {pairs: learned(POISSON, pairs, "galerkin") for pairs in PAIRS}


@pytest.mark.parametrize("delta", [0.5, 0.1, 0.01])
def test_refinement_around_a_perturbed_inverse_contracts_by_the_perturbation(delta: float) -> None:
    problem = poisson_grid(31**2)
    surrogate = perturbed_inverse(problem, seed=0, delta=delta)
    surrogate.fit(Stream(3, Purpose.TRAINING))
    steps, _, residuals = followed(iterative_refinement(smoother="none"), linear_system_defect(problem, surrogate), 1e-10)
    # The surrogate's own answer is the first step, from x = 0.
    factor = residuals[-1] ** (1.0 / (steps + 1))
    print(f"\nperturbed inverse {delta}: factor {factor:.4f} in {steps + 1} steps")
    assert 0.6 * delta <= factor <= delta


@pytest.mark.parametrize("pairs", PAIRS)
def test_a_learned_solve_alone_stagnates_and_says_so(pairs: int, regressions: dict[int, LinearSystem]) -> None:
    method, problem = iterative_refinement(smoother="none"), regressions[pairs]
    assert POISSON.solution is not None and problem.known is not None
    size = POISSON.solution.norm()
    first = float((problem.known.solution - POISSON.solution).norm() / size)
    state = method.start(problem, Stream(0, 0))
    for step in range(200):
        state = method.step(problem, state)
        if step == 3:
            assert method.verdict(state) == "stagnant"
    error = float((method.value(state) - POISSON.solution).norm() / size)
    print(f"\nlearned alone, {pairs} pairs: error {first:.3f} at first, {error:.3f} after 200 steps")
    assert method.verdict(state) == "stagnant" and error > 0.95 * first


@pytest.mark.parametrize(
    ("pairs", "sweeps", "published"), [(100, 4, 149), (100, 9, 72), (100, 24, 35), (400, 4, 45), (400, 9, 24), (400, 24, 14)]
)
def test_a_learned_solve_with_jacobi_sweeps_converges(
    pairs: int, sweeps: int, published: int, regressions: dict[int, LinearSystem]
) -> None:
    steps, _, _ = followed(iterative_refinement(sweeps=sweeps), regressions[pairs])
    print(f"\nlearned from {pairs} pairs and {sweeps} sweeps: {steps} cycles (prototype {published})")
    assert abs(steps - published) <= 0.15 * published


def test_jacobi_alone_contracts_as_the_smallest_eigenvalue_says() -> None:
    state = iterative_refinement(sweeps=50).start(POISSON, Stream(0, 0))
    norms = []
    for _ in range(80):
        state = iterative_refinement(sweeps=50).step(POISSON, state)
        norms.append(float(state["progress"][0]))
    factor = (norms[-1] / norms[-2]) ** (1.0 / 50.0)
    theory = 1.0 - 2.0 / 3.0 * 2.0 * math.sin(math.pi / 128.0) ** 2
    print(f"\nJacobi alone: {factor:.6f} a sweep, theory {theory:.6f}")
    assert factor == pytest.approx(theory, abs=1e-5)


def test_a_learned_preconditioner_saves_krylov_steps(
    regressions: dict[int, LinearSystem], galerkins: dict[int, LinearSystem]
) -> None:
    cg, gmres = flexible_krylov(method="fcg", smoother="none"), flexible_krylov(smoother="none", memory=300)
    plain = followed(cg, POISSON)[0], followed(gmres, POISSON)[0]
    two_level, hybrid = flexible_krylov(method="fcg", symmetric=True), flexible_krylov()
    pcg = [followed(two_level, galerkins[pairs])[0] for pairs in PAIRS]
    fgmres = [followed(hybrid, regressions[pairs])[0] for pairs in PAIRS]
    print(f"\nCG {plain[0]}, learned two-level PCG {pcg}; GMRES {plain[1]}, learned + Jacobi {fgmres}")
    assert plain[0] >= 5.0 * pcg[0] and plain[0] >= 9.0 * pcg[1]
    assert plain[1] >= 2.5 * fgmres[0] and plain[1] >= 4.5 * fgmres[1]


def scipy_products(problem: LinearSystem, solve: object, most: int = 300) -> int:
    """Applications of B by SciPy's flexible GMRES to 1e-8."""
    count = [0]

    def counted(r: np.ndarray) -> np.ndarray:
        count[0] += 1
        return solve(torch.from_numpy(np.ascontiguousarray(r))).numpy()  # type: ignore[operator]

    shape = (problem.dim, problem.dim)
    a = LinearOperator(shape, matvec=lambda v: problem.matvec(torch.from_numpy(v)).numpy(), dtype=float)
    _, info = gcrotmk(a, problem.rhs.numpy(), M=LinearOperator(shape, matvec=counted, dtype=float), rtol=1e-8, m=most)
    assert info == 0
    return count[0]


def test_a_nonlinear_solve_needs_a_flexible_method(galerkins: dict[int, LinearSystem]) -> None:
    learned_part, cycle = galerkins[400], Cycle(1, 1)
    bent = wavy(lambda r: cycle(learned_part, r), 0.2)
    problem = known(POISSON, bent)
    refinement = followed(iterative_refinement(smoother="none"), problem)[0]
    pcg, scipy = literal_pcg(POISSON, bent), scipy_products(POISSON, bent)
    fcg = followed(flexible_krylov(method="fcg", smoother="none"), problem)[0]
    fgmres = followed(flexible_krylov(smoother="none"), problem)[0]
    print(f"\nnonlinear B: refinement {refinement}, PCG {pcg}, FCG(1) {fcg}, FGMRES {fgmres}, SciPy gcrotmk {scipy}")
    assert fcg <= 0.5 * pcg and fgmres <= 0.5 * pcg
    assert abs(fgmres - scipy) <= 1


def network(pairs: int, steps: int = 500) -> LinearSystem:
    """The defect of a network trained on so many pairs, the same as those of the regressions."""
    surrogate = solver_network(POISSON, seed=0, pairs=pairs, steps=steps)
    errors = surrogate.fit(Stream(1, Purpose.TRAINING))
    print(f"\nnetwork of {pairs} pairs: held-out error {errors[0]:.4f} at first, {errors[-1]:.4f} after {steps} steps")
    return linear_system_defect(POISSON, surrogate)


@pytest.fixture(scope="module")
def networks() -> dict[int, LinearSystem]:
    return {pairs: network(pairs) for pairs in PAIRS}


@pytest.mark.parametrize("pairs", PAIRS)
def test_a_trained_network_alone_stagnates_and_says_so(pairs: int, networks: dict[int, LinearSystem]) -> None:
    method, problem = iterative_refinement(smoother="none"), networks[pairs]
    assert POISSON.solution is not None and problem.known is not None
    first = float((problem.known.solution - POISSON.solution).norm() / POISSON.solution.norm())
    state = method.start(problem, Stream(0, 0))
    for _ in range(200):
        state = method.step(problem, state)
    error = float((method.value(state) - POISSON.solution).norm() / POISSON.solution.norm())
    print(f"\nnetwork alone, {pairs} pairs: error {first:.4f} at first, {error:.4f} after 200 steps")
    assert method.verdict(state) == "stagnant" and error > 0.95 * first


@pytest.mark.parametrize("pairs", PAIRS)
def test_a_trained_network_with_jacobi_sweeps_needs_no_more_cycles_than_a_regression(
    pairs: int, networks: dict[int, LinearSystem], regressions: dict[int, LinearSystem]
) -> None:
    found = []
    for sweeps in (4, 9, 24):
        method = iterative_refinement(sweeps=sweeps)
        found.append((followed(method, networks[pairs])[0], followed(method, regressions[pairs])[0]))
    print(f"\n{pairs} pairs, 4, 9 and 24 sweeps: (network, regression) cycles {found}")
    assert all(trained <= 0.8 * regressed for trained, regressed in found)


def test_a_trained_network_saves_krylov_steps(networks: dict[int, LinearSystem], regressions: dict[int, LinearSystem]) -> None:
    plain = followed(flexible_krylov(method="fcg", smoother="none"), POISSON)[0]
    gmres = followed(flexible_krylov(smoother="none", memory=300), POISSON)[0]
    fcg = [followed(flexible_krylov(method="fcg", symmetric=True), networks[pairs])[0] for pairs in PAIRS]
    fgmres = [followed(flexible_krylov(), networks[pairs])[0] for pairs in PAIRS]
    regressed = [followed(flexible_krylov(), regressions[pairs])[0] for pairs in PAIRS]
    print(f"\nCG {plain}, GMRES {gmres}; network in two-level FCG {fcg}, FGMRES {fgmres}; regression in FGMRES {regressed}")
    assert plain >= 5.0 * fcg[0] and plain >= 9.0 * fcg[1]
    assert gmres >= 2.5 * fgmres[0] and gmres >= 4.5 * fgmres[1]


def test_plain_conjugate_gradients_fail_with_a_network_that_is_trained_briefly(networks: dict[int, LinearSystem]) -> None:
    """Trained to the end it is all but linear and symmetric, and forgives them: what that is worth is not known beforehand."""
    cycle = Cycle(1, 1)
    for pairs in PAIRS:
        for words, problem in (("30 steps", network(pairs, 30)), ("500 steps", networks[pairs])):
            # From x = 0, as the textbook's.
            zero = known(POISSON, problem.known.solve)  # type: ignore[union-attr]
            pcg = literal_pcg(POISSON, lambda r, zero=zero: cycle(zero, r))  # type: ignore[misc]
            fcg = followed(flexible_krylov(method="fcg", symmetric=True), zero)[0]
            fgmres = followed(flexible_krylov(symmetric=True), zero)[0]
            print(f"\nnetwork of {pairs} pairs, {words}: PCG {pcg}, FCG(1) {fcg}, FGMRES {fgmres}")
            assert max(fcg, fgmres) <= (0.5 * pcg if words == "30 steps" else 1.1 * pcg)


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_a_noisy_solve_converges_or_its_divergence_is_caught(noise: float, regressions: dict[int, LinearSystem]) -> None:
    """B + noise |B|_2 G/|G|_2, G Gaussian: at 10 % refinement diverges; the residual of FGMRES never grows, whatever it is worth."""
    clean = regressions[400]
    assert clean.known is not None
    solve, v = clean.known.solve, torch.ones_like(POISSON.rhs)
    for _ in range(50):
        v = solve(v / v.norm())
    g = Stream(5, 0).normal(POISSON.dim, POISSON.dim).double() / (2.0 * math.sqrt(POISSON.dim)) * v.norm()

    def noisy(r: Tensor) -> Tensor:
        return solve(r) + noise * (g @ r)

    method = iterative_refinement(sweeps=4)
    steps, state, residuals = followed(method, known(POISSON, noisy), 1e-8, 150)
    krylov, _, falling = followed(flexible_krylov(sweeps=4, memory=300), known(POISSON, noisy))
    words = f"refinement {residuals[-1]:.1e} after {steps} steps ({method.verdict(state)})"
    print(f"\nnoise {noise}: {words}, FGMRES {falling[-1]:.1e} after {krylov}")
    assert all(after <= before * (1.0 + 1e-10) for before, after in pairwise(falling))
    result = refine(POISSON.matvec, POISSON.rhs, noisy, smoother="jacobi", sweeps=4, diagonal=POISSON.diagonal)
    print(f"refine: diverged {result.diverged}, {len(result.residuals) - 1} steps to {result.residuals[-1]:.1e}")
    assert result.diverged == (noise == 0.1)
    assert result.residuals[-1] < 1.0 if result.diverged else result.residuals[-1] <= 1e-8


def sketched(condition: float, seed: int = 0) -> tuple[LeastSquares, LeastSquares, Tensor]:
    """The problem, the defect of a sketch of 400 rows, and the sketch's R."""
    problem = ill_conditioned_least_squares(50, condition=condition, matrix_seed=seed)
    surrogate = sketched_solver(problem, seed=0, sketch=400)
    surrogate.fit(Stream(2, Purpose.TRAINING))
    return problem, linear_system_defect(problem, surrogate), surrogate.factor


def after(problem: LeastSquares, steps: int, form: str, depth: int = 4) -> Tensor:
    method = sirr(form=form, depth=depth)  # type: ignore[arg-type]
    state = method.start(problem, Stream(0, 0))
    for _ in range(steps):
        state = method.step(problem, state)
    return method.value(state)


def by_qr(problem: LeastSquares) -> Tensor:
    q, r = torch.linalg.qr(problem.matvec(torch.eye(problem.dim, dtype=torch.float64)))
    return torch.linalg.solve_triangular(r, (q.T @ problem.rhs)[:, None], upper=True)[:, 0]


def by_lsqr(problem: LeastSquares, factor: Tensor) -> Tensor:
    """Sketch and precondition: LSQR on A R^-1 from 0."""

    def back(v: Tensor, *, transposed: bool) -> Tensor:
        triangle = factor.T if transposed else factor
        return torch.linalg.solve_triangular(triangle, v[:, None], upper=not transposed)[:, 0]

    operator = LinearOperator(
        (problem.rows, problem.dim),
        matvec=lambda v: problem.matvec(back(torch.from_numpy(v), transposed=False)).numpy(),
        rmatvec=lambda v: back(problem.rmatvec(torch.from_numpy(v)), transposed=True).numpy(),
        dtype=float,
    )
    return back(torch.from_numpy(lsqr(operator, problem.rhs.numpy(), atol=0.0, btol=0.0, iter_lim=100)[0]), transposed=False)


def test_recursive_refinement_of_least_squares_is_backward_stable() -> None:
    rows = []
    for seed in range(3):
        problem, error, factor = sketched(1e6, seed)
        found = after(error, 10, "recursive"), after(error, 60, "momentum"), by_lsqr(problem, factor), by_qr(problem)
        rows.append([backward_error(problem, x) for x in found])
    recursive, momentum, preconditioned, qr = np.median(rows, axis=0)
    print(
        f"\nbackward errors, condition 1e6: SIRR {recursive:.1e}, momentum {momentum:.1e}, LSQR {preconditioned:.1e}, QR {qr:.1e}"
    )
    assert recursive <= 1e-16 and preconditioned >= 100.0 * recursive


@pytest.mark.parametrize(("form", "theory"), [("momentum", 0.3536), ("damped", 0.6285)])
def test_refinement_of_least_squares_contracts_as_the_sketch_says(form: str, theory: float) -> None:
    problem, error, _ = sketched(10.0)
    method = sirr(form="momentum") if form == "momentum" else sirr(depth=0)
    state, errors = method.start(error, Stream(0, 0)), []
    assert problem.solution is not None
    steps = 22 if form == "momentum" else 40
    for _ in range(steps):
        state = method.step(error, state)
        errors.append(float((problem.matvec(method.value(state) - problem.solution)).norm()))
    factor = (errors[-1] / errors[1]) ** (1.0 / (steps - 2))
    print(f"\n{form}: contracts by {factor:.4f} a step, theory {theory}")
    assert abs(factor - theory) <= 0.05 * theory if form == "momentum" else factor <= theory


def test_at_condition_1e10_refinement_is_not_as_stable_as_qr() -> None:
    problem, error, _ = sketched(1e10)
    found = after(error, 10, "recursive"), after(error, 60, "momentum"), by_qr(problem)
    recursive, momentum, qr = (backward_error(problem, x) for x in found)
    print(f"\nbackward errors, condition 1e10: SIRR {recursive:.1e}, momentum {momentum:.1e}, QR {qr:.1e}")
    assert qr < 1e-15 < 1e-11 and max(recursive, momentum) < 1e-9


def test_the_planted_fault_of_a_stale_residual_costs_the_stability() -> None:
    """Residuals formed as (b - A x^) - A e keep the rounding of A x^: the backward error is then that of QR or worse."""
    problem, error, _ = sketched(1e6)
    assert error.known is not None
    stale = replace(error, known=replace(error.known, rhs=error.rhs, solution=torch.zeros_like(error.known.solution)))
    fresh = backward_error(problem, after(error, 10, "recursive"))
    planted = backward_error(problem, error.known.solution + after(stale, 10, "recursive"))
    print(f"\nbackward error {fresh:.1e}, with stale residuals {planted:.1e}")
    assert planted > 3.0 * fresh
