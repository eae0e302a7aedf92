"""`holmes checkpoint`: list, verify, convert and repair the checkpoints of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holmes.cli.options import JsonOption, emit, show

PathArgument = Annotated[
    Path, typer.Argument(metavar="PATH", help="A run folder, or one checkpoint's folder.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="List, verify, convert and repair checkpoints.", no_args_is_help=True)
    group.command("list", help="Steps with size, layout, state and age; when to save.")(listing)
    group.command("verify", help="Check every byte; exit code 65 when one is wrong.")(verify)
    group.command("convert", help="Whole parameters as one safetensors file.")(convert)
    group.command("repair", help="Point `latest` at the newest good one, drop leftovers.")(repair)
    app.add_typer(group, name="checkpoint")


def listing(
    run: RunArgument,
    mtbf_hours: Annotated[
        float | None,
        typer.Option("--mtbf-hours", min=1e-6, help="Mean time between failures of the whole job."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    found = api.checkpoint_list(run, mtbf_hours=mtbf_hours)
    if json_output:
        emit(found)
        return
    from holmes.report.checkpoints import checkpoint_table, suggestion_line

    show(checkpoint_table(found))
    show(suggestion_line(found["suggestion"]))


def verify(path: PathArgument, json_output: JsonOption = False) -> int:
    from holmes import api
    from holmes.errors import DataError

    found = api.checkpoint_verify(path)
    if json_output:
        emit(found)
        return 0 if found["ok"] else DataError.exit_code
    for bad in found["bad"]:
        tensor = f", tensor {bad['tensor']}" if bad["tensor"] else ""
        show(f"{bad['file']}{tensor}: {bad['reason']}")
    if found["ok"]:
        checked = f"{len(found['checked'])} checkpoints, {found['bytes'] / 1e6:.1f} MB"
        show(f"good: {checked}")
    return 0 if found["ok"] else DataError.exit_code


def convert(
    path: PathArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    optimizer: Annotated[
        bool, typer.Option("--optimizer", help="Write the optimiser's state, too.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    written = api.checkpoint_convert(path, output, optimizer=optimizer)
    if json_output:
        emit(written)
    else:
        show(f"wrote {written['file']}: {written['tensors']} tensors")


def repair(
    run: RunArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    from holmes import api

    done = api.checkpoint_repair(run, dry_run=dry_run)
    if json_output:
        emit(done)
        return
    for action in done["actions"]:
        act = f"would {action['act']}" if dry_run else action["act"]
        show(f"{act} {action['path']}: {action['reason']}")
    show(f"newest good checkpoint: {done['latest'] or 'none'}")
