"""`holmes launch`: the command lines and per-node environment that start a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from holmes.cli.options import JsonOption, described, emit
from holmes.errors import UsageError


def register(app: typer.Typer) -> None:
    text = described(
        "Print what starts a plan under torchrun or Slurm, per node; or submit it.",
        "holmes launch plan.json --job job.yaml",
        "holmes launch plan.json --job job.yaml --slurm --print",
        "holmes launch plan.json --job job.yaml --slurm",
    )
    app.command("launch", help=text)(command)


def command(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file.")],
    job: Annotated[Path, typer.Option("--job", help="The job file the ranks will train.")],
    starter: Annotated[
        Literal["torchrun", "slurm"],
        typer.Option("--starter", help="Whose script to print: what starts the ranks."),
    ] = "torchrun",
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Submit to Slurm; with --print only show the script.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--print", help="Print the script, submit nothing.")
    ] = False,
    submitit: Annotated[
        bool, typer.Option("--submitit", help="Submit through submitit instead of sbatch.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    if submitit and (show or not slurm):
        raise UsageError("--submitit has an effect only with --slurm, without --print")
    if slurm and not show:
        result = api.submit(plan_file, job, submitit=submitit)
    else:
        result = api.launch(plan_file, job, starter="slurm" if slurm else starter)
    if json_output:
        emit(result)
    else:
        typer.echo(result["text"])
