"""Count, mean and sum of squared deviations: of one chunk, merged, folded in chunk order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """``count`` draws with mean ``mean`` and sum of squared deviations ``m2``, entry by entry.

    ``mean`` and ``m2`` are float64 arrays of one shape (here: channels x points). The merge is
    that of Chan, Golub and LeVeque (1983). It is not associative in floating point, so whoever
    needs reproducible bits folds in a fixed order.

    >>> a, b = Moments.of(np.array([[1.0, 2.0]])), Moments.of(np.array([[3.0, 4.0]]))
    >>> merged = a.merge(b)
    >>> merged.count, merged.mean.tolist(), merged.standard_error.round(6).tolist()
    (4, [2.5], [0.645497])
    """

    count: int
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @classmethod
    def of(cls, draws: NDArray[np.floating]) -> Moments:
        """Moments over the last axis of ``draws``, accumulated in float64."""
        wide = np.asarray(draws, dtype=np.float64)
        mean = wide.mean(axis=-1)
        return cls(wide.shape[-1], mean, np.square(wide - mean[..., None]).sum(axis=-1))

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + np.square(delta) * (self.count * other.count / count)
        return Moments(count, mean, m2)

    @staticmethod
    def fold(chunks: Iterable[Moments]) -> Moments:
        """All chunks merged from left to right; raises TypeError on an empty sequence."""
        return reduce(Moments.merge, chunks)

    @property
    def variance(self) -> NDArray[np.float64]:
        """Unbiased sample variance of one draw; NaN for fewer than two draws."""
        return self.m2 / (self.count - 1) if self.count > 1 else np.full_like(self.m2, np.nan)

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """Standard error of the mean; NaN for fewer than two draws, which earn no error bar."""
        return np.sqrt(self.variance / self.count)
