"""Optimizers that look at their batch more than once: Jacobians, secant equations and line searches against what defines them."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from descent import Quadratic, step
from oracles import equation, factory
from torch import Tensor

from kernels import forward_laplacian
from kernels.contracts import Batch
from kernels.objectives.path import path
from kernels.objectives.residual import residual
from kernels.optimizers import _jacobian
from kernels.optimizers._jacobian import jacobian
from kernels.optimizers.ssbroyden import updated
from kernels.streams import Stream
from kernels.surrogates.mlp import mlp
from pipeline.search import batch_of


def on_a_batch(objective: Any, parts: Any) -> Batch:
    return batch_of(objective, "residuals", lambda part, of: parts, 0.0, lambda: 0.0)


@pytest.mark.parametrize("drift", [0.0, 0.5])
@pytest.mark.parametrize("make", [residual, path])
@pytest.mark.parametrize("name", ["viscous_burgers", "lqg"])
def test_a_jacobian_is_that_of_one_residual_after_the_other(name: str, make: Any, drift: float) -> None:
    """Of problems whose profile torch can and cannot map over, and of paths that drift, which it cannot."""
    problem = equation(name, 3)
    objective = make(problem, mlp(problem, seed=0, width=8, depth=2).double(), drift=drift)
    parts = [part.double() for part in objective.sample(10, Stream(3, 0))]
    parameters = list(objective.parameters())
    r, slopes = jacobian(on_a_batch(objective, parts), parameters)
    by_hand = objective.residuals(*parts)
    torch.testing.assert_close(r, by_hand.detach())
    for row in (0, len(r) // 2, len(r) - 1):
        literal = torch.autograd.grad(by_hand[row], parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        for slope, part in zip(slopes, literal, strict=True):
            torch.testing.assert_close(slope[row], part.flatten())


@pytest.mark.parametrize("name", ["residual_network", "modified_mlp", "pirate_net", "windowed_network"])
def test_jacobians_go_through_layers_with_a_backward_of_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_laplacian, "WIDE", 1)
    problem = equation("viscous_burgers", 3)
    objective = residual(problem, factory("surrogates", name)(problem, seed=0, width=8).double())
    parts = [part.double() for part in objective.sample(3, Stream(3, 0))]
    parameters = list(objective.parameters())
    _, slopes = jacobian(on_a_batch(objective, parts), parameters)
    literal = torch.autograd.grad(objective.residuals(*parts)[1], parameters, allow_unused=True, materialize_grads=True)
    for slope, part in zip(slopes, literal, strict=True):
        torch.testing.assert_close(slope[1], part.flatten())


def test_both_ways_to_a_jacobian_are_taken_and_other_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for way in ("_mapped", "_grouped"):
        inner = getattr(_jacobian, way)
        monkeypatch.setattr(_jacobian, way, lambda *given, way=way, inner=inner: taken.append(way) or inner(*given))
    for name in ("viscous_burgers", "lqg"):
        objective = residual(problem := equation(name, 3), mlp(problem, seed=0, width=8, depth=2))
        jacobian(on_a_batch(objective, objective.sample(10, Stream(3, 0))), list(objective.parameters()))
    assert taken == ["_mapped", "_mapped", "_grouped"]
    weight = torch.nn.Parameter(torch.ones(3))
    wrong = Batch(0.0, lambda: 0.0, [torch.ones(4, 2)], lambda parameters, x: x @ parameters[0])
    with pytest.raises(RuntimeError, match="size"):
        jacobian(wrong, [weight])


class Linear(torch.nn.Module):
    """r = A w - b, fewer rows than weights."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = torch.nn.Parameter(torch.zeros(9, dtype=torch.float64))
        self.a, self.b = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((6, 9), (6,)))
        self.rows = (torch.arange(6),)

    def residuals(self, rows: Tensor) -> Tensor:
        return self.a[rows] @ self.w - self.b[rows]

    def forward(self, rows: Tensor) -> Tensor:
        return self.residuals(rows).square().mean()


