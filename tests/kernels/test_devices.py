"""Everything follows its arguments to their device: on one that holds no numbers, where a tensor made elsewhere is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kernels.bounds import _walk, policy
from kernels.contracts import SemilinearPDE, Stream
from kernels.defect import defect
from kernels.equations import allen_cahn, black_scholes, default_risk, lqg, viscous_burgers
from kernels.estimators import feynman_kac, linearised, picard, quadrature_picard, telescoped
from kernels.gradients import bismut_elworthy_li, gradient_draws
from kernels.surrogates import _ansatz, mlp
from kernels.variance_reduction import antithetic, quasi

pytestmark = pytest.mark.unchecked

PROBLEMS = [lqg, allen_cahn, viscous_burgers, black_scholes, default_risk]
ESTIMATORS = [linearised, telescoped, picard, quadrature_picard, feynman_kac]
POINTS, DIM = 3, 4


@pytest.fixture(autouse=True)
def _without_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether any time is late is a number, and there are none: take both branches."""

    def met(problem: SemilinearPDE, t: torch.Tensor, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return torch.where(t > problem.horizon, _ansatz.profile(problem, t, x), p)

    monkeypatch.setattr(_ansatz, "_met", met)
    # A refusal that compares numbers.
    monkeypatch.setattr(_walk, "_require_steady", lambda *given: None)


def elsewhere(problem: SemilinearPDE, *, probes: int | None = 2) -> tuple[SemilinearPDE, torch.Tensor, torch.Tensor]:
    """A defect and points of it on the meta device."""
    surrogate = mlp(problem, seed=0, width=8, depth=2)
    assert isinstance(surrogate, nn.Module)
    t, x = problem.sample_points(POINTS, Stream(0, 0))
    return defect(problem, surrogate.to("meta"), probes=probes), t.to("meta"), x.to("meta")


@pytest.mark.parametrize(
    ("equation", "make", "coupled"),
    [
        *((equation, linearised, "none") for equation in PROBLEMS),
        *((lqg, make, "none") for make in ESTIMATORS),
        *((lqg, make, coupled) for make in (telescoped, feynman_kac) for coupled in ("antithetic", "quasi")),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_draws_are_where_the_points_are(equation: Callable[[int], SemilinearPDE], make: Callable[..., Any], coupled: str) -> None:
    problem, t, x = elsewhere(equation(DIM))
    inner = make(**({"levels": 2, "samples": 2} if "picard" in make.__name__ else {}))
    estimator = {"none": lambda e: e, "antithetic": antithetic, "quasi": lambda e: quasi(e, size=16)}[coupled](inner)
    for term in (*estimator.terms, *estimator.biases):
        if make is linearised and term == "time step":
            # How often a step is halved is a number; its walk is that of the base term.
            continue
        draws = estimator.sample(problem, t, x, term, 32, Stream(0, 1, device="meta"))
        assert draws.device.type == "meta" and draws.shape == (POINTS, 32)


@pytest.mark.parametrize("probes", [None, 2])
def test_bounds_and_gradients_are_too(probes: int | None) -> None:
    problem, t, x = elsewhere(lqg(DIM), probes=probes)
    for make in (policy,):
        bound = make()
        assert bound.sample(problem, t, x, bound.terms[0], 32, Stream(0, 1, device="meta")).device.type == "meta"
    estimator = bismut_elworthy_li()
    for term in (*estimator.terms, *estimator.biases):
        z = estimator.sample(problem, t, x, term, 32, Stream(0, 1, device="meta"))
        assert gradient_draws(problem.law, t, x, z).device.type == "meta"


def test_a_tensor_made_elsewhere_is_seen() -> None:
    with pytest.raises(RuntimeError):
        torch.zeros(3, device="meta") + torch.zeros(3)
