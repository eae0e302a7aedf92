"""The command line's Python twin: one function a command, plain values in and out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holmes.errors import ConfigError, DataError, UsageError
from holmes.job.resolve import ResolvedJob
from holmes.plan.plan import Plan

if TYPE_CHECKING:
    from rich.console import Console

    from holmes.hardware.site import Site
    from holmes.planner.answer import Answer, Wanted
    from holmes.planner.request import PlanRequest
    from holmes.planner.sweep import Point
    from holmes.report.causes import Comparison
    from holmes.report.schedule_facts import ScheduleFacts
    from holmes.report.study import Study
    from holmes.schedule.generate import ScheduleName
    from holmes.schedule.timeline import Durations

MOST_LISTED = 20_000
"""Instructions that `holmes plan` writes out to digest them; a larger plan has no digest."""


def show_config(resolved: ResolvedJob, console: Console, *, json_output: bool) -> None:
    """Print every value of a job with its origin."""
    rows = resolved.rows()
    if json_output:
        import json

        print(json.dumps({key: {"value": value, "origin": o} for key, value, o in rows}))
        return
    from rich.table import Table

    table = Table("key", "value", "origin", box=None)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


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
    """The best plan beside the layout that runs today, in one sentence."""
    from holmes.planner.today import compared

    request = _request(resolved, False, None)
    return compared(answer.best, replace(request, site=answer.best.site), today)


def sweep(resolved: ResolvedJob, text: str) -> list[Point]:
    """The best plan at each size of a site, for ``nodes=FIRST..LAST``."""
    from holmes.planner.sweep import sizes, sweep

    counts = sizes(text)
    return sweep(_request(resolved, False, None), counts)


def export_megatron(plan: Plan, resolved: ResolvedJob, folder: Path) -> list[str]:
    """Write a plan as Megatron-LM and torchrun arguments; the paths."""
    from holmes.models.registry import describe, family_of
    from holmes.planner.megatron import export

    config = describe(family_of(resolved.job.model)).config_from(resolved.job.model)
    names = {"layers", "hidden", "heads", "sequence", "vocabulary"}
    sizes = {name: int(getattr(config, name)) for name in names}
    return export(plan, folder, {**sizes, "ffn": int(config.inner)})


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
    plan_file: Path,
    *,
    what_if: Sequence[str] = (),
    fail: str | None = None,
    rehearsal: bool = False,
) -> Study:
    """Simulate a plan; with ``what_if`` also on the changed site, as it is and planned again;
    with ``fail`` also planned again without a node.

    Raises:
        DataError: the plan cannot be read.
        ConfigError: a change or a node that the site does not have; nothing fits.
    """
    from holmes.plan.codec import read_plan
    from holmes.report.study import study

    def rates(site: Site) -> dict[Any, float] | None:
        return rehearsed(site) if rehearsal else None

    found = study(read_plan(plan_file), what_if, fail, rates, _plan)
    if rehearsal or not found.off:
        return found
    return found.noting("Its predicted step differs: a rehearsal's plan needs --rehearsal.")


def rehearsed(site: Site) -> dict[Any, float]:
    """The rates that a rehearsal of the site has."""
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
    from holmes.report.schedule_facts import ScheduleFacts
    from holmes.schedule.generate import DEFAULT_VIRTUAL_STAGES, WITH_VIRTUAL_STAGES, generate
    from holmes.schedule.timeline import Durations

    if virtual_stages is None:
        virtual_stages = DEFAULT_VIRTUAL_STAGES if name in WITH_VIRTUAL_STAGES else 1
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


def rehearse(jobs: Sequence[ResolvedJob], console: Console) -> dict[str, Any]:
    """Rehearse one job, or the same job under several placements.

    Returns:
        The rehearse object; for several placements ``{<placement>: object, speedup}``.
    """
    from holmes.report.page import write_comparison, write_report
    from holmes.report.terminal import summary_table
    from holmes.train.progress import Bars
    from holmes.train.rehearsal import rehearse as run_all
    from holmes.train.run_folder import run_path
    from holmes.train.summary import machine, write_json

    with Bars(console) as bars:
        results = run_all(jobs, bars.progress)
    for result in results.values():
        write_report(Path(result["run"]), Path(result["run"]) / "report.html")
    if len(results) == 1:
        (only,) = results.values()
        console.print(summary_table(only))
        console.print(f"report: {Path(only['run']) / 'report.html'}")
        return only
    first, second = list(results.values())[:2]
    ratio = second["step_seconds"]["median"] / first["step_seconds"]["median"]
    summary: dict[str, Any] = {**results, "speedup": ratio, "machine": machine()}
    folder = run_path(jobs[0].job)
    write_json(folder / "summary.json", summary)
    pages = {name: Path(result["run"]) for name, result in results.items()}
    write_comparison(pages, folder / "report.html", summary)
    console.print(summary_table(summary))
    console.print(f"report: {folder / 'report.html'}")
    return summary


def train(
    resolved: ResolvedJob,
    *,
    resume: bool,
    overwrite: bool,
    plan_file: Path | None,
    console: Console,
) -> dict[str, Any] | None:
    """Train a job; the rehearse object, or None on ranks other than the first.

    Raises:
        ConfigError: without ``resume`` or ``overwrite``, a run of this name has committed
            checkpoints.
    """
    from holmes.report.page import write_report
    from holmes.train.local import train as run
    from holmes.train.progress import Bars

    with Bars(console) as bars:
        result = run(
            resolved,
            resume=resume,
            overwrite=overwrite,
            plan_file=plan_file,
            progress=bars.progress,
        )
    if result is not None:
        write_report(Path(result["run"]), Path(result["run"]) / "report.html")
        console.print(f"run folder: {result['run']}")
    return result


def verify(resolved: ResolvedJob, *, steps: int, console: Console) -> dict[str, Any]:
    """Compare a job's parameters with those of the plain single-process run."""
    from holmes.train.progress import Bars
    from holmes.train.verification import verify as run

    with Bars(console) as bars:
        return run(resolved, steps, bars.progress)


