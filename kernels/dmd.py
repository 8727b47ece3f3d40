"""Dynamic mode decomposition of a sliding window, by first-order feedback from the last basis."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from kernels.axes import Unknowns

Window = Float[Tensor, "window unknowns"]
Weights = Float[Tensor, "window"]
Basis = Float[Tensor, "unknowns rank"]
Reduced = Float[Tensor, "rank rank"]


def window_weights(window: int, newest: int, forgetting: float) -> Weights:
    """forgetting^age of each row of a ring buffer, snapshot k in row k mod window, ``newest`` the last k; 0 where none is yet."""
    rows = torch.arange(window, dtype=torch.float64)
    age = torch.remainder(newest - rows, window)
    return torch.where(age <= newest, forgetting**age, torch.zeros_like(rows))


def feedback(x: Window, weights: Weights, basis: Basis) -> Basis:
    """Q <- qr(X W X^T Q): one warm-started step of orthogonal iteration, and no SVD.

    It is the first-order perturbation update of the eigenvectors of X W X^T, in closed form; the
    fixed point is the basis of batch DMD, the leading left singular vectors of X W^(1/2).
    """
    image = (weights[:, None] * (x @ basis)).T @ x
    return torch.linalg.qr(image.T)[0]


def reduced_operator(x: Window, y: Window, weights: Weights, basis: Basis) -> Reduced:
    """K = Q^T Y W Z (Z^T W Z)^-1, Z = X^T Q: the least-squares map of the snapshots seen in the basis (projected DMD).

    By QR of W^(1/2) Z, not by its normal equations, whose condition number is squared.
    """
    root = weights.sqrt()[:, None]
    return torch.linalg.lstsq(root * (x @ basis), root * (y @ basis), driver="gelsd").solution.T


def batch_basis(x: Window, weights: Weights, rank: int) -> Basis:
    """Leading left singular vectors of X W^(1/2), (unknowns, rank): what batch DMD projects on."""
    return torch.linalg.svd(weights.sqrt()[:, None] * x, full_matrices=False)[2][:rank].T.contiguous()


def ordered_eigenvalues(operator: Reduced) -> Complex[Tensor, "rank"]:
    """Eigenvalues by argument, then by modulus: an order that moves with them."""
    found = torch.linalg.eigvals(operator)
    found = found[torch.argsort(found.abs(), stable=True)]
    return found[torch.argsort(found.angle(), stable=True)]


def require_window(rank: int, window: int, forgetting: float) -> None:
    """Refuse windows that cannot hold the modes, and weights that grow with age."""
    if rank < 1:
        raise ValueError(f"rank = {rank}: at least one mode is followed")
    if window < rank:
        raise ValueError(f"window = {window}: shorter than rank = {rank}, it cannot tell the modes apart; take at least {rank}")
    if not 0.0 < forgetting <= 1.0:
        raise ValueError(f"forgetting = {forgetting}: the weight of a snapshot over that of the next is in (0, 1]")


class OnlineDMD:
    """DMD of the last ``window`` pairs, a pair at a time, at O(dim window rank) each: a QR of dim x rank, no SVD.

    >>> turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    >>> x, dmd = torch.tensor([1.0, 0.0], dtype=torch.float64), OnlineDMD(rank=2, window=4)
    >>> for _ in range(4):
    ...     x, last = turn @ x, x
    ...     dmd = dmd.update(last, x)
    >>> [round(float(value), 12) for value in dmd.eigs.real]
    [0.6, 0.6]

    :param rank: modes to follow
    :param window: pairs in the window, at least rank
    :param forgetting: weight of a pair over that of the next newer, in (0, 1]
    """

    def __init__(self, rank: int, window: int, forgetting: float = 1.0) -> None:
        require_window(rank, window, forgetting)
        self.rank, self.window, self.forgetting = rank, window, forgetting
        self.seen = 0
        self._x = self._y = self._basis = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, x: Unknowns, y: Unknowns) -> OnlineDMD:
        """Take in the pair x -> y, float64, in place of the oldest."""
        if x.shape != y.shape or x.dtype != torch.float64 or y.dtype != torch.float64 or len(x) < self.rank:
            raise ValueError(
                f"a pair of shapes {tuple(x.shape)}, {tuple(y.shape)}, {x.dtype}: should be two float64 vectors of at least {self.rank}"
            )
        if not self.seen:
            self._x, self._y = (torch.zeros(self.window, len(x), dtype=torch.float64) for _ in range(2))
        if len(x) != self._x.shape[1]:
            raise ValueError(f"a pair of {len(x)} entries after pairs of {self._x.shape[1]}: a stream keeps its dimension")
        self._x[self.seen % self.window], self._y[self.seen % self.window] = x, y
        self.seen += 1
        if self.seen == self.rank:
            self._basis = torch.linalg.qr(self._x[: self.rank].T)[0]
        elif self.seen > self.rank:
            self._basis = feedback(self._x, self._weights(), self._basis)
        return self

    @property
    def operator(self) -> Reduced:
        """K, the map in the basis."""
        if self.seen < self.rank:
            raise ValueError(f"{self.seen} pairs seen: eigenvalues need at least rank = {self.rank}; update first")
        return reduced_operator(self._x, self._y, self._weights(), self._basis)

    @property
    def eigs(self) -> Complex[Tensor, "rank"]:
        """Eigenvalues of K, by argument."""
        return ordered_eigenvalues(self.operator)

    @property
    def modes(self) -> Complex[Tensor, "unknowns rank"]:
        """Q V, V the eigenvectors of K in the order that LAPACK gives them, those of ``torch.linalg.eig(operator)``."""
        return self._basis.to(torch.complex128) @ torch.linalg.eig(self.operator)[1]

    def _weights(self) -> Weights:
        return window_weights(self.window, self.seen - 1, self.forgetting)
