"""YAML in, values and line numbers out: the one reader of configuration files.

Plain data only: no tags, no merge keys, no second document. Scalars follow the
YAML 1.2 core schema, so ``1e-3`` is a number and ``no`` is a word. Size, nesting
and alias expansion are bounded before anything is built.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from holmes.errors import ConfigError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 24
MAX_NODES = 20_000
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
KeyPath = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]+")
_HEX_OR_OCTAL = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True)
class Document:
    """Parsed values, and the line on which each key or list item stands."""

    path: str
    data: Any
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def where(self, key: KeyPath = ()) -> str:
        """``file:line: key.path``, with the line of the nearest key that exists."""
        known: KeyPath = key
        while known and known not in self.lines:
            known = known[:-1]
        line = self.lines.get(known)
        place = self.path if line is None else f"{self.path}:{line}"
        return f"{place}: {dotted(key, self.data)}" if key else place


def dotted(key: KeyPath, data: Any = None) -> str:
    """A key path as people write it; with ``data``, list items go by their name."""
    words: list[str] = []
    for part in key:
        item = part_of(data, part)
        words.append(item_name(item, part) if isinstance(part, int) else shown(part))
        data = item
    return ".".join(words)


def part_of(data: Any, part: str | int) -> Any:
    """The value under a key or index, or None."""
    if isinstance(data, list):
        return data[part] if isinstance(part, int) and part < len(data) else None
    return data.get(part) if isinstance(data, Mapping) else None


def item_name(item: Any, index: int) -> str:
    """How a list item is addressed: its name, its kind, the ends it joins, or its index."""
    if isinstance(item, Mapping):
        ends = item.get("between")
        if isinstance(ends, list | tuple):
            return "-".join(str(end) for end in ends)
        for key in ("name", "kind"):
            name = item.get(key)
            if isinstance(name, str) and name == shown(name):
                return name
    return str(index)


def shown(word: str) -> str:
    """A word of the user's for a message: printable, and at most 80 letters."""
    word = word if word.isprintable() else repr(word)[1:-1]
    return word if len(word) <= 80 else f"{word[:77]}..."


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) scalar by the YAML 1.2 core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= 400:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _HEX_OR_OCTAL.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _NOT_FINITE.fullmatch(text):
            return float(text.replace(".", "", 1))
    return text


def read_yaml(path: Path) -> Document:
    """Read one YAML file.

    Raises:
        ConfigError: missing or unreadable file, binary content, bad YAML,
            duplicate keys, or more nesting than any configuration needs.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"cannot read the file: {reason}",
            where=str(path),
            next_step="check the path; a relative path starts at the current folder",
        ) from None
    return parse_yaml(raw, str(path))


def parse_yaml(raw: bytes, where: str) -> Document:
    """Parse the bytes of one YAML document; ``where`` names them in errors.

    Raises:
        ConfigError: see :func:`read_yaml`.
    """
    text = _text_of(raw, where)
    try:
        return _Builder(where, yaml.parse(text, Loader=Loader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}" if mark else where
        why = ": ".join(shown(part) for part in (error.context, error.problem) if part)
        raise ConfigError(
            "not valid YAML", where=place, why=why or "the parser gives no reason"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            "not valid YAML", where=where, why=shown(str(error).split("\n")[0])
        ) from None


def _text_of(raw: bytes, where: str) -> str:
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            f"the file is larger than {MAX_BYTES // 1024} KiB",
            where=where,
            why="no site or job needs that much; is it another kind of file?",
        )
    if b"\0" in raw:
        line = raw[: raw.index(b"\0")].count(b"\n") + 1
        raise ConfigError(
            "the file is binary, not YAML text",
            where=f"{where}:{line}",
            why="it has a NUL byte",
            next_step="check the path, or save the file as UTF-8 text",
        )
    try:
        text = raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            "the file is not UTF-8 text", where=f"{where}:{line}", next_step="save it as UTF-8"
        ) from None
    for number, line_text in enumerate(text.splitlines(), start=1):
        indent = line_text[: len(line_text) - len(line_text.lstrip())]
        if "\t" in indent and line_text.strip():
            raise ConfigError(
                "a tab in the indentation",
                where=f"{where}:{number}",
                why="YAML indents with spaces only",
                next_step="replace the tab by spaces",
            )
    return text


class _Builder:
    """Builds values from parser events, without recursion in the parser."""

    def __init__(self, where: str, events: Iterator[Any]) -> None:
        self.where = where
        self.events = events
        self.lines: dict[KeyPath, int] = {}
        self.anchors: dict[str, Any] = {}
        self.nodes = 0

    def document(self) -> Document:
        found = 0
        data: Any = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                found += 1
                if found > 1:
                    self._refuse("a second YAML document (`---`)", event, "keep one document")
                data = self._value(next(self.events), (), 0)
        return Document(self.where, data, self.lines)

    def _value(self, event: Any, key: KeyPath, depth: int) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH:
            self._refuse(f"nested more than {MAX_DEPTH} levels deep", event, "flatten it")
        if self.nodes > MAX_NODES:
            self._refuse(f"more than {MAX_NODES} values", event, "shorten the file")
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event)
        if event.tag is not None and event.tag != "!":
            self._refuse(f"the tag {shown(event.tag)}", event, "remove it; plain values only")
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = event.value if event.style in ("'", '"', "|", ">") else scalar(event.value)
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(key, depth)
        else:
            value = self._sequence(key, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = value
        return value

    def _mapping(self, key: KeyPath, depth: int) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            if not isinstance(event, yaml.ScalarEvent):
                self._refuse("a key that is not a plain word", event, "use words as keys")
            name = event.value
            if name == "<<":
                self._refuse("a merge key (`<<`)", event, "write the keys out")
            if name in built:
                first = self.lines[(*key, name)]
                self._refuse(
                    f"the key `{shown(name)}` twice", event, f"it is already on line {first}"
                )
            self.lines[(*key, name)] = event.start_mark.line + 1
            built[name] = None
            built[name] = self._value(next(self.events), (*key, name), depth + 1)
        return built

    def _sequence(self, key: KeyPath, depth: int) -> list[Any]:
        built: list[Any] = []
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            place = (*key, len(built))
            self.lines[place] = event.start_mark.line + 1
            built.append(self._value(event, place, depth + 1))
        return built

    def _aliased(self, event: Any) -> Any:
        if event.anchor not in self.anchors:
            self._refuse(
                f"the alias *{shown(event.anchor)}", event, "its anchor is not complete here"
            )
        return self._copy(self.anchors[event.anchor], event)

    def _copy(self, value: Any, event: Any) -> Any:
        """A copy that counts against the bound, so that alias bombs cannot expand."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self._refuse(f"aliases that expand to over {MAX_NODES} values", event, "write them out")
        if isinstance(value, dict):
            return {name: self._copy(item, event) for name, item in value.items()}
        if isinstance(value, list):
            return [self._copy(item, event) for item in value]
        return value

    def _refuse(self, what: str, event: Any, next_step: str) -> None:
        raise ConfigError(
            f"the file has {what}" if not what.startswith("nested") else f"the file is {what}",
            where=f"{self.where}:{event.start_mark.line + 1}",
            next_step=next_step,
        )
