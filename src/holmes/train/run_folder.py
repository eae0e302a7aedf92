"""The run folder: made before anything starts, so that an unwritable one costs nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holmes.cost.calibration import calibration_from_dict
from holmes.cost.model import CostModel
from holmes.errors import ConfigError, DataError, UnavailableError, WriteError
from holmes.events.trace import append_trace
from holmes.hardware.topology import Topology
from holmes.job.job import Job
from holmes.job.resolve import ResolvedJob
from holmes.plan.codec import read_plan, write_plan
from holmes.plan.plan import Plan
from holmes.runtime.checkpoint.folders import latest_committed
from holmes.simulate.events import simulate

FRESH = (
    "metrics.jsonl",
    "trace.jsonl",
    "predicted.jsonl",
    "evaluations.jsonl",
    "summary.json",
    "evidence.json",
    "diagnosis.json",
    "injected.json",
    "recovery.json",
    "health.jsonl",
)
"""Files that a new run under an old name starts without; checkpoints go too. The generation
stays and counts on, so that ranks of the old run stay fenced off."""


LOCK = ".lock"
PLANS = "plans"
FIRST, GIVEN = "first.json", "given.json"
"""In the folder of plans: what the run began with, and what ``--plan`` gave it later, if it did.
``plan.json`` is what its ranks have now, which may be a plan for fewer nodes."""


def run_path(job: Job, name: str | None = None) -> Path:
    """The absolute folder of a run."""
    return (Path(job.output).expanduser() / (name or job.name)).absolute()


def make_run_folder(path: Path, *, keep: bool) -> None:
    """Make the folder; a new run of an old name replaces what the old one left.

    Args:
        keep: the run continues, so leave everything in place.

    Raises:
        WriteError: when the folder cannot be made or written.
    """
    try:
        (path / "logs").mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
        if not keep:
            for name in FRESH:
                (path / name).unlink(missing_ok=True)
            for mark in path.glob(".injected-*"):
                mark.unlink()
            for folder in ("checkpoints", "monitor", "ledger", "failures", "memory", PLANS):
                shutil.rmtree(path / folder, ignore_errors=True)
            for log in (path / "logs").glob("*.log"):
                os.truncate(log, 0)  # ranks that are up already go on writing to it
    except OSError as error:
        raise WriteError(
            f"cannot write the run folder: {error.strerror or error}",
            where=str(path),
            next_step="choose another place with `output=FOLDER` or --name",
        ) from None
    if not os.access(path, os.W_OK):
        raise WriteError("cannot write the run folder", where=str(path))


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep a run folder to this process: two runs of one name would empty each other's.

    Ranks that another launcher starts are kept apart by their generation instead. The lock
    ends with the process; where the file system has none, nothing is locked.

    Raises:
        UnavailableError: another process of this machine runs in it.
        WriteError: the folder cannot be written.
    """
    try:
        lock = (path / LOCK).open("wb")
    except OSError as error:
        raise WriteError(
            f"cannot write the run folder: {error.strerror}", where=str(path)
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(
                "another run of this name is going on",
                where=str(path),
                why="both would write to one folder",
                next_step="give another --name, or wait until it ends",
            ) from None
        except OSError:
            pass
        yield


def write_inputs(path: Path, resolved: ResolvedJob, plan: Plan) -> None:
    """Write job and plan, so that the folder explains itself.

    Raises:
        WriteError: when a file cannot be written.
    """
    try:
        (path / "job.yaml").write_text(resolved.yaml_text())
    except OSError as error:
        raise WriteError(f"cannot write the job: {error.strerror}", where=str(path)) from None
    write_plan(plan, path / "plan.json")


def keep_plans(path: Path, first: Plan, chosen: Plan) -> None:
    """Keep what a run goes back to, however many nodes it is left with for a while.

    Plans derived for such nodes are never kept here, so every rank of a restart reads the same,
    whether rank 0 has written already or not.

    Args:
        first: what the run began with; it is written once.
        chosen: that, or what ``--plan`` gave it since.

    Raises:
        WriteError: when a file cannot be written.
    """
    folder = path / PLANS
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot write the plan: {error.strerror}", where=str(folder)) from None
    if not (folder / FIRST).exists():
        write_plan(first, folder / FIRST)
    if chosen != first or (folder / GIVEN).exists():
        write_plan(chosen, folder / GIVEN)


def first_plan(path: Path) -> Plan:
    """The plan that a run began with, which its trace is of.

    Raises:
        DataError: it is missing or cannot be read.
    """
    return read_plan(_first(path / PLANS / FIRST, path / "plan.json"))


def chosen_plan(path: Path) -> Path:
    """The file of the plan that a run goes on with once all its nodes are there."""
    folder = path / PLANS
    return _first(folder / GIVEN, folder / FIRST, path / "plan.json")


def _first(*paths: Path) -> Path:
    return next((path for path in paths if path.exists()), paths[-1])


def write_prediction(path: Path, plan: Plan) -> None:
    """Write the predicted spans of one step, under the calibration that the plan holds.

    Raises:
        WriteError: when the file cannot be written.
    """
    calibration = calibration_from_dict(plan.calibration, where="plan.calibration")
    cost = CostModel(Topology(plan.site), plan.workload, calibration)
    (path / "predicted.jsonl").unlink(missing_ok=True)
    append_trace(path / "predicted.jsonl", simulate(plan, cost).spans)


def refuse_to_lose(path: Path) -> None:
    """Refuse a new run where an older one has committed checkpoints.

    Raises:
        ConfigError: naming the newest.
    """
    newest = latest_committed(path)
    if newest is not None:
        raise ConfigError(
            "a run of this name has committed checkpoints, which a new run would replace",
            where=str(newest),
            next_step="continue it with --resume, choose another --name, or give --overwrite",
        )


def existing_run(path: Path) -> Path:
    """A run folder that is there.

    Raises:
        DataError: when it is not.
    """
    if not (path / "plan.json").exists():
        raise DataError(
            "there is no run to resume",
            where=str(path),
            next_step="start it without --resume, or name it with --name",
        )
    return path
