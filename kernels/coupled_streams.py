"""Streams that couple the rows of a batch, so that their errors cancel, and leave each row alone as it was."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.quasirandom import SobolEngine

from kernels.streams import Stream

Bits = NDArray[np.uint32]

MAX_SIZE = 2**16
"""Points of the largest net: above it the 23 digits of a float32 leave too few for the scrambling."""

MAX_DIM: int = SobolEngine.MAXDIM
"""Coordinates of the largest net: those that Joe and Kuo give direction numbers for."""

SHIFT = 9
"""Of 32 binary digits the upper 23 are kept, so that a float32 between 0 and 1 is exact and neither."""


class Coupled(Stream):
    """Numbers for batches of rows, ``replicates`` consecutive blocks of ``size`` rows each.

    A batch may hold m rows for every one of these (the nested draws of a row, consecutive). Number
    i of the m is coupled across the ``size`` rows of a block and to nothing else. So

    - a row alone, with all that is nested in it, sees independent numbers of the law it asked for,
      in this call and in all others: the mean of every draw is what it would be without coupling,
      nonlinear functions of nested draws included;
    - blocks share nothing: their means are independent, and their spread is an honest error.

    Rows are the second axis from the right of normals and the last one of uniforms. Signs stay
    independent: what is sampled along them is even in them, so that mirrored signs change nothing
    and equal ones make its errors add up.

    The generator is that of ``stream``, which advances with this one.
    """

    def __init__(self, stream: Stream, replicates: int, size: int) -> None:
        self._generator, self._device = stream._generator, stream._device
        self._replicates, self._size = replicates, size

    def _nested(self, rows: int) -> int:
        """m, the number of rows of a batch for each row of the blocks; 0 for a batch of some of those rows only."""
        nested, rest = divmod(rows, self._replicates * self._size)
        return 0 if rest else nested


class Mirrored(Coupled):
    """Normals +W for the first row of a pair and -W for the second; uniforms are equal in both.

    An equal random time keeps a pair on mirrored paths, whose odd part then cancels to rounding.
    """

    def __init__(self, stream: Stream, pairs: int) -> None:
        super().__init__(stream, pairs, 2)

    def _half(self, rows: int) -> tuple[int, int]:
        """Pairs, and rows nested in each row of a pair."""
        if rows % 2:
            raise ValueError(
                f"{rows} rows hold no pairs: what selects rows of a batch must take both of a pair, as equal uniforms do"
            )
        # Some rows of a batch, chosen by uniforms, are whole pairs.
        nested = self._nested(rows) or 1
        return rows // (2 * nested), nested

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        *lead, rows, dim = shape
        pairs, nested = self._half(rows)
        half = super().normal(*lead, pairs, nested, dim, dtype=dtype)
        return torch.stack((half, -half), dim=-3).reshape(shape)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        *lead, rows = shape
        pairs, nested = self._half(rows)
        half = super().uniform(*lead, pairs, nested, dtype=dtype)
        return torch.stack((half, half), dim=-2).reshape(shape)


class Quasi(Coupled):
    """The rows of a block see the points of one randomised Sobol' net, in an order of its own for every call.

    A net of 2^k points is randomised by a digital shift of its k binary digits, uniform on all 2^k
    and independent for every coordinate, block, nested number and call, and by independent uniform
    digits below: each point is then uniform on the cube, and every coordinate of a block has one
    point in each of the 2^k intervals (Owen 1995; L'Ecuyer and Lemieux 2002). Normals are by
    the inverse distribution function. Successive calls permute the points at random (Latin
    supercube sampling, Owen 1998): in one order they would pair the same intervals for good. The
    nets of two calls are then no worse together than independent numbers.

    A scrambled engine for every block would cost forty times as much and cuts variance no more.
    A batch of some rows only, as a random refinement takes, is served plain numbers.
    """

    def _net(self, lead: list[int], nested: int, dim: int) -> Bits:
        """32 binary digits of every number, (lead..., rows, dim)."""
        k = self._size.bit_length() - 1
        generator, blocks = self._generator, (*lead, self._replicates)
        order = generator.random((*blocks, nested, self._size), dtype=np.float32).argsort(-1).swapaxes(-1, -2)
        digits = sobol(dim, self._size)[order]
        digits ^= generator.integers(2**k, size=(*blocks, 1, nested, dim), dtype=np.uint32) << np.uint32(32 - k)
        digits ^= generator.integers(2**32, size=digits.shape, dtype=np.uint32) >> np.uint32(k)
        return digits.reshape(*lead, -1, dim)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        *lead, rows, dim = shape
        nested = self._nested(rows)
        if not nested:
            return super().normal(*shape, dtype=dtype)
        centred = _kept(self._net(lead, nested, dim)).mul_(2.0**-22).add_(2.0**-23 - 1.0)
        return centred.erfinv_().mul_(math.sqrt(2.0)).to(self._device, dtype)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        *lead, rows = shape
        nested = self._nested(rows)
        if not nested:
            return super().uniform(*shape, dtype=dtype)
        return _kept(self._net(lead, nested, 1)).to(dtype).mul_(2.0**-23).add_(2.0**-24).reshape(shape).to(self._device)


def _kept(digits: Bits) -> Tensor:
    return torch.from_numpy((digits >> np.uint32(SHIFT)).astype(np.float32))


@cache
def sobol(dim: int, size: int) -> Bits:
    """The first ``size`` points of the Sobol' sequence (Joe and Kuo 2008), 32 binary digits each: (size, dim)."""
    if dim > MAX_DIM:
        raise ValueError(f"dim = {dim}: a Sobol' net has at most {MAX_DIM} coordinates: couple antithetic pairs, or none")
    points = SobolEngine(dim, scramble=False).draw_base2(size.bit_length() - 1, dtype=torch.float64)
    return (points * 2.0**32).numpy().astype(np.uint32)
