"""The dual map of each norm against its definition; the shell against the formula; what a learning rate means at every shape."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable

import pytest
import torch
from descent import Quadratic, train
from oracles import equation, factory
from torch import Tensor

from kernels.jets import network_value
from kernels.optimizers._layers import by_output, by_role
from kernels.optimizers._norms import NORMS, POLAR_EXPRESS, inverse_root, spectral
from kernels.surrogates.mlp import mlp

NORM: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sign": (lambda x: x.abs().max(), lambda g: g.abs().sum()),
    "frobenius": (lambda x: x.square().sum().sqrt(), lambda g: g.square().sum().sqrt()),
    "row": (lambda x: x.norm(dim=1).max(), lambda g: g.norm(dim=1).sum()),
    "column": (lambda x: x.norm(dim=0).max(), lambda g: g.norm(dim=0).sum()),
    "spectral": (lambda x: torch.linalg.svdvals(x)[0], lambda g: torch.linalg.svdvals(g).sum()),
    "one_sided": (lambda x: torch.linalg.svdvals(x)[0], lambda g: torch.linalg.svdvals(g).sum()),
}
"""Each norm and its dual, as defined."""

SHAPES = [(5, 5), (4, 9), (9, 4), (1, 7), (7, 1), (1, 1)]


def matrix(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def polar(g: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(g.double(), full_matrices=False)
    return u @ v


def test_every_norm_has_its_definition() -> None:
    assert set(NORM) == set(NORMS)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_a_dual_map_lies_in_the_unit_ball_and_attains_the_dual_norm(name: str, shape: tuple[int, int]) -> None:
    g = matrix(*shape)
    x = NORMS[name].dual(g)
    norm, dual_norm = NORM[name]
    assert norm(x) <= 1.0 + 1e-9
    torch.testing.assert_close((g * x).sum(), dual_norm(g), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("name", NORMS)
def test_no_other_point_of_the_unit_ball_goes_further(name: str) -> None:
    g, best = matrix(4, 6), (matrix(4, 6) * NORMS[name].dual(matrix(4, 6))).sum()
    for seed in range(1, 200):
        other = matrix(4, 6, seed=seed)
        assert (g * other / NORM[name][0](other)).sum() < best


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_a_dual_map_does_not_see_the_size_of_a_gradient_and_is_0_at_0(name: str, dtype: torch.dtype) -> None:
    g, dual = matrix(4, 6, dtype=dtype), NORMS[name].dual
    for factor in (1e-30, 1e30):
        torch.testing.assert_close(dual(factor * g), dual(g), rtol=1e-4, atol=1e-5)
    assert dual(torch.zeros_like(g)).equal(torch.zeros_like(g)) and dual(g).dtype == dtype


@pytest.mark.parametrize("name", NORMS)
def test_leading_axes_are_a_batch(name: str) -> None:
    g, dual = matrix(3, 4, 6), NORMS[name].dual
    torch.testing.assert_close(dual(g), torch.stack([dual(part) for part in g]), rtol=1e-10, atol=1e-12)


def graded(n: int, smallest: float, dtype: torch.dtype) -> Tensor:
    """A matrix (n, 2n) with singular values from 1 to ``smallest``."""
    left, right = torch.linalg.qr(matrix(n, n))[0], torch.linalg.qr(matrix(2 * n, n, seed=1))[0]
    return (left * torch.logspace(0, torch.tensor(smallest).log10().item(), n, dtype=torch.float64) @ right.mT).to(dtype)


@pytest.mark.parametrize("wide", [True, False])
def test_the_polar_factor_is_that_of_the_singular_value_decomposition_to_1e_6(wide: bool) -> None:
    """Root mean square of entries, in single precision (measured 1.4e-7); torch.optim.Muon's coefficients leave 20 %."""
    g = graded(32, 5e-3, torch.float32)
    g = g if wide else g.mT.contiguous()

    def miss(x: Tensor) -> float:
        return (x - polar(g)).square().mean().sqrt().item()

    assert miss(spectral(g)) < 1e-6 and miss(NORMS["one_sided"].dual(g)) < 1e-6
    assert miss(spectral(g, 6)) > 1e-5


def test_the_iteration_is_exact_in_double_precision_and_reaches_small_singular_values_with_more_iterations() -> None:
    g = graded(16, 1e-6, torch.float64)
    assert (spectral(g, 8) - polar(g)).abs().max() > 1e-2
    assert (spectral(g, 24) - polar(g)).abs().max() < 1e-10


