"""Poisson's equation at full length: walk on spheres, Green's function of the ball, and surrogates corrected by both.

Times are those of this process alone, which a shared machine does not stretch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.contracts import Ball, Poisson, Purpose, Solution
from kernels.defect import poisson_defect
from kernels.elliptic import constant_source, cosine_ball, exponential_ball, sine_box
from kernels.estimators import ball_green, walk_on_spheres
from kernels.estimators.ball_green import green_points
from kernels.estimators.walk_on_spheres import SHELL, green_radii
from kernels.moments import Moments
from kernels.streams import Stream
from kernels.surrogates import cosine_features
from pipeline.job import RunFolder, job_from
from pipeline.training import train_here, trained_surrogate

pytestmark = [pytest.mark.slow, pytest.mark.unchecked]


def truth(problem: Poisson, x: Tensor) -> Tensor:
    assert problem.solution is not None
    return problem.solution.value(torch.zeros_like(x[:, 0]), x)


def place(*values: float, dim: int, copies: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.zeros(copies, dim, dtype=torch.float64)
    x[:, : len(values)] = torch.tensor(values, dtype=torch.float64)
    return torch.zeros(copies, dtype=torch.float64), x


def rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())


def slope(ns: list[int], errors: list[float]) -> float:
    """Of log error in log n, by least squares."""
    a, b = (torch.tensor(v, dtype=torch.float64).log() for v in (ns, errors))
    a = a - a.mean()
    return float((a * b).sum() / a.square().sum())


def summed(method: Any, problem: Poisson, t: Tensor, x: Tensor, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sum of the terms' means and the standard error, point by point."""
    parts = [method.sample(problem, t, x, term, draws, Stream(seed, i)) for i, term in enumerate(method.terms)]
    return sum(p.mean(1) for p in parts), sum(p.var(1) / draws for p in parts).sqrt()


@dataclass
class Given:
    """A surrogate by value and Laplacian in closed form, which meets g."""

    u: Callable[[Tensor], Tensor]
    bent: Callable[[Tensor], Tensor]
    meets_boundary: bool = True

    def value(self, x: Tensor) -> Tensor:
        return self.u(x)

    def laplacian(self, x: Tensor) -> Tensor:
        return self.bent(x)

    def plug_in(self, t: Tensor, x: Tensor) -> Tensor:
        return self.u(x)

    def flop(self) -> tuple[float, float]:
        return 1.0, 1.0


def off_by(problem: Poisson, size: float) -> Given:
    """u + size (1 - |x|^2) cos(b.x), b = (1.5, -1, 0.5, 0, ...)."""
    b = torch.zeros(problem.dim, dtype=torch.float64)
    b[:3] = torch.tensor([1.5, -1.0, 0.5])

    def laplacian(x: Tensor) -> Tensor:
        w, bump = x @ b, 1.0 - x.square().sum(1)
        return problem.source(x) + size * (-(bump * b.square().sum() + 2.0 * problem.dim) * w.cos() + 4.0 * w * w.sin())

    return Given(lambda x: truth(problem, x) + size * (1.0 - x.square().sum(1)) * torch.cos(x @ b), laplacian)


def test_the_sampler_of_greens_function_has_its_second_moment() -> None:
    for dim, moment in ((2, 0.25), (3, 0.3), (5, 0.35714286), (10, 0.41666667), (100, 0.49019608)):
        square = green_radii(400_000, dim, Stream(0, dim)).square()
        z = float((square.mean() - moment) / (square.std() / math.sqrt(len(square))))
        print(f"d = {dim}: E r^2 = {square.mean():.5f}, exact {moment:.5f}, z = {z:+.2f}")
        assert abs(z) < 4.0


def test_walks_solve_the_plain_equation() -> None:
    for dim, walks in ((2, 100_000), (3, 100_000), (10, 30_000), (100, 300)):
        problem, (t, x) = exponential_ball(dim), place(0.3, -0.2, dim=dim)
        began = time.process_time()
        value, error = summed(walk_on_spheres(), problem, t, x, walks, 1)
        spent = (time.process_time() - began) / walks
        z = float((value - truth(problem, x)) / error)
        print(f"d = {dim}: {walks} walks, z = {z:+.2f}, s.e. {error.item():.1e}, {1e6 * spent:.1f} us a walk")
        assert abs(z) < 4.0


