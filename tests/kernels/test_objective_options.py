"""Options of the objectives: random directions without bias, weights of bins of time, and a curriculum over the horizon."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracles import Formula, Zero, equation, factory, written
from torch import Tensor

from kernels.contracts import SemilinearPDE
from kernels.defect import defect
from kernels.defect import residual as pde_residual
from kernels.objectives._weighting import weighting_of
from kernels.objectives.path import path
from kernels.objectives.residual import ResidualLoss, residual
from kernels.streams import Stream
from kernels.surrogates.mlp import mlp

GROUPS, BATCH = 100, 256


class Squared(ResidualLoss):
    """The planted fault: the square of one residual along all the directions."""

    def forward(self, t: Tensor, x: Tensor, *more: Tensor) -> Tensor:
        return pde_residual(self.problem, self.surrogate, t, x, more[-1]).square().mean()


class Shared(ResidualLoss):
    """The planted fault: both residuals along the same directions."""

    def forward(self, t: Tensor, x: Tensor, *more: Tensor) -> Tensor:
        signs = more[-1].chunk(2, 1)[0]
        return super().forward(t, x, torch.cat((signs, signs), 1))


def squared(problem: SemilinearPDE, surrogate: Any, kind: type[ResidualLoss], probes: int) -> ResidualLoss:
    return kind(problem, surrogate, arcsine=False, drift=0.0, probes=probes, weighting=None, curriculum=None)


def bias_in_standard_errors(kind: type[ResidualLoss]) -> tuple[float, float]:
    """Of the loss, and the largest of a component of its gradient, over 100 batches of 256 points, against the exact loss there."""
    net = mlp(equation("lqg", 4), seed=0, width=8, depth=2).double()
    with torch.no_grad():
        for weight in net.weights:
            weight *= 2.0
    parameters = list(net.parameters())
    exact, noisy = residual(net.problem, net), squared(net.problem, net, kind, 2)
    apart = []
    for group in range(GROUPS):
        t, x, signs = (v.double() for v in noisy.sample(BATCH, Stream(11, group)))
        ends = noisy(t, x, signs), exact(t, x)
        slopes = [torch.cat([g.flatten() for g in torch.autograd.grad(end, parameters)]) for end in ends]
        apart.append(torch.cat([(ends[0] - ends[1]).detach()[None], slopes[0] - slopes[1]]))
    found = torch.stack(apart)
    z = (found.mean(0) / (found.std(0) / math.sqrt(GROUPS)).clamp_min(1e-30)).abs()
    return z[0].item(), z[1:].max().item()


def test_the_product_of_two_residuals_has_the_loss_and_gradient_of_the_exact_laplacian_as_its_mean() -> None:
    """5 s.e. of 100 batches: false positives 2.5e-6 a number, 4e-4 for the loss and 137 components of the gradient together.
    The two planted squares are off by more than 10 s.e. in both, and so caught but once in 10^6."""
    loss, gradient = bias_in_standard_errors(ResidualLoss)
    assert loss < 5.0 and gradient < 5.0
    for planted in (Squared, Shared):
        loss, gradient = bias_in_standard_errors(planted)
        assert loss > 10.0 and gradient > 10.0


@pytest.mark.parametrize("probes", [2, 8])
def test_the_square_of_a_noisy_residual_is_too_large_by_what_its_docstring_says(probes: int) -> None:
    """u = x.A x/2 and f = 0: the excess is (|A|^2 - sum A_ii^2)/(2 K) = 2.5/K at every point. 4 s.e. of 40,000 points."""
    form = torch.tensor([[1.0, 1.0, 0.5], [1.0, -2.0, 1.0], [0.5, 1.0, 3.0]], dtype=torch.float64)
    bowl = Formula(lambda t, x: 0.5 * (x @ form * x).sum(-1) + 0.0 * t)
    problem = written(lambda t, x, y, z: 0.0 * y, dim=3)
    noisy = squared(problem, bowl, ResidualLoss, probes)
    t, x, signs = noisy.sample(40_000, Stream(12, probes))
    squares = pde_residual(problem, bowl, t.double(), x.double(), signs.double()).square() - 1.0
    excess = ((form.square().sum() - form.diagonal().square().sum()) / (2 * probes)).item()
    assert abs(squares.mean().item() - excess) < 4.0 * squares.std().item() / 200.0 < 0.2 * excess


@pytest.mark.parametrize("options", [{}, {"times": "arcsine"}, {"drift": 0.5}])
def test_directions_come_with_every_law_of_points_and_leave_the_points_as_they_are(options: dict[str, Any]) -> None:
    problem = equation("lqg", 4)
    exact, noisy = residual(problem, Zero(), **options), residual(problem, Zero(), probes=6, **options)
    *batch, signs = noisy.sample(10, Stream(13, 0))
    assert all(a.equal(b) for a, b in zip(batch, exact.sample(10, Stream(13, 0)), strict=True))
    assert signs.shape == (10, 6, 4) and (signs.abs() == 1.0).all()
    # Without curvature there is no noise.
    torch.testing.assert_close(noisy(*batch, signs), exact(*batch))


def test_directions_cost_less_than_the_exact_laplacian_in_many_dimensions() -> None:
    net = mlp(equation("lqg", 100), seed=0, width=64, depth=3)
    assert residual(net.problem, net, probes=16).flop(10) < 0.4 * residual(net.problem, net).flop(10)


@pytest.mark.parametrize("probes", [0, 1, 3, -2])
def test_directions_that_do_not_make_two_halves_are_refused(probes: int) -> None:
    with pytest.raises(ValueError, match=rf"probes = {probes}: an even number"):
        residual(equation("lqg", 4), Zero(), probes=probes)


def test_a_loss_along_directions_is_no_square_of_residuals() -> None:
    objective = residual(equation("lqg", 4), Zero(), probes=2)
    with pytest.raises(ValueError, match=r"probes = 2: the loss is a product of two residuals.*probes: null"):
        objective.residuals(*objective.sample(4, Stream(13, 1)))


# Weights of bins of time: T = 2 and four bins, the first of which ends at T.

TIMES = torch.tensor([2.0, 1.6, 1.4, 0.7, 0.1, 0.0])
SQUARES = torch.tensor([1.0, 3.0, 4.0, 9.0, 16.0, 0.0])
MEANS = [2.0, 4.0, 9.0, 8.0]


def learn(weighting: Any, seen: Tensor | None = None) -> None:
    """Adapt to what was noted here alone."""
    weighting.seen = weighting.take() if seen is None else seen
    weighting.adapt()


def stepped(name: Any, steps: int = 1, **options: Any) -> Any:
    weighting = weighting_of(name, 2.0, bins=4, **options)
    assert weighting is not None
    for _ in range(steps):
        weighting(TIMES, SQUARES)
        learn(weighting)
    return weighting


def weights(weighting: Any) -> list[float]:
    found = weighting(torch.tensor([1.9, 1.4, 0.9, 0.4]), torch.ones(4)).tolist()
    weighting.take()
    return found


@pytest.mark.parametrize("name", ["causal", "rba", "self_adaptive"])
def test_a_weighting_begins_with_equal_weights_and_is_a_constant_to_the_gradient(name: Any) -> None:
    weighting = stepped(name, 0)
    squares = SQUARES.clone().requires_grad_()
    weighted = weighting(TIMES, squares)
    assert weighted.equal(SQUARES)
    learn(weighting)
    (slope,) = torch.autograd.grad(weighting(TIMES, squares).sum(), squares)
    expected = [weights(weighting)[b] for b in (0, 0, 1, 2, 3, 3)]
    assert slope.tolist() == expected and len(set(expected)) > 1


def test_causal_weights_fall_with_the_losses_between_a_bin_and_the_horizon() -> None:
    weighting = stepped("causal", tolerance=0.1)
    expected = [math.exp(-0.1 * sum(MEANS[:b])) for b in range(4)]
    assert weights(weighting) == pytest.approx(expected, rel=1e-6)
    weighting(TIMES, 0.0 * SQUARES)
    learn(weighting)
    for _ in range(3):
        learn(weighting, torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    assert weighting.state.tolist() == pytest.approx([2.0 * 0.9**4, 4.0 * 0.9, 9.0 * 0.9, 8.0 * 0.9])


def test_causal_weights_open_from_the_horizon_backwards_as_the_bins_are_solved() -> None:
    weighting, opened = stepped("causal", tolerance=5.0), []
    for solved in range(1, 5):
        for _ in range(80):
            weighting(torch.tensor([1.9, 1.4, 0.9, 0.4]), torch.tensor([0.0] * solved + [1.0] * (4 - solved)))
            learn(weighting)
        opened.append(sum(w > 0.9 for w in weights(weighting)))
    assert opened == [2, 3, 4, 4]


def test_attention_grows_by_its_rate_where_the_residual_is_largest() -> None:
    weighting = stepped("rba", 2, rate=0.05)
    attention = [1.0] * 4
    for _ in range(2):
        attention = [0.999 * a + 0.05 * math.sqrt(m / 9.0) for a, m in zip(attention, MEANS, strict=True)]
    assert weights(weighting) == pytest.approx([a**2 for a in attention], rel=1e-6)
    assert max(weights(stepped("rba", 20_000, rate=0.05))) == pytest.approx(50.0**2, rel=1e-3)


def test_self_adaptive_weights_ascend_the_logarithm_of_the_loss() -> None:
    """Against automatic differentiation of log mean(l_b^2 r^2), two steps; the same whatever the units of r."""
    masks = torch.ones(4, dtype=torch.float64)
    for _ in range(2):
        masks.requires_grad_()
        loss = (masks[torch.tensor([0, 0, 1, 2, 3, 3])].square() * SQUARES).mean()
        (slope,) = torch.autograd.grad(loss.log(), masks)
        masks = (masks + 0.05 * slope).detach()
    assert weights(stepped("self_adaptive", 2, rate=0.05)) == pytest.approx(masks.square().tolist(), rel=1e-6)
    scaled = weighting_of("self_adaptive", 2.0, bins=4, rate=0.05)
    assert scaled is not None
    for _ in range(2):
        scaled(TIMES, 1e8 * SQUARES)
        learn(scaled)
    assert weights(scaled) == pytest.approx(masks.square().tolist(), rel=1e-6)


@pytest.mark.parametrize("name", ["causal", "rba", "self_adaptive"])
def test_parts_of_a_batch_teach_what_the_whole_batch_does_and_an_empty_or_negative_bin_nothing_bad(name: Any) -> None:
    whole, parts = stepped(name), stepped(name, 0)
    parts(TIMES[:2], SQUARES[:2])
    first = parts.take()
    parts(TIMES[2:], SQUARES[2:])
    learn(parts, first + parts.take())
    assert parts.state.equal(whole.state) and not parts.take().any()
    before = whole.state.clone()
    whole(TIMES[:3], -SQUARES[:3])
    learn(whole)
    assert whole.state[2:].equal(before[2:]) and whole.state.isfinite().all()


@pytest.mark.parametrize("make", [path, residual])
def test_an_objective_weighs_each_time_by_its_bin(make: Any) -> None:
    """The loss with the last two bins given weight 4 is that of a batch in which they count four times."""
    problem = replace(equation("lqg", 3), driver=lambda t, x, y, z: 1.0 + t + 0.0 * y)
    plain, weighted = make(problem, Zero()), make(problem, Zero(), weighting="rba", bins=4)
    batch = plain.sample(64, Stream(14, 0))
    torch.testing.assert_close(weighted(*batch), plain(*batch))
    total, count = weighted.weighting.take().unbind(1)
    assert count.sum() == 64 * (1 if make is residual else 8) and (total > 0.0).all()
    weighted.weighting.state.copy_(torch.tensor([1.0, 1.0, 2.0, 2.0]))
    expected = (total * torch.tensor([1.0, 1.0, 4.0, 4.0])).sum() / count.sum()
    assert weighted(*batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert weighted.residuals(*batch).square().mean().item() == pytest.approx(expected.item(), rel=1e-5)
    assert plain.residuals(*batch).square().mean().item() == plain(*batch).item()


@pytest.mark.parametrize("make", [path, residual])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 8}, r"bins = 8: an option of another weighting; weighting = null is null: name one"),
        ({"tolerance": 1.0}, r"tolerance = 1.0: .*weighting = null"),
        ({"weighting": "rba", "tolerance": 1.0}, r"tolerance = 1.0: .*weighting = rba takes bins and rate"),
        ({"weighting": "causal", "rate": 0.1}, r"rate = 0.1: .*weighting = causal takes bins and tolerance"),
        ({"weighting": "causal", "tolerance": 0.0}, r"tolerance = 0.0: a weighting needs tolerance > 0"),
        ({"weighting": "rba", "rate": math.nan}, r"rate = nan: a weighting needs rate > 0"),
        ({"weighting": "self_adaptive", "bins": 1}, r"bins = 1: a weighting needs at least 2 bins"),
        ({"curriculum": 0.0}, r"curriculum = 0.0: a share of the steps lies in \(0, 1\]"),
        ({"curriculum": 1.5}, r"curriculum = 1.5: a share"),
    ],
    ids=str,
)
def test_options_that_do_not_belong_together_are_refused(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(equation("lqg", 3), Zero(), **options)


# A curriculum over the horizon.


def from_zero(dim: int = 3) -> SemilinearPDE:
    """T = 2, and all points at (0, 0)."""
    begin = written(lambda t, x, y, z: y, dim=dim, horizon=2.0, sigma=0.5)
    return replace(begin, sample_points=lambda n, stream: (torch.zeros(n), torch.zeros(n, dim)))


@pytest.mark.parametrize(("progress", "window"), [(0.0, 0.1), (0.25, 0.55), (0.5, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("objective", ["path", "residual", "arcsine"])
def test_times_reach_back_from_the_horizon_as_training_goes_on(objective: str, progress: float, window: float) -> None:
    """In [T - c T, T] and near its lower end, at points whose variance is that of the path up to them.
    3 x 4000 normals: 5 s.e. of their variance; a point left behind at the path's start has variance 0."""
    options = {"times": "arcsine"} if objective == "arcsine" else {}
    make: Any = path if objective == "path" else residual
    t, x, *_ = make(from_zero(), Zero(), curriculum=0.5, **options).sample(4000, Stream(15, 0), progress)
    earliest = 2.0 - 2.0 * window
    assert (t >= earliest - 1e-6).all() and (t <= 2.0).all()
    assert t.min() < earliest + 0.01 and (objective == "path" or t.max() > 1.99)
    scale = 0.5 * t.clamp_min(1e-30).sqrt()[:, None]
    if objective != "path" or window < 1.0:
        assert abs((x / scale).var().item() - 1.0) < 5.0 * math.sqrt(2.0 / 12_000)