def test_the_coefficients_are_the_published_ones() -> None:
    """Best approximation of 1 on [1e-3, 1]: all six map 1e-3 and 1 to within 1.2e-3 of 1, and the largest miss is met at both ends."""
    s = torch.logspace(-3, 0, 5000, dtype=torch.float64)
    for a, b, c in POLAR_EXPRESS:
        s = a * s + b * s**3 + c * s**5
    assert (s - 1.0).abs().max() < 1.2e-3
    torch.testing.assert_close(s[0], s.min(), rtol=0.0, atol=1e-9)


def test_a_null_space_stays_null() -> None:
    g = matrix(6, 1) @ matrix(1, 6, seed=1)
    for name in ("spectral", "one_sided"):
        torch.testing.assert_close(NORMS[name].dual(g), g / torch.linalg.svdvals(g)[0], rtol=1e-9, atol=1e-9)


def test_an_inverse_root_is_one() -> None:
    g = matrix(5, 9)
    gram = g @ g.mT
    root = inverse_root(gram, 4, 0.0)
    torch.testing.assert_close(root @ root @ root @ root @ gram, torch.eye(5, dtype=torch.float64), rtol=0.0, atol=1e-9)
    assert not inverse_root(torch.zeros(3, 3), 2, 1e-8).any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_a_unit_learning_rate_moves_outputs_by_at_most_1(name: str, shape: tuple[int, int]) -> None:
    """Root mean square, for inputs of root mean square 1; a gradient of one outer product of signs attains it."""
    out, fan_in = shape
    norm = NORMS[name]
    steps = [norm.radius(out, fan_in) * norm.dual(g) for g in (matrix(out, fan_in), torch.ones(out, fan_in).double())]
    moved = [(torch.linalg.svdvals(x)[0] * (fan_in / out) ** 0.5).item() for x in steps]
    assert moved[0] <= 1.0 + 1e-9 and moved[1] == pytest.approx(1.0)


@pytest.mark.parametrize("nesterov", [True, False])
def test_two_steps_are_those_of_the_formula(nesterov: bool) -> None:
    objective = Quadratic(matrix(4, 3, dtype=torch.float64))
    w, start = objective.weight, objective.weight.detach().clone()
    optimizer = factory("optimizers", "muon")([w], learning_rate=0.1, momentum=0.8, nesterov=nesterov)
    gradients = []
    for _ in range(2):
        optimizer.zero_grad()
        objective(*objective.entries).backward()
        assert w.grad is not None
        gradients.append(w.grad.clone())
        optimizer.step()
    mean, by_hand = torch.zeros_like(start), start
    for g in gradients:
        mean = 0.8 * mean + 0.2 * g
        by_hand = by_hand - 0.1 * (4 / 3) ** 0.5 * polar(0.8 * mean + 0.2 * g if nesterov else mean)
    torch.testing.assert_close(w.detach(), by_hand, rtol=1e-6, atol=1e-6)


def test_layers_move_at_the_rates_of_their_roles() -> None:
    net = mlp(equation("viscous_burgers", 3), seed=0, width=8, depth=3)
    groups = by_role(net.parameters(), 0.5, first=2.0, last=0.1, biases=0.01)
    assert [(g["role"], g["lr"], len(g["params"])) for g in groups] == [
        ("first", 1.0, 1),
        ("hidden", 0.5, 2),
        ("last", 0.05, 1),
        ("biases", 0.005, 4),
    ]
    assert groups[2]["params"][0].shape == (1, 8)
    assert [g["lr"] for g in by_output(groups)] == pytest.approx([1.0 / 8**0.5, 0.5 / 8**0.5, 0.05, 0.005 / 8**0.5])
    assert [g["role"] for g in by_role([torch.nn.Parameter(torch.zeros(3, 2))], 1.0)] == ["hidden"]


