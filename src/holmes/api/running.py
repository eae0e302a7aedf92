"""What runs ranks or reads what they left: rehearse, train, verify, report, probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holmes.errors import DataError
from holmes.job.resolve import ResolvedJob

if TYPE_CHECKING:
    from rich.console import Console


WIDE = 4096
"""Columns of a table that a file or a pipe takes: no line is cut or folded."""


def show_config(resolved: ResolvedJob, console: Console, *, json_output: bool) -> None:
    """Print every value of a job with its origin."""
    rows = resolved.rows()
    if json_output:
        import json

        print(json.dumps({key: {"value": value, "origin": o} for key, value, o in rows}))
        return
    from rich.table import Table

    table = Table(box=None)
    for name in ("key", "value", "origin"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    if not console.is_terminal:
        console.width = WIDE
    console.print(table)


def diagnose(run: Path) -> dict[str, Any]:
    """What is or was wrong with a run, which rank, host, card or link, and how sure that is.

    Returns:
        ``{verdict: {class, rank, host, nic, link, confidence}, evidence, advice}``, which
        ``diagnosis.json`` in the run folder holds too.

    Raises:
        DataError: it is no run folder, or what the run left is damaged.
    """
    from holmes.diagnose.diagnose import diagnose as find
    from holmes.diagnose.diagnose import write_diagnosis

    verdict = find(run)
    write_diagnosis(run, verdict)
    return verdict.to_dict()


def rehearse(
    jobs: Sequence[ResolvedJob], console: Console, inject: Sequence[str] = ()
) -> dict[str, Any]:
    """Rehearse one job, or the same job under several placements; ``inject`` holds faults.

    Returns:
        The rehearse object; for several placements ``{<placement>: object, speedup}``.

    Raises:
        ConfigError: a job cannot be planned, or a fault does not fit its site.
        RankDiedError: a rank ended before it was done.
    """
    from holmes.report.page import write_comparison, write_report
    from holmes.report.terminal import summary_table
    from holmes.train.progress import Bars
    from holmes.train.rehearsal import rehearse as run_all
    from holmes.train.run_folder import run_path
    from holmes.train.summary import machine, write_json

    with Bars(console) as bars:
        results = run_all(jobs, bars.progress, inject)
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
    """Compare a job's parameters with those of the plain single-process run.

    Raises:
        ConfigError: the job cannot be planned.
        RankDiedError: a rank ended before it was done.
    """
    from holmes.train.progress import Bars
    from holmes.train.verification import verify as run

    with Bars(console) as bars:
        return run(resolved, steps, bars.progress)


def report(
    runs: Sequence[Path], *, output: Path | None = None, perfetto: Path | None = None
) -> dict[str, str]:
    """Write the page of one run, or of several side by side; paths of what was written.

    Raises:
        DataError: a folder is missing or holds no run, or one of its files is malformed.
        WriteError: the page cannot be written.
    """
    from holmes.events.perfetto import write_perfetto
    from holmes.events.trace import read_trace
    from holmes.hardware.topology import Topology
    from holmes.plan.codec import read_plan
    from holmes.report.page import write_comparison, write_report

    for folder in runs:
        if not folder.is_dir():
            raise DataError(
                "there is no run folder",
                where=str(folder),
                next_step="give a folder that `holmes rehearse` or `holmes train` writes to",
            )
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
    from holmes.api.files import write_text
    from holmes.probe.probe import probe as run

    result = run(name, quick=quick)
    if result is None:
        return None
    for remark in result.found.remarks:
        console.print(remark, markup=False)
    if output is not None:
        write_text(output, result.text)
        console.print(f"wrote {output}")
    return {"site": result.text, "nodes": len(result.nodes), "remarks": result.found.remarks}
