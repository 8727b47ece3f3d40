"""Shared by every test."""

import os
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch

# Ray's workers yield to everything else on a machine; beside other tests they would hardly move.
os.environ.setdefault("RAY_worker_niceness", "0")

LONGEST = ("slurm", "style", "readme", "ray", "kills", "run", "submit", "families")
"""Files that take minutes. Handed out last, one of them would be the only one that still runs."""


CHECKED = jaxtyping.jaxtyped


def _checked_where_asked(*, typechecker: Any) -> Callable[[Any], Any]:
    """A function within a function is prepared for its checks each time it is made, at a hundred times the cost of making it."""
    decorate = CHECKED(typechecker=typechecker)

    def decorated(made: Any) -> Any:
        return made if jaxtyping.config.jaxtyping_disable and "<locals>" in made.__qualname__ else decorate(made)

    return decorated


jaxtyping.jaxtyped = _checked_where_asked


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the others stay in order."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Every shape is checked, but not where that doubles the time of calls whose shapes other tests of the same functions check."""
    spared = item.get_closest_marker("unchecked") is not None or item.path.parent.name != "kernels"
    jaxtyping.config.update("jaxtyping_disable", spared)
