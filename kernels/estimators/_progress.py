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


def begun(norm: Tensor) -> Tensor:
    """Progress before the first step, (3,): this norm of the residual, growths in a row, stalls in a row."""
    return torch.stack((norm, torch.zeros_like(norm), torch.zeros_like(norm)))


def advanced(progress: Tensor, residual_norm: Tensor) -> Tensor:
    """Progress after a step that left a residual of this norm."""
    last, growths, stalls = progress.tolist()
    norm = float(residual_norm)
    grew = not norm <= (1.0 + LEAST_GAIN) * last
    stalled = not grew and norm > (1.0 - LEAST_GAIN) * last
    return progress.new_tensor([norm, growths + 1.0 if grew else 0.0, stalls + 1.0 if stalled else 0.0])


def verdict(progress: Tensor) -> Verdict:
    """What the counts say. At the level of rounding a converged iteration is stagnant too: the residual tells them apart."""
    norm, growths, stalls = progress.tolist()
    if growths >= GROWTHS or not math.isfinite(norm):
        return "diverging"
    return "stagnant" if stalls >= STALLS else "converging"


PATIENCE = 300
"""Steps without a smaller residual after which a method whose residual may grow on the way stands."""

FAR = 1e8
"""Growth over the smallest residual that is no detour any more."""


def set_out(norm: Tensor) -> Tensor:
    """Progress of a method whose residual may grow on the way, (3,): its norm, the smallest yet, steps since then."""
    return torch.stack((norm, norm, torch.zeros_like(norm)))


def moved_on(progress: Tensor, residual_norm: Tensor) -> Tensor:
    """``set_out`` after a step that left a residual of this norm."""
    _, smallest, since = progress.tolist()
    norm = float(residual_norm)
    return progress.new_tensor([norm, min(norm, smallest), 0.0 if norm < smallest else since + 1.0])


def patient_verdict(progress: Tensor) -> Verdict:
    """What the counts of ``moved_on`` say."""
    norm, smallest, since = progress.tolist()
    if not norm <= FAR * smallest:
        return "diverging"
    return "stagnant" if since >= PATIENCE else "converging"
