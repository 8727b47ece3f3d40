"""The error bar of a surrogate's own integral, where scrambled nets give it."""

from __future__ import annotations

import pytest
import torch

from kernels.integrands import sine_product
from kernels.streams import Stream
from kernels.surrogates import nearest_neighbours

pytestmark = pytest.mark.unchecked


def test_the_stated_error_of_a_net_integral_is_the_spread_of_such_integrals() -> None:
    """Over 60 scramblings of one fit: a ratio of 1 to 10 % (one s.d.); a bar without its root of 16 would be 4."""
    problem = sine_product(2)
    x = problem.points(40, Stream(1, 0))
    y = problem.observe(x, Stream(1, 1))
    surrogate, known = nearest_neighbours(problem, seed=0, points=40), []
    for repeat in range(60):
        surrogate.fit_to(x, y, Stream(2, repeat))
        known.append(surrogate.known.clone())
    values, errors = torch.stack(known).unbind(1)
    assert 0.7 < float(values.std() / errors.square().mean().sqrt()) < 1.4
