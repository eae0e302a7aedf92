"""`holmes train`: train a job; alone, under torchrun, or under Slurm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.job_options import JobOptions, NameOption, PlacementOption, takes_job
from holmes.cli.options import console, described, emit
from holmes.errors import UsageError


def register(app: typer.Typer) -> None:
    text = described(
        "Train a job on this machine, or as one rank under torchrun or Slurm.",
        "holmes train examples/demo.yaml --name mine",
        "holmes train examples/demo.yaml --name mine --resume train.steps=40",
        "torchrun --nproc-per-node=4 --no-python holmes train examples/demo.yaml",
    )
    app.command("train", help=text)(takes_job(command))


def command(
    given: JobOptions,
    placement: PlacementOption = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps to train.")] = None,
    name: NameOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last committed checkpoint.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Start anew over the checkpoints of this run name."),
    ] = False,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="Run this plan instead of planning.")
    ] = None,
) -> None:
    from holmes import api

    job = given.resolve(placement=placement, steps=steps, name=name)
    if given.shows_config(job):
        return
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other")
    result = api.train(
        job, resume=resume, overwrite=overwrite, plan_file=plan_file, console=console()
    )
    if given.json_output and result is not None:
        emit(result)
