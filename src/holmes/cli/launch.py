"""`holmes launch`: the command lines and per-node environment that start a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from holmes.cli.options import JsonOption, emit


def register(app: typer.Typer) -> None:
    app.command("launch", help="Print what starts a plan under torchrun or Slurm, per node.")(
        command
    )


def command(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file.")],
    job: Annotated[Path, typer.Option("--job", help="The job file the ranks will train.")],
    starter: Annotated[
        Literal["torchrun", "slurm"], typer.Option("--starter", help="What starts the ranks.")
    ] = "torchrun",
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    result = api.launch(plan_file, job, starter=starter)
    if json_output:
        emit(result)
    else:
        typer.echo(result["text"])
