"""Axis names of every array here: ``paths`` rows of a batch, ``points`` evaluation points, ``dim`` space, ``probes`` directions."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

Paths = Float[Tensor, "paths"]
Vectors = Float[Tensor, "paths dim"]
Probes = Float[Tensor, "paths probes dim"]
Times = Float[Tensor, "points"]
Positions = Float[Tensor, "points dim"]
Draws = Float[Tensor, "points draws"]
Unknowns = Float[Tensor, "unknowns"]
Columns = Float[Tensor, "unknowns columns"]
