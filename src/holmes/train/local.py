"""`holmes train`: all ranks on this machine, or one rank that torchrun or Slurm started."""

from __future__ import annotations

import faulthandler
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

from holmes.errors import TerminatedError, WriteError
from holmes.hardware.topology import Topology
from holmes.job.resolve import ResolvedJob
from holmes.launch.environment import from_environ, launcher_of, stands_for_all
from holmes.launch.redact import Redacted
from holmes.launch.starter import run_here
from holmes.launch.variables import OWN_DEADLINES
from holmes.plan.codec import read_plan
from holmes.plan.plan import Plan
from holmes.planner.search import make_plan
from holmes.runtime.capabilities import CAPABILITIES
from holmes.runtime.checkpoint.fence import advance
from holmes.runtime.checkpoint.read import latest_good
from holmes.train.assignment import Assignment
from holmes.train.elastic import plan_of_launch, traced_as
from holmes.train.node_watch import farewell, start_node_watch
from holmes.train.planning import (
    check_fits,
    check_wishes,
    on_cpu,
    refuse_virtual,
    request_of,
    runnable,
)
from holmes.train.rehearsal import Rehearsal
from holmes.train.run_folder import (
    chosen_plan,
    existing_run,
    first_plan,
    held,
    keep_plans,
    make_run_folder,
    refuse_to_lose,
    run_path,
    write_inputs,
    write_prediction,
)
from holmes.train.show import Progress, Say
from holmes.train.summary import summarise, write_json
from holmes.train.supervise import keep_evidence, with_checkpoint

GPU = Path("/dev/nvidia0")


def train(
    resolved: ResolvedJob,
    *,
    resume: bool,
    overwrite: bool,
    plan_file: Path | None,
    progress: Progress,
) -> dict[str, Any] | None:
    """Train a job; returns the rehearse object, on the first rank only.

    Args:
        resume: go on from the last committed checkpoint.
        overwrite: start anew where a run of this name has committed some.

    Raises:
        ConfigError: virtual devices, a plan of another job, or committed checkpoints that
            would be lost.
        DataError: there is nothing to resume, or only damaged checkpoints.
        RankDiedError: a rank ended; names it and the last committed checkpoint.
    """
    refuse_virtual(resolved)
    run = run_path(resolved.job)
    launched = launcher_of(os.environ) is not None
    # A launcher that restarts its ranks runs the same command again: the run goes on.
    again = launched and from_environ(os.environ).attempt > 0 and (run / "plan.json").exists()
    resume = resume or again
    if resume:
        existing_run(run)
    elif not overwrite:
        refuse_to_lose(run)
    if launched:
        return _one_rank(resolved, resume=resume, plan_file=plan_file, progress=progress)
    make_run_folder(run, keep=True)
    with held(run):
        return _all_ranks(resolved, run, resume=resume, plan_file=plan_file, progress=progress)


def _all_ranks(
    resolved: ResolvedJob, run: Path, *, resume: bool, plan_file: Path | None, progress: Progress
) -> dict[str, Any]:
    """Every rank of the job on this machine; returns the rehearse object."""
    concrete = runnable(resolved, on_gpu=False)
    plan = _plan(concrete, run, resume=resume, plan_file=plan_file)
    first = first_plan(run) if resume else plan
    concrete = replace(concrete, job=traced_as(first, plan, concrete.job))
    checkpoint = _resume_folder(run, progress.say) if resume else None
    if GPU.exists() and not on_cpu(resolved):
        progress.say("ranks run on the CPU; start them with torchrun or srun to use the GPUs")
    with Rehearsal(resolved, run / "logs", progress, rehearse=False) as rehearsal:
        make_run_folder(run, keep=resume)
        keep_plans(run, first, plan)
        write_inputs(run, concrete, plan)
        assignment = Assignment(
            job=concrete.job,
            plan=plan,
            run_folder=run,
            steps=concrete.job.train.steps,
            seats_are_devices=True,
            interface_override=rehearsal.session.interface_override,
            tokens=rehearsal.tokens,
            resume_from=checkpoint,
        )
        write_prediction(run, plan)
        rehearsal.execute(assignment, run.name, deadline_seconds=math.inf)
    summary = summarise(run, plan, devices="real", links="unshaped")
    write_json(run / "summary.json", summary)
    return summary


