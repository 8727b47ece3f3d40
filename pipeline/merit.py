"""Figures of merit: how much more is spent without a surrogate than by a correction for the same accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Summary = Mapping[str, Any]


def rival(summary: Summary) -> str:
    """What a correction is measured against: "plain", the same estimator without a surrogate, or "mlp" of semilinear equations."""
    return "plain" if "plain" in summary["methods"] else "mlp"


def merit(method: Mapping[str, Any], cost: str) -> float | None:
    """rel_se^2 times what was spent, "seconds" of cores or "flop": what more draws do not change, but for the error of a surrogate's own
    integral, which stays."""
    if cost == "seconds":
        return method.get("merit")
    error, spent = method.get("rel_se"), method.get(cost)
    return error**2 * spent if error and spent else None


def merit_gain(summary: Summary, cost: str = "seconds") -> float | None:
    """Figure of merit of the rival over that of the correction: how many times the core seconds, or FLOP, it takes for one standard error.

    Training is left out on one side, and on the other what truncation leaves of MLP's bias.
    """
    ours, plain = (merit(summary["methods"].get(name, {}), cost) for name in ("scasml", rival(summary)))
    return plain / ours if ours and plain else None


def error_gain(summary: Summary) -> float | None:
    """The same in core seconds with the error that was made, bias included, where that is more than the standard error."""

    def work(method: str) -> float | None:
        found = summary["methods"].get(method, {})
        own, error = merit(found, "seconds"), found.get("rel_l2")
        return own * max(1.0, (error / found["rel_se"]) ** 2) if own and error else None

    ours, plain = work("scasml"), work(rival(summary))
    return plain / ours if ours and plain else None
