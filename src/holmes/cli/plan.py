"""`holmes plan`: the plan of a job with its reasons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from holmes.cli.job_options import JobOptions, PlacementOption, takes_job
from holmes.cli.options import described, emit

if TYPE_CHECKING:
    from holmes.job.resolve import ResolvedJob
    from holmes.plan.plan import Plan
    from holmes.planner.answer import Answer


SeqOption = Annotated[
    int | None, typer.Option("--seq", help="Tokens of a sample (`model.sequence`).")
]
ExplainOption = Annotated[
    bool, typer.Option("--explain", help="Every decision: order, groups, partition, losers.")
]
TopOption = Annotated[
    int | None, typer.Option("--top", min=1, max=100, help="List the best K candidates.")
]
ObjectiveOption = Annotated[
    Literal["time", "devices", "cost"],
    typer.Option(help="Fastest, fewest devices for --target, or cheapest per token."),
]
TargetOption = Annotated[
    float | None,
    typer.Option("--target", min=1e-9, help="Seconds a step may take (objective devices)."),
]
CompareOption = Annotated[
    str | None,
    typer.Option("--compare", help="What runs today, e.g. tp=8,pp=2,dp=6,order=launch."),
]
SweepOption = Annotated[
    str | None, typer.Option("--sweep", help="Plan at several sizes: nodes=8..512.")
]
PageOption = Annotated[
    Path | None, typer.Option("--page", help="Write the sweep's charts to this HTML file.")
]
SearchSecondsOption = Annotated[
    float | None,
    typer.Option("--search-seconds", min=0, help="Stop the search then; the gap is told."),
]
FullOption = Annotated[
    bool, typer.Option("--full", help="Score all candidates, also what bounds rule out.")
]
ExportOption = Annotated[
    Literal["megatron"] | None,
    typer.Option("--export", help="Write arguments of Megatron-LM to the folder of -o."),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write the plan as JSON to this file.")
]


def register(app: typer.Typer) -> None:
    text = described(
        "Plan a model for a site, with the reasons.",
        "holmes plan examples/demo.yaml",
        "holmes plan --site paper --model gpt-3.6b --global-batch 768 --explain",
        "holmes plan examples/demo.yaml clusters.roce.nics.roce.gbit_s=400 -o plan.json",
    )
    app.command("plan", help=text)(takes_job(command))


def command(
    given: JobOptions,
    seq: SeqOption = None,
    placement: PlacementOption = None,
    explain: ExplainOption = False,
    top: TopOption = None,
    objective: ObjectiveOption = "time",
    target: TargetOption = None,
    compare: CompareOption = None,
    sweep: SweepOption = None,
    page: PageOption = None,
    search_seconds: SearchSecondsOption = None,
    full: FullOption = False,
    export: ExportOption = None,
    output: OutputOption = None,
) -> None:
    from holmes import api
    from holmes.planner.answer import Wanted

    _check(objective=objective, target=target, sweep=sweep, page=page, export=export, output=output)
    if sweep is not None:
        alone = {
            "--explain": explain,
            "--top": top,
            "--objective": objective != "time",
            "--compare": compare,
            "--search-seconds": search_seconds is not None,
            "--full": full,
            "--output": output,
        }
        _refuse_beside_sweep([name for name, value in alone.items() if value])
    job = given.resolve(seq=seq, placement=placement)
    if given.shows_config(job):
        return
    if sweep is not None:
        _sweep(job, sweep, page, json_output=given.json_output)
        return
    wanted = Wanted(top or 10, objective, target, full, explain or top is not None)
    found = api.plan(job, wanted, note=explain, search_seconds=search_seconds)
    extra = _beside(found)
    if compare is not None:
        extra["comparison"] = api.compare_today(found, job, compare)
    if output is not None:
        extra |= _write(found, job, output, export)
    _show(found.plan, extra, given, explain=explain, top=top)


def _beside(found: Answer) -> dict[str, Any]:
    """What the answer says beside the plan itself."""
    extra: dict[str, Any] = {
        "top": [offer.to_dict() for offer in found.top],
        "pareto": [offer.to_dict() for offer in found.front],
        "unrestricted": found.top[0].to_dict() if found.top else None,
        "missing": list(found.missing),
    }
    if found.sized is not None:
        extra["nodes"] = list(found.sized.nodes)
        extra["cost_per_million_tokens"] = found.sized.dollars_per_million_tokens
    return extra


def _write(found: Answer, job: ResolvedJob, output: Path, export: str | None) -> dict[str, Any]:
    """The plan as a file, or as arguments in a folder; what was written there."""
    if export is not None:
        from holmes import api

        return {"written": api.export_megatron(found.best, job, output)}
    from holmes.plan.codec import write_plan

    write_plan(found.plan, output)
    return {}


def _show(
    plan: Plan, extra: dict[str, Any], given: JobOptions, *, explain: bool, top: int | None
) -> None:
    if given.json_output:
        from holmes.plan.codec import plan_to_dict

        emit({**plan_to_dict(plan), **extra})
        return
    from holmes.report.terminal import show_plan
    from holmes.report.terminal_plan import show_offers

    show_plan(plan, explain=explain)
    show_offers(extra, top=top)


def _check(**given: Any) -> None:
    """Refuse options that would have no effect."""
    if given["target"] is not None and given["objective"] != "devices":
        raise typer.BadParameter("--target has an effect only with --objective devices")
    if given["page"] is not None and given["sweep"] is None:
        raise typer.BadParameter("--page has an effect only with --sweep")
    if given["export"] is not None and given["output"] is None:
        raise typer.BadParameter("--export needs the folder to write to: -o DIR")


def _refuse_beside_sweep(names: list[str]) -> None:
    if names:
        raise typer.BadParameter(f"{', '.join(names)}: no effect beside --sweep")


def _sweep(job: ResolvedJob, text: str, page: Path | None, *, json_output: bool) -> None:
    from holmes import api
    from holmes.report.sweep import show_sweep, write_sweep

    points = [point.to_dict() for point in api.sweep(job, text)]
    if page is not None:
        write_sweep(points, f"{job.job.name}: {text}", page)
    if json_output:
        emit({"sweep": points})
        return
    show_sweep(points)
