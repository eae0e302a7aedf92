"""`holmes calibrate`: fit the cost model to own runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.options import JsonOption, console, described, emit


def register(app: typer.Typer) -> None:
    text = described(
        "Fit the cost model to a run's trace or a table of runs.",
        "holmes calibrate runs/demo -o mine.json",
        "holmes calibrate runs.csv --sites sites -o mine.json",
    )
    app.command("calibrate", help=text)(command)


def command(
    source: Annotated[
        Path,
        typer.Argument(metavar="TRACE|TABLE", help="Run folder, its trace.jsonl, or a CSV table."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Calibration file to write.")
    ] = Path("calibration.json"),
    sites: Annotated[
        Path | None, typer.Option("--sites", help="Folder of site files, for a table.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    result = api.calibrate(source, output=output, sites=sites)
    if json_output:
        emit(result)
        return
    console().print(f"wrote {output}: {result['source']}", markup=False)
