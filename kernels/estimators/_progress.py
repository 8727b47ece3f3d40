"""Whether an iteration gets on: growth and stagnation of its residual, counted in the state itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.contracts import Verdict

GROWTHS = 2
"""Steps in a row that each add more than LEAST_GAIN to the residual: the iteration diverges."""

STALLS = 3
"""Steps in a row that each take away less than LEAST_GAIN of the residual: the iteration stagnates."""

LEAST_GAIN = 0.01


def begun(residual: Tensor) -> Tensor:
    """Progress before the first step, (3,): norm of the residual, growths in a row, stalls in a row."""
    return torch.stack((torch.linalg.vector_norm(residual), residual.new_zeros(()), residual.new_zeros(())))


def advanced(progress: Tensor, residual: Tensor) -> Tensor:
    """Progress after a step that left this residual."""
    last, growths, stalls = progress.tolist()
    norm = float(torch.linalg.vector_norm(residual))
    grew = not norm <= (1.0 + LEAST_GAIN) * last
    stalled = not grew and norm > (1.0 - LEAST_GAIN) * last
    return progress.new_tensor([norm, growths + 1.0 if grew else 0.0, stalls + 1.0 if stalled else 0.0])


def verdict(progress: Tensor) -> Verdict:
    """What the counts say. At the level of rounding a converged iteration is stagnant too: the residual tells them apart."""
    norm, growths, stalls = progress.tolist()
    if growths >= GROWTHS or not math.isfinite(norm):
        return "diverging"
    return "stagnant" if stalls >= STALLS else "converging"
