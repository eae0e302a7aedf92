"""`holmes probe`: measure this machine, or all machines under torchrun, into a site file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.options import JsonOption, console, described, emit


def register(app: typer.Typer) -> None:
    text = described(
        "Write a site file for the machine(s) this runs on.",
        "holmes probe -o here.yaml",
        "torchrun --nnodes=2 ... --no-python holmes probe -o site.yaml",
    )
    app.command("probe", help=text)(command)


def command(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Site file to write [stdout].")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the site.")] = "here",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repeats, wider spread.")] = False,
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    result = api.probe(name=name, output=output, quick=quick, console=console())
    if result is None:
        return
    if json_output:
        emit(result)
    elif output is None:
        typer.echo(result["site"], nl=False)
