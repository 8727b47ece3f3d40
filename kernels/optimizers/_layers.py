"""Parameter groups by the role of a layer, each with a learning rate of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from torch.nn import Parameter

BIASES = "biases"


def by_role(parameters: Iterable[Parameter], learning_rate: float, **rates: float) -> list[dict[str, Any]]:
    """Groups ``first``, ``hidden``, ``last`` and ``biases`` with learning_rate x rate, rate 1 where none is given.

    Matrices are taken in the order of the parameters. One whose rows the next does not read is the last of its network, and the
    next the first of another, as of windows side by side; a matrix that stands alone is hidden. Tensors of fewer than two axes are biases. Raises ValueError unless every rate is > 0.
    """
    for name, rate in {"learning_rate": learning_rate, **rates}.items():
        if rate <= 0.0:
            raise ValueError(f"{name} = {rate}: should be > 0; to move little, take a small one")
    listed = list(parameters)
    matrices, begins = [p for p in listed if p.ndim >= 2], True
    roles: dict[str, list[Parameter]] = {"first": [], "hidden": [], "last": []}
    for matrix, following in zip_longest(matrices, matrices[1:]):
        ends = following is None or matrix.shape[-2] % following.shape[-1] != 0
        roles["hidden" if begins == ends else "first" if begins else "last"].append(matrix)
        begins = ends
    roles[BIASES] = [p for p in listed if p.ndim < 2]
    return [
        {"params": members, "role": role, "lr": learning_rate * rates.get(role, 1.0)}
        for role, members in roles.items()
        if members
    ]


def by_output(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups, with the rates of all but the last layer over its gain sqrt(in/out), out <= in.

    A last layer (out, in) of standard size, entries of variance 1/in, turns a change of its inputs by 1, root mean
    square, into one of its outputs by up to sqrt(in/out). Divided by it, a step in any layer moves outputs by about its rate
    at every width, and so does the best rate transfer, without initialising the last layer smaller as mu-parametrisation does.
    """
    last = [p for group in groups if group["role"] == "last" for p in group["params"]]
    gain = math.sqrt(max(1.0, last[0].shape[-1] / last[0].shape[-2])) if last else 1.0
    return [group if group["role"] == "last" else group | {"lr": group["lr"] / gain} for group in groups]


def rate_at_width(parameters: list[Parameter], learning_rate: float, base_width: int | None) -> float:
    """learning_rate sqrt(base_width/width), width the inputs of the last matrix; learning_rate itself where base_width is None.

    Entries of a step of Adam, and of SOAP in its eigenbasis, are of the size of the rate: one that is not of low rank has a spectral
    norm that grows like the root of the width, as a random matrix's does, and the last layer's gain is divided out by no one.

    Raises ValueError for a base_width below 1, or parameters without a matrix.
    """
    if base_width is None:
        return learning_rate
    matrices = [p for p in parameters if p.ndim >= 2]
    if base_width < 1 or not matrices:
        raise ValueError(
            f"base_width = {base_width}: should be at least 1, for a network of layers; or null for one rate at all widths"
        )
    return learning_rate * math.sqrt(base_width / matrices[-1].shape[-1])