@pytest.mark.parametrize("name", ["adam", "soap"])
def test_a_rate_falls_as_the_root_of_the_width_from_the_one_it_is_meant_for(name: str) -> None:
    make, nets = factory("optimizers", name), {w: mlp(equation("lqg", 4), seed=0, width=w, depth=2) for w in (8, 16, 32)}
    rates = {w: make(net.parameters(), learning_rate=0.1, base_width=16).param_groups[0]["lr"] for w, net in nets.items()}
    assert rates == pytest.approx({8: 0.1 * 2**0.5, 16: 0.1, 32: 0.1 / 2**0.5})
    assert make(nets[8].parameters(), learning_rate=0.1).param_groups[0]["lr"] == 0.1
    for parameters, width in ((nets[8].parameters(), 0), ([torch.nn.Parameter(torch.zeros(3))], 16)):
        with pytest.raises(ValueError, match=f"base_width = {width}"):
            make(parameters, learning_rate=0.1, base_width=width)


@pytest.mark.parametrize("name", ["modified_mlp", "pirate_net", "windowed_network"])
def test_every_network_of_a_surrogate_has_a_first_and_a_last_layer(name: str) -> None:
    problem = equation("viscous_burgers", 3)
    groups = {g["role"]: g["params"] for g in by_role(factory("surrogates", name)(problem, seed=0, width=8).parameters(), 1.0)}
    windows = 3 if name == "windowed_network" else 1
    assert [p.shape[0] for p in groups["last"]] == [1] * windows
    assert [p.shape[1] for p in groups["first"]] == [problem.dim + 2] * windows
    assert all(p.shape[0] > 1 for p in groups["hidden"])


def test_a_step_of_the_hidden_layers_moves_the_output_alike_at_every_width() -> None:
    """Root mean square over points of what one step of rate 1e-3 changes, over 1e-3: measured 0.49 at width 16, 0.50 at 256; not
    divided by the last layer's gain it would grow like the root of the width, by 4."""
    moved = []
    for width in (16, 256):
        net = mlp(equation("viscous_burgers", 3), seed=0, width=width, depth=3)
        optimizer = factory("optimizers", "muon")(net.parameters(), learning_rate=1e-3, momentum=0.0)
        for group in optimizer.param_groups:
            group["lr"] *= group["role"] == "hidden"
        features = torch.randn(256, width, generator=torch.Generator().manual_seed(0))
        value = network_value(net.layers, features)
        value.sum().backward()
        optimizer.step()
        moved.append(((network_value(net.layers, features) - value).square().mean().sqrt() / 1e-3).item())
    assert 0.2 < moved[0] < 2.0 and 0.67 < moved[1] / moved[0] < 1.5, moved


def test_shampoo_without_memory_is_steepest_descent_in_the_spectral_norm() -> None:
    found = []
    for name, options in (
        ("muon", {"nesterov": False}),
        ("shampoo", {"memory": 0.0}),
        ("shampoo", {"memory": 0.0, "sides": "one"}),
    ):
        objective = Quadratic(matrix(6, 4))
        optimizer = factory("optimizers", name)(objective.parameters(), learning_rate=0.05, momentum=0.0, **options)
        train(optimizer, objective, [objective.entries] * 10)
        found.append(objective.weight.detach())
    for one, other in itertools.pairwise(found):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert not found[0].equal(matrix(6, 4))


def test_kron_whitens_gradients_of_kronecker_covariance() -> None:
    """2000 gradients A Z B, seed fixed: of 500 more, P = A^2 G B^2 has E P P^T = in I and E P^T P = out I, but for the noise of
    a moving preconditioner: measured 0.2 to 0.5 of their size, bound 0.8; a factor that stays at 1 is 0.9 or more off."""
    kron = importlib.import_module("kernels.optimizers.kron")
    a, b = torch.diag(torch.logspace(-2, 0, 6)).double(), torch.diag(torch.logspace(-1, 1, 4)).double()
    factors = [torch.eye(6).double(), torch.eye(4).double()]
    bounds = [torch.zeros(1, 1).double(), torch.zeros(1, 1).double()]
    gradients = a @ matrix(2500, 6, 4) @ b
    for g in gradients[:2000]:
        kron.whiten(factors, bounds, g)

    def off(factors: list[Tensor]) -> list[float]:
        p = kron.white(factors, gradients[2000:])
        grams = (p @ p.mT).mean(0) / 4, (p.mT @ p).mean(0) / 6
        return [((gram - torch.eye(len(gram))).norm() / len(gram) ** 0.5).item() for gram in grams]

    assert max(off(factors)) < 0.8
    assert all(
        min(off([f if i == still else torch.eye(len(f)).double() for i, f in enumerate(factors)])) > 0.8 for still in (0, 1)
    )
