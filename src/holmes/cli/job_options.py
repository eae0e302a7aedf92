"""The job on the command line, declared once for every command that takes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from holmes.cli.options import JsonOption

if TYPE_CHECKING:
    from holmes.job.resolve import ResolvedJob

PrintConfigOption = Annotated[
    bool,
    typer.Option("--print-config", help="Show the resolved job with the origin of each value."),
]


def complete(incomplete: str) -> list[str]:
    """Job files and folders, and keys of the job once one is begun."""
    from holmes.job.keys import job_keys

    files = [
        f"{path}/" if path.is_dir() else str(path)
        for path in sorted(Path().glob(f"{incomplete}*") if "=" not in incomplete else ())
        if path.is_dir() or path.suffix in (".yaml", ".yml")
    ]
    keys = [f"{key}=" for key in job_keys() if key.startswith(incomplete)] if incomplete else []
    return [*files, *keys]


@dataclass(frozen=True)
class JobOptions:
    """What every command with a job takes; each field is one argument or option.

    A field's name is the shorthand that :func:`holmes.job.overrides.from_shorthand` knows.
    """

    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[JOB] [KEY=VALUE ...]",
            help="A job file, and overrides such as train.steps=50.",
            autocompletion=complete,
        ),
    ] = None
    site: Annotated[
        str | None, typer.Option("--site", help="Site file or catalogue name (job key `site`).")
    ] = None
    model: Annotated[
        str | None, typer.Option("--model", help="Model preset, e.g. gpt-3.6b (job key `model`).")
    ] = None
    global_batch: Annotated[
        int | None,
        typer.Option("--global-batch", help="Samples per step (job key `batch.global`)."),
    ] = None
    micro_batch: Annotated[
        int | None, typer.Option("--micro-batch", help="Samples per micro-batch (`batch.micro`).")
    ] = None
    rank_map: Annotated[
        str | None,
        typer.Option("--rank-map", help="Device index of every logical rank, e.g. 0,2,3,1."),
    ] = None
    json_output: JsonOption = False
    print_config: PrintConfigOption = False

    def resolve(self, **more: Any) -> ResolvedJob:
        """The job: file, overrides and shorthand options; ``more`` holds a command's own."""
        from holmes.job.resolve import resolve_job

        words = list(self.words or [])
        path = Path(words.pop(0)) if words and "=" not in words[0] else None
        own = ("site", "model", "global_batch", "micro_batch", "rank_map")
        given = {**{name: getattr(self, name) for name in own}, **more}
        return resolve_job(path, words, {k: v for k, v in given.items() if v is not None})

    def shows_config(self, job: ResolvedJob) -> bool:
        """Print the resolved job where ``--print-config`` asks for it; whether it did."""
        from holmes import api

        if self.print_config:
            from rich.console import Console

            api.show_config(job, Console(), json_output=self.json_output)
        return self.print_config


PlacementOption = Annotated[
    str | None,
    typer.Option("--placement", help="Named bundle: holmes, megatron or scattered."),
]
NameOption = Annotated[str | None, typer.Option("--name", help="Name of the run folder.")]


def takes_job(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose first parameter is a :class:`JobOptions`, spread into its options.

    The parameters of the job come first in the help, then the command's own.
    """
    hints = get_type_hints(JobOptions, include_extras=True)
    names = tuple(JobOptions.__dataclass_fields__)
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=JobOptions.__dataclass_fields__[name].default,
            annotation=hints[name],
        )
        for name in names
    ]
    own_hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=own_hints[parameter.name])
        for parameter in list(inspect.signature(command).parameters.values())[1:]
    ]

    @wraps(command)
    def spread(**given: Any) -> Any:
        return command(JobOptions(**{name: given.pop(name) for name in names}), **given)

    last = ("json_output", "print_config")
    head = [each for each in shared if each.name not in last]
    tail = [each for each in shared if each.name in last]
    parameters = [*head, *own, *tail]
    spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spread.__annotations__ = {each.name: each.annotation for each in parameters}
    return spread
