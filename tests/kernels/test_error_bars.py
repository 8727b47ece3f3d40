"""Error bars that the estimators earn: spread between points, fresh probes for every path, biases that explain the miss."""

from typing import Any

import pytest
import torch
from oracles import ESTIMATORS, Known, equation, estimator, perturbed

from kernels.contracts import Jet, SemilinearPDE
from kernels.defect import defect
from kernels.estimators.linearised import Linearised, linearised
from kernels.estimators.picard import picard
from kernels.moments import Moments
from kernels.streams import Stream


def mean_and_error(draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    moments = Moments.of(draws.double().numpy())
    return torch.from_numpy(moments.mean), torch.from_numpy(moments.standard_error)


def quick(name: str) -> Any:
    return picard(levels=2, samples=2) if name == "picard" else estimator(name)


class Probed(Known):
    """A known function whose Laplacian is sampled along the probes it is given."""

    shared = False
    """The planted fault: the first path's probes serve all."""

    def jet(self, t: torch.Tensor, x: torch.Tensor, probes: torch.Tensor | None) -> Any:
        if probes is None:
            return super().jet(t, x, None)
        if self.shared:
            probes = probes[:1].expand_as(probes)
        value, gradient = self.value_and_gradient(t, x)
        with torch.enable_grad():
            time = t.detach().requires_grad_()
            (dt,) = torch.autograd.grad(self.u(time, x).sum(), time)
        step = 1e-5 * probes
        ahead, behind = ([self.value_and_gradient(t, x + sign * p)[1] for p in step.unbind(1)] for sign in (1, -1))
        along = torch.stack(ahead, 1) - torch.stack(behind, 1)
        return Jet(value, dt, gradient, (along * probes).sum((1, 2)) / (2e-5 * probes.shape[1]))


def off_everywhere(problem: SemilinearPDE, size: float) -> Probed:
    """The exact solution plus a wave that does not vanish at T; its Laplacian has probe noise."""
    solution = problem.solution
    assert solution is not None
    return Probed(lambda t, x: solution.value(t, x) + size * torch.sin(x.sum(-1) + 1.0))


def honesty(draws: torch.Tensor) -> float:
    """Spread of the means of identical points over the standard error that they state."""
    mean, error = mean_and_error(draws)
    return (mean.std() / error.square().mean().sqrt()).item()


@pytest.mark.parametrize("probes", ["no defect", None, 1])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_means_of_identical_points_spread_by_the_error_they_state(name: str, probes: Any) -> None:
    """600 copies of one point, 8 draws each: the ratio is 1 within 4 s.d. (12 %), seed fixed, false positives 6 in 10^5.

    Sees 4 % of correlation between the draws of a point. Planted: every draw twice (1.46), one noise for all points (0).
    """
    problem = equation("viscous_burgers", 4)
    if probes != "no defect":
        problem = defect(problem, off_everywhere(problem, 0.1), probes=probes)
    t, x = torch.full((600,), 0.1, dtype=torch.float64), torch.full((600, 4), 0.1, dtype=torch.float64)
    draws = quick(name).sample(problem, t, x, 8, Stream(12, 1)).value.double()
    assert honesty(draws) == pytest.approx(1.0, abs=0.12)
    assert honesty(draws.repeat(1, 2)) > 1.3
    assert honesty(draws[:1] + 1e-3 * draws) < 0.1


@pytest.mark.parametrize("name", ["picard", "linearised"])
def test_probes_shared_by_the_paths_of_a_batch_would_break_the_stated_error(name: str) -> None:
    """100 seeds of 64 draws at one point: fresh probes within 30 % (4 s.d., false positives 6 in 10^5), shared ones above twice."""
    problem = equation("viscous_burgers", 4, sigma=1.0)
    t, x = torch.full((1,), 0.1, dtype=torch.float64), torch.full((1, 4), 0.1, dtype=torch.float64)
    method = picard(levels=1, samples=1) if name == "picard" else linearised(times=1)
    found = {}
    for shared in (False, True):
        surrogate = off_everywhere(problem, 0.1)
        surrogate.shared = shared
        error = defect(problem, surrogate, probes=1)
        found[shared] = honesty(torch.cat([method.sample(error, t, x, 64, Stream(13, seed)).value for seed in range(100)]))
    assert found[False] == pytest.approx(1.0, abs=0.3)
    assert found[True] > 2.0


def test_at_T_a_surrogate_that_misses_g_is_corrected_by_what_it_misses() -> None:
    problem = equation("viscous_burgers", 3)
    solution = problem.solution
    assert solution is not None
    x = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64).reshape(2, 3)
    t = torch.full((2,), problem.horizon, dtype=torch.float64)
    off = defect(problem, Known(lambda t, x: solution.value(t, x) + 0.125))
    for name in ESTIMATORS:
        draws = estimator(name).sample(off, t, x, 8, Stream(2, 3)).value
        torch.testing.assert_close(draws, torch.full_like(draws, -0.125), rtol=0.0, atol=1e-14)


def test_the_printed_biases_explain_what_a_linearised_correction_of_a_poor_surrogate_misses() -> None:
    """Burgers with sigma = 1 and a surrogate far off: subtracting the sampled biases halves the miss at least.

    Seeds fixed, 6400 draws at 3 points; the miss is over 10 s.e., so half of it is seen. Planted: their sign.
    """
    problem = equation("viscous_burgers", 4, sigma=1.0)
    surrogate, solution = perturbed(problem, 0.8), problem.solution
    assert solution is not None
    t, x = problem.sample_points(3, Stream(11, 0))
    t, x = 0.5 * t.double(), x.double()
    truth = solution.value(t, x) - surrogate.u(t, x)
    samples = [linearised().sample(defect(problem, surrogate), t, x, 640, Stream(7 + s, 4)) for s in range(10)]
    mean, error = mean_and_error(torch.cat([s.value for s in samples], 1))
    bias = sum(mean_and_error(torch.cat([s.bias[cause] for s in samples], 1))[0] for cause in Linearised.biases)
    assert ((mean - truth).norm() > 10.0 * error.norm()).item()
    assert (mean - bias - truth).norm() < 0.5 * (mean - truth).norm()
    assert (mean + bias - truth).norm() > (mean - truth).norm()


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("draws", [1, 2, 7, 8, 30])
def test_any_number_of_draws_comes_out_as_asked_with_samples_of_every_bias(name: str, draws: int) -> None:
    problem, method = equation("viscous_burgers", 3), quick(name)
    t, x = problem.sample_points(5, Stream(3, 0))
    samples = method.sample(problem, t, x, draws, Stream(4, 0))
    assert samples.value.shape == (5, draws)
    assert tuple(samples.bias) == method.biases
    assert all(bias.shape[0] == 5 and bias.shape[1] >= 1 for bias in samples.bias.values())
