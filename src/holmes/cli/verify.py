"""`holmes verify`: the parallel run against the plain single-process run."""

from __future__ import annotations

from typing import Annotated

import typer

from holmes.cli.options import (
    GlobalBatchOption,
    JobWords,
    JsonOption,
    MicroBatchOption,
    ModelOption,
    PlacementOption,
    RankMapOption,
    SiteOption,
    console,
    emit,
    resolve,
)


def register(app: typer.Typer) -> None:
    app.command("verify", help="Compare a job's parameters with the plain single-process run.")(
        command
    )


def command(
    words: JobWords = None,
    site: SiteOption = None,
    model: ModelOption = None,
    global_batch: GlobalBatchOption = None,
    micro_batch: MicroBatchOption = None,
    placement: PlacementOption = None,
    rank_map: RankMapOption = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps before comparing.")] = 20,
    json_output: JsonOption = False,
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
    )
    result = api.verify(job, steps=steps, console=console())
    if json_output:
        emit(result)
    else:
        from holmes.report.terminal import show_verification

        show_verification(result)
