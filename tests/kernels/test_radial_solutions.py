"""Reaction-diffusion equations with a radial solution: its digits, its accuracy, and what is refused."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from formulas import Formula, equation, pde_error, points, truth
from scipy.integrate import quad

from kernels.equations import _radial
from kernels.streams import Stream

RADIAL = ("allen_cahn", "rational_reaction", "sine_gordon")

AT_ORIGIN = [
    ("allen_cahn", 20, 0.3, "0.206354819865"),
    ("allen_cahn", 50, 0.3, "0.099081170655"),
    ("allen_cahn", 100, 0.3, "0.052781357410"),
    ("allen_cahn", 120, 0.3, "0.044453240368"),
    ("allen_cahn", 140, 0.3, "0.038392443861"),
    ("allen_cahn", 160, 0.3, "0.033784730646"),
    ("allen_cahn", 100, 1.0, "0.033775571830"),
    ("sine_gordon", 10, 0.3, "0.322926385336"),
    ("sine_gordon", 100, 0.3, "0.052809435403"),
    ("rational_reaction", 10, 0.3, "0.46954987135"),
    ("rational_reaction", 100, 0.3, "0.31662780759"),
    ("rational_reaction", 160, 0.3, "0.30499796141"),
]


@pytest.mark.parametrize(("name", "dim", "horizon", "digits"), AT_ORIGIN)
def test_a_radial_value_has_all_its_known_digits(name: str, dim: int, horizon: float, digits: str) -> None:
    problem = equation(name, dim, horizon=horizon)
    value = truth(problem)(torch.zeros(1), torch.zeros(1, dim)).item()
    assert abs(value - float(digits)) <= 0.51 * 10.0 ** -len(digits.partition(".")[2]) + _radial.TOLERANCE


@pytest.mark.parametrize(("name", "dim"), [(name, dim) for name in RADIAL for dim in (1, 3, 40)])
def test_a_radial_solution_satisfies_the_pde(name: str, dim: int) -> None:
    problem = equation(name, dim)
    wrong = replace(problem, driver=lambda t, x, y, z: 1.001 * problem.driver(t, x, y, z))
    assert pde_error(problem, truth(problem)) < 2e-8 < 2e-6 < pde_error(wrong, truth(problem))


@pytest.mark.parametrize("dim", [1, 2, 10, 100, 1000])
@pytest.mark.parametrize("growth", [0.0, 0.7])
def test_a_radial_table_is_as_accurate_as_it_says(dim: int, growth: float) -> None:
    """For f = k u: e^(k tau) E 1/(2 + 0.4 |X|^2) = e^(k tau) int e^(-2r) (1 + 1.6 r tau)^(-d/2) e^(-0.4 r s/(1 + 1.6 r tau)) dr."""
    table = _radial.radial_table(dim, 0.3, lambda u: growth * u)
    assert table.error <= _radial.TOLERANCE
    for tau, s in [(0.3, 0.0), (0.3, 0.6 * dim), (0.1, 3.0), (0.01, 0.2 * dim), (0.2, 1e4)]:

        def integrand(r: float, tau: float = tau, s: float = s) -> float:
            spread = 1.0 + 1.6 * r * tau
            return math.exp(-2.0 * r - 0.4 * r * s / spread) * spread ** (-0.5 * dim)

        pieces = [0.0, 0.001, 0.01, 0.05, 0.2, 1.0, 4.0, 20.0]
        exact = sum(quad(integrand, a, b, epsabs=1e-14, epsrel=1e-13)[0] for a, b in itertools.pairwise(pieces))
        place = torch.tensor([tau], dtype=torch.float64), torch.tensor([s], dtype=torch.float64)
        assert abs(table.value(*place).item() - math.exp(growth * tau) * exact) < _radial.TOLERANCE


@pytest.mark.parametrize("name", RADIAL)
def test_the_gradient_of_a_radial_solution_is_that_of_its_value(name: str) -> None:
    problem = equation(name, 30)
    assert problem.solution is not None and problem.solution.gradient is not None
    t, x = points(problem)
    x[0] = 0.0
    _, oracle = Formula(truth(problem)).value_and_gradient(t, x)
    torch.testing.assert_close(problem.solution.gradient(t, x), oracle, rtol=1e-9, atol=1e-13)


def test_constructing_a_problem_does_not_solve_it() -> None:
    before = _radial.radial_table.cache_info().misses
    problem = equation("sine_gordon", 77)
    problem.sample_points(10, Stream(0))
    assert _radial.radial_table.cache_info().misses == before
    truth(problem)(torch.zeros(1), torch.zeros(1, 77))
    truth(equation("sine_gordon", 77))(torch.zeros(1), torch.zeros(1, 77))
    assert _radial.radial_table.cache_info().misses == before + 1


@pytest.mark.parametrize("name", RADIAL)
def test_a_table_in_100_dimensions_is_cheap(name: str) -> None:
    reaction = {"allen_cahn": lambda u: u - u**3, "sine_gordon": torch.sin, "rational_reaction": lambda u: 2 / (1 + u * u) - 1}[
        name
    ]
    assert _radial.radial_table(100, 0.3, reaction).coefficients.numel() < 1000


def test_a_solution_out_of_reach_of_newton_is_refused() -> None:
    problem = equation("allen_cahn", 2, horizon=10.0)
    with pytest.raises(ValueError, match=r"horizon = 10\.0: Newton's method .* a shorter horizon"):
        truth(problem)(torch.zeros(1), torch.zeros(1, 2))


def test_a_solution_that_two_grids_disagree_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_radial, "MAX_UNKNOWNS", 400)
    problem = equation("allen_cahn", 2, horizon=2.5)
    with pytest.raises(ValueError, match=r"known to .*e-\d+ only, and should be to 1e-11"):
        truth(problem)(torch.zeros(1), torch.zeros(1, 2))
