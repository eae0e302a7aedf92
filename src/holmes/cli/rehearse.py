"""`holmes rehearse`: run a plan on emulated hosts with shaped links, on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from holmes.cli.options import (
    GlobalBatchOption,
    JobWords,
    JsonOption,
    MicroBatchOption,
    ModelOption,
    PrintConfigOption,
    RankMapOption,
    SiteOption,
    console,
    emit,
    resolve,
)


def register(app: typer.Typer) -> None:
    app.command("rehearse", help="Run a job on emulated hosts with shaped links.")(command)


def command(
    words: JobWords = None,
    site: SiteOption = None,
    model: ModelOption = None,
    global_batch: GlobalBatchOption = None,
    micro_batch: MicroBatchOption = None,
    placement: Annotated[
        list[str] | None,
        typer.Option(help="holmes, megatron or scattered; give several to compare them."),
    ] = None,
    rank_map: RankMapOption = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps to run.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run folder.")] = None,
    inject: Annotated[
        list[str] | None,
        typer.Option(
            "--inject",
            metavar="FAULT",
            help="Break something, e.g. kill:rank=2@step=5,phase=backward; may be repeated.",
        ),
    ] = None,
    json_output: JsonOption = False,
    print_config: PrintConfigOption = False,
) -> None:
    from holmes import api

    chosen: list[str | None] = [*dict.fromkeys(placement or ())] or [None]
    jobs = [
        resolve(
            words,
            placement=each,
            rank_map=rank_map,
            site=site,
            model=model,
            global_batch=global_batch,
            micro_batch=micro_batch,
            steps=steps,
            name=name,
        )
        for each in chosen
    ]
    if print_config:
        api.show_config(jobs[0], console(), json_output=json_output)
        return
    result = api.rehearse(jobs, console=console(), inject=inject or ())
    if json_output:
        emit(result)
