"""Spans on disk: ``trace.jsonl`` (measured) and ``predicted.jsonl`` (one predicted step)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

from holmes.errors import DataError
from holmes.events.jsonl import append_objects, read_objects
from holmes.events.span import Span, Timeline

_TEXT = frozenset({"lane", "op", "buffer"})
_REQUIRED = tuple(f.name for f in fields(Span) if f.name not in ("bytes", "buffer", "inner"))
_KNOWN = frozenset(f.name for f in fields(Span))


def append_trace(path: Path, spans: Iterable[Span]) -> None:
    """Append spans, one JSON object a line.

    Raises:
        WriteError: when the file cannot be written.
    """
    append_objects(path, (_fields(span) for span in spans))


def read_trace(path: Path, source: Literal["predicted", "measured"] = "measured") -> Timeline:
    """Read spans back, in file order; parts of instructions apart from the instructions.

    Raises:
        DataError: naming file and line, when the file is missing or a line is no span.
    """
    found = [_span(item, where) for where, item in read_objects(path)]
    return Timeline(
        source,
        tuple(span for span in found if not span.inner),
        tuple(span for span in found if span.inner),
    )


def _fields(span: Span) -> dict[str, Any]:
    found = asdict(span)
    if not span.inner:
        del found["inner"]
    return found


def _span(item: dict[str, Any], where: str) -> Span:
    """Check one object; every field is an integer but lane, op, buffer (text)."""
    for name in _REQUIRED:
        if name not in item:
            raise DataError(f"a span has no field {name!r}", where=where)
    for name, value in item.items():
        if name not in _KNOWN:
            raise DataError(f"a span has no field named {name!r}", where=where)
        wanted = str if name in _TEXT else int
        absent = name == "microbatch" and value is None
        if not absent and (not isinstance(value, wanted) or isinstance(value, bool)):
            kind = "text" if wanted is str else "an integer"
            raise DataError(f"field {name!r} of a span must be {kind}, got {value!r}", where=where)
    span = Span(**item)
    if span.stop < span.start:
        raise DataError(
            f"span {span.id} stops before it starts ({span.stop} < {span.start})", where=where
        )
    return span
