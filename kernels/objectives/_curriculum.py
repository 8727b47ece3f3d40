"""A curriculum over the horizon: training begins near T, where u is known, and reaches back as it goes on."""

from __future__ import annotations

from torch import Tensor

BEGINNING = 0.1
"""Of the horizon: the window before T with which a curriculum begins."""


class Curriculum:
    """Times are drawn in [T - c T, T], c growing linearly from BEGINNING to 1 over a ``share`` of the steps; None: c = 1.

    Curriculum and sequence-to-sequence learning of Krishnapriyan, Gholami, Zhe, Kirby, Mahoney (arXiv 2109.01050),
    with time running back from T.
    """

    def __init__(self, horizon: float, share: float | None) -> None:
        if share is not None and not 0.0 < share <= 1.0:
            raise ValueError(f"curriculum = {share}: a share of the steps lies in (0, 1], or is null for none")
        self.horizon, self.share = horizon, share

    def window(self, progress: float) -> float:
        """c after a share ``progress`` of the steps, in [0, 1]."""
        return 1.0 if self.share is None else min(1.0, BEGINNING + (1.0 - BEGINNING) * progress / self.share)

    def wait(self, t: Tensor, progress: float) -> Tensor:
        """How long after t the window begins, (paths,); 0 where t lies in it."""
        return (self.horizon - t - self.window(progress) * self.horizon).clamp_min(0.0)
