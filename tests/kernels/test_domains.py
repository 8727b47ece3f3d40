"""Where evaluation and boundary points lie."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import EQUATIONS, equation
from torch import Tensor

from kernels.contracts import (
    BrownianMotion,
    GeometricBrownianMotion,
    along_paths,
    uniform_ball,
    uniform_box,
    uniform_box_boundary,
    uniform_sphere,
)
from kernels.streams import Stream

N, DIM, HORIZON, HALF = 20_000, 6, 0.7, 0.5


def uniform(u: Tensor) -> bool:
    """Kolmogorov-Smirnov: 1.95/sqrt n has false positives 10^-3 a sample; sees a distribution off by 1.4 %."""
    u = u.double().sort().values
    grid = torch.arange(len(u), dtype=torch.float64) / len(u)
    return max((u - grid).max().item(), (grid + 1 / len(u) - u).max().item()) < 1.95 / math.sqrt(len(u))


def centred(x: Tensor, variance: float) -> bool:
    """No direction is preferred: every coordinate has mean 0 within 5 s.e. (false positives 6 in 10^7 each)."""
    return bool((x.mean(0).abs() < 5 * math.sqrt(variance / N)).all())


SAMPLERS = {
    "ball": uniform_ball(DIM, HORIZON),
    "sphere": uniform_sphere(DIM, HORIZON),
    "box": uniform_box(DIM, HORIZON, HALF),
    "faces": uniform_box_boundary(DIM, HORIZON, HALF),
    "paths": along_paths(DIM, HORIZON, BrownianMotion(mu=0.3, sigma=1.4), 2.0),
    "geometric paths": along_paths(DIM, HORIZON, GeometricBrownianMotion(mu=0.3, sigma=0.5), 2.0),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_times_are_uniform_up_to_the_horizon(name: str) -> None:
    t, _ = SAMPLERS[name](N, Stream(11, 0))
    assert uniform(t / HORIZON)
    assert not uniform((t / HORIZON) ** 1.1)


@pytest.mark.parametrize("name", EQUATIONS)
def test_times_of_every_equation_are_uniform_up_to_its_horizon(name: str) -> None:
    problem = equation(name, DIM)
    for sampler in (problem.sample_points, problem.boundary_points):
        assert sampler is None or uniform(sampler(N, Stream(11, 1))[0] / problem.horizon)


def test_points_are_uniform_in_the_unit_ball() -> None:
    _, x = SAMPLERS["ball"](N, Stream(11, 2))
    radius = x.norm(dim=1)
    assert radius.max() <= 1.0 + 1e-6
    assert uniform(radius**DIM) and not uniform(radius ** (DIM - 1))
    assert centred(x, 1.0 / (DIM + 2)) and not centred(x + 0.02, 1.0 / (DIM + 2))


def test_points_are_uniform_on_the_unit_sphere() -> None:
    """A coordinate has mean 0 and variance 1/d; the planted one lies on a cap."""
    _, x = SAMPLERS["sphere"](N, Stream(11, 3))
    torch.testing.assert_close(x.norm(dim=1), torch.ones(N))
    assert centred(x, 1.0 / DIM) and not centred(x.abs(), 1.0 / DIM)
    torch.testing.assert_close(x.square().mean(0), torch.full((DIM,), 1.0 / DIM), rtol=0.0, atol=5 * math.sqrt(2.0 / DIM**2 / N))


def test_points_are_uniform_in_the_box() -> None:
    _, x = SAMPLERS["box"](N, Stream(11, 4))
    assert x.abs().max() <= HALF
    assert all(uniform(column / (2 * HALF) + 0.5) for column in x.T)
    assert not uniform(1.05 * x[:, 0] / (2 * HALF) + 0.5)


def test_points_are_uniform_on_the_faces_of_the_box() -> None:
    """Every face has its share of points within 5 s.d.; on it the others are uniform."""
    _, x = SAMPLERS["faces"](N, Stream(11, 5))
    on = x.abs() == HALF
    assert (on.sum(1) >= 1).all() and x.abs().max() <= HALF
    faces = torch.cat(((x == HALF).sum(0), (x == -HALF).sum(0)))
    share = 1.0 / (2 * DIM)
    assert ((faces - N * share).abs() < 5 * math.sqrt(N * share * (1 - share))).all()
    assert uniform(x[on[:, 0], 1] / (2 * HALF) + 0.5)


def test_points_lie_where_brownian_paths_pass() -> None:
    """(X - x0 - mu t)/(sigma sqrt t) is standard normal: its squares have mean d and variance 2d, within 5 s.e.

    False positives 6 in 10^7; the planted spread is off by 2 %.
    """
    t, x = SAMPLERS["paths"](N, Stream(11, 6))
    keep = t > 1e-4
    noise = (x[keep] - 2.0 - 0.3 * t[keep, None]) / (1.4 * t[keep, None].sqrt())
    within = 5 * math.sqrt(2 * DIM / N)
    assert abs(noise.square().sum(1).mean().item() - DIM) < within
    assert abs(1.04 * noise.square().sum(1).mean().item() - DIM) > within
    assert centred(noise, 1.0)


def test_points_lie_where_geometric_paths_pass() -> None:
    """log(X/x0) - (mu - sigma^2/2) t over sigma sqrt t is standard normal; without -sigma^2/2 its mean is seen to be off."""
    t, x = SAMPLERS["geometric paths"](N, Stream(11, 7))
    keep = t > 1e-4
    wandered = torch.log(x[keep] / 2.0)
    noise = (wandered - (0.3 - 0.125) * t[keep, None]) / (0.5 * t[keep, None].sqrt())
    assert centred(noise, 1.0)
    assert not centred((wandered - 0.3 * t[keep, None]) / (0.5 * t[keep, None].sqrt()), 1.0)
    assert abs(noise.square().sum(1).mean().item() - DIM) < 5 * math.sqrt(2 * DIM / N)


BALL, BOX = ("diffusion_reaction", "lqg"), ("linear_convection_diffusion", "viscous_burgers")


@pytest.mark.parametrize("name", EQUATIONS)
def test_points_of_an_equation_come_from_its_published_law(name: str) -> None:
    """The unit ball, the box, or where its own paths from the reference point are."""
    problem = equation(name, DIM)
    horizon, stream = problem.horizon, Stream(11, 8)
    if name in BALL:
        sampler = uniform_ball(DIM, horizon)
    elif name in BOX:
        sampler = uniform_box(DIM, horizon, HALF)
    else:
        sampler = along_paths(DIM, horizon, problem.law, problem.start)
    for ours, theirs in zip(problem.sample_points(50, stream.clone()), sampler(50, stream), strict=True):
        assert ours.equal(theirs)


@pytest.mark.parametrize("name", [name for name in EQUATIONS if equation(name, DIM).boundary_points is not None])
def test_boundary_points_lie_around_the_domain(name: str) -> None:
    problem = equation(name, DIM)
    assert problem.boundary_points is not None and name in BALL + BOX
    _, x = problem.boundary_points(1000, Stream(11, 9))
    size = x.norm(dim=1) if name in BALL else x.abs().amax(1) / HALF
    torch.testing.assert_close(size, torch.ones(1000))
