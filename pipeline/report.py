"""Fold -> a frozen Report: every method at every point with its error, and what the correction was made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.intervals import Estimated, noise_interval, rms_interval, student_quantile
from pipeline.family import Family
from pipeline.plan import Plan

Array = NDArray[np.float64]
FIGURES = ("rel_l2", "linf", "l1", "rel_se", "coverage", "bias_estimate", "rel_l2_low", "rel_l2_estimate", "rel_l2_high", "merit")


@dataclass(frozen=True)
class MethodReport(Estimated):
    """One method at every point, and what it spent."""

    flop: float | None
    paths: int | None
    seconds: float
    """Core seconds, of the surrogate those of its training."""
    wall: float
    """Seconds that passed."""
    detail: str
    trace: tuple[tuple[float, float], ...]
    """(FLOP, relative L2 error) after each round of draws; empty without a reference."""


@dataclass(frozen=True)
class TermReport:
    """One term of the correction, its mean and standard error averaged over the points, in units of rms(u)."""

    name: str
    role: str
    """base, removes a bias, or left: a bias that is estimated and printed."""
    mean: float
    se: float
    paths: int
    flop: float


@dataclass(frozen=True)
class BoundReport:
    """A one-sided bound at every point: its value, and its end of the confidence interval away from the solution."""

    method: str
    value: Array
    safe: Array
    paths: int
    flop: float
    seconds: float


@dataclass(frozen=True)
class GradientReport(Estimated):
    """grad u at every point, (points, dim) each, with the surrogate's and the truth where it is known."""

    surrogate: Array
    reference: Array | None


@dataclass(frozen=True)
class RateReport:
    """How the mean squared error of a method falls with the number of data."""

    method: str
    ns: Array
    mean: Array
    se: Array
    slope: float
    slope_se: float
    theory: float | None


@dataclass(frozen=True)
class GainReport:
    """What the surrogate of an integral gained: how many times as many values of f plain Monte Carlo takes for the same error.

    ``tail_index`` is that of f^q (``kernels.tails``), from ``draws`` values of f whose ``flop`` no method is charged with.
    """

    value: float
    """From the variances that were sampled: it means nothing where ``warnings`` say that there is none."""
    se: float | None
    tail_index: float
    tail_index_se: float
    draws: int
    flop: float
    warnings: tuple[str, ...]
    """Why the control variate cannot help, or its error bar is not earned."""