def _plan(resolved: ResolvedJob, run: Path, *, resume: bool, plan_file: Path | None) -> Plan:
    """The plan given, the one the run began with or was given since, or a new one.

    Raises:
        ConfigError: a plan of another job, or none that fits.
        DataError: the plan file cannot be read.
    """
    path = plan_file or (chosen_plan(run) if resume else None)
    if path is None:
        return make_plan(request_of(resolved, capabilities=CAPABILITIES))
    plan = read_plan(path)
    check_fits(plan, resolved, where=str(path))
    check_wishes(plan, resolved, where=str(path))
    return plan


def _resume_folder(run: Path, say: Say) -> str | None:
    folder = latest_good(run, say)
    say(f"resuming from {folder}" if folder else "nothing was committed: from step 0")
    return str(folder) if folder else None


def _one_rank(
    resolved: ResolvedJob, *, resume: bool, plan_file: Path | None, progress: Progress
) -> dict[str, Any] | None:
    """One rank in this process; what its launcher set up decides its place.

    SIGTERM, which launchers send, ends it after the step under way, with a checkpoint.

    Raises:
        TerminatedError: it did.
    """
    for name, value in OWN_DEADLINES.items():
        os.environ.setdefault(name, value)
    if resolved.job.train.deterministic:  # cuBLAS reads it when its first handle is made
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with farewell(run_path(resolved.job)):
        return _launched(resolved, resume=resume, plan_file=plan_file, progress=progress)


def _launched(
    resolved: ResolvedJob, *, resume: bool, plan_file: Path | None, progress: Progress
) -> dict[str, Any] | None:
    """The rank itself; the first one of a node also starts what watches the node's ranks."""
    import torch

    here = from_environ(os.environ)
    leads = here.launch_rank == 0
    on_gpu = torch.cuda.is_available()
    concrete = runnable(resolved, on_gpu=on_gpu)
    run = run_path(concrete.job)
    plan = chosen = _plan(concrete, run, resume=resume, plan_file=plan_file)
    first = first_plan(run) if resume else chosen
    if resume and (plan_file is None or here.attempt > 0):
        plan = plan_of_launch(chosen, concrete, here)
    concrete = replace(concrete, job=traced_as(first, plan, concrete.job))
    generation = None
    if leads:
        make_run_folder(run, keep=resume)
        generation = advance(run)
        keep_evidence(run, generation - 1)
        keep_plans(run, first, chosen)
        write_inputs(run, concrete, plan)
        write_prediction(run, plan)
    checkpoint = _resume_folder(run, progress.say if leads else _ignore) if resume else None
    assignment = Assignment(
        job=concrete.job,
        plan=plan,
        run_folder=run,
        steps=concrete.job.train.steps,
        backend="nccl" if on_gpu else "gloo",
        interface_override="lo" if stands_for_all(Topology(plan.site), here) else None,
        resume_from=checkpoint,
        generation=generation,
        secret=os.environ.get("HOLMES_SECRET", ""),
    )
    if here.local_rank == 0:
        start_node_watch(plan, run, here)
    on_steps = progress.on_steps(run.name, assignment.steps) if leads else None
    with own_log(run / "logs", here.launch_rank):
        result = run_here(
            "holmes.train.tasks:train",
            {
                "assignment": assignment.to_json(),
                "grace_seconds": concrete.job.train.grace_seconds,
            },
            slurm_ports=concrete.job.launch.ports,
            on_progress=on_steps,
        )
    if result["stopped"]:
        raise with_checkpoint(TerminatedError(f"terminated after step {result['step']}"), run)
    if result["rank"] != 0:
        return None
    summary = summarise(run, plan, devices="real", links="unshaped")
    write_json(run / "summary.json", summary)
    return summary


@contextmanager
def own_log(folder: Path, rank: int) -> Iterator[None]:
    """Write what this rank prints to its log, as the ranks of a session do, and the stacks of
    its threads at SIGUSR1.

    Raises:
        WriteError: the log cannot be written.
    """
    path = folder / f"rank-{rank}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = path.open("a", buffering=1)
    except OSError as error:
        raise WriteError(f"cannot write the log: {error.strerror}", where=str(path)) from None
    with log, redirect_stdout(cast(IO[str], Redacted(log))):
        faulthandler.register(signal.SIGUSR1, file=log, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR1)


def _ignore(_: str) -> None:
    return None
