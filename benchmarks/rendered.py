"""What a record becomes for the reader, and the kinds of statement there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VIRTUAL = "Measured on virtual devices (computation slept, network real)"
REAL = "Measured with real compute"
PREDICTED = "Predicted against measured, real compute"
Data = Mapping[str, Any]
Row = tuple[str, ...]


@dataclass(frozen=True)
class Rendered:
    """One record for the reader.

    ``kind`` says what sort of statement it is, ``claim`` what follows from the table in a
    sentence or two; ``details`` go to the docs only.
    """

    kind: str
    header: Row
    rows: tuple[Row, ...]
    claim: str
    details: tuple[str, ...] = field(default_factory=tuple)

    def table(self) -> str:
        """Markdown."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
