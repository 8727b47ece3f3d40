"""The scaling law of an error in the size of a model and its data: fit, data drawn again, frontier of compute."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from kernels.streams import Purpose, Stream

Array = NDArray[np.float64]
Index = NDArray[np.intp]

LOWEST, HIGHEST = 0.05, 6.0
"""Range in which exponents are searched: below it a power is hardly told from E, above it only the smallest cells see it."""

GRID = 6
"""Exponents of a first look, in each direction."""

HUBER = 0.1, 0.3
"""Range of Huber's delta, which is the deviation of the seeds within it."""

ROUNDS = 60
TIGHT = 1e-6
"""A descent ends where a round lowers no objective by more than this part; far below what seeds leave open."""

POLISHED = 1e-12
"""The same where one fit is to be told from another to six digits."""

SUPPORTS = np.array([s for s in itertools.product((0.0, 1.0), repeat=3) if any(s)])
"""Which of E, A, B are not 0."""


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al., arXiv 2203.15556, equation 10), E, A, B >= 0.

    Every field has the shape of the data sets it is fitted to. An exponent whose coefficient is 0 is NaN: nothing tells it.
    """

    E: Array
    A: Array
    B: Array
    alpha: Array
    beta: Array

    def __call__(self, N: Array, D: Array) -> Array:
        """Errors (..., runs) at sizes and data of shape (runs,)."""
        return (
            self.E[..., None]
            + self.A[..., None] * N ** -np.nan_to_num(self.alpha)[..., None]
            + self.B[..., None] * D ** -np.nan_to_num(self.beta)[..., None]
        )

    @property
    def optimal(self) -> Array:
        """alpha beta / (alpha + beta): at the best N and D for C ~ N D, L - E ~ C^-optimal (ibid., equation 4)."""
        return np.asarray(self.alpha * self.beta / (self.alpha + self.beta))

    @property
    def a_opt(self) -> Array:
        """beta / (alpha + beta): the best N for C ~ N D grows as C^a_opt (ibid., equation 4)."""
        return np.asarray(self.beta / (self.alpha + self.beta))

    @property
    def parameters(self) -> Array:
        """How many numbers the data have set."""
        return np.asarray((self.E > 0.0) + 2.0 * (self.A > 0.0) + 2.0 * (self.B > 0.0))


@dataclass(frozen=True)
class ScalingFit:
    """A law of one data set, and how far drawing its rows again moves it."""

    law: ScalingLaw
    objective: float
    """sum_i Huber_delta(log L(N_i, D_i) - log L_i): a sum over the rows, and no mean."""
    laws: ScalingLaw
    """Of the bootstrap data sets, (n_boot,)."""

    @property
    def cov(self) -> Array:
        """Covariance of (E, A, B, alpha, beta), (5, 5); NaN in the rows of what some data set leaves open."""
        laws = self.laws
        return np.cov(np.stack([laws.E, laws.A, laws.B, laws.alpha, laws.beta]))


def fit_scaling_law(
    N: Array, D: Array, L: Array, *, delta: float = 1e-3, n_boot: int = 200, seed: int = 0, tight: float = POLISHED
) -> ScalingFit:
    """The law of N, D and losses L, (runs,), with a bootstrap of the rows: the fit of Hoffmann et al. (approach 3), to its minimum.

    Besiroglu et al. (arXiv 2404.10102): at delta = 1e-3 the objective is nearly a sum of absolute values and some 1e-3 at its
    minimum, so that a general minimiser of its mean stops early. ``fit`` stops by the part that a round gains.

    Raises ValueError where ``fit`` does, and for fewer than two bootstrap data sets, which have no covariance.
    """
    if n_boot < 2:
        raise ValueError(f"n_boot = {n_boot}: a covariance needs at least two bootstrap data sets; some 200 tell it to 5 %")
    law = fit(N, D, L, delta=delta, tight=tight)
    picks = np.ceil(Stream(seed, Purpose.RESAMPLING).uniform(n_boot, len(N)).numpy() * len(N)).astype(int) - 1
    again = [fit(N[rows], D[rows], L[rows], delta=delta, start=law) for rows in picks]
    laws = ScalingLaw(*(np.array([getattr(each, field.name) for each in again]) for field in fields(ScalingLaw)))
    return ScalingFit(law, float(_huber(np.log(law(N, D)) - np.log(L), delta).sum()), laws)


def fit(N: Array, D: Array, errors: Array, *, delta: float, start: ScalingLaw | None = None, tight: float = TIGHT) -> ScalingLaw:
    """The law that minimises sum_i Huber_delta(log L(N_i, D_i) - log L_i), for each of the data sets ``errors`` (..., runs).

    Variable projection (Golub and Pereyra 1973; for this law arXiv 2603.22339): the search is over the exponents
    alone, a grid and then a damped Gauss-Newton descent from its best; within it E, A, B are non-negative
    least squares, reweighted. Residuals of logarithms, so that small errors count as much as large ones; Huber's
    loss, so that a failed seed does not decide. ``start`` is one more law to begin from, ``tight`` the part of the
    objective that a round must gain for another to follow.

    Raises ValueError where a number is not positive, or one size or amount of data stands alone.
    """
    given = [np.asarray(part, dtype=np.float64) for part in (N, D, errors)]
    if not all(np.isfinite(part).all() and (part > 0.0).all() for part in given):
        raise ValueError("a scaling law takes logarithms: every size, amount of data and error must be finite and > 0")
    if min(len(np.unique(part)) for part in given[:2]) < 2:
        raise ValueError("a scaling law needs at least two sizes and two amounts of data: one of each alone tells no exponent")
    n, d = (np.log(part) for part in given[:2])
    target, middle = np.log(given[2]), (n.mean(), d.mean())
    shape, level = target.shape[:-1], target.mean()
    target = target.reshape(-1, target.shape[-1]) - level
    x = np.stack([n - middle[0], d - middle[1]], -1)
    grid = np.geomspace(LOWEST, HIGHEST, GRID)
    looks = np.log(np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2))
    _, values = _projected(looks, x, target[:, None], delta, rounds=0)
    best = looks[values.argmin(-1)]
    if start is not None:
        own = np.log(np.nan_to_num([start.alpha, start.beta], nan=1.0)).clip(np.log(LOWEST), np.log(HIGHEST)).reshape(1, 2)
        nearer = _projected(own, x, target, delta, rounds=2)[1] < _projected(best, x, target, delta, rounds=2)[1]
        best = np.where(nearer[:, None], own, best)
    logs, c = _descended(best, x, target, delta, tight)
    alpha, beta = np.exp(logs.T)
    e, a, b = np.exp(level) * c.T
    law = (e, a * np.exp(alpha * middle[0]), b * np.exp(beta * middle[1]))
    exponents = (np.where(a > 0.0, alpha, np.nan), np.where(b > 0.0, beta, np.nan))
    return ScalingLaw(*(part.reshape(shape) for part in (*law, *exponents)))


def _columns(logs: Array, x: Array) -> Array:
    """1, N^-alpha, D^-beta about their middle, (..., runs, 3), of the logarithms of the exponents (..., 2)."""
    powers = np.exp(-np.exp(logs)[..., None, :] * x)
    return np.concatenate([np.ones((*powers.shape[:-1], 1)), powers], -1)


def _huber(r: Array, delta: float) -> Array:
    size = np.abs(r)
    return np.where(size < delta, 0.5 * r * r, delta * (size - 0.5 * delta))


def _residuals(columns: Array, c: Array, target: Array, delta: float) -> tuple[Array, Array, Array, Array]:
    """L, log L - log of the errors, square roots of Huber's weights, and the objective."""
    fitted = np.maximum((columns @ c[..., None])[..., 0], np.finfo(float).tiny)
    r = np.log(fitted) - target
    return fitted, r, np.sqrt(delta / np.maximum(np.abs(r), delta)), _huber(r, delta).sum(-1)


