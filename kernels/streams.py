"""Counter-based random streams: (seed, *address) names one stream, whoever asks for it."""

from __future__ import annotations

from copy import deepcopy
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMPY: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}


class Purpose(IntEnum):
    """First entry of every address: streams of different purposes never meet."""

    POINTS = 0
    TRAINING = 1
    INITIALISATION = 2
    CORRECTION = 3
    LINEAR = 4
    MLP = 5
    PILOT = 6
    PROBLEM = 7
    LOWER_BOUND = 8
    UPPER_BOUND = 9
    GRADIENT = 10
    RESAMPLING = 11
    PLAIN = 12
    TAIL = 13


class Stream:
    """Independent normals, uniforms and signs at the address ``(seed, *address)``.

    Philox keyed by :class:`numpy.random.SeedSequence`: the address fixes every bit, never the
    rank, worker or time that draws it. Building one costs about 20 microseconds, so a stream
    should serve at least 10^4 numbers. ``device`` is where the numbers go; they are drawn by the CPU, the same for all.

    >>> Stream(0, Purpose.POINTS).normal(2).equal(Stream(0, Purpose.POINTS).normal(2))
    True
    >>> Stream(0, Purpose.POINTS).normal(2).equal(Stream(0, Purpose.POINTS, 1).normal(2))
    False
    """

    def __init__(self, seed: int, *address: int, device: torch.device | str = "cpu") -> None:
        if not 0 <= seed < 2**64 or any(not 0 <= a < 2**32 for a in address):
            raise ValueError(
                f"a stream's seed is below 2^64 and the entries of its address below 2^32, none negative: not {(seed, *address)}"
            )
        key = np.random.SeedSequence(entropy=seed, spawn_key=tuple(int(a) for a in address))
        self._generator, self._device = np.random.Generator(np.random.Philox(key)), device

    def clone(self) -> Stream:
        """A copy that will draw the same numbers: common random numbers for a difference."""
        return deepcopy(self)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normals, float32 or float64: other numbers, not the same ones rounded."""
        return torch.from_numpy(self._generator.standard_normal(shape, dtype=NUMPY[dtype])).to(self._device)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform on (0, 1], float32 or float64 of 53 bits: never 0, so a logarithm or a negative power is finite."""
        return torch.from_numpy(1.0 - self._generator.random(shape, dtype=NUMPY[dtype])).to(self._device)

    def signs(self, *shape: int) -> Tensor:
        """Rademacher variables +1 and -1, float32."""
        count = int(np.prod(shape))
        bits = np.unpackbits(np.frombuffer(self._generator.bytes((count + 7) // 8), dtype=np.uint8), count=count)
        return torch.from_numpy(bits.astype(np.float32).reshape(shape)).mul_(2.0).sub_(1.0).to(self._device)

    def integer(self, bound: int) -> int:
        """One integer uniform on 0 .. bound - 1."""
        return int(self._generator.integers(bound))


class Given(Stream):
    """A stream whose next normals are ``normals``: a path law driven by noise that was drawn elsewhere.

    The law's own ``travel`` turns them into a path and its weight. Asking for another shape, or
    twice, is refused: a law that draws otherwise cannot be driven so.
    """

    def __init__(self, normals: Tensor) -> None:
        self._normals: Tensor | None = normals

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        normals, self._normals = self._normals, None
        if normals is None or normals.shape != shape:
            held = "none is left" if normals is None else f"{tuple(normals.shape)} is held"
            raise ValueError(
                f"normals of shape {shape} asked of given noise, {held}: the law must draw them once, as drawn before"
            )
        return normals