def report(
    runs: Sequence[Path], *, output: Path | None = None, perfetto: Path | None = None
) -> dict[str, str]:
    """Write the page of one run, or of several side by side; paths of what was written."""
    from holmes.events.perfetto import write_perfetto
    from holmes.events.trace import read_trace
    from holmes.hardware.topology import Topology
    from holmes.plan.codec import read_plan
    from holmes.report.page import write_comparison, write_report

    for folder in runs:
        if not folder.is_dir():
            raise DataError("there is no run folder", where=str(folder))
    target = output or runs[0] / "report.html"
    if len(runs) == 1:
        write_report(runs[0], target)
    else:
        write_comparison({folder.name: folder for folder in runs}, target, {})
    written = {"report": str(target)}
    if perfetto is not None:
        made = read_plan(runs[0] / "plan.json")
        devices = Topology(made.site).devices
        nodes = {rank: devices[slot].node.name for rank, slot in enumerate(made.rank_map)}
        timelines = [read_trace(runs[0] / "trace.jsonl")]
        if (runs[0] / "predicted.jsonl").exists():
            timelines.append(read_trace(runs[0] / "predicted.jsonl", "predicted"))
        write_perfetto(perfetto, timelines, nodes)
        written["perfetto"] = str(perfetto)
    return written


def probe(
    *, name: str, output: Path | None, quick: bool, console: Console
) -> dict[str, Any] | None:
    """Describe and measure this machine, or all machines of a torchrun or Slurm job.

    Returns:
        ``{site, nodes, remarks}`` on the first rank, the text of the site file among them.

    Raises:
        WriteError: the site file cannot be written.
    """
    from holmes.errors import WriteError
    from holmes.probe.probe import probe as run

    result = run(name, quick=quick)
    if result is None:
        return None
    for remark in result.found.remarks:
        console.print(remark, markup=False)
    if output is not None:
        try:
            output.write_text(result.text)
        except OSError as error:
            raise WriteError(f"cannot write: {error.strerror}", where=str(output)) from None
        console.print(f"wrote {output}")
    return {"site": result.text, "nodes": len(result.nodes), "remarks": result.found.remarks}