def test_a_full_step_of_spring_solves_a_linear_problem_and_stays_in_the_span_of_its_rows() -> None:
    objective = Linear()
    optimizer = factory("optimizers", "spring")([objective.w], learning_rate=1.0, momentum=0.0, damping=1e-12)
    step(optimizer, objective, objective.rows)
    torch.testing.assert_close(objective.w.detach(), torch.linalg.pinv(objective.a) @ objective.b)


def test_two_steps_of_spring_are_those_of_the_formula() -> None:
    """phi <- m phi + J^T (J J^T + lambda)^-1 (r - m J phi), J and r over the root of the rows."""
    objective = Linear()
    optimizer = factory("optimizers", "spring")([objective.w], learning_rate=0.3, momentum=0.7, damping=0.1)
    w, phi = torch.zeros(9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    j = objective.a / 6**0.5
    for _ in range(3):
        step(optimizer, objective, objective.rows)
        r = (objective.a @ w - objective.b) / 6**0.5
        kernel = j @ j.T + 0.1 * (j @ j.T).diagonal().mean() * torch.eye(6)
        phi = 0.7 * phi + j.T @ torch.linalg.solve(kernel, r - 0.7 * j @ phi)
        w = w - 0.3 * phi
        torch.testing.assert_close(objective.w.detach(), w)


def test_an_inverse_hessian_meets_the_secant_equation_and_stays_positive() -> None:
    """One update of random matrices by random pairs whose curvature is at least a tenth of the matrix's, as a strong Wolfe step
    with c2 = 0.9 leaves it; some grow and some shrink."""
    generator = torch.Generator().manual_seed(1)
    larger = []
    for _ in range(100):
        s, y, factor = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((6,), (6,), (6, 6)))
        y = y if y @ s > 0.0 else -y
        before = factor @ factor.T + 0.1 * torch.eye(6)
        forward = float(s @ torch.linalg.solve(before, s))
        if y @ s < 0.1 * forward:
            continue
        after = updated(before.clone(), s, y, forward)
        torch.testing.assert_close(after @ y, s, rtol=1e-6, atol=1e-8)
        assert torch.linalg.eigvalsh(0.5 * (after + after.T))[0] > 0.0
        larger.append(bool(after.trace() > before.trace()))
    assert len(larger) > 40 and 5 < sum(larger) < len(larger) - 5


def literal_update(b: Any, s: Any, y: Any) -> Any:
    """The Hessian's own update by the paper's equations, in numpy: tau (B - B s s^T B/s.Bs + theta s.Bs w w^T) + y y^T/y.s,
    w = y/y.s - B s/s.Bs (arXiv 2405.04230, equations 13 to 23; Al-Baali and Khalfan)."""
    n, bs, ys = len(s), b @ s, y @ s
    b_k, h_k = s @ bs / ys, y @ np.linalg.solve(b, y) / ys
    a_k = b_k * h_k - 1.0
    c_k = np.sqrt(a_k / (1.0 + a_k))
    rho_minus = min(1.0, h_k * (1.0 - c_k))
    theta_minus, theta_plus = (rho_minus - 1.0) / a_k, 1.0 / rho_minus
    theta = max(theta_minus, min(theta_plus, (1.0 - b_k) / b_k))
    sigma = 1.0 + theta * a_k
    rho = min(1.0, 1.0 / b_k)
    mean = sigma ** (-1.0 / (n - 1))
    tau = rho * min(mean, 1.0 / theta) if theta > 0.0 else min(rho * mean, sigma)
    w = y / ys - bs / (s @ bs)
    return tau * (b - np.outer(bs, bs) / (s @ bs) + theta * (s @ bs) * np.outer(w, w)) + np.outer(y, y) / ys


