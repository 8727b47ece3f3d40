"""Closed forms of a profile's Hessian against automatic differentiation, along every kind of directions."""

import dataclasses

import pytest
import torch
from oracles import EQUATIONS, equation

from kernels.contracts import SemilinearPDE
from kernels.streams import Stream
from kernels.surrogates import _ansatz, gaussian_process, mlp
from kernels.surrogates._ansatz import AUTODIFF_FLOP, curvature_by_autodiff, profile_laplacian

FORMS = [name for name in EQUATIONS if equation(name, 4).hessian_form is not None]


def directions_of(kind: str, x: torch.Tensor) -> torch.Tensor | None:
    noise = Stream(5, 1)
    if kind == "coordinates":
        return None
    return noise.normal(*x.shape).double() if kind == "scaled" else noise.normal(len(x), 3, x.shape[1]).double()


def far_apart(problem: SemilinearPDE, kind: str, factor: float = 1.0) -> float:
    """Largest relative difference of value, gradient and curvature; ``factor`` plants an error in the closed curvature."""
    t, x = problem.sample_points(7, Stream(5, 0))
    t, x = t.double(), x.double()
    directions = directions_of(kind, x)
    ours = profile_laplacian(problem, t, x, directions)
    by_autodiff = profile_laplacian(dataclasses.replace(problem, profile_jet=None, hessian_form=None), t, x, directions)
    ours = dataclasses.replace(ours, laplacian=factor * ours.laplacian)
    pairs = zip(vars(ours).values(), vars(by_autodiff).values(), strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item() for a, b in pairs)


def test_there_are_closed_forms() -> None:
    assert {"black_scholes", "default_risk", "different_rates"} <= set(FORMS)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("kind", ["coordinates", "scaled", "explicit"])
@pytest.mark.parametrize("dim", [2, 6])
def test_a_hessian_form_is_the_hessian(name: str, kind: str, dim: int) -> None:
    problem = equation(name, dim)
    assert far_apart(problem, kind) < 1e-9
    assert far_apart(problem, kind, factor=1.001) > 1e-4


@pytest.mark.parametrize("kind", ["coordinates", "scaled", "explicit"])
@pytest.mark.parametrize("rows", [1, 20, 4096])
def test_curvature_by_autodiff_is_that_of_the_full_hessian(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ansatz, "STREAM_ROWS", rows)
    x = Stream(5, 0).normal(9, 4).double()
    directions = directions_of(kind, x)

    t = x[:, 3].contiguous()

    def function(time: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return torch.sin(time * at[..., 0] * at[..., 1]) + at.square().sum(-1) * at[..., 2]

    pairs = zip(t, x, strict=True)
    hessian = torch.stack([torch.autograd.functional.hessian(lambda at, s=s: function(s, at), row) for s, row in pairs])
    along = torch.eye(4).double().expand(9, -1, -1) if directions is None else directions
    if kind == "scaled":
        along = along.diag_embed()
    expected = torch.einsum("nki,nij,nkj->n", along, hessian, along)
    torch.testing.assert_close(curvature_by_autodiff(function, t, x, directions), expected)
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    for linear in (lambda t, at: at.sum(-1), lambda t, at: at @ weight):
        assert not curvature_by_autodiff(linear, t, x, directions).any()


def test_a_laplacian_of_g_without_closed_form_is_booked() -> None:
    closed = equation("viscous_burgers", 6)
    by_hand = dataclasses.replace(closed, profile_jet=None)
    for probes, directions in ((None, 6), (2, 2)):
        own, other = (mlp(problem, seed=0, width=8, depth=2).flop(probes) for problem in (by_hand, closed))
        assert own[0] == other[0] and own[1] - other[1] == directions * 6 * AUTODIFF_FLOP
    # A kernel's Laplacian costs no directions and is always taken whole.
    own, other = (gaussian_process(problem, seed=0, points=10).flop(2) for problem in (by_hand, closed))
    assert own[0] == other[0] and own[1] - other[1] == 6 * 6 * AUTODIFF_FLOP


@pytest.mark.parametrize(("kind", "each"), [("coordinates", 4), ("explicit", 3)])
def test_a_laplacian_of_g_takes_the_directions_of_the_path_and_no_more(kind: str, each: int) -> None:
    """One row for the gradient and one a direction, as booked."""
    rows = []

    def terminal(x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return x.square().sum(-1)

    problem = dataclasses.replace(equation("viscous_burgers", 4), terminal=terminal, profile_jet=None)
    x = Stream(5, 0).normal(9, 4).double()
    profile_laplacian(problem, torch.zeros_like(x[:, 0]), x, directions_of(kind, x))
    assert sum(rows) == 9 * (1 + each)