@pytest.mark.parametrize("options", [{}, {"times": "arcsine"}, {"drift": 0.5}])
def test_a_curriculum_that_has_reached_back_draws_the_points_of_none(options: dict[str, Any]) -> None:
    problem = equation("lqg", 3)
    plain, grown = residual(problem, Zero(), **options), residual(problem, Zero(), curriculum=0.5, **options)
    for progress in (0.5, 0.9):
        batches = plain.sample(20, Stream(16, 0), progress), grown.sample(20, Stream(16, 0), progress)
        assert all(a.equal(b) for a, b in zip(*batches, strict=True))
    assert not grown.sample(20, Stream(16, 0), 0.4)[0].equal(plain.sample(20, Stream(16, 0), 0.4)[0]) or "drift" in options


def test_drifting_points_of_a_curriculum_drift_on_to_its_window() -> None:
    problem = equation("lqg", 3)
    objective = residual(problem, Zero(), drift=1.0, curriculum=1.0)
    t, x, elapsed, _, moving, normals = objective.sample(100, Stream(17, 0), 0.0)
    s, y = objective._moved(t, x, elapsed, moving, normals)
    assert (s >= 0.9 - 1e-6).all() and ((y - x).norm(dim=1) > 0.1).all()


def test_paths_that_begin_at_the_reference_point_have_no_curriculum() -> None:
    with pytest.raises(ValueError, match=r"curriculum = 0.5 with drift = 0.2: .*use one of the two"):
        path(equation("lqg", 3), Zero(), curriculum=0.5, drift=0.2)