def test_the_update_of_the_inverse_is_the_inverse_of_the_hessians() -> None:
    """Three updates in a row, theta on both sides of 0; the oracle never sees an inverse update. Planted: with BFGS's theta = 0
    the two differ by more than a tenth."""
    generator = torch.Generator().manual_seed(2)
    positive, told = 0, []
    for _ in range(40):
        factor = torch.randn(7, 7, generator=generator, dtype=torch.float64)
        inverse = factor @ factor.T + 0.3 * torch.eye(7, dtype=torch.float64)
        hessian = np.linalg.inv(inverse.numpy())
        for _ in range(3):
            s, y = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(2))
            y = y + 1.5 * torch.from_numpy(hessian) @ s
            forward = float(s @ torch.from_numpy(hessian) @ s)
            if y @ s < 0.1 * forward:
                continue
            bfgs = inverse.clone()
            rho = 1.0 / float(y @ s)
            left = torch.eye(7, dtype=torch.float64) - rho * torch.outer(s, y)
            bfgs = left @ bfgs @ left.T + rho * torch.outer(s, s)
            hessian = literal_update(hessian, s.numpy(), y.numpy())
            updated(inverse, s, y, forward)
            torch.testing.assert_close(inverse, torch.from_numpy(np.linalg.inv(hessian)), rtol=1e-6, atol=1e-8)
            told.append(float((bfgs - inverse).norm() / inverse.norm()))
            positive += forward < float(y @ s)
    assert len(told) > 60 and 10 < positive < len(told) - 10 and float(np.median(told)) > 0.1


@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_the_length_of_a_step_in_the_inverse_hessian_is_known_at_any_rate(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    room, seen = importlib.import_module("kernels.optimizers.ssbroyden"), []

    def spied(inverse: Tensor, s: Tensor, y: Tensor, forward: float) -> Tensor:
        seen.append(forward / float(s @ torch.linalg.solve(inverse, s)))
        return updated(inverse, s, y, forward)

    monkeypatch.setattr(room, "updated", spied)
    objective = Quadratic(torch.zeros(6, dtype=torch.float64))
    step(room.ssbroyden(objective.parameters(), learning_rate=rate, iterations=5), objective, objective.entries)
    assert len(seen) > 3 and seen == pytest.approx([1.0] * len(seen), rel=1e-6)


def test_an_update_without_scaling_is_that_of_bfgs() -> None:
    """Where y = H^-1 s already, every member of the family leaves H alone."""
    inverse = torch.diag(torch.logspace(-1, 1, 4, dtype=torch.float64))
    s = torch.ones(4, dtype=torch.float64)
    y = torch.linalg.solve(inverse, s)
    torch.testing.assert_close(updated(inverse.clone(), s, y, float(s @ y)), inverse, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["lbfgs", "ssbroyden"])
def test_a_search_finds_the_minimum_of_a_quadratic_in_fewer_evaluations_than_a_descent_needs(name: str) -> None:
    objective = Quadratic(torch.zeros(6, 4, dtype=torch.float64))
    optimizer = factory("optimizers", name)(objective.parameters())
    evaluations = sum(step(optimizer, objective, objective.entries)[1] for _ in range(12))
    assert objective(*objective.entries) < 1e-8 and evaluations < 150


@pytest.mark.parametrize("name", ["lbfgs", "ssbroyden"])
def test_differences_of_gradients_are_of_one_batch(name: str) -> None:
    """Two batches whose minima differ: with a pair across them the curvature would be wrong by orders of magnitude."""

    class Shifted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))

        def forward(self, shift: Tensor) -> Tensor:
            return (torch.logspace(-1, 1, 5, dtype=torch.float64) * (self.w - shift).square()).sum()

    objective = Shifted()
    optimizer = factory("optimizers", name)([objective.w], iterations=1 if name == "lbfgs" else 2)
    for n in range(40):
        step(optimizer, objective, [torch.full((5,), 1.0 + (-1.0) ** n, dtype=torch.float64)])
    state = optimizer.state[objective.w]
    curvature = torch.logspace(-1, 1, 5, dtype=torch.float64) * 2.0
    if name == "ssbroyden":
        torch.testing.assert_close(state["inverse"].diagonal(), 1.0 / curvature, rtol=0.3, atol=0.0)
    else:
        assert all(torch.allclose(y, curvature * s) for y, s in zip(state["old_dirs"], state["old_stps"], strict=True))
