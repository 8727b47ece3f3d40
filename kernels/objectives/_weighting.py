"""Weights of a loss over bins of time, counted from the horizon backwards, which follow the losses of the bins.

Published with weights a point; points are fresh at every step here, so that what is learned is kept for bins
of time. Weights follow the steps before and are constants to the gradient. A worker may see a part of a batch
alone: ``take`` gives what it saw; the sum over all of them is put into ``seen``, to which each will ``adapt``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

Name = Literal["causal", "rba", "self_adaptive"]
"""What a job may name as ``weighting``."""

BINS = 16


class Weighting(nn.Module):
    """A weight for each of the bins of [0, T], the first of which ends at T. ``state`` (bins,) is all that is learned."""

    OPTIONS: ClassVar[dict[str, float]]
    """What it takes beside the number of bins, with its default."""

    state: Tensor

    def __init__(self, horizon: float, bins: int, start: float) -> None:
        super().__init__()
        self.horizon, self.bins = horizon, bins
        self.register_buffer("state", torch.full((bins,), start, dtype=torch.float64))
        self._noted = self.seen = torch.zeros(bins, 2, dtype=torch.float64)

    def _bin(self, t: Tensor) -> Tensor:
        return ((self.horizon - t) / self.horizon * self.bins).long().clamp(0, self.bins - 1)

    def roots(self, t: Tensor) -> Tensor:
        """Square roots of the weights at these times, of their shape: what residuals are multiplied with."""
        return self.weights().sqrt().to(t)[self._bin(t)]

    def forward(self, t: Tensor, squares: Tensor) -> Tensor:
        """Every square times the weight of its time; shapes (terms,), of which all are noted for ``take``."""
        of_bin = one_hot(self._bin(t), self.bins).double()
        found = of_bin.T @ torch.stack((squares.detach(), torch.ones_like(squares)), 1).double()
        self._noted = self._noted.to(found) + found
        return (of_bin @ self.weights()).to(squares) * squares

    def take(self) -> Tensor:
        """Sum of the squares and number of terms a bin, (bins, 2), since it was last taken."""
        noted, self._noted = self._noted, torch.zeros_like(self._noted)
        return noted

    def adapt(self) -> None:
        """Learn from what was ``seen`` of a step; a bin in which nothing fell is left as it is."""
        total, count = self.seen.unbind(1)
        # An unbiased estimate of a square can be negative.
        mean = total.clamp_min(0.0) / count.clamp_min(1.0)
        self.state.copy_(torch.where(count > 0, self.learned(mean, total.clamp_min(0.0)), self.state))

    @abstractmethod
    def weights(self) -> Tensor:
        """(bins,)."""

    @abstractmethod
    def learned(self, mean: Tensor, total: Tensor) -> Tensor:
        """The next state, given the mean and the sum of the squares of every bin."""


class Causal(Weighting):
    """w_b = exp(-tolerance sum_{a<b} L_a): a bin counts once those between it and T are solved.

    Wang, Sankaran, Perdikaris (arXiv 2203.07404, equation 14), with time running back from T, where the
    condition is. L_a is the running mean of a bin's loss, of which a step is a tenth.
    """

    OPTIONS: ClassVar[dict[str, float]] = {"tolerance": 1.0}
    SHARE = 0.1

    def __init__(self, horizon: float, bins: int, tolerance: float) -> None:
        super().__init__(horizon, bins, 0.0)
        self.tolerance = tolerance

    def weights(self) -> Tensor:
        return torch.exp(-self.tolerance * (self.state.cumsum(0) - self.state))

    def learned(self, mean: Tensor, total: Tensor) -> Tensor:
        return torch.where(self.state == 0.0, mean, (1.0 - self.SHARE) * self.state + self.SHARE * mean)


class _Squares(Weighting):
    """w_b = l_b^2, where l_b begins at 1 and moves at a ``rate``."""

    OPTIONS: ClassVar[dict[str, float]] = {"rate": 0.01}

    def __init__(self, horizon: float, bins: int, rate: float) -> None:
        super().__init__(horizon, bins, 1.0)
        self.rate = rate

    def weights(self) -> Tensor:
        return self.state.square()


class ResidualAttention(_Squares):
    """w_b = l_b^2 with l_b <- 0.999 l_b + rate |r_b|/max_a |r_a|, |r_b| the root mean square of a bin.

    Residual-based attention (Anagnostopoulos, Toscano, Stergiopulos, Karniadakis, arXiv 2307.00379, equation 5).
    l_b begins at 1 and stays below max(1, 1000 rate).
    """

    MEMORY = 0.999

    def learned(self, mean: Tensor, total: Tensor) -> Tensor:
        size = mean.sqrt()
        return self.MEMORY * self.state + self.rate * size / size.max().clamp_min(torch.finfo(size.dtype).tiny)


class SelfAdaptive(_Squares):
    """w_b = l_b^2 with l_b <- l_b + rate d(log L)/dl_b, L = sum_b l_b^2 S_b, S_b the sum of a bin's squares.

    SA-PINN (McClenny, Braga-Neto, arXiv 2009.04544, equation 9) ascends L itself, with a rate in units of 1/L:
    its logarithm has the same direction whatever the units of the problem. l_b begins at 1.
    """

    def learned(self, mean: Tensor, total: Tensor) -> Tensor:
        loss = (self.state.square() * total).sum().clamp_min(torch.finfo(total.dtype).tiny)
        return self.state + self.rate * 2.0 * self.state * total / loss


KINDS: dict[str, Any] = {"causal": Causal, "rba": ResidualAttention, "self_adaptive": SelfAdaptive}


def weighting_of(name: Name | None, horizon: float, **given: int | float | None) -> Weighting | None:
    """The named weighting with the options that are not None, of bins, tolerance and rate; None where none is named.

    Raises ValueError for an option that the weighting does not take, and for one outside its range.
    """
    allowed = {"bins": BINS, **KINDS[name].OPTIONS} if name is not None else {}
    chosen = {key: value for key, value in given.items() if value is not None}
    for key, value in chosen.items():
        if key not in allowed:
            takes = f"takes {' and '.join(allowed)}" if allowed else "is null: name one, or leave the option out"
            raise ValueError(f"{key} = {value}: an option of another weighting; weighting = {name or 'null'} {takes}")
        if not value >= (2 if key == "bins" else 0.0) or value == 0.0:
            raise ValueError(f"{key} = {value}: a weighting needs {'at least 2 bins' if key == 'bins' else f'{key} > 0'}")
    return None if name is None else KINDS[name](horizon, **{**allowed, **chosen})


def mean_square(weighting: Weighting | None, t: Tensor, squares: Tensor) -> Tensor:
    """The mean of squares at times t, both of one shape, each times its weight where there are any."""
    return squares.mean() if weighting is None else weighting(t.flatten(), squares.flatten()).mean()
