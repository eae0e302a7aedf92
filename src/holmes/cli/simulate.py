"""`holmes simulate`: one step of a plan, as planned, on changed machines, or with a node less."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.options import JsonOption, console, described, emit


def register(app: typer.Typer) -> None:
    text = described(
        "Simulate one step of a plan; ask what if.",
        "holmes simulate plan.json",
        "holmes simulate plan.json --what-if clusters.roce.nics.roce.gbit_s=400",
        "holmes simulate plan.json --fail node:1 --html study.html",
    )
    app.command("simulate", help=text)(command)


def command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.json", help="From `holmes plan -o`.")],
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            metavar="KEY=VALUE",
            help="Change the site, e.g. clusters.roce.nics.roce.gbit_s=400. Repeatable.",
        ),
    ] = None,
    fail: Annotated[
        str | None,
        typer.Option("--fail", metavar="node:N", help="Plan again without this node."),
    ] = None,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="At the rates of a rehearsal of the site.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Write the timelines for Perfetto.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write one HTML page.")] = None,
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    study = api.simulate(plan, what_if=what_if or (), fail=fail, rehearsal=rehearsal)
    written = study.write(trace=trace, html=html)
    if json_output:
        emit({**study.to_dict(), "written": written})
        return
    from rich.console import Console

    out = Console()
    for table in study.tables():
        out.print(table)
    for note in study.notes:
        out.print(note, markup=False)
    if written:
        console().print(f"wrote {', '.join(written.values())}", markup=False)