def _projected(logs: Array, x: Array, target: Array, delta: float, *, rounds: int, c: Array | None = None) -> tuple[Array, Array]:
    """E, A, B (..., 3) that are best for given exponents, and the objective.

    log L = log L_k + (L - L_k)/L_k to first order: reweighted least squares in E, A, B. Without a ``c`` to go on from
    they begin with those of the relative residual.
    """
    columns = _columns(logs, x)
    if c is None:
        relative = columns * np.exp(-target)[..., None]
        c = _nonnegative(relative, np.ones_like(relative[..., 0]))
    fitted, r, w, value = _residuals(columns, c, target, delta)
    for _ in range(rounds):
        step = _nonnegative(columns * (w / fitted)[..., None], w * (1.0 - r)) - c
        before = c
        for share in (1.0, 0.2):
            tried = before + share * step
            found = _residuals(columns, tried, target, delta)
            better = found[3] < value
            c = np.where(better[..., None], tried, c)
            fitted, r, w = (np.where(better[..., None], *pair) for pair in zip(found[:3], (fitted, r, w), strict=True))
            value = np.where(better, found[3], value)
            if better.all():
                break
    return c, value


def _nonnegative(a: Array, y: Array) -> Array:
    """argmin |a c - y|^2 over c >= 0, (..., 3): the best of the solutions on all supports that are not negative."""
    gram, moment = np.swapaxes(a, -1, -2) @ a, (np.swapaxes(a, -1, -2) @ y[..., None])[..., 0]
    scale = np.trace(gram, axis1=-2, axis2=-1)[..., None, None, None]
    system = gram[..., None, :, :] * SUPPORTS[:, :, None] * SUPPORTS[:, None, :]
    system = system + scale * np.eye(3) * (1.0 - SUPPORTS[:, :, None] + 1e-13)
    right = moment[..., None, :] * SUPPORTS
    c = np.linalg.solve(system, right[..., None])[..., 0]
    gain = np.where(np.any(c < 0.0, axis=-1), -np.inf, (right * c).sum(-1))
    best = np.take_along_axis(c, gain.argmax(-1)[..., None, None], -2)[..., 0, :]
    return np.where(np.any(np.isfinite(gain), axis=-1, keepdims=True), best, 0.0)


