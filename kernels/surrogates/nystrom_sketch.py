"""A positive semidefinite matrix approximated from its products with random vectors, to be inverted under a shift."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels.axes import Positions, Times
from kernels.contracts import NORMAL_FLOP, Eigenproblem, Stream
from kernels.contracts.operator import product, require_symmetric


class NystromSketch(nn.Module):
    """A^ = Y (O^T Y)^+ Y^T = U diag(values) U^T with Y = A O, O orthonormal (Tropp, Yurtsever, Udell, Cevher 2017).

    O is the range of A^(passes - 1) times a Gaussian matrix. As there, Y is shifted by nu = eps |Y|_F before the Cholesky
    factor, and nu taken off the eigenvalues. Nystrom underestimates A, yet less than ``scale`` < 1 does: with values
    near those of A the shifted inverse is near singular where it is used most, and an eigenvector of A^ that is none of A
    would not be corrected. Before a ``fit`` A^ is 0.
    """

    basis: Tensor
    values: Tensor

    def __init__(self, problem: Eigenproblem, *, rank: int, passes: int, scale: float) -> None:
        super().__init__()
        self.problem, self.rank, self.passes, self.scale = problem, rank, passes, scale
        self.register_buffer("basis", torch.eye(problem.dim, rank, dtype=torch.float64))
        self.register_buffer("values", torch.zeros(rank, dtype=torch.float64))

    @property
    def matvecs(self) -> int:
        """Products with A that a fit takes."""
        return self.passes * self.rank

    @torch.no_grad()
    def fit(self, stream: Stream) -> list[float]:
        """Sketch A. Returns |(I - O O^T) A O| / |A O|, Frobenius, of each pass: 0 where the range of O is invariant."""
        image, losses = stream.normal(self.problem.dim, self.rank, dtype=torch.float64), []
        for _ in range(self.passes):
            test = torch.linalg.qr(image).Q
            image = product(self.problem.matvec, test)
            size = torch.linalg.norm(image)
            losses.append(float(torch.linalg.norm(image - test @ (test.mT @ image)) / size) if size > 0.0 else 0.0)
        require_symmetric(test.mT @ image, "nystrom_sketch")
        basis, values = _nystrom(test, image)
        self.basis.copy_(basis)
        self.values.copy_(values)
        return losses

    def fit_cost(self) -> tuple[float, float]:
        dim, rank = self.problem.dim, self.rank
        flop = self.matvecs * self.problem.cost + NORMAL_FLOP * dim * rank + (8.0 * self.passes + 12.0) * dim * rank**2
        return flop, 8.0 * 6.0 * dim * rank

    def plug_in(self, t: Times, x: Positions) -> Float[Tensor, "pairs"]:
        """The largest eigenvalues of A^, as many as are asked for; nothing of t and x is looked at."""
        return self.values[: self.problem.pairs].clone()


def _nystrom(test: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """U and the eigenvalues of Y (O^T Y)^+ Y^T; ValueError where O^T Y is not positive semidefinite."""
    shift = torch.finfo(image.dtype).eps * torch.linalg.norm(image).clamp_min(torch.finfo(image.dtype).tiny)
    for _ in range(8):
        shifted = image + shift * test
        gram = test.mT @ shifted
        lower, fails = torch.linalg.cholesky_ex(0.5 * (gram + gram.mT))
        if not bool(fails):
            half = torch.linalg.solve_triangular(lower, shifted.mT, upper=False).mT
            basis, singular, _ = torch.linalg.svd(half, full_matrices=False)
            return basis, (singular.square() - shift).clamp_min(0.0)
        shift = 10.0 * shift
    raise ValueError(
        "O^T A O is not positive semidefinite: a Nystrom sketch needs such an A; shift it by a multiple of I, or give A^T A"
    )


def nystrom_sketch(problem: Eigenproblem, *, seed: int, rank: int = 40, passes: int = 2, scale: float = 0.95) -> NystromSketch:
    """Randomized Nystrom approximation of A, from ``passes`` x ``rank`` products.

    ``seed`` is unused: all that is random is drawn by ``fit``.

    :param rank: columns of the sketch, at least the eigenpairs asked for
    :param passes: times that A multiplies it, at least 1; more separate a slowly falling spectrum
    :param scale: of its eigenvalues where it is inverted, in (0, 1): at 1 the correction stalls
    """
    if not problem.pairs <= rank <= problem.dim:
        raise ValueError(f"rank = {rank}: for {problem.pairs} eigenpairs in dimension {problem.dim} a sketch has a rank between")
    if passes < 1:
        raise ValueError(f"passes = {passes}: a sketch takes at least one product with A a column")
    if not 0.0 < scale < 1.0:
        raise ValueError(
            f"scale = {scale}: should be in (0, 1), for example 0.95: unscaled, an eigenvector of the sketch is not corrected"
        )
    return NystromSketch(problem, rank=rank, passes=passes, scale=scale)
