"""A network that its user trained elsewhere, from its arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kernels.activations import ACTIVATIONS
from kernels.contracts import Jet, Paths, SemilinearPDE, Vectors
from kernels.jets import STREAM_ROWS, jet_in_parts, network_gradient, network_laplacian_and_gradient

NAMES = (re.compile(r"(weight|bias)_(\d+)"), re.compile(r"(\d+)\.(weight|bias)"))
"""weight_0, bias_0, weight_1, ... or the names in a state dict of torch.nn.Sequential."""


class GivenNetwork(nn.Module):
    """u^(t, x) = W_n phi(... phi(W_0 (t, x_1, ..., x_d) + b_0) ...) + b_n, its parameters fixed.

    All derivatives are exact (forward Laplacian). Nothing ties u^(T, .) to g: what it misses there
    a correction samples. The arithmetic is that of the arrays, float32 or float64.
    """

    meets_terminal = False

    def __init__(self, problem: SemilinearPDE, layers: list[tuple[Tensor, Tensor]], activation: str) -> None:
        super().__init__()
        self.problem, self.depth, self.phi = problem, len(layers), ACTIVATIONS[activation]
        for i, (weight, bias) in enumerate(layers):
            self.register_buffer(f"weight_{i}", weight)
            self.register_buffer(f"bias_{i}", bias)

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.get_buffer(f"weight_{i}"), self.get_buffer(f"bias_{i}")) for i in range(self.depth)]

    def _first(self, t: Paths, x: Vectors) -> Tensor:
        weight, bias = self.layers[0]
        return torch.addmm(bias, torch.cat((t[:, None], x), dim=1).to(weight), weight.T)

    def value_and_gradient(self, t: Paths, x: Vectors) -> tuple[Paths, Vectors]:
        layers = self.layers
        value, delta = network_gradient(layers, self._first(t, x), self.phi)
        return value.to(x.dtype), (delta @ layers[0][0][:, 1:]).to(x.dtype)

    def jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        count = self.problem.dim if directions is None or directions.ndim == 2 else directions.shape[1]
        return jet_in_parts(self._jet, t, x, directions, max(1, STREAM_ROWS // (count + 3)))

    def _jet(self, t: Paths, x: Vectors, directions: Tensor | None) -> Jet:
        layers, first = self.layers, self._first(t, x)
        w_x = layers[0][0].T[1:]
        if directions is None:
            tangents = w_x.expand(t.shape[0], -1, -1)
        elif directions.ndim == 2:
            tangents = directions.to(w_x)[:, :, None] * w_x
        else:
            tangents = directions.to(w_x) @ w_x
        head = first[:, None], torch.zeros_like(first)[:, None]
        out, delta = network_laplacian_and_gradient(layers, torch.cat((*head, tangents), dim=1), self.phi)
        inputs = delta @ layers[0][0]
        return Jet(*(part.to(x.dtype) for part in (out[:, 0], inputs[:, 0], inputs[:, 1:], out[:, 1])))

    def flop(self, probes: int | None) -> tuple[float, float]:
        entry, *inner = (2.0 * weight.numel() for weight, _ in self.layers)
        streams = (self.problem.dim if probes is None else probes) + 3
        return 2.0 * (entry + sum(inner)), 2.0 * entry + (0.0 if probes is None else probes * entry) + streams * sum(inner)


def given_network(problem: SemilinearPDE, arrays: Mapping[str, Tensor], *, seed: int, activation: str = "tanh") -> GivenNetwork:
    """A fully connected network u^(t, x) of the row (t, x_1, ..., x_d), trained elsewhere; nothing is trained here.

    ``arrays`` are what the job's ``surrogate.file`` holds: float32 or float64, named weight_0 (out,
    in), bias_0 (out,), weight_1, ... or as torch.nn.Sequential names them, 0.weight, 0.bias, 2.weight,
    ... Scaling of the inputs or of the output belongs in the first or last layer. From a torch model:

        import numpy
        model = torch.nn.Sequential(torch.nn.Linear(1 + dim, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
        numpy.savez("weights.npz", **{name: p.numpy(force=True) for name, p in model.state_dict().items()})

    ``seed`` is unused: nothing here is random.

    :param activation: tanh, sin, gelu (with the exact normal distribution) or softplus, between all layers
    """
    if activation == "relu":
        raise ValueError(
            "activation = 'relu': its network has Laplacian 0 almost everywhere, so its residual would lack the diffusion "
            f"term and no correction could find it: train with one of {', '.join(ACTIVATIONS)}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation = '{activation}': should be one of {', '.join(ACTIVATIONS)}")
    return GivenNetwork(problem, checked_layers(arrays, problem.dim), activation)


def checked_layers(arrays: Mapping[str, Tensor], dim: int) -> list[tuple[Tensor, Tensor]]:
    """The arrays as layers from (t, x) to one number; each refusal names the array, what it is and what it should be."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, array in arrays.items():
        match = NAMES[0].fullmatch(name) or NAMES[1].fullmatch(name)
        if match is None:
            raise ValueError(
                f"array '{name}': should be named weight_0, bias_0, weight_1, ... or 0.weight, 0.bias, 2.weight, ..."
            )
        kind, number = sorted(match.groups(), key=str.isdigit)
        if kind in found.setdefault(int(number), {}):
            raise ValueError(f"array '{name}': layer {number} has its {kind} twice, in both ways of naming: keep one")
        if array.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"array '{name}' is of type {array.dtype}: should be float32 or float64")
        if array.ndim != (2 if kind == "weight" else 1) or not array.numel():
            raise ValueError(f"array '{name}' has shape {tuple(array.shape)}: weights are (out, in), biases (out,), none empty")
        if not array.isfinite().all():
            raise ValueError(f"array '{name}' holds numbers that are not finite")
        found[int(number)][kind] = array
    if len(found) < 2:
        raise ValueError(f"{len(found)} layers: a network needs two at least, a hidden one and one to the value u")
    layers: list[tuple[Tensor, Tensor]] = []
    width, last = dim + 1, max(found)
    for number, layer in sorted(found.items()):
        if missing := {"weight", "bias"} - set(layer):
            raise ValueError(f"layer {number} has no {missing.pop()}: every layer needs both; save zeros for a bias left out")
        out = 1 if number == last else layer["weight"].shape[0]
        if layer["weight"].shape != (out, width):
            reads = f"the {dim + 1} numbers t, x_1, ..., x_{dim}" if not layers else f"the {width} outputs of the layer before"
            raise ValueError(
                f"weight of layer {number} has shape {tuple(layer['weight'].shape)}: should be ({'1' if number == last else 'outputs'}, "
                f"{width}), for {reads}"
            )
        if layer["bias"].shape != (out,):
            raise ValueError(
                f"bias of layer {number} has shape {tuple(layer['bias'].shape)}: should be ({out},), as its weight has rows"
            )
        layers.append((layer["weight"], layer["bias"]))
        width = out
    dtype = max((array.dtype for pair in layers for array in pair), key=lambda d: d.itemsize)
    return [(weight.to(dtype), bias.to(dtype)) for weight, bias in layers]
