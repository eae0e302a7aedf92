"""Model families by name. A new family is one folder and one line here. No torch.

A family is a package with three modules: ``describe`` (torch-free), ``model`` and
``sharding``. One without ``model`` can be planned, not trained. The names of a family's
presets start with its own.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from holmes.errors import ConfigError, suggestion
from holmes.models.common.hf.folder import FolderConfig
from holmes.workload import Workload

FAMILIES: dict[str, str] = {
    "gpt": "holmes.models.gpt",
    "llama": "holmes.models.llama",
    "mixtral": "holmes.models.mixtral",
}


ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "gpt": ("gpt2",),
    "llama": ("llama", "mistral", "qwen2", "qwen3"),
}
"""Names that config.json of a Hugging Face folder may give, by family."""


class Describe(Protocol):
    """The torch-free half of a family."""

    PRESETS: dict[str, Any]

    def config_from(self, spec: Mapping[str, Any] | str) -> Any:
        """The family's frozen configuration; ConfigError when it is wrong."""

    def workload(self, config: Any, precision: Any = "fp32", name: str | None = None) -> Workload:
        """What the model costs."""


def family_of(spec: Mapping[str, Any]) -> str:
    """The family that a job's `model:` names; else that of its preset or folder; else ``gpt``.

    Raises:
        ConfigError: for a family or an architecture that does not exist.
        DataError: the folder cannot be read.
    """
    family = spec.get("family")
    if spec.get("from") is not None:
        return _family_in_folder(spec["from"], family)
    if family is None:
        family = _family_of_preset(spec.get("preset")) or "gpt"
    if family not in FAMILIES:
        near = suggestion(str(family), FAMILIES)
        raise ConfigError(
            f"no model family is named {family!r}",
            where="model.family",
            why="families: " + ", ".join(FAMILIES),
            next_step=f"did you mean {near!r}?" if near else None,
        )
    return str(family)


def weights_module(family: str) -> Any:
    """The ``weights`` module of a family: how it lies in a Hugging Face folder. No torch.

    Raises:
        ConfigError: the family has no such folders.
    """
    return _trained(family, "weights")


def _family_in_folder(folder: object, named: object) -> str:
    """The family of the architecture that a folder's config.json names."""
    if not isinstance(folder, str):
        raise ConfigError("bad model folder", where="model.from", why="it must be a path")
    config = FolderConfig(Path(folder))
    kind = config.model_type
    homes = {name: family for family, names in ARCHITECTURES.items() for name in names}
    if kind not in homes:
        raise ConfigError(
            f"models of the architecture {kind[:64]!r} are not supported",
            where=f"{config.where}: model_type",
            why="supported: " + ", ".join(homes),
            next_step="docs/models.md lists what is read",
        )
    if named not in (None, homes[kind]):
        raise ConfigError(
            f"the folder holds a model of the family {homes[kind]}, not {named}",
            where="model.family",
            next_step="leave model.family out",
        )
    return homes[kind]


def describe(family: str) -> Describe:
    """The ``describe`` module of a family."""
    return cast(Describe, importlib.import_module(f"{FAMILIES[family]}.describe"))


def model_module(family: str) -> Any:
    """The ``model`` module of a family; needs torch.

    Raises:
        ConfigError: the family is described for planning only.
    """
    return _trained(family, "model")


def sharding_module(family: str) -> Any:
    """The ``sharding`` module of a family: what decays, what is tied, what splits.

    Raises:
        ConfigError: the family is described for planning only.
    """
    return _trained(family, "sharding")


def _trained(family: str, module: str) -> Any:
    name = f"{FAMILIES[family]}.{module}"
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"models of the family {family} can be planned, not trained",
            where="model.family",
            why="nothing here says how its model is divided and saved",
            next_step="use a family that trains: "
            + ", ".join(
                f for f, p in FAMILIES.items() if importlib.util.find_spec(f"{p}.sharding")
            ),
        )
    return importlib.import_module(name)


def _family_of_preset(preset: object) -> str | None:
    """The family whose name a preset's starts with, or that has the nearest preset."""
    if not isinstance(preset, str):
        return None
    word = preset.lower()
    for family in FAMILIES:
        if word.startswith(family):
            return family
    homes = {name: family for family in FAMILIES for name in describe(family).PRESETS}
    return homes.get(suggestion(word, homes) or "")
