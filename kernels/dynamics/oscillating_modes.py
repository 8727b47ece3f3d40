"""A few oscillating modes under noise, whose frequencies and shapes may drift."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.contracts import Purpose, SnapshotStream, Stream, require_dim

LOWEST, HIGHEST = 0.3, 1.5
"""Frequencies at the start, radians a step."""


def oscillating_modes(
    dim: int,
    *,
    pairs: int = 4,
    noise: float = 1e-3,
    drift: float = 0.0,
    rotation: float = 0.0,
    steps: int = 300,
    stream_seed: int = 0,
) -> SnapshotStream:
    """s_k = sum_j cos(phi_j(k)) p_j(k) + sin(phi_j(k)) q_j(k) + noise e_k, x_k = s_k, y_k = s_{k+1}, e_k standard normal.

    phi_j(k) = omega_j k + drift k^2/2, omega_j equally spaced; p_j, q_j orthonormal, each turning by
    ``rotation`` a step towards a direction of its own. The eigenvalues at k are exp(+-i (omega_j + drift k)).

    :param dim: entries of a snapshot, at least 4 pairs
    :param pairs: oscillations, each a pair of eigenvalues: rank 2 pairs
    :param noise: standard deviation of each entry, 0 or more
    :param drift: of every frequency, radians a step squared
    :param rotation: angle that every mode turns by in a step, radians
    :param steps: pairs of snapshots
    :param stream_seed: seed of modes and noise
    """
    require_dim(dim)
    if pairs < 1 or 4 * pairs > dim:
        raise ValueError(
            f"pairs = {pairs}: from 1 to dim/4 = {dim // 4} oscillations are served, two modes and their targets each"
        )
    if not noise >= 0.0:
        raise ValueError(f"noise = {noise}: a standard deviation is 0 or more")
    frames = torch.linalg.qr(Stream(stream_seed, Purpose.PROBLEM, 0).normal(dim, 4 * pairs).double())[0]
    now, towards = frames[:, : 2 * pairs], frames[:, 2 * pairs :]
    omega = torch.linspace(LOWEST, HIGHEST, pairs + 1, dtype=torch.float64)[:pairs]

    def snapshot(k: int) -> Tensor:
        phase = omega * k + 0.5 * drift * k**2
        amplitudes = torch.cat((phase.cos(), phase.sin()))
        turn = torch.tensor(rotation * k, dtype=torch.float64)
        clean = now @ (turn.cos() * amplitudes) + towards @ (turn.sin() * amplitudes)
        return clean + noise * Stream(stream_seed, Purpose.PROBLEM, 1, k).normal(dim).double() if noise else clean

    def pair(k: int) -> tuple[Tensor, Tensor]:
        return snapshot(k), snapshot(k + 1)

    def eigenvalues(k: int) -> Tensor:
        angles = omega + drift * k
        return torch.exp(1j * torch.cat((-angles.flip(0), angles)))

    return SnapshotStream(
        name="oscillating_modes",
        dim=dim,
        steps=steps,
        pair=pair,
        eigenvalues=eigenvalues,
        source="by construction",
    )
