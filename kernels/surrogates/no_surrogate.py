"""Nothing known beforehand: for problems whose answer is the mean of replicates alone."""

from __future__ import annotations

import torch
from torch import nn

from kernels.axes import Positions, Times
from kernels.contracts import Experiment
from kernels.streams import Stream


class NoSurrogate(nn.Module):
    """0: the correction is all of the answer."""

    def fit(self, stream: Stream) -> list[float]:
        """Nothing is learned and nothing drawn."""
        return [0.0]

    def fit_cost(self) -> tuple[float, float]:
        return 0.0, 0.0

    def plug_in(self, t: Times, x: Positions) -> Times:
        return torch.zeros(len(t), dtype=torch.float64)


def no_surrogate(problem: Experiment, *, seed: int) -> NoSurrogate:
    """A study of rates has no surrogate: its errors are the mean of replicates. ``problem`` and ``seed`` are unused."""
    return NoSurrogate()
