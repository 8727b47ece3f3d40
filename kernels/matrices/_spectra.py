"""The eigenvalues of the test set of Epperly, Tropp and Webber."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Spectrum = Literal["flat", "poly", "slowexp", "fastexp", "smallstep", "bigstep"]
Basis = Literal["hartley", "haar"]

STEP = 50
"""Eigenvalues 1 before the step."""


def eigenvalues(dim: int, spectrum: Spectrum, exponent: float) -> Float[Tensor, "dim"]:
    """Descending. flat 3 .. 1; poly i^-exponent; slowexp .9^i, fastexp .7^i, i from 0; steps: 50 ones, then 1e-3 or 1e-8."""
    if spectrum in ("smallstep", "bigstep") and dim <= STEP:
        raise ValueError(f"dim = {dim}: '{spectrum}' has {STEP} eigenvalues before its step; take more, or another spectrum")
    if spectrum == "poly" and not exponent > 0.0:
        raise ValueError(f"exponent = {exponent}: eigenvalues i^-exponent fall for an exponent > 0 only")
    i = torch.arange(dim, dtype=torch.float64)
    if spectrum == "flat":
        return torch.linspace(3.0, 1.0, dim, dtype=torch.float64)
    if spectrum == "poly":
        return (i + 1.0) ** -exponent
    if spectrum in ("slowexp", "fastexp"):
        return (0.9 if spectrum == "slowexp" else 0.7) ** i
    return torch.where(i < STEP, 1.0, 1e-3 if spectrum == "smallstep" else 1e-8)
