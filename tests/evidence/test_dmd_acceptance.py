"""First-order feedback against recomputation: a rotating operator, and windowed dynamic mode decomposition.

Rivals: batch SVD (Tu et al. 2014), an incremental Gram matrix, and a low-rank memory (Hemati et al. 2014).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from streamed import GramDMD, MemoryOnly, batch_dmd, error, gap

from kernels.contracts import OperatorStream
from kernels.defect import snapshots_defect
from kernels.dmd import OnlineDMD, batch_basis, window_weights
from kernels.dynamics import oscillating_modes, rotating_operator
from kernels.estimators import operator_tracking
from kernels.streams import Purpose, Stream
from kernels.surrogates import initial_eigenvectors

pytestmark = [pytest.mark.slow, pytest.mark.unchecked]

RANK, WINDOW = 8, 100


def tracked(problem: OperatorStream, *, ritz: bool = True) -> np.ndarray:
    """Mean angle and eigenvalue error over the last 60 steps: feedback, one warm subspace step, the first basis frozen."""
    assert problem.vectors is not None and problem.eigenvalues is not None
    surrogate = initial_eigenvectors(problem, seed=0, rank=10)
    surrogate.fit(Stream(1, Purpose.TRAINING))
    method, at = operator_tracking(rank=10, ritz=ritz), snapshots_defect(problem, surrogate)
    state = method.start(at, Stream(0, 0))
    warm, frozen, rows = surrogate.basis(), surrogate.basis(), []
    for k in range(1, problem.steps):
        state = method.step(at, state)
        warm = torch.linalg.qr(problem.matvec(k, warm))[0]
        if k >= problem.steps - 60:
            truth, exact = problem.vectors(k), problem.eigenvalues(k)
            ritz_values = [torch.linalg.eigvalsh(q.T @ problem.matvec(k, q)).flip(0) for q in (warm, frozen)]
            bases, values = (state["basis"], warm, frozen), (state["values"], *ritz_values)
            rows.append([gap(truth, q) for q in bases] + [float((v - exact).abs().max()) for v in values])
    return np.mean(rows, axis=0)


def test_feedback_follows_a_rotating_operator_to_first_order() -> None:
    speeds = (1e-3, 2e-3, 4e-3, 8e-3)
    found = np.array([tracked(rotating_operator(400, speed=speed)) for speed in speeds])
    closed = np.array([tracked(rotating_operator(400, speed=speed), ritz=False) for speed in speeds])
    slopes = [float(np.polyfit(np.log(speeds), np.log(column), 1)[0]) for column in (*found.T, closed[:, 3])]
    print(f"\nslopes in speed: angle {slopes[0]:.3f}, eigenvalues {slopes[3]:.3f} (closed form {slopes[6]:.3f})")
    print(f"at 1e-3: angle {found[0, 0]:.2e} warm step {found[0, 1]:.2e} frozen {found[0, 2]:.2e};", end=" ")
    print(f"eigenvalues {found[0, 3]:.2e} warm {found[0, 4]:.2e} frozen {found[0, 5]:.2e}, closed form {closed[0, 3]:.2e}")
    assert abs(slopes[0] - 1.0) <= 0.1 and abs(slopes[3] - 2.0) <= 0.15 and abs(slopes[6] - 2.0) <= 0.15
    assert found[0, 0] <= 3e-4 and found[0, 3] <= 3e-8
    assert found[:, 0] == pytest.approx(found[:, 1], rel=0.1)


@pytest.mark.parametrize(
    ("options", "ratio", "times_better"),
    [
        ({"noise": 1e-3}, 1.05, 1.0),
        ({"noise": 1e-2}, 1.05, 5.0),
        ({"noise": 1e-3, "drift": 1e-4}, 1.05, 1.0),
        ({"noise": 1e-3, "rotation": 4e-3}, 1.1, 10.0),
    ],
    ids=["quiet", "noisy", "drifting", "rotating"],
)
def test_feedback_is_as_good_as_batch_and_better_than_a_memory(
    options: dict[str, float], ratio: float, times_better: float
) -> None:
    problem, forgetting = oscillating_modes(2000, **options), 0.98  # type: ignore[arg-type]
    dmd, memory, rows, x, y = OnlineDMD(RANK, WINDOW, forgetting), None, [], None, None
    for k in range(problem.steps):
        pair = problem.pair(k)
        dmd.update(*pair)
        if k + 1 == RANK:
            memory = MemoryOnly(RANK, forgetting, dmd._basis)
        remembered = memory.update(*pair) if memory is not None else None
        if k >= 200 and k % 5 == 0:
            x, y, weights = dmd._x, dmd._y, window_weights(WINDOW, k, forgetting)
            batch = batch_dmd(x, y, weights, RANK)
            assert remembered is not None
            found = [error(v, problem, k) for v in (dmd.eigs, batch, remembered)]
            rows.append([*found, gap(batch_basis(x, weights, RANK), dmd._basis)])
    feedback, batch_error, memory_error, distance = np.mean(rows, axis=0)
    print(f"\n{options}: feedback {feedback:.2e}, batch {batch_error:.2e}, memory only {memory_error:.2e}, gap {distance:.1e}")
    assert feedback <= ratio * batch_error
    assert memory_error >= times_better * feedback
    if options == {"noise": 1e-3}:
        assert distance <= 1e-5


@pytest.mark.parametrize(("dim", "faster"), [(2000, 4.0), (20_000, 4.0)])
def test_an_update_is_cheaper_than_a_decomposition(dim: int, faster: float) -> None:
    """Medians over 8 alternations of 6 updates each, of the process's own time: a stream finds its window in the cache."""
    problem = oscillating_modes(dim, steps=200)
    dmd = OnlineDMD(RANK, WINDOW, 0.98)
    for k in range(WINDOW):
        dmd.update(*problem.pair(k))
    gram = GramDMD(RANK, dmd._x, dmd._y)
    times: dict[str, list[float]] = {"feedback": [], "gram": [], "batch": []}
    for first in range(WINDOW, WINDOW + 48, 6):
        steps = [(k, *problem.pair(k), window_weights(WINDOW, k, 0.98)) for k in range(first, first + 6)]
        runs: dict[str, Callable[..., object]] = {
            "feedback": lambda k, x, y, weights: dmd.update(x, y).eigs,
            "gram": lambda k, x, y, weights: gram.update(k % WINDOW, x, y, weights),
            "batch": lambda k, x, y, weights: batch_dmd(dmd._x, dmd._y, weights, RANK),
        }
        for name, run in runs.items():
            for step in steps:
                begin = time.thread_time()
                run(*step)
                times[name].append(time.thread_time() - begin)
    median = {name: 1e3 * float(np.median(values)) for name, values in times.items()}
    words = ", ".join(f"{name} {value:.2f} ms" for name, value in median.items())
    print(f"\nn = {dim}: {words}; batch/feedback {median['batch'] / median['feedback']:.1f}")
    assert median["batch"] >= faster * median["feedback"]


def test_without_forgetting_and_noise_the_eigenvalues_are_those_of_batch_dmd() -> None:
    problem = replace(oscillating_modes(400, noise=0.0), steps=150)
    dmd = OnlineDMD(RANK, 50)
    for k in range(problem.steps):
        dmd.update(*problem.pair(k))
    batch = batch_dmd(dmd._x, dmd._y, torch.ones(50, dtype=torch.float64), RANK)
    found = float((dmd.eigs - batch).abs().max()), error(dmd.eigs, problem, problem.steps)
    print(f"\nagainst batch DMD {found[0]:.1e}, against the truth {found[1]:.1e}")
    assert max(found) <= 1e-10
