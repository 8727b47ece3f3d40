"""Count, mean and sum of squared deviations: of one chunk, merged, folded in chunk order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri


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


def simultaneous_quantile(confidence: float, intervals: int) -> float:
    """Half-width in standard errors at which ``intervals`` independent intervals hold together (Sidak 1967).

    >>> round(simultaneous_quantile(0.95, 1), 6), round(simultaneous_quantile(0.95, 1000), 3)
    (1.959964, 4.05)
    """
    return normal_quantile(confidence ** (1.0 / intervals))


def shrink(estimate: NDArray[np.float64], error: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Empirical-Bayes means of noisy estimates and their standard errors (Efron and Morris 1973, variances pooled).

    Each estimate moves towards the mean of all by the share of their spread that their own noise
    explains, and the mean itself towards 0 by the share of its square that its noise does. What
    stays unknown, the noise of the mean and the kept part of each estimate's own, is the error:
    estimates that are all noise come out near 0 with the error of their mean.
    """
    noise, count = float(np.mean(np.square(error))), estimate.size
    centre = float(estimate.mean())
    centre_kept = centre * _kept(centre**2, noise / count)
    if count < 2:
        return np.full_like(estimate, centre_kept), np.full_like(estimate, np.sqrt(noise))
    kept = _kept(float(np.var(estimate, ddof=1)), noise)
    unknown = np.sqrt(noise / count + kept * noise * (1.0 - 1.0 / count))
    return centre_kept + kept * (estimate - centre), np.full_like(estimate, unknown)


def _kept(square: float, noise: float) -> float:
    return max(0.0, 1.0 - noise / square) if square > 0.0 else 0.0


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
