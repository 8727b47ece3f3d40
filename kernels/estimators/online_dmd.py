"""Windowed dynamic mode decomposition as a correction of the last basis, a snapshot a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from kernels.axes import Unknowns
from kernels.contracts import SnapshotStream, State, Stream, Verdict
from kernels.dmd import feedback, ordered_eigenvalues, reduced_operator, require_window, window_weights


@dataclass(frozen=True)
class OnlineDMDSteps:
    """Each step takes the next pair into the window and corrects the basis by one step of orthogonal iteration.

    The fixed point, for a window that stands still, is batch DMD for every basis to start from. A
    stream that has ended leaves the state as it is. The state holds the window itself.
    """

    rank: int
    window: int
    forgetting: float
    solves: ClassVar[type] = SnapshotStream

    def start(self, problem: SnapshotStream, stream: Stream) -> State:
        if problem.steps < self.window:
            raise ValueError(f"window = {self.window}: '{problem.name}' has {problem.steps} steps; take a shorter window")
        known = problem.known
        if known is not None and known.basis.shape[1] != self.rank:
            raise ValueError(f"rank = {self.rank}: the surrogate knows {known.basis.shape[1]} modes; give both the same rank")
        basis = torch.linalg.qr(stream.normal(problem.dim, self.rank).double())[0] if known is None else known.basis
        seen = self.window if known is None else max(known.first, self.window)
        pairs = [problem.pair(k) for k in range(seen - self.window, seen)]
        # Snapshot k in row k mod window.
        x, y = (torch.stack(part).roll(seen % self.window, 0) for part in zip(*pairs, strict=True))
        return {
            "basis": basis,
            "x": x,
            "y": y,
            "seen": torch.tensor([float(seen)], dtype=torch.float64),
            "operator": reduced_operator(x, y, self._weights(seen), basis),
        }

    def step(self, problem: SnapshotStream, state: State) -> State:
        seen = int(state["seen"])
        if seen >= problem.steps:
            return state
        x, y = state["x"].clone(), state["y"].clone()
        x[seen % self.window], y[seen % self.window] = problem.pair(seen)
        weights = self._weights(seen + 1)
        basis = feedback(x, weights, state["basis"])
        return {
            "basis": basis,
            "x": x,
            "y": y,
            "seen": state["seen"] + 1.0,
            "operator": reduced_operator(x, y, weights, basis),
        }

    def value(self, state: State) -> Unknowns:
        """Real parts of the eigenvalues by argument, then their imaginary parts, (2 rank,)."""
        found = ordered_eigenvalues(state["operator"])
        return torch.cat((found.real, found.imag))

    def residual(self, problem: SnapshotStream, state: State) -> Unknowns:
        """|(I - Q Q^T) X W X^T Q| / |Q^T X W X^T Q|: 0 where Q spans singular vectors of the window, as batch DMD's does."""
        x, q = state["x"], state["basis"]
        image = x.T @ (self._weights(int(state["seen"]))[:, None] * (x @ q))
        inside = q.T @ image
        return (torch.linalg.matrix_norm(image - q @ inside) / torch.linalg.matrix_norm(inside))[None]

    def verdict(self, state: State) -> Verdict:
        """A stream is followed to its end."""
        return "converging"

    def flop(self, problem: SnapshotStream) -> float:
        return 8.0 * problem.dim * self.window * self.rank + 4.0 * problem.dim * self.rank**2 + 30.0 * self.rank**3

    def size(self, problem: SnapshotStream) -> int:
        """Both snapshots of the window's pairs, the basis and the operator in it."""
        return problem.dim * (2 * self.window + self.rank) + self.rank**2

    def _weights(self, seen: int) -> torch.Tensor:
        return window_weights(self.window, seen - 1, self.forgetting)


def online_dmd(*, rank: int = 8, window: int = 100, forgetting: float = 1.0) -> OnlineDMDSteps:
    """Windowed DMD by first-order feedback: the last basis, corrected by each new snapshot; no SVD.

    :param rank: modes to follow, those of the surrogate
    :param window: pairs in the window, at least rank
    :param forgetting: weight of a pair over that of the next newer, in (0, 1]
    """
    require_window(rank, window, forgetting)
    return OnlineDMDSteps(rank=rank, window=window, forgetting=forgetting)
