"""Every example in a docstring runs and says the truth."""

import doctest
import importlib
import pkgutil
import types

import pytest

import kernels
import pipeline

# Importing the entry point would start the command line.
MODULES = sorted(
    info.name
    for package in (kernels, pipeline)
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not info.name.endswith("__main__")
)


@pytest.mark.parametrize("name", ["kernels", "pipeline", *MODULES])
def test_the_examples_of_a_module_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples_to_run() -> None:
    finder = doctest.DocTestFinder()
    assert sum(len(found.examples) for name in MODULES for found in finder.find(importlib.import_module(name))) > 0


def test_a_planted_wrong_example_is_seen() -> None:
    module = types.ModuleType("planted", ">>> 1 + 1\n3\n")
    assert doctest.testmod(module, report=False).failed == 1
