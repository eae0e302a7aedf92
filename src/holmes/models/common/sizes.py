"""Checks of sizes, and how a job's `model:` becomes a family's configuration. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from holmes.errors import ConfigError, suggestion

LARGEST = {
    "layers": 10_000,
    "hidden": 1_000_000,
    "heads": 100_000,
    "key_heads": 100_000,
    "sequence": 10_000_000,
    "vocabulary": 10_000_000,
    "ffn": 10_000_000,
    "experts": 100_000,
    "top_k": 100_000,
    "head_dim": 100_000,
    "window": 10_000_000,
    "rotary_original": 10_000_000,
}
"""Bounds that catch a slipped digit; nothing near them has been trained."""

OPTIONAL = frozenset({"ffn", "key_heads", "head_dim", "window", "rotary_original"})
"""Sizes that may be None, which means what follows from the others."""

REQUIRED = ("layers", "hidden", "heads", "sequence", "vocabulary")

Config = TypeVar("Config")


def check_sizes(config: Any) -> None:
    """Refuse a size that is no whole number or out of bounds; fields the config lacks pass.

    Raises:
        ConfigError: naming the key.
    """
    for key, largest in LARGEST.items():
        if not hasattr(config, key):
            continue
        value = getattr(config, key)
        if value is None and key in OPTIONAL:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong(key, value, "must be a whole number")
        if not 1 <= value <= largest:
            raise wrong(key, value, f"must lie between 1 and {largest}")


def check_choices(config: Any, choices: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse a word that is none of the allowed ones.

    Raises:
        ConfigError: with the nearest allowed word.
    """
    for key, allowed in choices.items():
        value = getattr(config, key)
        if value in allowed:
            continue
        words = [str(word) for word in allowed if word is not None]
        near = suggestion(str(value), words)
        raise ConfigError(
            f"model.{key} is {short(value)}",
            where=f"model.{key}",
            why="must be one of " + ", ".join(words),
            next_step=f"did you mean {near!r}?" if near else None,
        )


def check_flags(config: Any, keys: Sequence[str]) -> None:
    """Refuse anything but true and false.

    Raises:
        ConfigError: naming the key.
    """
    for key in keys:
        if not isinstance(getattr(config, key), bool):
            raise wrong(key, getattr(config, key), "must be true or false")


def check_number(config: Any, key: str, *, above: float) -> None:
    """Refuse what is no finite number above a bound.

    Raises:
        ConfigError: naming the key.
    """
    value = getattr(config, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(key, value, "must be a number")
    if not (math.isfinite(value) and value > above):
        raise wrong(key, value, f"must be above {above:g}")


def check_heads(hidden: int, heads: int, *, rotary: bool, head_dim: int | None = None) -> None:
    """Refuse heads that do not divide the hidden size, or cannot be rotated.

    Args:
        head_dim: features of a head, where they are given apart from the hidden size.

    Raises:
        ConfigError: with a number of heads that would do.
    """
    if head_dim is not None:
        if rotary and head_dim % 2:
            raise wrong("head_dim", head_dim, "must be even: angles rotate pairs of features")
        return
    if hidden % heads:
        raise ConfigError(
            f"{heads} attention heads do not divide the hidden size {hidden}",
            where="model.heads",
            why="every head takes hidden / heads features",
            next_step=f"use a divisor of {hidden}, e.g. heads={_nearest_divisor(hidden, heads)}",
        )
    if rotary and hidden // heads % 2:
        raise ConfigError(
            f"rotary positions need an even head size, this one is {hidden // heads}",
            where="model.heads",
            why="angles rotate pairs of features",
            next_step="choose heads so that hidden / heads is even",
        )


def gated_width(hidden: int) -> int:
    """The usual inner width of a gated MLP: 8/3 of the hidden size, to a multiple of 64."""
    return -(-8 * hidden // 3 // 64) * 64


def wrong(key: str, value: object, rule: str) -> ConfigError:
    """The error for a value that breaks a rule."""
    return ConfigError(f"model.{key} is {short(value)}", where=f"model.{key}", why=rule)


def short(value: object) -> str:
    """A value as it may stand in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def preset_in(presets: Mapping[str, Config], name: str) -> Config:
    """The preset of this name, in any case.

    Raises:
        ConfigError: with the nearest known name.
    """
    config = presets.get(name.lower())
    if config is not None:
        return config
    near = suggestion(name.lower(), presets)
    raise ConfigError(
        f"no model preset is named {name!r}",
        where="model.preset",
        why="presets are " + ", ".join(presets),
        next_step=f"did you mean {near!r}?" if near else None,
    )


def config_of(
    family: str,
    kind: type[Config],
    presets: Mapping[str, Config],
    spec: Mapping[str, Any] | str,
    from_folder: Callable[[Path], dict[str, Any]] | None = None,
) -> Config:
    """The configuration that a job's `model:` asks for.

    Args:
        spec: a preset name, or ``preset`` or ``from`` and sizes that override it, or all
            sizes. The key ``family`` is the caller's and is passed over.
        from_folder: the sizes that a Hugging Face folder states; None: it has none of
            this family.

    Raises:
        ConfigError: for an unknown key or preset, a missing or impossible size.
    """
    given: dict[str, Any] = {"preset": spec} if isinstance(spec, str) else dict(spec)
    given.pop("family", None)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    bases = ["preset", "from"] if from_folder else ["preset"]
    for key in given:
        if key not in (*known, *bases):
            near = suggestion(str(key), [*known, *bases])
            raise ConfigError(
                f"unknown key {short(key)} for a {family} model",
                where=f"model.{key}",
                why="known keys: " + ", ".join([*bases, *known]),
                next_step=f"did you mean {near!r}?" if near else None,
            )
    name, folder = given.pop("preset", None), given.pop("from", None)
    if folder is not None and from_folder is not None:
        if name is not None:
            raise wrong("preset", name, "has no effect beside `from`")
        if not isinstance(folder, str):
            raise wrong("from", folder, "must be the path of a folder")
        return kind(**{**from_folder(Path(folder)), **given})
    if name is None:
        missing = [key for key in REQUIRED if key not in given]
        if missing:
            raise ConfigError(
                "the model's size is not given: missing " + ", ".join(missing),
                where="model",
                next_step=f"name a preset, e.g. preset: {next(iter(presets))}, "
                "or give the missing sizes",
            )
        return kind(**given)
    if not isinstance(name, str):
        raise wrong("preset", name, f"must be a name, e.g. {next(iter(presets))}")
    base = preset_in(presets, name)
    return kind(**{**{key: getattr(base, key) for key in known}, **given})


def _nearest_divisor(number: int, wish: int) -> int:
    divisors = {
        d
        for low in range(1, int(number**0.5) + 1)
        if number % low == 0
        for d in (low, number // low)
    }
    return min(divisors, key=lambda divisor: (abs(divisor - wish), divisor))
