"""`holmes schedule`: draw any schedule, with its bubble and its activation peaks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.options import JsonOption, console, described, emit
from holmes.errors import UsageError


class Name(StrEnum):
    """The schedules, as the command line lists them."""

    ONE_F_ONE_B = "1f1b"
    GPIPE = "gpipe"
    INTERLEAVED = "interleaved"
    ZERO_BUBBLE = "zero-bubble"
    LOOPED_BFS = "looped-bfs"


def register(app: typer.Typer) -> None:
    schedules = typer.Typer(help="Draw pipeline schedules.", no_args_is_help=True)
    text = described(
        "Draw a schedule: who runs what when, and what stays idle.",
        "holmes schedule show 1f1b",
        "holmes schedule show interleaved --stages 4 --microbatches 8 --virtual 2",
    )
    schedules.command("show", help=text)(show)
    app.add_typer(schedules, name="schedule")


def show(
    name: Annotated[Name, typer.Argument(help="Which schedule.")],
    stages: Annotated[int, typer.Option("--stages", help="Pipeline ranks.")] = 4,
    microbatches: Annotated[int, typer.Option("--microbatches", help="Per step.")] = 8,
    virtual: Annotated[
        int | None,
        typer.Option("--virtual", help="Stages per rank [2 where it can have several]."),
    ] = None,
    extra_warmup: Annotated[
        int, typer.Option("--extra-warmup", help="Extra forwards in flight per cut.")
    ] = 0,
    forward: Annotated[
        float, typer.Option("--forward", help="Time units of a micro-batch on one stage.")
    ] = 1.0,
    backward: Annotated[float, typer.Option("--backward", help="The whole backward.")] = 2.0,
    weight: Annotated[
        float | None, typer.Option("--weight", help="The weights' part of it [half].")
    ] = None,
    transfer: Annotated[float, typer.Option("--transfer", help="Between two ranks.")] = 0.0,
    svg: Annotated[Path | None, typer.Option("--svg", help="Also write a picture.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page.")] = None,
    json_output: JsonOption = False,
) -> None:
    from holmes import api
    from holmes.report.schedule_text import show_schedule
    from holmes.schedule.timeline import Durations

    if weight is not None and name is not Name.ZERO_BUBBLE:
        raise UsageError(
            "--weight has no effect on this schedule",
            where=f"--weight with {name}",
            why="only zero-bubble runs the weights' part of the backward by itself",
        )
    part = backward / 2 if weight is None else weight
    facts = api.schedule(
        name.value,
        stages,
        microbatches,
        virtual_stages=virtual,
        extra_warmup=extra_warmup,
        durations=Durations(forward, backward, part, transfer),
    )
    for path in api.draw_schedule(facts, svg=svg, html=html):
        console().print(f"wrote {path}", markup=False)
    if json_output:
        emit(facts.to_dict())
    else:
        show_schedule(facts)
