"""Where the evaluation points of every equation lie, and the dimensions it refuses."""

import math

import pytest
import torch
from oracles import EQUATIONS, equation

from kernels.streams import Stream

BALL, BOX = ("diffusion_reaction", "lqg"), ("linear_convection_diffusion", "viscous_burgers")
N = 20_000


def uniform(u: torch.Tensor) -> bool:
    """Kolmogorov-Smirnov: 1.95/sqrt n has false positives 10^-3 a sample; sees a distribution off by 1.4 %."""
    u = u.double().sort().values
    grid = torch.arange(len(u), dtype=torch.float64) / len(u)
    return max((u - grid).max().item(), (grid + 1 / len(u) - u).max().item()) < 1.95 / math.sqrt(len(u))


@pytest.mark.parametrize("name", EQUATIONS)
def test_times_are_uniform_up_to_the_horizon(name: str) -> None:
    problem = equation(name, 6)
    t, _ = problem.sample_points(N, Stream(11, 0))
    assert uniform(t / problem.horizon)
    assert not uniform((t / problem.horizon) ** 1.1)


@pytest.mark.parametrize("name", BALL)
def test_points_are_uniform_in_the_unit_ball(name: str) -> None:
    _, x = equation(name, 6).sample_points(N, Stream(11, 1))
    radius = x.norm(dim=1)
    assert radius.max() <= 1.0 + 1e-6
    assert uniform(radius**6)
    assert not uniform(radius**5)
    # No direction is preferred: each coordinate has variance 1/(d + 2), mean 0, within 5 s.e.
    assert (x.mean(0).abs() < 5 * math.sqrt(1 / 8 / N)).all()


@pytest.mark.parametrize("name", BOX)
def test_points_are_uniform_in_the_box(name: str) -> None:
    _, x = equation(name, 6).sample_points(N, Stream(11, 2))
    assert x.abs().max() <= 0.5
    assert all(uniform(column + 0.5) for column in x.T)
    assert not uniform(1.05 * x[:, 0] + 0.5)


def test_points_of_allen_cahn_lie_where_its_paths_from_the_origin_pass() -> None:
    """|x|^2/(2t) has mean d = 6 and variance 2d: within 5 s.e. (false positives 6 in 10^7), catches sigma = 1 for sqrt 2."""
    t, x = equation("allen_cahn", 6).sample_points(N, Stream(11, 3))
    keep = t > 1e-4
    ratio = x[keep].square().sum(1) / (2.0 * t[keep])
    within = 5 * math.sqrt(12 / N)
    assert abs(ratio.mean().item() - 6.0) < within
    assert not abs(2.0 * ratio.mean().item() - 6.0) < within


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("dim", [0, -1])
def test_a_space_without_dimension_is_refused_by_value(name: str, dim: int) -> None:
    with pytest.raises(ValueError, match=f"dim = {dim}"):
        equation(name, dim)


def test_an_isotropic_problem_without_dimension_is_refused_by_value() -> None:
    with pytest.raises(ValueError, match="dim = -1"):
        equation("lqg", -1, isotropic=True)
