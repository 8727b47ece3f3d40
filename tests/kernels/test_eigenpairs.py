"""Eigenpairs from a sketch: every eigenpair is a fixed point whatever the sketch, and the residual certifies it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from matrices import ROW, gaussians, haar, random_positive
from torch import Tensor

from kernels.contracts import Eigenproblem, FixedPoint, SpectralSketch, State
from kernels.contracts.operator import dense
from kernels.defect import corrections, eigen_residuals, eigenproblem_defect
from kernels.eigenpairs import epsi
from kernels.eigenproblems import spectrum_eigenpairs
from kernels.estimators import error_inverse_power
from kernels.matrices import decaying_spectrum
from kernels.streams import Stream
from kernels.surrogates import nystrom_sketch

DIM = 60
METHODS = {
    f"{shift}{' accelerated' if fast else ''}": error_inverse_power(shift=shift, accelerate=fast)
    for shift in ("safe", "rayleigh")
    for fast in (True, False)
}  # type: ignore[arg-type]
every_method = pytest.mark.parametrize("name", METHODS)


@dataclass(frozen=True)
class Sketch:
    """Any approximation of a matrix."""

    basis: Tensor
    values: Tensor
    scale: float = 1.0
    matvecs: int = 0


SKETCHES: dict[str, Sketch] = {
    "garbage": Sketch(haar(DIM, DIM, 5), gaussians(DIM, seed=6).square().sort(descending=True).values),
    "garbage of small rank": Sketch(haar(DIM, 7, 5), gaussians(7, seed=6).square().sort(descending=True).values),
    "nothing": Sketch(haar(DIM, 4), torch.zeros(4, dtype=torch.float64)),
}


def harmonic(pairs: int, dim: int = DIM) -> Eigenproblem:
    """Eigenvalues 1/i."""
    return spectrum_eigenpairs(dim, pairs=pairs, basis="haar")


def fitted(problem: Eigenproblem, rank: int, seed: int = 0, **options: Any) -> Any:
    sketch = nystrom_sketch(problem, seed=0, rank=rank, **options)
    sketch.fit(Stream(seed, 2))
    return sketch


def stepped(method: Any, problem: Eigenproblem, state: State, steps: int) -> State:
    for _ in range(steps):
        state = method.step(problem, state)
    return state


def angle(truth: Tensor, found: Tensor) -> float:
    """|u - projection of u on what was found|, the largest."""
    return float(torch.linalg.vector_norm(truth - found @ (found.T @ truth), dim=0).max())


def truth_of(problem: Eigenproblem) -> tuple[Tensor, Tensor]:
    assert problem.values is not None and problem.vectors is not None
    return problem.values, problem.vectors


def literal_sweep(a: Tensor, sketch: Tensor, vectors: Tensor, *, safe: bool, lazy: bool) -> Tensor:
    """The corrections one by one, with dense matrices and a dense solver."""
    identity, done, out = torch.eye(len(a), dtype=a.dtype), vectors[:, :0], []
    for j in range(vectors.shape[1]):
        u = vectors[:, j]
        value = u @ a @ u
        before = done if lazy else vectors[:, :j]
        away = identity - before @ before.T
        deflated = away @ sketch @ away
        shift = torch.maximum(value, 1.05 * torch.linalg.eigvalsh(deflated)[-1]) if safe else value
        z = torch.linalg.solve(shift * identity - deflated, value * u - a @ u)
        out.append(z)
        new = away @ (u - z)
        done = torch.cat((done, (new / new.norm())[:, None]), 1)
    return torch.stack(out, 1)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("lazy", [True, False])
def test_corrections_are_those_of_a_dense_solver(safe: bool, lazy: bool) -> None:
    a, sketch = random_positive(30), Sketch(haar(30, 8, 3), torch.linspace(0.9, 0.0, 8, dtype=torch.float64))
    vectors = haar(30, 4, 9)
    values = (vectors * (a @ vectors)).sum(0)
    residuals = eigen_residuals(vectors, a @ vectors, values)
    found = corrections(sketch.basis, sketch.values, residuals, values, vectors, safe=safe, lazy=lazy)
    dense_sketch = (sketch.basis * sketch.values) @ sketch.basis.T
    torch.testing.assert_close(found, literal_sweep(a, dense_sketch, vectors, safe=safe, lazy=lazy), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", ["garbage", "not symmetric", "nothing"])
def test_an_eigenvector_is_a_fixed_point_under_any_matrix_at_all(kind: str) -> None:
    a = random_positive(30)
    v = torch.linalg.eigh(a).eigenvectors[:, -1:]
    b = gaussians(30, 30, seed=4)
    sketch = {"garbage": b + b.T, "not symmetric": b, "nothing": 0.0 * b}[kind]
    assert literal_sweep(a, sketch, v, safe=False, lazy=True).abs().max() < 1e-12


@every_method
@pytest.mark.parametrize("sketch", SKETCHES)
def test_eigenpairs_stay_where_they_are_whatever_the_sketch(name: str, sketch: str) -> None:
    problem, method = harmonic(3), METHODS[name]
    values, vectors = truth_of(problem)
    state = method.begin(problem, SKETCHES[sketch], vectors)
    assert method.residual(problem, state).max() < 1e-13
    after = method.step(problem, state)
    assert angle(vectors, after["vectors"]) < 1e-12
    assert (method.value(after) - values).abs().max() < 1e-13


@every_method
def test_an_exact_sketch_is_not_corrected(name: str) -> None:
    """A of rank 6 and a sketch of 10 columns: the sketch's own eigenpairs are the matrix's to the shift of its factor."""
    v = haar(DIM, 6)
    a = (v * torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], dtype=torch.float64)) @ v.T
    problem = Eigenproblem(name="low", dim=DIM, pairs=3, matvec=lambda x: a @ x, cost=1.0)
    sketch, method = fitted(problem, 10), METHODS[name]
    torch.testing.assert_close(sketch.plug_in(*ROW), torch.tensor([6.0, 5.0, 4.0], dtype=torch.float64), rtol=1e-12, atol=0.0)
    state = method.start(eigenproblem_defect(problem, sketch), Stream(0, 3))
    after = method.step(problem, state)
    assert (method.value(after) - method.value(state)).abs().max() < 1e-13
    assert angle(v[:, :3], after["vectors"]) < 1e-12


@every_method
def test_a_sketch_that_knows_little_is_corrected_to_rounding(name: str) -> None:
    problem, method = harmonic(3, 200), METHODS[name]
    values, vectors = truth_of(problem)
    state = method.start(eigenproblem_defect(problem, fitted(problem, 15)), Stream(0, 3))
    first = angle(vectors, state["vectors"])
    after = stepped(method, problem, state, 14 if method.accelerate else 60)
    assert first > 1e-4 and angle(vectors, after["vectors"]) < 1e-8 * first
    assert (method.value(after) - values).abs().max() < 1e-14


def test_inverse_iteration_on_the_sketch_stops_at_its_error_and_the_correction_goes_on() -> None:
    problem = harmonic(1, 300)
    sketch, method = fitted(problem, 20), METHODS["safe"]
    _, vectors = truth_of(problem)
    floor = angle(vectors, sketch.basis[:, :1])
    assert floor > 1e-4
    assert (
        angle(vectors, stepped(method, problem, method.start(eigenproblem_defect(problem, sketch), Stream(0, 3)), 20)["vectors"])
        < 1e-13
    )


def test_the_error_falls_by_the_ratio_of_what_the_sketch_leaves_to_what_is_sought() -> None:
    """A^ exact to rank 10: lambda_11/lambda_1 = 1/11 a step, where the power method has 1/2."""
    problem = harmonic(1, 300)
    _, vectors = truth_of(problem)
    whole = spectrum_eigenpairs(300, pairs=10, basis="haar")
    sketch = Sketch(truth_of(whole)[1], truth_of(whole)[0], scale=0.9)
    nothing = Sketch(haar(300, 1), torch.zeros(1, dtype=torch.float64))
    for approximation, factor in ((sketch, 1.0 / 11.0), (nothing, 0.5)):
        error = haar(300, 1, 4)
        for _ in range(60):
            state = METHODS["safe"].begin(problem, approximation, vectors + 1e-4 * error)
            moved = METHODS["safe"].step(problem, state)["vectors"]
            error = moved - vectors @ (vectors.T @ moved)
            size, error = float(error.norm()) / 1e-4, error / error.norm()
        assert size == pytest.approx(factor, rel=0.01)


def test_the_spread_of_the_first_correction_is_linear_in_the_error_of_the_vectors() -> None:
    problem = harmonic(1, 100)
    _, vectors = truth_of(problem)
    sketch = fitted(problem, 10)
    moved = []
    for delta in (1e-2, 1e-4, 1e-6):
        start = METHODS["safe"].begin(problem, sketch, vectors + delta * haar(100, 1, 4))
        moved.append(angle(start["vectors"], METHODS["safe"].step(problem, start)["vectors"]))
    for wide, narrow in itertools.pairwise(moved):
        assert torch.log10(torch.tensor(wide / narrow)) / 2.0 == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("rank", [5, 20])
def test_the_first_rayleigh_quotient_is_nearer_than_the_eigenvalue_of_the_sketch(rank: int) -> None:
    problem = harmonic(1, 300)
    values, _ = truth_of(problem)
    sketch = fitted(problem, rank)
    state = METHODS["safe"].start(eigenproblem_defect(problem, sketch), Stream(0, 3))
    assert (sketch.plug_in(*ROW) - values).abs() > 5.0 * (state["values"] - values).abs()


def test_the_corrected_vector_of_a_krylov_sketch_stays_in_the_next_krylov_space() -> None:
    problem = harmonic(1, 300)
    krylov = gaussians(300, 1, seed=2)
    for _ in range(3):
        krylov = torch.linalg.qr(torch.cat((krylov, problem.matvec(krylov[:, -1:])), 1)).Q
    inner = krylov[:, :3]
    ritz = [torch.linalg.eigh(k.T @ problem.matvec(k)) for k in (inner, krylov)]
    sketch = Sketch(inner @ ritz[0].eigenvectors.flip(1), ritz[0].eigenvalues.flip(0))
    state = METHODS["safe"].step(problem, METHODS["safe"].begin(problem, sketch, sketch.basis[:, :1]))
    assert angle(state["vectors"], krylov) < 1e-12
    assert float(ritz[0].eigenvalues[-1]) < float(state["values"]) < float(ritz[1].eigenvalues[-1])


@every_method
def test_a_state_stopped_and_taken_up_again_has_the_same_bits(name: str) -> None:
    problem, method = harmonic(2), METHODS[name]
    assert isinstance(method, FixedPoint)
    state = method.start(eigenproblem_defect(problem, fitted(problem, 8)), Stream(0, 3))
    copied = {key: value.clone() for key, value in state.items()}
    whole = stepped(method, problem, state, 4)
    for key in state:
        assert state[key].equal(copied[key]), "a state was changed in place"
    halves = stepped(method, problem, {k: v.clone() for k, v in stepped(method, problem, copied, 2).items()}, 2)
    assert all(whole[key].equal(halves[key]) and whole[key].dtype == torch.float64 for key in whole)
    assert all(whole[key].shape == state[key].shape for key in state)


@every_method
def test_the_books_count_every_product(name: str) -> None:
    plain, seen = harmonic(3), 0

    def counted(columns: Tensor) -> Tensor:
        nonlocal seen
        seen += columns.shape[1]
        return plain.matvec(columns)

    problem, method = replace(plain, matvec=counted), METHODS[name]
    sketch = fitted(problem, 9, passes=3)
    assert seen == sketch.matvecs == 27
    state = stepped(method, problem, method.start(eigenproblem_defect(problem, sketch), Stream(0, 3)), 5)
    assert int(state["matvecs"]) == seen == 27 + 3 + 15
    method.residual(problem, state)
    assert seen == 45
    seen = 0
    assert epsi(problem, 3).n_matvec == seen
    assert method.flop(eigenproblem_defect(problem, sketch)) > method.flop(problem) > 3 * problem.cost


@every_method
def test_the_residual_is_of_the_matrix_itself_however_many_steps_were_made(name: str) -> None:
    problem, method = harmonic(3), METHODS[name]
    state = stepped(method, problem, method.start(eigenproblem_defect(problem, fitted(problem, 20)), Stream(0, 3)), 30)
    assert (problem.matvec(state["vectors"]) - state["images"]).abs().max() < 1e-14
    assert method.residual(problem, state).shape == (3,) and method.residual(problem, state).max() < 1e-13


def test_double_eigenvalues_do_not_stop_it() -> None:
    values = torch.cat((torch.ones(3, dtype=torch.float64), torch.linspace(0.8, 0.1, 57, dtype=torch.float64)))
    v = haar(DIM, DIM)
    found = epsi((v * values) @ v.T, 3, rank=12, tol=1e-12)
    assert found.history[-1] <= 1e-12 and angle(v[:, :3], found.vectors) < 1e-10


def test_a_sketch_goes_through_its_buffers() -> None:
    problem = harmonic(3)
    sketch, other = fitted(problem, 9), nystrom_sketch(problem, seed=1, rank=9)
    assert isinstance(sketch, SpectralSketch)
    other.load_state_dict(sketch.state_dict())
    assert other.plug_in(*ROW).equal(sketch.plug_in(*ROW)) and other.basis.equal(sketch.basis)
    assert len(sketch.fit(Stream(0, 2))) == sketch.passes and all(cost > 0.0 for cost in sketch.fit_cost())


def test_nystrom_is_its_definition() -> None:
    a = random_positive(30)
    problem = Eigenproblem(name="given", dim=30, pairs=2, matvec=lambda x: a @ x, cost=1.0)
    sketch = fitted(problem, 6, passes=2)
    test = torch.linalg.qr(a @ torch.linalg.qr(Stream(0, 2).normal(30, 6, dtype=torch.float64)).Q).Q
    image = a @ test
    expected = image @ torch.linalg.inv(test.T @ image) @ image.T
    torch.testing.assert_close((sketch.basis * sketch.values) @ sketch.basis.T, expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("accelerate", [True, False])
def test_a_matrix_a_function_and_a_problem_give_the_same_eigenpairs(accelerate: bool) -> None:
    problem = harmonic(4)
    values, vectors = truth_of(problem)
    a = problem.matvec(torch.eye(DIM, dtype=torch.float64))
    for matrix, n in (
        (a, None),
        (lambda x: a @ x, DIM),
        (problem, None),
        (replace(problem, pairs=1, values=None, vectors=None), None),
    ):
        found = epsi(matrix, 4, n=n, accelerate=accelerate, steps=200)  # type: ignore[arg-type]
        assert found.history[-1] <= 1e-12
        torch.testing.assert_close(found.values, values, rtol=0.0, atol=1e-13)
        assert angle(vectors, found.vectors) < 1e-10
    assert len(epsi(a, 4, steps=2, tol=0.0).history) == 3


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: harmonic(0), "pairs = 0"),
    (lambda: harmonic(DIM + 1), "pairs = 61"),
    (lambda: Eigenproblem.of(dense(random_positive(5)), 2), "not known to be positive"),
    (lambda: nystrom_sketch(harmonic(3), seed=0, rank=2), "rank = 2"),
    (lambda: nystrom_sketch(harmonic(3), seed=0, rank=61), "rank = 61"),
    (lambda: nystrom_sketch(harmonic(3), seed=0, passes=0), "passes = 0"),
    (lambda: nystrom_sketch(harmonic(3), seed=0, scale=1.0), "scale = 1.0.*not corrected"),
    (lambda: epsi(-random_positive(20), 2), "not positive semidefinite"),
    (lambda: epsi(gaussians(20, 20), 2), "not symmetric"),
    (lambda: epsi(lambda x: gaussians(20, 20) @ x, 2, n=20), "asymmetric"),
    (lambda: epsi(lambda x: x, 2), "dimension"),
    (lambda: epsi(random_positive(8), 3), "three vectors a pair"),
    (
        lambda: METHODS["safe"].begin(harmonic(1), Sketch(haar(DIM, 2), -torch.ones(2, dtype=torch.float64)), haar(DIM, 1)),
        "clamp",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_bad_input_is_refused_with_the_rule_and_the_remedy(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_spectrum_of_a_matrix_goes_with_its_eigenproblem() -> None:
    found = Eigenproblem.of(decaying_spectrum(40, spectrum="slowexp"), 3)
    values, vectors = truth_of(found)
    torch.testing.assert_close(values, torch.tensor([1.0, 0.9, 0.81], dtype=torch.float64))
    torch.testing.assert_close(found.matvec(vectors), vectors * values, rtol=0.0, atol=1e-14)
