"""`holmes plan`: the plan of a job with its reasons."""

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


def register(app: typer.Typer) -> None:
    app.command("plan", help="Plan a model for a site, with the reasons.")(command)


def command(
    words: JobWords = None,
    site: SiteOption = None,
    model: ModelOption = None,
    global_batch: GlobalBatchOption = None,
    micro_batch: MicroBatchOption = None,
    placement: PlacementOption = None,
    rank_map: RankMapOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every decision: order, groups, partition, losers.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the plan as JSON to this file.")
    ] = None,
    json_output: JsonOption = False,
    print_config: PrintConfigOption = False,
) -> None:
    from holmes import api
    from holmes.plan.codec import plan_to_dict, write_plan

    job = resolve(
        words,
        site=site,
        model=model,
        global_batch=global_batch,
        micro_batch=micro_batch,
        placement=placement,
        rank_map=rank_map,
    )
    if print_config:
        api.show_config(job, console(), json_output=json_output)
        return
    made = api.plan(job)
    if output is not None:
        write_plan(made, output)
    if json_output:
        emit(plan_to_dict(made))
        return
    from holmes.report.terminal import show_plan

    show_plan(made, explain=explain)
