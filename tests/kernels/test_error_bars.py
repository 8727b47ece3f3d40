"""Error bars that the estimators earn: spread between points, fresh probes for every path, biases that explain the miss."""

from __future__ import annotations

import math

import pytest
import torch
from estimates import Mean, estimate, sampled
from oracles import ESTIMATORS, OneFeature, equation, small
from torch import Tensor

from kernels.contracts import Jet
from kernels.defect import defect
from kernels.estimators.linearised import linearised
from kernels.estimators.picard import picard
from kernels.streams import Stream

pytestmark = pytest.mark.unchecked

PAIRS = [(name, term) for name in ESTIMATORS for term in (*small(name).terms, *small(name).biases)]


class SharedProbes(OneFeature):
    """The planted fault: the first path's probes serve all."""

    def jet(self, t: Tensor, x: Tensor, directions: Tensor | None) -> Jet:
        return super().jet(t, x, directions if directions is None else directions[:1].expand_as(directions))


def off_everywhere(t: Tensor, w: Tensor) -> Tensor:
    """The solution of viscous_burgers plus a wave that does not vanish at T; its Laplacian has probe noise."""
    return torch.sigmoid(t + w) + 0.1 * torch.sin(w + 1.0)


def one_place(copies: int) -> tuple[Tensor, Tensor]:
    return torch.full((copies,), 0.1, dtype=torch.float64), torch.full((copies, 4), 0.1, dtype=torch.float64)


def honesty(draws: Tensor) -> float:
    """Spread of the means of identical points over the standard error that they state."""
    found = Mean.of(draws)
    return (found.mean.std() / found.square.mean().sqrt()).item()


@pytest.mark.parametrize("probes", [None, 1], ids=["exact trace", "probed trace"])
@pytest.mark.parametrize(("name", "term"), PAIRS, ids=lambda part: part)
def test_the_means_of_identical_points_spread_by_the_error_they_state(name: str, term: str, probes: int | None) -> None:
    """800 copies of one point, 16 draws each: the ratio is 1 within 4 s.d. (10 %), wider where tails are heavy.

    False positives 6 in 10^5; sees 2 % of correlation between the draws of a point. Planted: every draw twice (1.44), one
    noise for all points (below 0.2).
    """
    problem = defect(equation("viscous_burgers", 4), OneFeature(off_everywhere, meets_terminal=False), probes=probes)
    draws = small(name).sample(problem, *one_place(800), term, 16, Stream(12, 1)).double()
    found = Mean.of(draws)
    # The s.d. of a variance of n draws is sqrt((kurtosis - 1)/n): of all draws, and 2/points of the means.
    kurtosis = ((draws - draws.mean()) ** 4).mean().item() / draws.var().item() ** 2
    within = 4.0 * 0.5 * math.sqrt(2.0 / 800 + kurtosis / (16.0 * 800))
    assert within < 0.3
    assert honesty(draws) == pytest.approx(1.0, abs=within)
    assert honesty(draws.repeat(1, 2)) > 1.0 + within
    assert honesty(found.mean[:1, None] + draws[:1] + 1e-3 * draws) < 0.2


@pytest.mark.parametrize(
    ("method", "term"), [(picard(levels=1, samples=1), "level 0"), (linearised(times=1), "linear")], ids=["picard", "linearised"]
)
def test_probes_shared_by_the_paths_of_a_batch_would_break_the_stated_error(method: object, term: str) -> None:
    """100 seeds of 64 draws at one point: fresh probes within 30 % (4 s.d., false positives 6 in 10^5), shared above twice."""
    problem = equation("viscous_burgers", 4, sigma=1.0)
    found = {}
    for kind in (OneFeature, SharedProbes):
        error = defect(problem, kind(off_everywhere, meets_terminal=False), probes=1)
        rows = [method.sample(error, *one_place(1), term, 64, Stream(13, seed)) for seed in range(100)]  # type: ignore[attr-defined]
        found[kind] = honesty(torch.cat(rows))
    assert found[OneFeature] == pytest.approx(1.0, abs=0.3)
    assert found[SharedProbes] > 2.0


def test_remainder_and_printed_bias_take_away_what_the_linear_part_of_a_poor_surrogate_misses() -> None:
    """Burgers with sigma = 1 and a surrogate 60 % off: half of the linear part's miss is gone at least.

    30000 draws; the miss is over 10 s.e., so half of it is seen. Planted: the remainder and the bias with the wrong sign.
    """
    problem = equation("viscous_burgers", 4, sigma=1.0)
    surrogate = OneFeature(lambda t, w: torch.sigmoid(t + w) + 1.2 * (problem.horizon - t) * torch.sin(0.5 * w + 1.0))
    (t, x), method = one_place(1), linearised(times=2)
    truth = torch.sigmoid(t + x.sum(-1)) - surrogate.value(t, x)
    error = defect(problem, surrogate)
    linear = Mean.of(sampled(method, error, t, x, "linear", 30_000, 7)) + Mean.of(
        sampled(method, error, t, x, "time step", 30_000, 7)
    )
    found = estimate(method, error, t, x, 30_000, 7)
    miss = (linear.mean - truth).abs()
    assert miss > 10.0 * linear.error
    assert (found.unbiased - truth).abs() < 0.5 * miss
    assert (2.0 * linear.mean - found.unbiased - truth).abs() > miss
