"""What ``import holmes`` offers: plan, simulate, rehearse, train, and results that show themselves.

A job is a path, a mapping, or what these functions returned; overrides are words such as
``"train.steps=50"``, as on the command line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holmes.errors import UsageError
from holmes.job.resolve import ResolvedJob, resolve_job
from holmes.plan.plan import Plan

if TYPE_CHECKING:
    from holmes.hardware.site import Site
    from holmes.planner.answer import Answer
    from holmes.report.study import Study

JobLike = str | Path | Mapping[str, Any] | ResolvedJob


@dataclass(frozen=True)
class Planned:
    """A plan with the search that found it and the job it is for."""

    plan: Plan
    job: ResolvedJob
    answer: Answer = field(repr=False)

    @property
    def step_seconds(self) -> float:
        """Predicted seconds of a step."""
        return self.plan.predicted.step_seconds

    @property
    def why(self) -> tuple[str, ...]:
        """The reasons of the plan, a sentence each."""
        return tuple(self.plan.explain)

    def show(self, *, explain: bool = False) -> None:
        """Print the plan as `holmes plan` does."""
        from holmes.report.terminal import show_plan

        show_plan(self.plan, explain=explain)

    def write(self, path: str | Path) -> Path:
        """Write the plan as JSON; the path.

        Raises:
            WriteError: when it cannot be written.
        """
        from holmes.plan.codec import write_plan

        write_plan(self.plan, Path(path))
        return Path(path)

    def __str__(self) -> str:
        return f"plan of {self.plan.name}: {self.plan.layout}, step {self.step_seconds:.4g} s"


@dataclass(frozen=True)
class Simulated:
    """A plan's step as the simulator sees it, with the cases that were asked for."""

    study: Study

    @property
    def step_seconds(self) -> dict[str, float]:
        """Seconds of a step by case; the first is the plan as it is."""
        return {case.name: case.seconds for case in self.study.cases}

    def show(self) -> None:
        """Print the cases side by side and, for a changed site, why they differ."""
        from rich.console import Console

        out = Console()
        for table in self.study.tables():
            out.print(table)
        for note in self.study.notes:
            out.print(note, markup=False)

    def to_dict(self) -> dict[str, Any]:
        """What `holmes simulate --json` prints."""
        return self.study.to_dict()


@dataclass(frozen=True)
class Ran:
    """A run, or several under different placements, with what was measured."""

    result: Mapping[str, Any] = field(repr=False)
    runs: tuple[Path, ...] = ()

    def show(self) -> None:
        """Print what was measured beside what was predicted."""
        from rich.console import Console

        from holmes.report.terminal import summary_table

        Console().print(summary_table(self.result))

    @property
    def report(self) -> Path:
        """The HTML page of the (first) run."""
        return self.runs[0] / "report.html"


def plan(
    site: str | Path | Mapping[str, Any] | Site | None, job: JobLike, *overrides: str
) -> Planned:
    """Plan a job for a site.

    Args:
        site: a site file, catalogue name, mapping or Site; None takes the job's own.
        job: a job file or mapping.
        overrides: ``key=value`` words for the job or, by name, for its site.

    Raises:
        ConfigError: site, job or an override is wrong, or no plan fits.
    """
    from holmes.api.planning import plan as search

    resolved = resolved_job(job, *overrides, site=site)
    found = search(resolved, note=True)
    return Planned(found.plan, resolved, found)


def simulate(
    plan: Planned | Plan | str | Path, *what_if: str, fail: str | None = None
) -> Simulated:
    """Simulate one step of a plan, also on a changed site or with a node less.

    Args:
        plan: what :func:`plan` returned, a Plan, or a plan file.
        what_if: changes of the site, such as ``"clusters.roce.nics.roce.gbit_s=400"``.
        fail: ``node:N`` plans again without that node.

    Raises:
        ConfigError: a change or node that the site does not have.
        DataError: the plan file cannot be read.
    """
    from holmes.api.planning import simulate as study

    made = plan.plan if isinstance(plan, Planned) else plan
    made = Path(made) if isinstance(made, str) else made
    return Simulated(study(made, what_if=what_if, fail=fail))


def rehearse(job: JobLike, *overrides: str, placements: Sequence[str] = ()) -> Ran:
    """Run a job on emulated hosts with shaped links; several placements are compared.

    Raises:
        ConfigError: the job or an override is wrong.
        RankDiedError: a rank ended before it was done.
    """
    from rich.console import Console

    from holmes.api.running import rehearse as run

    jobs = [
        resolved_job(job, *overrides, placement=placement)
        for placement in (*dict.fromkeys(placements),) or (None,)
    ]
    result = run(jobs, Console(stderr=True))
    each = [result] if "run" in result else [v for v in result.values() if isinstance(v, dict)]
    return Ran(result, tuple(Path(one["run"]) for one in each if "run" in one))


def train(
    job: JobLike, *overrides: str, resume: bool = False, overwrite: bool = False
) -> Ran | None:
    """Train a job on this machine, or as one rank under torchrun or Slurm.

    Returns:
        The run; None on ranks other than the first.

    Raises:
        ConfigError: the job is wrong, or a run of this name would be lost.
        DataError: there is nothing to resume, or the data cannot be read.
        RankDiedError: a rank ended; names it and the last committed checkpoint.
    """
    from rich.console import Console

    from holmes.api.running import train as run

    resolved = resolved_job(job, *overrides)
    out = Console(stderr=True)
    result = run(resolved, resume=resume, overwrite=overwrite, plan_file=None, console=out)
    return None if result is None else Ran(result, (Path(result["run"]),))


def resolved_job(
    job: JobLike, *overrides: str, site: Any = None, placement: str | None = None
) -> ResolvedJob:
    """A job with its site, whatever way it was given.

    Raises:
        ConfigError: it, its site or an override is wrong.
        UsageError: a job that is resolved already cannot be changed.
    """
    if isinstance(job, ResolvedJob):
        if overrides or site is not None or placement is not None:
            raise UsageError("a job that is resolved already cannot be changed")
        return job
    words = [] if isinstance(job, str | Path) else [_word(key, job[key]) for key in job]
    shorthand: dict[str, Any] = {} if placement is None else {"placement": placement}
    if isinstance(site, str | Path):
        shorthand["site"] = str(site)
    elif site is not None:
        words.append(_word("site", _plain(site)))
    path = Path(job) if isinstance(job, str | Path) else None
    return resolve_job(path, [*words, *overrides], shorthand)


def _word(key: str, value: Any) -> str:
    """``key=value``; JSON is YAML, which overrides are read as."""
    return f"{key}={json.dumps(value)}"


def _plain(site: Mapping[str, Any] | Site) -> Any:
    if isinstance(site, Mapping):
        return dict(site)
    return site.model_dump(mode="json", exclude_none=True)
