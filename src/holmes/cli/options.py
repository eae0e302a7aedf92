"""What the commands share: the job on the command line, and output as text or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from holmes.job.resolve import ResolvedJob

JobWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[JOB] [KEY=VALUE ...]", help="A job file, and overrides such as train.steps=50."
    ),
]
SiteOption = Annotated[
    str | None, typer.Option("--site", help="Site file or catalogue name (job key `site`).")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Model preset, e.g. gpt-3.6b (job key `model`).")
]
GlobalBatchOption = Annotated[
    int | None, typer.Option("--global-batch", help="Samples per step (job key `batch.global`).")
]
MicroBatchOption = Annotated[
    int | None, typer.Option("--micro-batch", help="Samples per micro-batch (`batch.micro`).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object.")]
PrintConfigOption = Annotated[
    bool,
    typer.Option("--print-config", help="Show the resolved job with the origin of each value."),
]
PlacementOption = Annotated[
    str | None,
    typer.Option("--placement", help="Named bundle: holmes, megatron or scattered."),
]
RankMapOption = Annotated[
    str | None,
    typer.Option("--rank-map", help="Device index of every logical rank, e.g. 0,2,3,1."),
]


def resolve(
    words: list[str] | None,
    *,
    placement: str | None = None,
    rank_map: str | None = None,
    **shorthand: Any,
) -> ResolvedJob:
    """The job of a command line: file, overrides and shorthand options."""
    from holmes.job.resolve import resolve_job

    words = list(words or [])
    path = Path(words.pop(0)) if words and "=" not in words[0] else None
    given = {key: value for key, value in shorthand.items() if value is not None}
    if placement is not None:
        given["placement"] = placement
    if rank_map is not None:
        given["rank_map"] = rank_map
    return resolve_job(path, words, given)


def console() -> Console:
    """Where people read: standard error, so that stdout stays for results."""
    from rich.console import Console

    return Console(stderr=True)


def emit(data: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    json.dump(data, sys.stdout, allow_nan=False)
    sys.stdout.write("\n")
