"""`holmes train`: train a job; alone, under torchrun, or under Slurm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.options import (
    GlobalBatchOption,
    JobWords,
    JsonOption,
    MicroBatchOption,
    ModelOption,
    PlacementOption,
    PrintConfigOption,
    RankMapOption,
    SiteOption,
    console,
    emit,
    resolve,
)
from holmes.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command(
        "train", help="Train a job on this machine, or as one rank under torchrun or Slurm."
    )(command)


def command(
    words: JobWords = None,
    site: SiteOption = None,
    model: ModelOption = None,
    global_batch: GlobalBatchOption = None,
    micro_batch: MicroBatchOption = None,
    placement: PlacementOption = None,
    rank_map: RankMapOption = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps to train.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run folder.")] = None,
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
    json_output: JsonOption = False,
    print_config: PrintConfigOption = False,
) -> None:
    from holmes import api

    job = resolve(
        words,
        site=site,
        model=model,
        global_batch=global_batch,
        micro_batch=micro_batch,
        placement=placement,
        rank_map=rank_map,
        steps=steps,
        name=name,
    )
    if print_config:
        api.show_config(job, console(), json_output=json_output)
        return
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other")
    result = api.train(
        job, resume=resume, overwrite=overwrite, plan_file=plan_file, console=console()
    )
    if json_output and result is not None:
        emit(result)