def test_greens_function_solves_the_plain_equation_without_walks() -> None:
    for dim, draws in ((2, 200_000), (3, 200_000), (10, 200_000), (100, 50_000)):
        problem, (t, x) = exponential_ball(dim), place(0.3, -0.2, dim=dim)
        began = time.process_time()
        value, error = summed(ball_green(), problem, t, x, draws, 2)
        spent = (time.process_time() - began) / draws
        z = float((value - truth(problem, x)) / error)
        _, w = green_points(x.expand(draws, -1), Stream(2, 9))
        z_weight = float((w.mean() - (1.0 - 0.13) / (2.0 * dim)) / (w.std() / math.sqrt(draws)))
        print(
            f"d = {dim}: {draws} draws, z = {z:+.2f}, of int G = {z_weight:+.2f}, {1e6 * spent:.1f} us a source and boundary draw"
        )
        assert abs(z) < 4.0 and abs(z_weight) < 4.0


def test_an_exact_surrogate_needs_no_correction_and_errors_scale_its_spread() -> None:
    dim = 10
    problem, (t, x) = exponential_ball(dim), place(0.3, -0.2, dim=dim)
    for method in (ball_green(), walk_on_spheres()):
        for term in method.terms:
            assert not method.sample(
                poisson_defect(problem, Given(problem.boundary, problem.source)), t, x, term, 200, Stream(3)
            ).any()
    spreads = {
        size: float(ball_green().sample(poisson_defect(problem, off_by(problem, size)), t, x, "source", 2000, Stream(3, 1)).std())
        for size in (1e-4, 1.0)
    }
    found = math.log(spreads[1.0] / spreads[1e-4]) / math.log(1e4)
    print(f"slope of the spread in the error: {found:.9f}")
    assert abs(found - 1.0) < 1e-6
    surrogate = off_by(problem, 0.1)
    value, error = summed(ball_green(), poisson_defect(problem, surrogate), t, x, 20_000, 4)
    before = float(truth(problem, x) - surrogate.value(x))
    after = float(value) - before
    print(f"error {before:+.1e} -> {after:+.1e}, s.e. {error.item():.1e}")
    assert abs(after) < 4.0 * error.item() < 0.1 * abs(before)


def test_the_error_falls_like_one_over_the_root_of_the_draws() -> None:
    dim = 10
    problem, (t, x) = exponential_ball(dim), place(0.3, -0.2, dim=dim, copies=60)
    surrogate = off_by(problem, 0.1)
    defect, missed = poisson_defect(problem, surrogate), truth(problem, x) - surrogate.value(x)
    ns = [64, 128, 256, 512, 1024, 2048, 4096]
    errors = [rms(summed(ball_green(), defect, t, x, n, 5 + n)[0] - missed) for n in ns]
    found = slope(ns, errors)
    print(f"slope in the draws, 60 repetitions: {found:.3f}")
    assert abs(found + 0.5) < 0.1


def test_the_shell_is_biased_in_proportion_to_its_width_and_says_so() -> None:
    dim, walks = 3, 250_000
    problem = Poisson(
        name="square",
        dim=dim,
        domain=Ball(dim),
        source=lambda x: torch.full_like(x[:, 0], 2.0 * dim),
        boundary=lambda x: x.square().sum(1),
        solution=Solution(value=lambda t, x: x.square().sum(1), source="closed form"),
    )
    t, x = place(0.5, dim=dim)
    biases = []
    for eps in (0.2, 0.1, 0.05, 0.025):
        method = walk_on_spheres(eps=eps)
        off = float(method.sample(problem, t, x, "walk", walks, Stream(6, 0)).mean()) - 0.25
        shell = float(method.sample(problem, t, x, SHELL, walks, Stream(6, 1)).mean())
        print(f"eps = {eps}: bias {off:.4f}, printed {shell:.4f}")
        assert shell == pytest.approx(off, rel=0.15)
        biases.append(off)
    ratios = [a / b for a, b in pairwise(biases)]
    print("ratios a halving:", ", ".join(f"{r:.2f}" for r in ratios))
    assert all(abs(r - 2.0) < 0.2 for r in ratios)


def euler_exit_time(dim: int, x: Tensor, dt: float, paths: int, stream: Stream) -> float:
    """Mean of the first time on a grid of step dt at which X = x + sqrt(2) W is outside the unit ball."""
    here, total = x.expand(paths, -1), 0.0
    while len(here):
        total += dt * len(here)
        here = here + math.sqrt(2.0 * dt) * stream.normal(len(here), dim).double()
        here = here[here.square().sum(1) < 1.0]
    return total / paths


