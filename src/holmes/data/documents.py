"""Document and Corpus: named texts, read again each time, so that they need not fit memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from holmes.errors import DataError

LONGEST = 256 * 2**20
"""Bytes of one document, unless the reader says otherwise: more is a mistake, not a text."""


@dataclass(frozen=True)
class Document:
    """One text. ``name`` is unique within a source."""

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """The documents of a source, in name order, none twice and none empty.

    ``documents`` can be gone through any number of times.
    """

    source: str
    documents: Iterable[Document]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and texts: the key of everything derived from them."""
        hasher = hashlib.sha256()
        for document in self.documents:
            for part in (document.name, document.text):
                data = part.encode()
                hasher.update(len(data).to_bytes(8, "little"))
                hasher.update(data)
        return hasher.hexdigest()


@dataclass(frozen=True)
class Distinct:
    """Documents without those that are blank or that were there before."""

    documents: Iterable[Document]

    def __iter__(self) -> Iterator[Document]:
        seen: set[bytes] = set()
        for document in self.documents:
            key = hashlib.sha256(document.text.encode()).digest()
            if document.text.strip() and key not in seen:
                seen.add(key)
                yield document


def checked(text: object, where: str, rule: str) -> str:
    """A document's text.

    Args:
        rule: what should be there.

    Raises:
        DataError: it is no text, or half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise DataError("a line has no text", where=where, why=rule)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            "a line holds half of a surrogate pair", where=where, why=error.reason
        ) from None
    return text


def too_long(where: str, limit: int) -> DataError:
    """The error for a document beyond the limit."""
    return DataError(
        f"a document has more than {limit / 2**20:g} MiB",
        where=where,
        why="a line end may be missing",
        next_step="split it, or raise data.document_mb",
    )
