"""`holmes report`: one self-contained HTML page of a run, or its Perfetto trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.options import JsonOption, console, described, emit


def register(app: typer.Typer) -> None:
    text = described(
        "Write a run's report as one HTML page.",
        "holmes report runs/demo",
        "holmes report runs/a runs/b -o both.html",
        "holmes report runs/demo --perfetto trace.json",
    )
    app.command("report", help=text)(command)


def command(
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folder; several to compare them.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file [RUN/report.html].")
    ] = None,
    perfetto: Annotated[
        Path | None, typer.Option("--perfetto", help="Also export the trace for Perfetto.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    written = api.report(run, output=output, perfetto=perfetto)
    if json_output:
        emit(written)
    else:
        console().print(f"wrote {', '.join(str(path) for path in written.values())}")