def _descended(logs: Array, x: Array, target: Array, delta: float, tight: float) -> tuple[Array, Array]:
    """Logarithms of the exponents and E, A, B where the damped Gauss-Newton descent in the former ends."""
    c, value = _projected(logs, x, target, delta, rounds=4)
    damping = np.full(len(logs), 1e-2)
    moving = np.arange(len(logs))
    for _ in range(ROUNDS):
        here, there, goal = logs[moving], c[moving], target[moving]
        columns = _columns(here, x)
        fitted, r, w, _ = _residuals(columns, there, goal, delta)
        slopes = -np.exp(here)[:, None, :] * x * columns[..., 1:] * there[:, None, 1:]
        jacobian = np.concatenate([columns * (there > 0.0)[:, None, :], slopes], -1) * (w / fitted)[..., None]
        normal = np.swapaxes(jacobian, -1, -2) @ jacobian
        diagonal = np.diagonal(normal, axis1=-2, axis2=-1)
        shift = damping[moving, None] * diagonal + 1e-12 * diagonal.max(-1, keepdims=True)
        gradient = (np.swapaxes(jacobian, -1, -2) @ (w * r)[..., None])[..., 0]
        step = -np.linalg.solve(normal + shift[..., None] * np.eye(5), gradient[..., None])[..., 3:, 0]
        trial = (here + step.clip(-1.0, 1.0)).clip(np.log(LOWEST), np.log(HIGHEST))
        trial_c, trial_value = _projected(trial, x, goal, delta, rounds=2, c=there)
        gained = value[moving] - trial_value
        better = gained > 0.0
        logs[moving[better]], c[moving[better]] = trial[better], trial_c[better]
        small = gained <= tight * value[moving]
        value[moving[better]] = trial_value[better]
        # A step that fails is tried again, shorter, until it is too short to matter.
        done = small & (better | (damping[moving] > 1e4))
        damping[moving] *= np.where(better, 0.2, 10.0)
        moving = moving[~done]
        if not len(moving):
            break
    return logs, c


