"""`holmes schema`: the JSON schema of a site or job file, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from holmes.cli.options import JsonOption, console, described, emit


def register(app: typer.Typer) -> None:
    text = described(
        "Print the JSON schema of a site or job file, for editors.",
        "holmes schema site",
        "holmes schema job -o job.schema.json",
    )
    app.command("schema", help=text)(command)


def command(
    what: Annotated[Literal["site", "job"], typer.Argument(help="Which file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write [stdout].")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    import json

    from holmes import api

    found = api.schema(what)
    if output is not None:
        api.write_text(output, json.dumps(found, indent=2) + "\n")
        console().print(f"wrote {output}", markup=False)
    if json_output:
        emit(found)
    elif output is None:
        typer.echo(json.dumps(found, indent=2))
