"""The doctor's findings in the terminal, those that need something done at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
ORDER = ("ok", "skip", "warn", "fail")


def show_findings(found: Mapping[str, Any]) -> None:
    """Print each finding with what to do, then the count of each verdict."""
    out = Console(soft_wrap=True)
    several = len({each["node"] for each in found["findings"]} - {""}) > 1
    for verdict in ORDER:
        for each in found["findings"]:
            if each["verdict"] == verdict:
                where = f"{each['node'] or 'site'}: " if several else ""
                head = Text(f"{verdict:<5}", style=COLOURS[verdict])
                out.print(head, Text(f"{where}{each['check']}: {each['said']}"), sep="")
                if each["do"]:
                    out.print(Text(f"     do: {each['do']}"))
    counts = ", ".join(f"{found['counts'][verdict]} {verdict}" for verdict in ORDER)
    out.print(Text(counts))
