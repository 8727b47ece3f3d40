"""Eigenpairs by inverse iteration on their error, under a sketch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.contracts import Eigenproblem, KnownSpectrum, SpectralSketch, State, Stream, Verdict
from kernels.contracts.operator import product, require_symmetric
from kernels.defect.eigenproblem import corrections, eigen_residuals, off
from kernels.estimators._progress import advanced, begun, verdict

Shift = Literal["safe", "rayleigh"]


@dataclass(frozen=True)
class ErrorInversePower:
    """EPSI (Xu and Lu, arXiv 2502.07993): u_j <- u_j - (mu_j I - P A^ P)^-1 (lambda_j u_j - A u_j), then Rayleigh-Ritz.

    Every set of eigenvectors of A is a fixed point, whatever A^; the error of the first falls by about the spectral
    radius of I - (mu I - A^)^-1 (lambda_1 I - A) off u_1, which is lambda_(r+1)/lambda_1 for an exact truncation to rank r.

    accelerate  Rayleigh-Ritz on the span of the vectors, their corrections and the previous directions, as LOBPCG
                (Knyazev, SISC 2001) with (mu I - A^)^-1 as preconditioner; P projects off the vectors before.
    otherwise   Lazy-EPSI: P projects off the vectors before as just corrected; Rayleigh-Ritz on the corrected vectors.

    ``pairs`` products with A a step: those of the Ritz vectors are combined from them.
    """

    shift: Shift
    accelerate: bool
    solves: ClassVar[type] = Eigenproblem

    def start(self, problem: Eigenproblem, stream: Stream) -> State:
        """The known sketch's own first eigenvectors, Rayleigh-Ritz among them; random ones and no sketch where none is known."""
        if problem.known is not None:
            return self.begin(problem, problem.known, problem.known.basis[:, : problem.pairs])
        vectors = torch.linalg.qr(stream.normal(problem.dim, problem.pairs, dtype=torch.float64)).Q
        nothing = KnownSpectrum(basis=vectors, values=torch.zeros_like(vectors[0]), scale=1.0, matvecs=0)
        return self.begin(problem, nothing, vectors)

    @torch.no_grad()
    def begin(self, problem: Eigenproblem, sketch: SpectralSketch, vectors: Float[Tensor, "dim pairs"]) -> State:
        """Other first vectors. A start nearly orthogonal to an eigenvector can miss it for long."""
        if self.accelerate and 3 * problem.pairs > problem.dim:
            raise ValueError(
                f"pairs = {problem.pairs} in dimension {problem.dim}: accelerate needs three vectors a pair; "
                "take accelerate=False, or all eigenpairs by a dense solver"
            )
        if bool((sketch.values < 0.0).any()):
            raise ValueError("values of a sketch below 0: it approximates a positive semidefinite matrix; clamp them at 0")
        vectors = torch.linalg.qr(vectors).Q
        images = product(problem.matvec, vectors)
        values, rotation = _ritz(vectors, images, problem.pairs)
        return {
            "values": values,
            "vectors": vectors @ rotation,
            "images": images @ rotation,
            "directions": torch.zeros_like(vectors),
            "direction_images": torch.zeros_like(vectors),
            "basis": sketch.basis.clone(),
            "sketched": sketch.scale * sketch.values,
            "matvecs": torch.tensor([sketch.matvecs + problem.pairs], dtype=torch.float64),
            "progress": begun(_worst(vectors @ rotation, images @ rotation, values)),
        }

    @torch.no_grad()
    def step(self, problem: Eigenproblem, state: State) -> State:
        vectors, images, values = state["vectors"], state["images"], state["values"]
        residuals = eigen_residuals(vectors, images, values)
        z = corrections(
            state["basis"], state["sketched"], residuals, values, vectors, safe=self.shift == "safe", lazy=not self.accelerate
        )
        matvecs = state["matvecs"] + problem.pairs
        if not self.accelerate:
            fresh = torch.linalg.qr(vectors - z).Q
            fresh_images = product(problem.matvec, fresh)
            values, rotation = _ritz(fresh, fresh_images, problem.pairs)
            found = {"values": values, "vectors": fresh @ rotation, "images": fresh_images @ rotation}
            return {**state, **found, "matvecs": matvecs, "progress": advanced(state["progress"], _worst(**found))}
        held = state["directions"].square().sum(0) > 0.5
        kept = torch.cat((vectors, state["directions"][:, held]), 1)
        fresh = off(kept, z)
        span = torch.cat((kept, fresh), 1)
        span_images = torch.cat((images, state["direction_images"][:, held], product(problem.matvec, fresh)), 1)
        values, rotation = _ritz(span, span_images, problem.pairs)
        # Directions: the part of the new vectors off the old ones, orthonormal to the new within the span.
        along = rotation.clone()
        along[: problem.pairs] = 0.0
        along = off(rotation, along)
        found = {"values": values, "vectors": span @ rotation, "images": span_images @ rotation}
        return {
            **state,
            **found,
            "progress": advanced(state["progress"], _worst(**found)),
            "directions": span @ along,
            "direction_images": span_images @ along,
            "matvecs": matvecs,
        }

    def value(self, state: State) -> Float[Tensor, "pairs"]:
        return state["values"]

    def residual(self, problem: Eigenproblem, state: State) -> Float[Tensor, "pairs"]:
        """|lambda u - A u| over the largest eigenvalue found: within it, so relative, lies an eigenvalue of A."""
        residuals = eigen_residuals(state["vectors"], state["images"], state["values"])
        scale = state["values"].abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        return torch.linalg.vector_norm(residuals, dim=0) / scale

    def verdict(self, state: State) -> Verdict:
        """By the residual of the last steps: at the level of rounding it stands."""
        return verdict(state["progress"])

    def flop(self, problem: Eigenproblem) -> float:
        """Of the products with A, among vectors, and with the known sketch."""
        pairs, dim = problem.pairs, problem.dim
        rank = pairs if problem.known is None else problem.known.basis.shape[1]
        return (
            pairs * problem.cost + 60.0 * dim * pairs**2 + pairs * (4.0 * dim * rank + 2.0 * dim * pairs * rank + 25.0 * rank**3)
        )

    def size(self, problem: Eigenproblem) -> int:
        """Vectors and directions with their images, and the sketch's basis."""
        rank = problem.pairs if problem.known is None else problem.known.basis.shape[1]
        return problem.dim * (4 * problem.pairs + rank) + problem.pairs + rank


def _worst(vectors: Tensor, images: Tensor, values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(eigen_residuals(vectors, images, values), dim=0).max()


def _ritz(span: Tensor, images: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """The largest Ritz values, descending, and the rotation of an orthonormal span to their vectors."""
    gram = span.mT @ images
    require_symmetric(gram, "error_inverse_power")
    values, rotation = torch.linalg.eigh(0.5 * (gram + gram.mT))
    return values.flip(0)[:pairs], rotation.flip(1)[:, :pairs]


def error_inverse_power(*, shift: Shift = "safe", accelerate: bool = True) -> ErrorInversePower:
    """Eigenpairs of A from those of a sketch, corrected by their residual until it certifies them.

    :param shift: safe, above the sketch's spectrum; rayleigh, the Rayleigh quotient itself, as published: from a bad start
        it converges to another eigenvector
    :param accelerate: Rayleigh-Ritz with corrections and previous directions too, strongly advised
    """
    return ErrorInversePower(shift, accelerate)