def deviation(logs: Array, cells: Index) -> float:
    """Standard deviation of log errors between the seeds of a cell, pooled over the cells. ValueError where all have one seed."""
    counts, means = np.bincount(cells), np.bincount(cells, logs) / np.bincount(cells)
    if len(logs) == len(counts):
        raise ValueError("the spread of seeds needs a cell of at least two: run more seeds")
    return float(np.sqrt(np.square(logs - means[cells]).sum() / (len(logs) - len(counts))))


def misfit(law: ScalingLaw, N: Array, D: Array, logs: Array, cells: Index) -> float:
    """Birge's ratio: the deviation of the cells' means from the law over what the seeds explain; 1 in the mean where the law holds.

    The square root of the lack-of-fit F statistic; NaN for no more cells than the law has parameters.
    """
    counts = np.bincount(cells)
    off = np.bincount(cells, np.log(law(N, D)) - logs) / counts
    freedom = len(counts) - float(law.parameters)
    return float(np.sqrt((counts * off**2).sum() / freedom) / deviation(logs, cells)) if freedom > 0.0 else float("nan")


def redrawn(
    logs: Array, cells: Index, stream: Stream, replicates: int, *, widen: float = 1.0, seeds: Index | None = None
) -> Array:
    """Bootstrap data sets (replicates, runs) of log errors: the seeds of every cell drawn again, with replacement.

    With ``seeds`` (runs,), of which every cell has the same, whole seeds are drawn, the same in all cells: what the runs of one
    seed share, its points and its first weights, is then kept together. Deviations from a cell's mean are stretched by
    sqrt(k/(k-1)), k its number of seeds, so that their variance is unbiased, and by ``widen``: Birge's ratio for a law that
    misses its cells.
    """
    out = np.empty((replicates, len(logs)))
    shared = None
    for cell in np.unique(cells):
        rows = np.flatnonzero(cells == cell)
        if seeds is not None:
            rows = rows[np.argsort(seeds[rows])]
        k, mean = len(rows), logs[rows].mean()
        picks = shared if shared is not None else np.ceil(stream.uniform(replicates, k).numpy() * k).astype(int) - 1
        if seeds is not None:
            shared = picks
        out[:, rows] = mean + widen * np.sqrt(k / (k - 1)) * (logs[rows] - mean)[picks]
    return out


def interval(values: Array, confidence: float) -> tuple[float, float] | None:
    """Percentile interval of a figure over bootstrap data sets; None where too many of them do not determine it (NaN)."""
    known = values[np.isfinite(values)]
    if len(known) < (0.5 + 0.5 * confidence) * len(values):
        return None
    low, high = np.quantile(known, [0.5 - 0.5 * confidence, 0.5 + 0.5 * confidence])
    return float(low), float(high)


def frontier(cost: Array, errors: Array) -> Index:
    """Cells that no cheaper one beats, by cost."""
    order = np.lexsort((errors, cost))
    lowest = np.minimum.accumulate(np.concatenate([[np.inf], errors[order][:-1]]))
    return order[errors[order] < lowest]


def compute_exponent(cost: Array, errors: Array) -> float:
    """gamma of error ~ cost^-gamma by least squares in logarithms over the frontier; NaN for fewer than three cells there."""
    cells = frontier(cost, errors)
    if len(cells) < 3:
        return float("nan")
    return float(-np.polyfit(np.log(cost[cells]), np.log(errors[cells]), 1)[0])


def at_budget(cost: Array, mean: Array, square: Array, budget: float) -> tuple[float, float]:
    """Mean log error on the frontier at a cost, and its squared standard error, between two cells in proportion to log cost.

    ``mean`` and ``square`` are those of the cells. ValueError for a budget outside the frontier.
    """
    cells = frontier(cost, np.exp(mean))
    logs = np.log(cost[cells])
    place = np.log(budget)
    if not logs[0] - 1e-9 <= place <= logs[-1] + 1e-9:
        raise ValueError(f"budget = {budget:.3g}: the frontier reaches from {cost[cells[0]]:.3g} to {cost[cells[-1]]:.3g}")
    weights = np.array([np.interp(place, logs, unit) for unit in np.eye(len(cells))])
    return float(weights @ mean[cells]), float(weights**2 @ square[cells])
