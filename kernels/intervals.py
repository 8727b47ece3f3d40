"""Intervals: of a sum of terms with printed biases, at one point or at all together, and of root mean squares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

Array = NDArray[np.float64]

MANY = 1e6
"""Degrees of freedom from which Student's law is the normal one."""


def welch(parts: Iterable[tuple[Array, Array | float]]) -> Array:
    """Degrees of freedom of a sum of independent means (Welch 1947, Satterthwaite 1946), inf where nothing varies.

    ``parts`` are squared standard errors with the degrees of freedom of each, of shapes that broadcast.

    >>> welch([(np.array([1.0, 0.0]), 15.0), (np.array([1.0, 0.0]), 15.0)]).tolist()
    [30.0, inf]
    """
    total, spread = np.zeros(()), np.zeros(())
    for square, freedom in parts:
        total, spread = total + square, spread + np.square(square) / freedom
    return np.divide(np.square(total), spread, out=np.full(np.shape(total), np.inf), where=spread > 0.0)


def student_quantile(confidence: float, freedom: Array | float, intervals: int = 1) -> Array:
    """Half-width in standard errors of two-sided intervals by means with ``freedom`` degrees of freedom.

    At ``confidence`` for one interval alone, or for ``intervals`` independent ones together (Sidak 1967);
    ValueError where that is no probability strictly between 0 and 1.

    >>> student_quantile(0.95, np.array([15.0, np.inf])).round(4).tolist()
    [2.1314, 1.96]
    >>> student_quantile(0.95, np.inf, 1000).round(2).tolist()
    4.05
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is a probability strictly between 0 and 1, not {confidence}")
    tail = -0.5 * np.expm1(np.log(confidence) / intervals)
    many = np.minimum(freedom, MANY)
    return np.where(np.asarray(freedom) >= MANY, -ndtri(tail), -stdtrit(many, tail))


def shrink(estimate: Array, error: Array) -> tuple[Array, Array]:
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


def rms_interval(mean: Array, error: Array, confidence: float) -> tuple[float, float, float]:
    """(low, estimate, high) of the root mean square of the values behind noisy means.

    With m_i ~ N(v_i, s_i^2), m_i^2 - s_i^2 is unbiased for v_i^2 and has variance 4 v_i^2 s_i^2 + 2 s_i^4;
    the interval is normal for the mean of the squares.
    """
    square, noise = np.square(mean), np.square(error)
    excess = square - noise
    variance = max(0.0, 4.0 * float((excess * noise).sum())) + 2.0 * float(np.square(noise).sum())
    half = student_quantile(confidence, np.inf) * float(np.sqrt(variance)) / mean.size
    low, middle, high = (float(np.sqrt(max(0.0, excess.mean() + k * half))) for k in (-1.0, 0.0, 1.0))
    return low, middle, high


def noise_interval(bias: Array, error: Array, confidence: float) -> tuple[float, float, float]:
    """(low, estimate, high) of the root mean square that estimates with these biases and standard errors are off by."""
    square, noise = np.square(bias), np.square(error)
    variance = 4.0 * square * noise + 2.0 * np.square(noise)
    half = student_quantile(confidence, np.inf) * float(np.sqrt(variance.sum())) / bias.size
    low, middle, high = (float(np.sqrt(max(0.0, (square + noise).mean() + k * half))) for k in (-1.0, 0.0, 1.0))
    return low, middle, high


@dataclass(frozen=True)
class Estimated:
    """A value at every point with what is known of its error; None where there is no error bar, or no bias is estimated."""

    value: Array
    se: Array | None
    bias: Array | None
    """Estimate minus truth, as far as it was estimated."""
    spread: Array | None
    """Standard error of value - bias: that of the value and what is unknown of the bias."""
    freedom: Array | None
    """Degrees of freedom of ``spread``."""

    @property
    def shift(self) -> Array:
        """The estimated bias; 0 where none is estimated."""
        return np.zeros_like(self.value) if self.bias is None else self.bias

    def half_width(self, confidence: float, intervals: int = 1) -> Array | None:
        """Half of an interval, of so many that are to hold together, widened by the estimated bias; None without error bar."""
        if self.spread is None or self.freedom is None:
            return None
        return student_quantile(confidence, self.freedom, intervals) * self.spread + np.abs(self.shift)


def summed(terms: Sequence[tuple[Array, Array, Array]], count: int) -> Estimated:
    """The sum of the first ``count`` terms, the others being biases that are shrunken and printed.

    ``terms`` are (mean, standard error, degrees of freedom), (points,) each.
    """
    value, se = sum(t[0] for t in terms[:count]), np.sqrt(sum(np.square(t[1]) for t in terms[:count]))
    biases = [shrink(mean, error) for mean, error, _ in terms[count:]]
    errors = [*(t[1] for t in terms[:count]), *(unknown for _, unknown in biases)]
    parts = [(np.square(error), t[2]) for error, t in zip(errors, terms, strict=True)]
    return Estimated(
        value=np.asarray(value),
        se=se,
        bias=np.asarray(sum(b[0] for b in biases)) if biases else None,
        spread=np.sqrt(sum(square for square, _ in parts)),
        freedom=welch(parts),
    )
