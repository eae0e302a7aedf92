"""What `holmes simulate` found: cases side by side, and why they differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holmes.events.perfetto import write_perfetto
from holmes.hardware.topology import Topology
from holmes.report.cases import Case, cases_table
from holmes.report.causes import Comparison
from holmes.report.page import write_page
from holmes.report.waterfall_table import waterfall_table

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Study:
    """The plan as it is first, then the other cases; ``comparison`` is of the same plan on
    the changed site."""

    cases: tuple[Case, ...]
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; the first case's stand at the top as well."""
        told: dict[str, Any] = {
            **self.cases[0].to_dict(),
            "cases": {case.name: case.to_dict() for case in self.cases},
            "notes": list(self.notes),
        }
        if self.comparison is not None:
            told["comparison"] = self.comparison.to_dict()
        return told

    def tables(self) -> list[Table]:
        """Tables for the terminal."""
        causes = [] if self.comparison is None else [waterfall_table(self.comparison)]
        return [cases_table(self.cases), *causes]

    def write(self, *, trace: Path | None, html: Path | None) -> dict[str, str]:
        """Write what is asked for; paths by kind.

        Raises:
            WriteError: when a file cannot be written.
        """
        written: dict[str, str] = {}
        if trace is not None:
            first = self.cases[0].plan
            devices = Topology(first.site).devices
            nodes = {rank: devices[slot].node.name for rank, slot in enumerate(first.rank_map)}
            write_perfetto(trace, [self.cases[0].simulation.timeline], nodes)
            written["trace"] = str(trace)
        if html is not None:
            write_page(html, [case.as_run() for case in self.cases], self.comparison)
            written["html"] = str(html)
        return written
