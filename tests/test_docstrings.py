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


def examples(name: str) -> list[doctest.Example]:
    return [e for found in doctest.DocTestFinder().find(importlib.import_module(name)) for e in found.examples]


def test_there_are_examples_to_run_and_none_is_skipped() -> None:
    found = {name: examples(name) for name in ["kernels", "pipeline", *MODULES]}
    assert found["kernels"] and found["pipeline"] and sum(map(len, found.values())) > 20
    for name, ones in found.items():
        assert not [e.source for e in ones if e.options.get(doctest.SKIP)], f"{name} shows an example that does not run"


def test_a_planted_skip_is_seen() -> None:
    module = types.ModuleType("planted", ">>> 1 + 1  # doctest: +SKIP\n3\n")
    (example,) = [e for found in doctest.DocTestFinder().find(module) for e in found.examples]
    assert example.options.get(doctest.SKIP)


def test_a_planted_wrong_example_is_seen() -> None:
    module = types.ModuleType("planted", ">>> 1 + 1\n3\n")
    assert doctest.testmod(module, report=False).failed == 1
