"""config.json of a Hugging Face folder, read with care and without its code. No torch.

Every key is checked when it is asked for, so a message names file and key. What changes
the arithmetic and is not supported is refused; keys that do not (dropout of another
trainer, generation settings) are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holmes.errors import ConfigError, DataError
from holmes.models.common.sizes import short

CONFIG = "config.json"
LARGEST_CONFIG = 16 * 2**20
CODE_KEYS = ("auto_map", "custom_code")
"""Keys by which a folder asks for Python code of its own to be run."""


class FolderConfig:
    """The values of a config.json.

    Raises:
        DataError: there is no such folder or file, or it is not a JSON object.
        ConfigError: the model needs code of its own, or its weights are quantised.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder / CONFIG)
        self._values = _read(folder)
        for key in CODE_KEYS:
            if self._values.get(key):
                raise self.refusal(key, "it asks for Python code of its own, which is never run")
        if self._values.get("quantization_config"):
            raise self.refusal("quantization_config", "quantised weights cannot be trained here")

    @property
    def model_type(self) -> str:
        """The architecture's name.

        Raises:
            DataError: there is none.
        """
        found = self._values.get("model_type")
        if not isinstance(found, str):
            raise DataError(
                "the model's config names no architecture",
                where=f"{self.where}: model_type",
                next_step="give a folder that `save_pretrained` wrote",
            )
        return found

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def whole(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number of at least ``least``.

        Raises:
            DataError: it is missing, or something else.
        """
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._bad(key, value, f"must be a whole number of at least {least}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number above zero; DataError otherwise."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self._bad(key, value, "must be a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false; DataError otherwise."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._bad(key, value, "must be true or false")
        return value

    def word(self, key: str, default: str) -> str:
        """A word; DataError otherwise."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._bad(key, value, "must be a word")
        return value

    def section(self, key: str) -> Mapping[str, Any]:
        """A nested object, empty where it is missing; DataError otherwise."""
        value = self._values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._bad(key, value, "must be an object")
        return value

    def words(self, key: str) -> Sequence[str]:
        """A list of words, empty where it is missing; DataError otherwise."""
        value = self._values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self._bad(key, value, "must be a list of words")
        return value

    def require(self, key: str, default: Any, allowed: Sequence[Any]) -> None:
        """Refuse a value under which the model computes something else.

        Raises:
            ConfigError: naming what is supported.
        """
        value = self._values.get(key)
        if (default if value is None else value) not in allowed:
            words = " or ".join(map(str, allowed))
            raise self.refusal(key, f"it is {short(value)}; supported: {words}")

    def refusal(self, key: str, why: str) -> ConfigError:
        """The error for a model that cannot be had here."""
        return ConfigError(
            "this kind of model is not supported",
            where=f"{self.where}: {key}",
            why=why,
            next_step="docs/models.md lists what is read",
        )

    def _bad(self, key: str, value: object, rule: str) -> DataError:
        return DataError(
            f"bad value in a model's config: {short(value)}"
            if key in self._values
            else "a key is missing from a model's config",
            where=f"{self.where}: {key}",
            why=rule,
        )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise DataError(
            "there is no such model folder",
            where=f"model.from: {folder}",
            next_step="give a folder that holds config.json and *.safetensors",
        )
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= LARGEST_CONFIG else b""
    except OSError as error:
        raise DataError(
            f"cannot read a model's config: {error.strerror}",
            where=str(path),
            next_step="give a folder that `save_pretrained` wrote",
        ) from None
    try:
        if size > LARGEST_CONFIG:
            raise ValueError(f"{size} bytes are no config")
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ValueError("it holds no object")
    except (ValueError, RecursionError) as error:
        raise DataError(
            "a model's config is not JSON", where=str(path), why=str(error)[:200]
        ) from None
    return values