def validate(table: Path, *, sites: Path, calibration: Path | None = None) -> dict[str, Any]:
    """Predict every row of a table of measured runs and score the predictions.

    Raises:
        DataError: the table, a site folder or the calibration is bad.
    """
    from holmes.accuracy.calibrate import read_calibration
    from holmes.accuracy.validate import validate as run
    from holmes.cost.calibration import DEFAULT

    used = DEFAULT if calibration is None else read_calibration(calibration)
    return run(table, sites, used).to_dict()


def calibrate(source: Path, *, output: Path, sites: Path | None = None) -> dict[str, Any]:
    """Fit the cost model to a run's trace, or to a CSV table of runs on ``sites``.

    Raises:
        DataError: nothing to fit to.
        UsageError: a table without its sites, or sites without a table.
    """
    from holmes.accuracy.calibrate import calibrate_table, calibrate_trace, write_calibration
    from holmes.errors import UsageError

    if source.suffix == ".csv":
        if sites is None:
            raise UsageError(
                "a table needs the sites of its rows",
                where="--sites",
                next_step="give the folder of site files with --sites",
            )
        made = calibrate_table(source, sites)
    elif sites is not None:
        raise UsageError("--sites has no effect on a trace, whose plan holds its site")
    else:
        made = calibrate_trace(source)
    write_calibration(made, output)
    return {
        "calibration": str(output),
        "name": made.name,
        "source": made.source,
        "interval": made.interval,
        "compute": made.to_dict()["compute"],
    }


def launch(plan_file: Path, job: Path, *, starter: Literal["torchrun", "slurm"]) -> dict[str, Any]:
    """The command lines and per-node environment that start a plan.

    Raises:
        ConfigError: there is no such job, the plan is of another one, or the runtime cannot
            run it.
    """
    from holmes.job.resolve import resolve_job
    from holmes.launch.scripts import slurm_script, torchrun_command, used_nodes
    from holmes.plan.codec import read_plan
    from holmes.runtime import capabilities
    from holmes.train.planning import check_fits, on_cpu, runnable

    made = read_plan(plan_file)
    if not job.is_file():
        raise ConfigError(
            "there is no job file",
            where=f"--job {job}",
            next_step="give the job that the plan was made from",
        )
    capabilities.check(made)
    resolved = resolve_job(job)
    check_fits(made, runnable(resolved, on_gpu=not on_cpu(resolved)), where=str(plan_file))
    command = ["holmes", "train", str(job), "--plan", str(plan_file)]
    if starter == "slurm":
        return {"starter": starter, "text": slurm_script(made, command)}
    nodes = {node.name: torchrun_command(made, node.name, command) for node, _ in used_nodes(made)}
    text = "\n".join(f"# on {name}\n{line}" for name, line in nodes.items())
    return {"starter": starter, "nodes": nodes, "text": text}


def checkpoint_list(run: Path, *, mtbf_hours: float | None = None) -> dict[str, Any]:
    """The checkpoints of a run, each verified, and how often saving would pay.

    Raises:
        DataError: there are none.
    """
    import time

    from holmes.runtime.checkpoint.listing import listing, locate, pointed

    run, _ = locate(run)
    now = time.time()
    found = listing(run)
    rows = [
        {
            "step": one.manifest.step if one.manifest else None,
            "name": one.folder.name,
            "path": str(one.folder),
            "bytes": one.bytes_,
            "layout": one.layout,
            "state": one.state,
            "reason": one.damage.reason if one.damage else None,
            "age_seconds": max(0.0, now - one.modified),
        }
        for one in found
    ]
    costs = [one.manifest for one in found if one.manifest and one.state == "good"]
    suggestion = _suggestion(run, costs[-1], mtbf_hours) if costs else None
    return {"run": str(run), "latest": pointed(run), "checkpoints": rows, "suggestion": suggestion}


