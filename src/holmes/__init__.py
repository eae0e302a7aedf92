"""Holmes: plan, rehearse and train large models on clusters whose NICs differ.

    plan = holmes.plan("site.yaml", "job.yaml")
    holmes.simulate(plan).show()
    holmes.train("job.yaml")

The same functions, with those of every command, are in :mod:`holmes.api`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
CALLS = frozenset({"plan", "simulate", "rehearse", "train"})


class _Room(ModuleType):
    """A room that shares its name with a function: calling the room calls the function."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        return _function(self.__name__.rpartition(".")[2])(*given, **named)


class _Package(ModuleType):
    """The package: functions are found when they are asked for, so that importing is quick."""

    def __getattr__(self, name: str) -> Any:
        if name not in CALLS:
            raise AttributeError(f"module 'holmes' has no attribute {name!r}")
        try:
            return import_module(f"holmes.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"holmes.{name}":
                raise
            return _function(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in CALLS and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


def _function(name: str) -> Any:
    return getattr(import_module("holmes.api.calls"), name)


sys.modules[__name__].__class__ = _Package
