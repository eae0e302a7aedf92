"""Model families by name. A new family is one folder and one line here. No torch.

A family is a package with two modules: ``describe`` (torch-free) and ``model``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

from holmes.errors import ConfigError, suggestion
from holmes.workload import Workload

FAMILIES: dict[str, str] = {"gpt": "holmes.models.gpt"}


class Describe(Protocol):
    """The torch-free half of a family."""

    PRESETS: dict[str, Any]

    def config_from(self, spec: Mapping[str, Any] | str) -> Any:
        """The family's frozen configuration; ConfigError when it is wrong."""

    def workload(self, config: Any, precision: Any = "fp32", name: str | None = None) -> Workload:
        """What the model costs."""


def family_of(spec: Mapping[str, Any]) -> str:
    """The family that a job's `model:` names; ``gpt`` when it names none.

    Raises:
        ConfigError: for a family that does not exist.
    """
    family = spec.get("family", "gpt")
    if family not in FAMILIES:
        near = suggestion(str(family), FAMILIES)
        raise ConfigError(
            f"no model family is named {family!r}",
            where="model.family",
            why="families: " + ", ".join(FAMILIES),
            next_step=f"did you mean {near!r}?" if near else None,
        )
    return str(family)


def describe(family: str) -> Describe:
    """The ``describe`` module of a family."""
    return cast(Describe, importlib.import_module(f"{FAMILIES[family]}.describe"))


def model_module(family: str) -> Any:
    """The ``model`` module of a family; needs torch."""
    return importlib.import_module(f"{FAMILIES[family]}.model")


def sharding_module(family: str) -> Any:
    """The ``sharding`` module of a family: what decays, what is tied, what splits."""
    return importlib.import_module(f"{FAMILIES[family]}.sharding")
