"""`holmes compare`: why a step takes longer than predicted, or than another run's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.options import JsonOption, console, described, emit


def register(app: typer.Typer) -> None:
    text = described(
        "Say why a step is slower than predicted, or than another's.",
        "holmes compare runs/demo",
        "holmes compare runs/before runs/after",
        "holmes compare plan.json runs/demo/trace.jsonl --html why.html",
    )
    app.command("compare", help=text)(command)


def command(
    what: Annotated[
        list[Path],
        typer.Argument(metavar="RUN | RUN RUN | PLAN.json TRACE.jsonl", help="What to compare."),
    ],
    step: Annotated[
        int | None, typer.Option("--step", min=0, help="Traced step [the most typical one].")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write the waterfall as one HTML page.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    comparison = api.compare(what, step=step, html=html)
    if json_output:
        emit(comparison.to_dict())
        return
    from rich.console import Console

    from holmes.report.waterfall_table import waterfall_table

    out = Console()
    out.print(waterfall_table(comparison))
    for note in comparison.notes:
        out.print(note, markup=False)
    if html is not None:
        console().print(f"wrote {html}", markup=False)
