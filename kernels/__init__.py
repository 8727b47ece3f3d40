"""Mathematics on tensors: no files, processes, clocks, environment or global random state.

Axis names used in every shape annotation of this package:

=========  ==============================================================
points     evaluation points (t, x) of a table
draws      independent top-level samples at one point
paths      rows of a batch: points x draws, or any flat batch of (t, x)
dim        space dimension d
probes     directions in which a stochastic Laplacian is sampled
width      units of a hidden layer
=========  ==============================================================
"""

import importlib
import pkgutil
import sys
import types
from typing import Any


class Room(types.ModuleType):
    """A package of one-factory modules: its attribute ``x`` is the function ``x`` of its module ``x``.

    So ``from kernels.equations import lqg`` gives the factory and imports that module alone. Python
    binds an imported submodule as an attribute of its package; here its factory takes that place,
    while ``from kernels.equations.lqg import lqg`` and ``importlib.import_module`` work as ever.
    Modules whose name begins with ``_`` are no entries.

    >>> from kernels.equations import lqg
    >>> lqg(3).name
    'lqg'
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType) and name in self.__all__ and value.__name__ == f"{self.__name__}.{name}":
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in self.__all__:
            raise AttributeError(f"'{self.__name__}' has no '{name}'; it has {', '.join(self.__all__) or 'nothing'}")
        module = importlib.import_module(f"{self.__name__}.{name}")
        if name not in self.__dict__:
            raise AttributeError(
                f"'{module.__file__}' defines no '{name}': a module of '{self.__name__}' holds a function of its own name"
            )
        return self.__dict__[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.__all__})

    @property
    def __all__(self) -> list[str]:
        return sorted(info.name for info in pkgutil.iter_modules(self.__path__) if not info.name.startswith("_"))


def open_room(package: str) -> None:
    """Make the package of this name a :class:`Room`."""
    sys.modules[package].__class__ = Room