def test_paths_in_small_steps_leave_too_late_where_walks_do_not() -> None:
    """u = (|x|^2 - 1)/6 is minus the mean exit time."""
    dim, paths = 3, 80_000
    problem, (t, x) = constant_source(dim), place(0.5, dim=dim)
    exact = -float(truth(problem, x))
    steps, off = [1e-2, 2.5e-3, 6.25e-4], []
    for number, dt in enumerate(steps):
        off.append(euler_exit_time(dim, x, dt, paths, Stream(7, number)) / exact - 1.0)
        print(f"Euler, dt = {dt:g}: {100.0 * off[-1]:+.1f} %")
    value, error = summed(walk_on_spheres(), problem, t, x, paths, 8)
    walked = -float(value) / exact - 1.0
    order = math.log(off[0] / off[-1]) / math.log(steps[0] / steps[-1])
    print(f"walk on spheres: {100.0 * walked:+.2f} % +- {100.0 * error.item() / exact:.2f}; order of Euler {order:.2f}")
    assert abs(order - 0.5) < 0.1
    assert abs(walked) < 4.0 * error.item() / exact and abs(walked) < 0.5 * min(off)


def rates(dim: int, ns: list[int]) -> tuple[list[float], list[float]]:
    """Slopes of surrogate, plain Monte Carlo and corrected value, and the gain over the better of both at every n.

    n samples of f fit n/4 features; n more correct each of 60 uniform points, or are all that plain Monte Carlo has.
    """
    problem, method = cosine_ball(dim), ball_green()
    t, x = problem.sample_points(60, Stream(9, 0))
    exact, rows, gains = truth(problem, x), [], []
    for n in ns:
        found = []
        for repetition in range(max(2, 1024 // n)):
            surrogate = cosine_features(problem, seed=repetition, features=n // 4, samples=n)
            surrogate.fit(Stream(repetition, Purpose.TRAINING))
            missed = exact - surrogate.plug_in(t, x)
            plain = summed(method, problem, t, x, n, 100 + repetition)[0] - exact
            corrected = summed(method, poisson_defect(problem, surrogate), t, x, n, 200 + repetition)[0] - missed
            found.append([math.log(rms(e)) for e in (missed, plain, corrected)])
        rows.append([math.exp(sum(column) / len(column)) for column in zip(*found, strict=True)])
        gains.append(min(rows[-1][:2]) / rows[-1][2])
        print(
            f"d = {dim}, n = {n}: surrogate {rows[-1][0]:.2e}, plain {rows[-1][1]:.2e}, corrected {rows[-1][2]:.2e}, gain {gains[-1]:.1f}"
        )
    slopes = [slope(ns, list(column)) for column in zip(*rows, strict=True)]
    print("slopes: surrogate {:.2f}, plain {:.2f}, corrected {:.2f}".format(*slopes))
    return slopes, gains


def test_a_corrected_value_falls_faster_than_surrogate_and_monte_carlo_in_ten_dimensions() -> None:
    slopes, gains = rates(10, [128, 256, 512, 1024, 2048])
    # These features gain more with n than the half of Monte Carlo by themselves, which leaves the correction less to add.
    assert slopes[2] <= slopes[0] - 0.25 and gains[-1] >= 4.0


def test_a_corrected_value_falls_faster_than_surrogate_and_monte_carlo_in_twenty_dimensions() -> None:
    slopes, gains = rates(20, [256, 512, 1024, 2048])
    assert slopes[2] <= slopes[0] - 0.3 and gains[-1] >= 6.0


def test_in_four_dimensions_the_gain_is_a_constant_and_no_rate() -> None:
    slopes, gains = rates(4, [128, 256, 512])
    # The surrogate itself falls much faster than Monte Carlo here, and a rate is won over that alone.
    assert slopes[0] < slopes[1] - 0.5 and min(gains) > 1.5


def test_walks_correct_a_surrogate_in_a_box() -> None:
    """u^ = u + 0.05 prod_i sin(pi x_i)."""
    for dim, walks in ((2, 100_000), (5, 40_000), (10, 15_000)):
        problem = sine_box(dim)
        t, x = place(*(0.5 + 0.05 * (-1.0) ** i for i in range(dim)), dim=dim)

        def mode(x: Tensor) -> Tensor:
            return 0.05 * torch.sin(math.pi * x).prod(1)

        surrogate = Given(
            lambda x, p=problem: p.boundary(x) + mode(x), lambda x, p=problem: p.source(x) - math.pi**2 * x.shape[1] * mode(x)
        )
        corrected = walk_on_spheres().sample(poisson_defect(problem, surrogate), t, x, "walk", walks, Stream(10, dim))
        plain = walk_on_spheres().sample(problem, t, x, "walk", walks // 10, Stream(11, dim))
        before = float(truth(problem, x) - surrogate.value(x))
        after, error = float(corrected.mean()) - before, float(corrected.std()) / math.sqrt(walks)
        ratio = float(corrected.std() / plain.std())
        print(
            f"box, d = {dim}: error {abs(before):.1e} -> {abs(after):.1e}, s.e. {error:.1e}; spread over that of plain walks {ratio:.3f}"
        )
        # More than a tenth from d = 5 on: plain walks of this mean of sines spread less in more dimensions.
        assert abs(after) < 4.0 * error and ratio <= {2: 0.1, 5: 0.12, 10: 0.14}[dim]


STEPS, DRAWS, POINTS, BLOCK = 500, 2000, 1000, 25

WALKED, DRAWN = 0.25, 1.0 / 16.0
"""Shares of the time that plain walks and plain draws of Green's function run for; their errors in all of it are smaller by the root."""


def test_a_trained_network_is_corrected_beyond_itself_and_beyond_walks_of_the_same_time(tmp_path: Path) -> None:
    """Ten dimensions, a network trained by the training loop, 1000 uniform points; walks get the time of training and correction."""
    data = {
        "name": "poisson",
        "problem": {"name": "cosine_ball", "dim": 10},
        "surrogate": {"name": "poisson_network", "width": 32, "depth": 3},
        "training": {"objective": "poisson_residual", "optimizer": "soap", "steps": STEPS, "batch": 128},
    }
    job, folder = job_from(data, tmp_path), RunFolder(tmp_path)
    problem = job.problem
    t, x = problem.sample_points(POINTS, Stream(0, Purpose.POINTS))
    exact = truth(problem, x)
    began = time.process_time()
    train_here(folder, job)
    trained = time.process_time() - began
    surrogate = trained_surrogate(folder, job)
    missed = exact - surrogate.plug_in(t, x)
    defect, parts = poisson_defect(problem, surrogate), []
    for block in range(0, POINTS, BLOCK):
        rows = slice(block, block + BLOCK)
        parts.append(Moments.of(ball_green().sample(defect, t[rows], x[rows], "source", DRAWS, Stream(0, block)).numpy()))
    spent = time.process_time() - began
    corrected = torch.cat([torch.from_numpy(p.mean) for p in parts]) - missed
    errors = torch.cat([torch.from_numpy(p.standard_error) for p in parts])
    began, walked, walks = time.process_time(), [], 0
    while time.process_time() - began < WALKED * spent:
        walked.append(walk_on_spheres().sample(problem, t, x, "walk", 20, Stream(1, walks)).mean(1))
        walks += 20
    alone = math.sqrt(WALKED) * (torch.stack(walked).mean(0) - exact)
    began, drawn, draws = time.process_time(), [], 0
    while time.process_time() - began < DRAWN * spent:
        drawn.append(summed(ball_green(), problem, t, x, 100, 1000 + draws)[0])
        draws += 100
    green = math.sqrt(DRAWN) * (torch.stack(drawn).mean(0) - exact)
    size = rms(exact)
    covered = float((corrected.abs() < 1.96 * errors).double().mean())
    print(
        f"trained {trained:.1f} s, {spent:.1f} s with the correction of {DRAWS} draws at each of {POINTS} points; relative errors: "
        f"network {rms(missed) / size:.2e}, corrected {rms(corrected) / size:.2e}; in the same time {walks / WALKED:.0f} walks a point "
        f"{rms(alone) / size:.2e}, {draws / DRAWN:.0f} plain draws of Green's function {rms(green) / size:.2e}; covered {covered:.3f}"
    )
    assert 10.0 * rms(corrected) < rms(missed) and 10.0 * rms(corrected) < rms(alone)
    assert abs(covered - 0.95) < 0.04
