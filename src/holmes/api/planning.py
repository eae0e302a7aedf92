"""From a job to a plan, and what is asked of plans: simulate, compare, export, start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holmes.errors import ConfigError, UsageError
from holmes.job.resolve import ResolvedJob
from holmes.plan.plan import Plan

if TYPE_CHECKING:
    from holmes.hardware.site import Site
    from holmes.planner.answer import Answer, Wanted
    from holmes.planner.request import PlanRequest
    from holmes.planner.sweep import Point
    from holmes.report.causes import Comparison
    from holmes.report.schedule_facts import ScheduleFacts
    from holmes.report.study import Study
    from holmes.schedule.form import ScheduleName
    from holmes.schedule.timeline import Durations

MOST_LISTED = 20_000
"""Instructions that `holmes plan` writes out to digest them; a larger plan has no digest."""


def plan(
    resolved: ResolvedJob,
    wanted: Wanted | None = None,
    *,
    note: bool = False,
    search_seconds: float | None = None,
) -> Answer:
    """The plan the runtime can run; where it can run none, the best without its limits.

    Args:
        wanted: the objective, and how many of the next best to list.
        note: whether the explanation says what binds and what to change first.
        search_seconds: deadline of each search.

    Raises:
        ConfigError: no plan exists at all.
    """
    from holmes.planner.answer import Wanted, answer
    from holmes.train.planning import on_cpu

    found = answer(_request(resolved, note, search_seconds), wanted or Wanted())
    if not found.runnable or resolved.job.train.precision != "auto" or on_cpu(resolved):
        return found
    remark = (
        "planned for mixed precision as Megatron-LM trains; this runtime trains in bf16 autocast: "
        "to run the plan, make it with train.precision=bf16"
    )
    return replace(found, plan=replace(found.plan, explain=(*found.plan.explain, remark)))


def compare_today(answer: Answer, resolved: ResolvedJob, today: str) -> dict[str, Any]:
    """The best plan beside the layout that runs today, in one sentence.

    Raises:
        ConfigError: the layout cannot be read, or does not fit the site.
    """
    from holmes.planner.today import compared

    request = _request(resolved, False, None)
    return compared(answer.best, replace(request, site=answer.best.site), today)


def sweep(resolved: ResolvedJob, text: str) -> list[Point]:
    """The best plan at each size of a site, for ``nodes=FIRST..LAST``.

    Raises:
        ConfigError: the text is another, or the site has no such sizes.
    """
    from holmes.planner.sweep import sizes, sweep

    counts = sizes(text)
    return sweep(_request(resolved, False, None), counts)


def export_megatron(plan: Plan, resolved: ResolvedJob, folder: Path) -> list[str]:
    """Write a plan as Megatron-LM and torchrun arguments; the paths.

    Raises:
        ConfigError: Megatron-LM has no arguments for it.
        WriteError: the files cannot be written.
    """
    from holmes.models.registry import describe, family_of
    from holmes.planner.megatron import export

    config = describe(family_of(resolved.job.model)).config_from(resolved.job.model)
    names = {"layers", "hidden", "heads", "sequence", "vocabulary"}
    sizes = {name: int(getattr(config, name)) for name in names}
    taken = {"top_k": int(config.top_k)} if plan.workload.experts else {}
    return export(plan, folder, {**sizes, **taken, "ffn": int(config.inner)})


def _request(resolved: ResolvedJob, note: bool, search_seconds: float | None) -> PlanRequest:
    from holmes.runtime.capabilities import CAPABILITIES
    from holmes.train.planning import request_of

    try:
        request = request_of(resolved, capabilities=CAPABILITIES)
    except ConfigError:  # a model that only a wider runtime trains; a bad one fails again
        request = request_of(resolved, capabilities=None)
    return replace(request, note=note, search_seconds=search_seconds, largest_lists=MOST_LISTED)


def _plan(request: PlanRequest) -> Plan:
    """Plan within the runtime's capabilities, or without where nothing else is left."""
    from holmes.planner.search import make_plan, make_plans
    from holmes.runtime.capabilities import CAPABILITIES

    try:
        return make_plans(replace(request, capabilities=CAPABILITIES)).plan
    except ConfigError as error:
        try:
            wider = make_plan(request)
        except ConfigError:
            raise error from None
        note = f"this runtime cannot run it yet: {error.what}"
        return replace(wider, explain=(*wider.explain, note))


