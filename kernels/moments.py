"""Count, mean and sum of squared deviations: of one chunk, merged, folded in chunk order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

MANY = 1e6
"""Degrees of freedom from which Student's law is the normal one."""


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


def normal_quantile(confidence: float) -> float:
    """Half-width in standard errors of a two-sided interval at ``confidence``.

    >>> round(normal_quantile(0.95), 6)
    1.959964
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is a probability strictly between 0 and 1, not {confidence}")
    return float(ndtri(0.5 + confidence / 2.0))


def welch(parts: Iterable[tuple[NDArray[np.float64], NDArray[np.float64] | float]]) -> NDArray[np.float64]:
    """Degrees of freedom of a sum of independent means (Welch 1947, Satterthwaite 1946), inf where nothing varies.

    ``parts`` are squared standard errors with the degrees of freedom of each, of shapes that broadcast.

    >>> welch([(np.array([1.0, 0.0]), 15.0), (np.array([1.0, 0.0]), 15.0)]).tolist()
    [30.0, inf]
    """
    total, spread = np.zeros(()), np.zeros(())
    for square, freedom in parts:
        total, spread = total + square, spread + np.square(square) / freedom
    return np.divide(np.square(total), spread, out=np.full(np.shape(total), np.inf), where=spread > 0.0)


def student_quantile(confidence: float, freedom: NDArray[np.float64] | float, intervals: int = 1) -> NDArray[np.float64]:
    """Half-width in standard errors of two-sided intervals by means with ``freedom`` degrees of freedom.

    At ``confidence`` for one interval alone, or for ``intervals`` independent ones together (Sidak 1967).

    >>> student_quantile(0.95, np.array([15.0, np.inf])).round(4).tolist()
    [2.1314, 1.96]
    >>> student_quantile(0.95, np.inf, 1000).round(2).tolist()
    4.05
    """
    tail = -0.5 * np.expm1(np.log(confidence) / intervals)
    many = np.minimum(freedom, MANY)
    return np.where(np.asarray(freedom) >= MANY, -ndtri(tail), -stdtrit(many, tail))


def shrink(estimate: NDArray[np.float64], error: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Empirical-Bayes means of noisy estimates and their standard errors (Efron and Morris 1973).

    In units of its own error, each estimate moves towards the mean of all by the share of their
    spread that noise explains. What stays unknown is the noise of the mean and of the kept part;
    the share counts there with two of its own standard deviations more, for a true spread that the
    noise hides is not seen to be 0. One estimate alone is kept as it is; so is one without noise.
    """
    noisy = error > 0.0
    count = int(noisy.sum())
    if count < 2:
        return estimate.copy(), error.copy()
    ratio = estimate[noisy] / error[noisy]
    centre, square = ratio.mean(), float(np.var(ratio, ddof=1))
    kept = max(0.0, 1.0 - 1.0 / square) if square > 0.0 else 0.0
    hidden = min(1.0, kept + 2.0 * np.sqrt(2.0 / (count - 1)))
    value, unknown = estimate.copy(), error.copy()
    value[noisy] = error[noisy] * (centre + kept * (ratio - centre))
    unknown[noisy] *= np.sqrt(1.0 / count + hidden * (1.0 - 1.0 / count))
    return value, unknown


def rms_interval(mean: NDArray[np.float64], error: NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    """(low, estimate, high) of the root mean square of the values behind noisy means.

    With m_i ~ N(v_i, s_i^2), m_i^2 - s_i^2 is unbiased for v_i^2 and has variance 4 v_i^2 s_i^2 + 2 s_i^4;
    the interval is normal for the mean of the squares.
    """
    square, noise = np.square(mean), np.square(error)
    excess = square - noise
    variance = max(0.0, 4.0 * float((excess * noise).sum())) + 2.0 * float(np.square(noise).sum())
    half = normal_quantile(confidence) * float(np.sqrt(variance)) / mean.size
    low, middle, high = (float(np.sqrt(max(0.0, excess.mean() + k * half))) for k in (-1.0, 0.0, 1.0))
    return low, middle, high


def noise_interval(bias: NDArray[np.float64], error: NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    """(low, estimate, high) of the root mean square that estimates with these biases and standard errors are off by."""
    square, noise = np.square(bias), np.square(error)
    variance = 4.0 * square * noise + 2.0 * np.square(noise)
    half = normal_quantile(confidence) * float(np.sqrt(variance.sum())) / bias.size
    low, middle, high = (float(np.sqrt(max(0.0, (square + noise).mean() + k * half))) for k in (-1.0, 0.0, 1.0))
    return low, middle, high