@pytest.mark.parametrize("name", ["default_risk", "different_rates"])
def test_kinks_that_a_surrogate_keeps_before_the_horizon_are_refused_where_its_laplacian_is_needed(name: str) -> None:
    """g = max or min without its smooth profile, met exactly; a soft terminal condition, or the path objective, is served."""
    problem = equation(name, 4)
    bare = replace(problem, profile=None, hessian_form=None)
    net = mlp(bare, seed=0, width=4, depth=1)
    with pytest.raises(ValueError, match=rf"'{name}' has kinks.*give the problem a profile.*objective: path"):
        residual(bare, net)
    assert residual(bare, Zero()) and path(bare, net) and residual(problem, mlp(problem, seed=0, width=4, depth=1))
    assert not defect(bare, net).kinked and defect(bare, Zero()).kinked


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("residual", {"probes": 2, "weighting": "causal", "curriculum": 0.5}),
        ("residual", {"weighting": "rba", "times": "arcsine"}),
        ("path", {"weighting": "self_adaptive", "drift": 0.3}),
        ("path", {"weighting": "causal", "curriculum": 0.5}),
    ],
    ids=str,
)
def test_options_together_lower_the_plain_loss(name: str, options: dict[str, Any]) -> None:
    """The plain loss on one batch kept aside, before and after 40 steps: lower by half."""
    net = mlp(equation("viscous_burgers", 4), seed=0, width=16, depth=2)
    plain, objective = factory("objectives", name)(net.problem, net), factory("objectives", name)(net.problem, net, **options)
    optimizer = factory("optimizers", "soap")(net.parameters(), learning_rate=1e-2)
    aside = plain.sample(256, Stream(18, 0))
    before = plain(*aside).item()
    for step in range(40):
        optimizer.zero_grad()
        objective(*objective.sample(128, Stream(18, 1 + step), step / 40)).backward()
        optimizer.step()
        learn(objective.weighting)
    assert plain(*aside).item() < 0.5 * before
