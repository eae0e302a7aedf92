"""`holmes train`: all ranks on this machine, or one rank that torchrun or Slurm started."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from holmes.errors import ConfigError
from holmes.events.trace import append_trace
from holmes.job.resolve import ResolvedJob
from holmes.launch.environment import launcher_of
from holmes.launch.starter import run_here
from holmes.plan.codec import read_plan
from holmes.plan.plan import Plan
from holmes.planner.search import make_plan
from holmes.runtime.capabilities import CAPABILITIES
from holmes.runtime.checkpoint.read import latest_good
from holmes.train.assignment import Assignment
from holmes.train.planning import default_calibration, request_of, runnable
from holmes.train.rehearsal import Progress, Rehearsal
from holmes.train.run_folder import existing_run, make_run_folder, run_path, write_inputs
from holmes.train.summary import summarise, write_json


def train(
    resolved: ResolvedJob, *, resume: bool, plan_file: Path | None, progress: Progress
) -> dict[str, Any] | None:
    """Train a job; returns the rehearse object, on the first rank only.

    Raises:
        ConfigError: virtual devices, or a plan of another job.
        DataError: there is nothing to resume, or only damaged checkpoints.
        RankDiedError: a rank ended; names it and the last committed checkpoint.
    """
    if resolved.job.rehearsal.devices == "virtual":
        raise ConfigError(
            "virtual devices cannot train",
            where="rehearsal.devices",
            next_step="use `holmes rehearse`, or rehearsal.devices=real",
        )
    if launcher_of(os.environ) is not None:
        return _one_rank(resolved, resume=resume, plan_file=plan_file)
    run = run_path(resolved.job)
    make_run_folder(existing_run(run) if resume else run, keep=resume)
    with Rehearsal(resolved, run / "logs", progress, rehearse=False) as rehearsal:
        concrete = rehearsal.resolved
        plan = _plan(concrete, run, resume=resume, plan_file=plan_file)
        write_inputs(run, concrete, plan)
        assignment = Assignment(
            job=concrete.job,
            plan=plan,
            run_folder=run,
            steps=concrete.job.train.steps,
            seats_are_devices=True,
            interface_override=rehearsal.session.interface_override,
            tokens=rehearsal.tokens,
            resume_from=_resume_folder(run, progress) if resume else None,
        )
        rehearsal.calibration = default_calibration(concrete)
        if not resume:
            append_trace(run / "predicted.jsonl", rehearsal.predict(plan))
        rehearsal.execute(assignment, run.name)
    summary = summarise(run, plan, devices="real", links="unshaped")
    write_json(run / "summary.json", summary)
    return summary


def _plan(resolved: ResolvedJob, run: Path, *, resume: bool, plan_file: Path | None) -> Plan:
    """The plan given, the one the run began with, or a new one."""
    if plan_file is not None:
        return read_plan(plan_file)
    if resume:
        return read_plan(run / "plan.json")
    return make_plan(request_of(resolved, capabilities=CAPABILITIES))


def _resume_folder(run: Path, progress: Progress) -> str | None:
    folder = latest_good(run, progress.say)
    progress.say(f"resuming from {folder}" if folder else "nothing was committed: from step 0")
    return str(folder) if folder else None


def _one_rank(
    resolved: ResolvedJob, *, resume: bool, plan_file: Path | None
) -> dict[str, Any] | None:
    import torch

    on_gpu = torch.cuda.is_available()
    concrete = runnable(resolved, on_gpu=on_gpu)
    run = run_path(concrete.job)
    plan = _plan(concrete, run, resume=resume, plan_file=plan_file)
    first = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    if first:
        make_run_folder(existing_run(run) if resume else run, keep=resume)
        write_inputs(run, concrete, plan)
    folder = latest_good(run, print) if resume else None
    assignment = Assignment(
        job=concrete.job,
        plan=plan,
        run_folder=run,
        steps=concrete.job.train.steps,
        backend="nccl" if on_gpu else "gloo",
        interface_override=os.environ.get("HOLMES_INTERFACE"),
        resume_from=str(folder) if folder else None,
    )
    result = run_here("holmes.train.tasks:train", {"assignment": assignment.to_json()})
    if result["rank"] != 0:
        return None
    summary = summarise(run, replace(plan), devices="real", links="unshaped")
    write_json(run / "summary.json", summary)
    return summary
