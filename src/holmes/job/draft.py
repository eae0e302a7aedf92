"""Draft: raw configuration values that still know where each of them came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from holmes.errors import ConfigError, suggestion
from holmes.hardware.yaml_reader import Document, KeyPath, dotted, item_name


@dataclass(frozen=True)
class Origin:
    """Where a value came from: a short label for tables, a place for errors."""

    label: str
    where: str
    line_known: bool = False


DEFAULT = Origin("default", "default")


def named_model(name: str) -> dict[str, str]:
    """What ``model: NAME`` stands for: with a slash in it a folder, else a preset."""
    return {"from" if "/" in name else "preset": name}


@dataclass
class Draft:
    """Values under construction: a document, then overrides on top of it.

    ``name`` says what is described when a place is unknown: a file, "command line".
    """

    name: str
    data: Any
    origins: dict[KeyPath, Origin] = field(default_factory=dict)

    @staticmethod
    def of(document: Document) -> Draft:
        """A draft of a parsed file; every key has its line as origin."""
        origins = {
            key: Origin(f"{document.path}:{line}", f"{document.path}:{line}", line_known=True)
            for key, line in document.lines.items()
        }
        return Draft(document.path, document.data, origins)

    def below(self, key: KeyPath, data: Any) -> Draft:
        """The part of this draft under a key, as a draft of its own."""
        depth = len(key)
        origins = {
            place[depth:]: origin
            for place, origin in self.origins.items()
            if place[:depth] == key and len(place) > depth
        }
        return Draft(self.where(key), data, origins)

    def origin(self, key: KeyPath) -> Origin | None:
        """The origin of a value: its own or that of the nearest section around it."""
        known: KeyPath = key
        while known:
            if known in self.origins:
                return self.origins[known]
            known = known[:-1]
        return None

    def where(self, key: KeyPath = ()) -> str:
        """The place of a key, for an error: file and line, or the override or option."""
        found = self.origin(key)
        if found is None:
            place = self.name
        elif found.line_known:
            place = f"{found.where}: {dotted(key, self.data)}"
        else:
            return found.where
        inside = [
            origin.where
            for below, origin in self.origins.items()
            if below[: len(key)] == key and not origin.line_known
        ]
        return ", with ".join([place, *inside])

    def assign(self, parts: list[str], value: Any, origin: Origin) -> None:
        """Set a value; list items are addressed by name, kind or index.

        Raises:
            ConfigError: when the way leads through a plain value or an unknown item.
        """
        if not isinstance(self.data, dict):
            raise ConfigError("there are no keys to override", where=self.where())
        *way, last = self._locate(parts, origin)
        here: Any = self.data
        for position, part in enumerate(way):
            below: Any = here.get(part) if isinstance(here, dict) else here[part]
            if below is None or below == "auto":
                below = here[part] = {}
            elif part == "model" and position == 0 and isinstance(below, str):
                below = here[part] = named_model(below)
            if not isinstance(below, dict | list):
                place = dotted(tuple(way[: position + 1]), self.data)
                raise ConfigError(
                    f"`{place}` is a plain value and has no keys below it", where=origin.where
                )
            here = below
        here[last] = value
        key = (*way, last)
        for known in [known for known in self.origins if known[: len(key)] == key]:
            del self.origins[known]
        self.origins[key] = origin

    def _locate(self, parts: list[str], origin: Origin) -> list[str | int]:
        """The key path of a dotted one: names of list items become indices."""
        here: Any = self.data
        path: list[str | int] = []
        position = 0
        while position < len(parts):
            if isinstance(here, list):
                place = dotted(tuple(path), self.data)
                index, used = _item(here, parts[position:], place, origin)
                path.append(index)
                here = here[index]
                position += used
            else:
                path.append(parts[position])
                here = here.get(parts[position]) if isinstance(here, dict) else None
                position += 1
        return path


def _item(items: list[Any], parts: list[str], place: str, origin: Origin) -> tuple[int, int]:
    """(index, words used) of the list item that the next words name; names may hold dots."""
    names = [item_name(item, index) for index, item in enumerate(items)]
    for used in range(1, len(parts) + 1):
        word = ".".join(parts[:used])
        if word in names:
            return names.index(word), used
    if parts[0].isdecimal() and len(parts[0]) < 10 and int(parts[0]) < len(items):
        return int(parts[0]), 1
    near = suggestion(parts[0][:80], names)
    raise ConfigError(
        f"`{place}` has no item {parts[0]!r}",
        where=origin.where,
        why=f"known items: {', '.join(names) or 'none'}",
        next_step=f"did you mean `{near}`?" if near else None,
    )