def simulate(
    plan_file: Path | Plan,
    *,
    what_if: Sequence[str] = (),
    fail: str | None = None,
    rehearsal: bool = False,
) -> Study:
    """Simulate a plan; with ``what_if`` also on the changed site, as it is and planned again;
    with ``fail`` also planned again without a node. A Plan stands for its file.

    Raises:
        DataError: the plan cannot be read.
        ConfigError: a change or a node that the site does not have; nothing fits.
    """
    from holmes.plan.codec import read_plan
    from holmes.report.study import study

    def rates(site: Site) -> dict[Any, float] | None:
        return rehearsed(site) if rehearsal else None

    made = plan_file if isinstance(plan_file, Plan) else read_plan(plan_file)
    found = study(made, what_if, fail, rates, _plan)
    if rehearsal or not found.off:
        return found
    return found.noting("Its predicted step differs: a rehearsal's plan needs --rehearsal.")


def rehearsed(site: Site) -> dict[Any, float]:
    """The rates that a rehearsal of the site has.

    Raises:
        ConfigError: the site's rehearsal names rates that it cannot have.
    """
    from holmes.lab.rates import rehearsal_rates

    rates = rehearsal_rates(site)
    return {**rates.nics, **rates.links}


def compare(
    what: Sequence[Path], *, step: int | None = None, html: Path | None = None
) -> Comparison:
    """Why a run's step is longer than predicted, a trace's than its plan's, or a run's than
    another's.

    Args:
        what: a run folder, two run folders, or a plan and a trace.

    Raises:
        DataError: a file is missing or malformed, or the two do not belong together.
        UsageError: neither one run, two runs, nor a plan and a trace.
    """
    from holmes.events.trace import read_trace
    from holmes.plan.codec import read_plan
    from holmes.report.compare import compare_run, compare_runs, compare_trace
    from holmes.report.page import write_waterfall
    from holmes.report.run_data import read_run
    from holmes.report.study import nearest_case

    files = [path for path in what if path.is_file()]
    if len(what) == 2 and len(files) == 2:
        made = read_plan(what[0])
        measured = read_trace(what[1])
        timeline = nearest_case(made, rehearsed).simulation.timeline
        comparison = compare_trace(made, timeline, measured, step=step)
    elif files or len(what) not in (1, 2):
        raise UsageError(
            "compare takes a run folder, two run folders, or a plan and a trace",
            where=" ".join(str(path) for path in what),
        )
    elif len(what) == 1:
        comparison = compare_run(read_run(what[0]), step)
    else:
        comparison = compare_runs(read_run(what[0]), read_run(what[1]), step)
    if html is not None:
        write_waterfall(html, comparison)
    return comparison


def schedule(
    name: ScheduleName,
    stages: int,
    microbatches: int,
    *,
    virtual_stages: int | None = None,
    extra_warmup: int = 0,
    durations: Durations | None = None,
) -> ScheduleFacts:
    """A schedule with its timeline, bubble and activation peaks.

    Args:
        virtual_stages: per rank; None is the least that the schedule can have.
        durations: of one micro-batch on one stage; by default backward takes twice forward.

    Raises:
        ConfigError: when the schedule cannot have these counts or times.
    """
    from holmes.report.schedule_facts import ScheduleFacts, check_drawable
    from holmes.schedule.generate import DEFAULT_VIRTUAL_STAGES, WITH_VIRTUAL_STAGES, generate
    from holmes.schedule.timeline import Durations

    if virtual_stages is None:
        virtual_stages = DEFAULT_VIRTUAL_STAGES if name in WITH_VIRTUAL_STAGES else 1
    check_drawable(2 * stages * microbatches * virtual_stages)  # forwards and backwards at least
    made = generate(name, stages, microbatches, virtual_stages, extra_warmup)
    return ScheduleFacts(made, durations or Durations())


def draw_schedule(
    facts: ScheduleFacts, *, svg: Path | None = None, html: Path | None = None
) -> list[Path]:
    """Write pictures of a schedule; what was written.

    Raises:
        WriteError: when one cannot be written.
    """
    from holmes.report.schedule_picture import write_html, write_svg

    if svg is not None:
        write_svg(facts, svg)
    if html is not None:
        write_html(facts, html)
    return [path for path in (svg, html) if path is not None]
