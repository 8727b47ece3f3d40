"""What a surrogate gains from a profile that knows how diffusion smooths the terminal condition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from oracles import equation

from kernels.contracts import SemilinearPDE
from kernels.defect import defect
from kernels.estimators.linearised import linearised
from kernels.objectives.path import path
from kernels.optimizers.soap import soap
from kernels.streams import Stream
from kernels.surrogates.mlp import mlp


def variance_after_training(problem: SemilinearPDE, steps: int) -> float:
    """Of a draw of the linearised correction at the reference point, after so many steps of 64 paths."""
    net = mlp(problem, seed=0, width=32, depth=2)
    objective, optimizer = path(problem, net), soap(list(net.parameters()), learning_rate=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        objective(*objective.sample(64, Stream(0, 1, step))).backward()
        optimizer.step()
    t, x = torch.zeros(1), torch.full((1, problem.dim), problem.start)
    return linearised().sample(defect(problem, net, probes=8), t, x, "linear", 1000, Stream(0, 2)).var().item()


@pytest.mark.parametrize("name", ["allen_cahn", "sine_gordon"])
def test_a_profile_lowers_the_variance_of_a_correction_a_hundredfold_after_equal_training(name: str) -> None:
    """In 100 dimensions, against surrogates that are built on g."""
    problem = equation(name, 100)
    assert problem.profile is not None
    plain = replace(
        problem, profile=lambda t, x: problem.terminal(x), profile_jet=None, layer=2.0 * problem.dim * problem.horizon / 5.0
    )
    assert variance_after_training(plain, 100) > 100.0 * variance_after_training(problem, 100)