def _suggestion(run: Path, manifest: Any, mtbf_hours: float | None) -> dict[str, Any]:
    """The interval for the cost of the newest save and the run's median step."""
    from statistics import median

    from holmes.events.metrics import read_metrics
    from holmes.runtime.checkpoint.interval import DEVICE_MTBF_HOURS, suggest

    measured = manifest.meta["save"]
    source = "as given" if mtbf_hours else f"published rate of GPUs x {manifest.world} devices"
    mtbf = 3600 * (mtbf_hours or DEVICE_MTBF_HOURS / manifest.world)
    best = suggest(measured["copy_seconds"], measured["write_seconds"], mtbf)
    metrics = run / "metrics.jsonl"
    steps = [step.step_seconds for step in read_metrics(metrics)] if metrics.exists() else []
    return {
        "seconds": best.seconds,
        "steps": max(1, round(best.seconds / median(steps))) if steps else None,
        "lost": best.lost,
        "bound": best.bound,
        "stall_seconds": measured["copy_seconds"],
        "write_seconds": measured["write_seconds"],
        "mtbf_seconds": mtbf,
        "mtbf_source": source,
    }


def checkpoint_verify(path: Path) -> dict[str, Any]:
    """Check every byte of one checkpoint, or of all of a run.

    Returns:
        ``{ok, bad: [{file, tensor, reason}], checked, uncommitted, bytes}``; files are
        relative to ``path``.

    Raises:
        DataError: there is no checkpoint.
    """
    from holmes.runtime.checkpoint.check import damages, run_damages
    from holmes.runtime.checkpoint.folders import leftovers, step_folders
    from holmes.runtime.checkpoint.listing import locate

    run, one = locate(path)
    folders = [one] if one else step_folders(run)
    if not folders:
        raise DataError("there are no checkpoints", where=str(path))
    found = list(damages(one) if one else run_damages(run))
    bad = [
        {
            "file": str(damage.file.relative_to(path.absolute())),
            "tensor": damage.tensor,
            "reason": damage.reason,
        }
        for damage in found
    ]
    size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    return {
        "ok": not bad,
        "bad": bad,
        "checked": [folder.name for folder in folders],
        "uncommitted": [] if one else [path.name for path in leftovers(run)],
        "bytes": size,
    }


def checkpoint_convert(path: Path, output: Path, *, optimizer: bool = False) -> dict[str, Any]:
    """Whole parameters of a checkpoint, or of the newest good one of a run, as one file."""
    import sys

    from holmes.runtime.checkpoint.check import latest_good
    from holmes.runtime.checkpoint.convert import convert
    from holmes.runtime.checkpoint.listing import locate

    run, one = locate(path)
    folder = one or latest_good(run, lambda line: print(line, file=sys.stderr))
    if folder is None:
        raise DataError("there are no checkpoints", where=str(path))
    done = convert(folder, output, optimizer=optimizer)
    return {
        "file": str(done.file),
        "step": done.step,
        "tensors": done.tensors,
        "bytes": done.bytes_,
    }


def checkpoint_repair(run: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Point ``latest`` at the newest good checkpoint and drop what was never committed."""
    from dataclasses import asdict

    from holmes.runtime.checkpoint.check import newest_good
    from holmes.runtime.checkpoint.listing import locate
    from holmes.runtime.checkpoint.repair import repair

    run, _ = locate(run)
    actions = [
        {**asdict(action), "path": str(action.path)} for action in repair(run, dry_run=dry_run)
    ]
    good = newest_good(run, lambda line: None)
    return {"actions": actions, "latest": good.name if good else None, "dry_run": dry_run}
