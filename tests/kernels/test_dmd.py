"""Online dynamic mode decomposition and operator tracking: batch is the fixed point, and feedback follows what moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from streamed import GramDMD, MemoryOnly, batch_dmd, error, gap

from kernels.contracts import FixedPoint, KnownModes
from kernels.defect import snapshots_defect
from kernels.dmd import OnlineDMD, batch_basis, feedback, window_weights
from kernels.dynamics import oscillating_modes, rotating_operator
from kernels.estimators import online_dmd, operator_tracking
from kernels.streams import Purpose, Stream
from kernels.surrogates import initial_eigenvectors, initial_modes

WAVES = oscillating_modes(60, pairs=2, steps=80)
TURNING = rotating_operator(40, rank=4, steps=40)


def fitted(surrogate: Any) -> Any:
    surrogate.fit(Stream(1, Purpose.TRAINING))
    return surrogate


def window_of(problem: Any, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*map(problem.pair, range(first, first + count)), strict=True)
    return torch.stack(x), torch.stack(y)


CASES: dict[str, Any] = {
    "dmd": (online_dmd(rank=4, window=20, forgetting=0.95), WAVES, lambda: initial_modes(WAVES, seed=0, rank=4, window=20)),
    "tracking": (operator_tracking(rank=4), TURNING, lambda: initial_eigenvectors(TURNING, seed=0, rank=4)),
    "closed form": (operator_tracking(rank=4, ritz=False), TURNING, lambda: initial_eigenvectors(TURNING, seed=0, rank=4)),
}
every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_a_correction_resumes_bit_by_bit_and_ends_with_its_stream(name: str) -> None:
    method, problem, make = CASES[name]
    at = snapshots_defect(problem, fitted(make()))
    assert isinstance(method, FixedPoint) and method.flop(at) > 0.0
    state = method.start(at, Stream(0, 0))
    kept = {key: part.clone() for key, part in state.items()}
    first = method.step(at, state)
    assert all(state[key].equal(part) for key, part in kept.items())
    assert all(part.dtype == torch.float64 for part in first.values())
    second = method.step(at, {key: part.clone() for key, part in first.items()})
    assert method.value(second).equal(method.value(method.step(at, first)))
    assert not method.value(second).equal(method.value(first))
    for _ in range(problem.steps):
        first = method.step(at, first)
    assert method.step(at, first) is first
    assert method.residual(at, first).shape[0] in (1, 4) and float(method.residual(at, first).max()) < 0.1


@every_case
def test_a_surrogate_keeps_all_it_learned_in_its_buffers(name: str) -> None:
    _, _, make = CASES[name]
    first, second = fitted(make()), make()
    second.load_state_dict(first.state_dict())
    row = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    assert second.plug_in(*row).equal(first.plug_in(*row)) and second.basis().equal(first.basis())
    assert all(cost > 0.0 for cost in first.fit_cost())
    losses = first.fit(Stream(1, Purpose.TRAINING))
    assert losses and losses[-1] < 0.1


def test_the_waves_have_the_eigenvalues_that_they_say() -> None:
    """Without noise a rank-4 fit of two successive windows is exact; with drift the truth is the frequency at the time."""
    clean = oscillating_modes(60, pairs=2, noise=0.0)
    x, y = window_of(clean, 7, 12)
    assert error(batch_dmd(x, y, torch.ones(12, dtype=torch.float64), 4), clean, 7) < 1e-12
    moving = oscillating_modes(60, pairs=2, noise=0.0, drift=1e-3)
    assert moving.eigenvalues is not None
    x, y = window_of(moving, 50, 5)
    found = batch_dmd(x, y, torch.ones(5, dtype=torch.float64), 4)
    assert error(found, moving, 52) < 2e-2 < 0.5 * error(found, moving, 0)


def test_a_window_that_stands_still_is_taken_to_batch_dmd_from_any_basis() -> None:
    x, _ = window_of(WAVES, 0, 30)
    weights = window_weights(30, 29, 0.9)
    basis = torch.linalg.qr(Stream(4, 0).normal(60, 4).double())[0]
    for _ in range(40):
        basis = feedback(x, weights, basis)
    truth = batch_basis(x, weights, 4)
    assert gap(truth, basis) < 1e-12
    assert gap(truth, feedback(x, weights, truth)) < 1e-13


def test_weights_fall_with_age_and_empty_rows_have_none() -> None:
    assert window_weights(4, 5, 0.5).tolist() == [0.5, 1.0, 0.125, 0.25]
    assert window_weights(4, 1, 0.5).tolist() == [0.5, 1.0, 0.0, 0.0]


def test_the_estimator_and_the_class_are_one_method() -> None:
    method, problem, make = CASES["dmd"]
    at = snapshots_defect(problem, fitted(make()))
    state, dmd = method.start(at, Stream(0, 0)), OnlineDMD(4, 20, 0.95)
    for k in range(20):
        dmd.update(*problem.pair(k))
    dmd._basis = state["basis"]
    for k in range(20, 50):
        state = method.step(at, state)
        dmd.update(*problem.pair(k))
    assert torch.cat((dmd.eigs.real, dmd.eigs.imag)).equal(method.value(state))


def test_feedback_is_as_good_as_batch_and_as_the_gram_matrix() -> None:
    dmd = OnlineDMD(4, 20, 0.95)
    gram: GramDMD | None = None
    for k in range(WAVES.steps):
        pair, weights = WAVES.pair(k), window_weights(20, k, 0.95)
        dmd.update(*pair)
        if k == 19:
            gram = GramDMD(4, dmd._x, dmd._y)
        elif gram is not None:
            from_gram = gram.update(k % 20, *pair, weights)
    batch = batch_dmd(dmd._x, dmd._y, weights, 4)
    torch.testing.assert_close(from_gram, batch, rtol=0.0, atol=1e-10)
    assert error(dmd.eigs, WAVES, 79) <= 1.05 * error(batch, WAVES, 79)


def test_modes_are_eigenvectors_of_the_fitted_map() -> None:
    clean = oscillating_modes(60, pairs=2, noise=0.0)
    dmd = OnlineDMD(4, 20)
    for k in range(30):
        dmd.update(*clean.pair(k))
    values = torch.linalg.eigvals(dmd.operator)
    coefficients = torch.linalg.lstsq(dmd.modes, clean.pair(40)[0].to(torch.complex128)[:, None]).solution
    nxt = dmd.modes @ (values[:, None] * coefficients)
    torch.testing.assert_close(nxt[:, 0].real, clean.pair(40)[1], rtol=0.0, atol=1e-10)


def test_a_rotating_mode_is_lost_by_a_memory_of_its_rank_and_kept_by_the_window() -> None:
    turning = oscillating_modes(200, pairs=2, rotation=4e-3, steps=200)
    dmd, memory = OnlineDMD(4, 50, 0.96), None
    for k in range(turning.steps):
        pair = turning.pair(k)
        dmd.update(*pair)
        if k == 3:
            memory = MemoryOnly(4, 0.96, dmd._basis)
        if memory is not None:
            remembered = memory.update(*pair)
    assert error(remembered, turning, 199) > 5.0 * error(dmd.eigs, turning, 199)


def test_the_operator_turns_and_its_leading_pairs_are_those_it_says() -> None:
    matrix = TURNING.matvec(17, torch.eye(40, dtype=torch.float64))
    assert TURNING.eigenvalues is not None and TURNING.vectors is not None
    torch.testing.assert_close(matrix, matrix.T, rtol=0.0, atol=1e-14)
    values, vectors = torch.linalg.eigh(matrix)
    torch.testing.assert_close(values.flip(0)[:4], TURNING.eigenvalues(17), rtol=0.0, atol=1e-13)
    assert gap(TURNING.vectors(17), vectors[:, -4:]) < 1e-12
    assert gap(TURNING.vectors(17), TURNING.vectors(0)) == pytest.approx(np.sin(0.017), rel=0.3)


@pytest.mark.parametrize(("ritz", "slope"), [(True, 2.0), (False, 2.0)])
def test_tracking_errors_are_of_the_second_order_in_the_speed(ritz: bool, slope: float) -> None:
    errors, angles = [], []
    for speed in (1e-3, 4e-3):
        problem = rotating_operator(40, rank=4, speed=speed, steps=40)
        at = snapshots_defect(problem, fitted(initial_eigenvectors(problem, seed=0, rank=4)))
        method = operator_tracking(rank=4, ritz=ritz)
        state = method.start(at, Stream(0, 0))
        for _ in range(39):
            state = method.step(at, state)
        assert problem.eigenvalues is not None and problem.vectors is not None
        errors.append(float((method.value(state) - problem.eigenvalues(39)).abs().max()))
        angles.append(gap(problem.vectors(39), state["basis"]))
    assert np.log(errors[1] / errors[0]) / np.log(4.0) == pytest.approx(slope, abs=0.15)
    assert np.log(angles[1] / angles[0]) / np.log(4.0) == pytest.approx(1.0, abs=0.1)


def test_an_operator_that_stands_still_is_a_fixed_point_of_tracking_and_attracts() -> None:
    still = rotating_operator(40, rank=4, speed=0.0, steps=100)
    method = operator_tracking(rank=4)
    state = method.start(still, Stream(3, 0))
    for _ in range(99):
        state = method.step(still, state)
    assert still.vectors is not None
    assert gap(still.vectors(0), state["basis"]) < 1e-12 and float(method.residual(still, state).max()) < 1e-12


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("window = 3: shorter than rank = 4", lambda: online_dmd(rank=4, window=3)),
        ("rank = 0", lambda: OnlineDMD(0, 3)),
        ("forgetting = 1.5", lambda: online_dmd(forgetting=1.5)),
        ("0 pairs seen", lambda: OnlineDMD(2, 3).eigs),
        ("two float64 vectors", lambda: OnlineDMD(2, 3).update(torch.zeros(3), torch.zeros(3))),
        (
            "keeps its dimension",
            lambda: OnlineDMD(2, 3).update(*WAVES.pair(0)).update(WAVES.pair(0)[0][:9], WAVES.pair(0)[1][:9]),
        ),
        ("has 80 steps; take a shorter window", lambda: online_dmd().start(WAVES, Stream(0))),
        ("give both the same rank", lambda: online_dmd(rank=5, window=20).start(waves(), Stream(0))),
        ("give both the same rank", lambda: operator_tracking(rank=5).start(turning_defect(), Stream(0))),
        ("at most that many modes", lambda: operator_tracking(rank=41).start(TURNING, Stream(0))),
        ("rank = 0", lambda: operator_tracking(rank=0)),
        ("take no more", lambda: initial_modes(WAVES, seed=0, rank=8, window=100)),
        ("rank = 41", lambda: initial_eigenvectors(TURNING, seed=0, rank=41)),
        ("iterations = 0", lambda: initial_eigenvectors(TURNING, seed=0, rank=4, iterations=0)),
        (
            "a surrogate of the same stream",
            lambda: snapshots_defect(oscillating_modes(32), initial_modes(WAVES, seed=0, window=20)),
        ),
        ("not orthonormal", lambda: KnownModes(basis=torch.ones(4, 2, dtype=torch.float64), first=0)),
        ("steps = 0", lambda: replace(WAVES, steps=0)),
        ("steps = 0", lambda: replace(TURNING, steps=0)),
        ("pairs = 4: from 1 to dim/4 = 2", lambda: oscillating_modes(8)),
        ("noise = -1.0", lambda: oscillating_modes(16, noise=-1.0)),
        ("dim = 7", lambda: rotating_operator(7)),
        ("rank = 10", lambda: rotating_operator(8)),
        ("tail = 1.0", lambda: rotating_operator(40, tail=1.0)),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_value(words: str, make: Any) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def waves() -> Any:
    return snapshots_defect(WAVES, fitted(initial_modes(WAVES, seed=0, rank=4, window=20)))


def turning_defect() -> Any:
    return snapshots_defect(TURNING, fitted(initial_eigenvectors(TURNING, seed=0, rank=4)))