@dataclass(frozen=True)
class Report:
    """A finished run: points, truth where known, methods, and the training curve."""

    family: Family
    job: dict[str, Any]
    hashes: dict[str, str]
    t: Array
    x: Array
    draws: Array
    reference: Array | None
    reference_error: float
    reference_source: str
    methods: dict[str, MethodReport]
    terms: tuple[TermReport, ...]
    bounds: dict[str, BoundReport]
    """By side, "lower" and "upper"; empty where the driver's curvature is unknown."""
    gradient: GradientReport | None
    rates: tuple[RateReport, ...]
    """Of a study of rates, a row a method."""
    gain: GainReport | None
    """Of an integral."""
    plan: Plan
    tolerance_met: bool | None
    losses: Array
    seconds: dict[str, float]
    """Wall seconds of every stage; of the correction those of its pilot and its waves, whatever came between."""
    device: str
    """What training and correction ran on."""
    confidence: float
    resumed: int

    @property
    def hash(self) -> str:
        """What determines the corrected numbers."""
        return self.hashes["correction"]

    def _scale(self, values: Array) -> float | None:
        """Root mean square of u, or of a method's values where u is unknown; None where it is 0."""
        return rms(values if self.reference is None else self.reference) or None

    def errors(self, name: str) -> dict[str, float | None]:
        """FIGURES of a method; None where one does not apply.

        rel_l2, linf, l1 are against the truth; rel_l2_low, _estimate, _high bound the relative L2
        error without it: for the corrected value from its own standard errors and biases, for the
        other methods from their distance to it. merit is rel_se^2 times core seconds, which more
        draws do not change: how fast a method buys accuracy.
        """
        method, corrected = self.methods[name], self.methods["scasml"]
        scale = self._scale(method.value)
        out: dict[str, float | None] = dict.fromkeys(FIGURES)
        if scale is None:
            return out
        assert corrected.spread is not None
        if method.se is not None:
            relative = rms(method.se) / scale
            out |= {"rel_se": relative, "merit": relative**2 * method.seconds}
        if method.bias is not None:
            out["bias_estimate"] = rms(method.bias) / scale
        if name == "scasml":
            low, middle, high = noise_interval(corrected.shift, corrected.spread, self.confidence)
        else:
            low, middle, high = rms_interval(method.value - corrected.value, corrected.spread, self.confidence)
            slack = rms(corrected.shift)
            low, high = max(0.0, low - slack), high + slack
        out |= {"rel_l2_low": low / scale, "rel_l2_estimate": middle / scale, "rel_l2_high": high / scale}
        if self.reference is not None:
            error = method.value - self.reference
            out["rel_l2"] = rms(error) / scale
            out["linf"] = float(np.abs(error).max())
            out["l1"] = float(np.abs(error).mean())
            half = method.half_width(self.confidence)
            if half is not None:
                slack = float(student_quantile(self.confidence, np.inf)) * self.reference_error
                out["coverage"] = float(np.mean(np.abs(error) <= half + slack))
        return out

    def intervals(self) -> dict[str, tuple[Array, Array]]:
        """Pointwise and simultaneous intervals of the corrected value; NaN for those that the job does not ask for."""
        scasml, out = self.methods["scasml"], {}
        together = len(self.t) if self.job["report"]["simultaneous"] else None
        for kind, intervals in (("ci", 1), ("simultaneous", together)):
            half = np.full_like(self.t, np.nan) if intervals is None else scasml.half_width(self.confidence, intervals)
            assert half is not None
            out[kind] = scasml.value - half, scasml.value + half
        return out

    def rate_interval(self, rate: RateReport) -> tuple[float, float]:
        """The confidence interval of a slope."""
        half = float(student_quantile(self.confidence, np.inf)) * rate.slope_se
        return rate.slope - half, rate.slope + half

    def _bounds_summary(self) -> dict[str, Any]:
        corrected = self.methods["scasml"]
        scale = self._scale(corrected.value) or np.nan
        out: dict[str, Any] = {}
        for side, bound in self.bounds.items():
            sign, known = 1.0 if side == "upper" else -1.0, np.isfinite(bound.safe)
            holds = None
            if self.reference is not None and known.any():
                holds = float(np.mean(sign * (bound.safe - self.reference)[known] >= 0.0))
            out[side] = {
                "method": bound.method,
                "points": int(known.sum()),
                "gap": float(np.mean(sign * (bound.value - corrected.value)[known])) / scale if known.any() else None,
                "holds": holds,
                "paths": bound.paths,
                "flop": bound.flop,
                "seconds": bound.seconds,
            }
        return out

    def _gradient_summary(self) -> dict[str, Any] | None:
        found = self.gradient
        if found is None:
            return None
        truth, half = found.reference, found.half_width(self.confidence)
        assert found.se is not None and half is not None
        return {
            "rel_se": _relative(found.se, found.value),
            "bias_estimate": None if found.bias is None else _relative(found.bias, found.value),
            "rel_l2_surrogate": None if truth is None else _relative(found.surrogate - truth, truth),
            "rel_l2": None if truth is None else _relative(found.value - truth, truth),
            "coverage": None if truth is None else float(np.mean(np.abs(found.value - truth) <= half)),
        }

    def summary(self) -> dict[str, Any]:
        """The content of report.json; a figure that does not apply or is not finite is null."""
        return finite(
            {
                "job": self.job,
                "hash": self.hash,
                "problem": self.job["problem"]["name"],
                "dim": self.job["problem"]["dim"],
                "points": len(self.t),
                "stages": {stage: {"seconds": seconds} for stage, seconds in self.seconds.items()},
                "methods": {
                    name: {
                        **self.errors(name),
                        "seconds": m.seconds,
                        "wall_seconds": m.wall,
                        "flop": m.flop,
                        "paths": m.paths,
                        "detail": m.detail,
                        "trace": [{"flop": flop, "rel_l2": error} for flop, error in m.trace],
                    }
                    for name, m in self.methods.items()
                },
                "terms": {t.name: {k: v for k, v in vars(t).items() if k != "name"} for t in self.terms},
                "biases": {t.name: {"mean": t.mean, "se": t.se} for t in self.terms if t.role == "left"},
                "bounds": self._bounds_summary(),
                "gradient": self._gradient_summary(),
                "rates": {
                    r.method: {"slope": r.slope, "low": low, "high": high, "theory": r.theory}
                    for r in self.rates
                    for low, high in [self.rate_interval(r)]
                },
                "gain": None if self.gain is None else vars(self.gain),
                "pilot": [{"candidate": str(c), "work": c.work} for c in self.plan.tried],
                "reference": None if self.reference is None else self.reference_source,
                "reference_rel_se": None if self.reference is None else self.reference_error / (rms(self.reference) or np.nan),
                "tolerance_met": self.tolerance_met,
                "resumed": self.resumed,
            }
        )


def _relative(values: Array, to: Array) -> float | None:
    return rms(values) / (rms(to) or np.nan)


def finite(node: Any) -> Any:
    """``node`` with None for every number that JSON has no word for."""
    if isinstance(node, dict):
        return {key: finite(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [finite(value) for value in node]
    return None if isinstance(node, float) and not np.isfinite(node) else node


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
