"""A rehearsal: hosts up, blocks measured, then every placement planned and run in turn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from holmes.cost.calibration import LAB, Calibration
from holmes.cost.links import with_measured_links
from holmes.cost.model import CostModel
from holmes.data.prepare import TokenFiles
from holmes.errors import ConfigError
from holmes.events.trace import append_trace
from holmes.hardware.topology import Topology
from holmes.job.job import Job
from holmes.job.resolve import ResolvedJob
from holmes.launch.session import Session, fair_cores
from holmes.models.registry import describe, family_of
from holmes.plan.plan import Plan
from holmes.planner.search import make_plan
from holmes.runtime.capabilities import CAPABILITIES
from holmes.simulate.events import simulate
from holmes.train.assignment import Assignment
from holmes.train.elastic import Spares
from holmes.train.injection import check_faults
from holmes.train.parts import folder_weights, open_data, prepare_data
from holmes.train.planning import (
    link_timings,
    measured_calibration,
    request_of,
    runnable,
    virtual_calibration,
)
from holmes.train.run_folder import held, keep_plans, make_run_folder, run_path, write_inputs
from holmes.train.show import Progress, Say
from holmes.train.summary import summarise, write_json
from holmes.train.supervise import Supervisor

PROFILE_SECONDS = 120.0
STEP_ALLOWANCE = 20.0
"""A run may take this many times its predicted time before it counts as stuck."""
START_ALLOWANCE_SECONDS = 120.0
COMPUTE_SHARE = 0.75
"""Of a rank's fair share of the processors; the rest is left to communication."""


class Rehearsal:
    """An open session with a calibration; plans and runs jobs of one site. A context manager.

    Args:
        resolved: the job; its site is brought up, its blocks are measured.
        log_dir: logs of the calibration.
    """

    def __init__(
        self, resolved: ResolvedJob, log_dir: Path, progress: Progress, *, rehearse: bool = True
    ) -> None:
        self.resolved = runnable(resolved, on_gpu=False)
        self.progress = progress
        job = self.resolved.job
        virtual = job.rehearsal.devices == "virtual"
        self.tokens: TokenFiles | None = None
        if not virtual:
            self.tokens = token_files(job, progress.say)
        ranks = len(Topology(resolved.site).devices)
        self.cores = None if virtual or not rehearse else _cores(job, ranks)
        if self.cores is not None and job.train.threads > 1:
            raise ConfigError(
                f"{job.train.threads} threads a rank cannot be paced",
                where="train.threads",
                why="a rehearsal holds one computing thread a rank to its share of a core",
                next_step="leave train.threads out, or train on this machine with `holmes train`",
            )
        self.session = Session(
            resolved.site,
            rehearse=rehearse,
            log_dir=log_dir,
            threads=job.train.threads,
        )
        self.calibration: Calibration | None = None

    def __enter__(self) -> Rehearsal:
        self.progress.say("bringing up the hosts and the ranks")
        self.session.__enter__()
        if self.session.links_reason:
            self.progress.say(self.session.links_reason)
        return self

    def __exit__(self, *exception: Any) -> None:
        self.session.__exit__(*exception)

    def calibrate(self, micro: int) -> Calibration:
        """Measure the links, and measure (for virtual devices: dictate) the blocks.

        The groups measured are those of a first plan with assumed coefficients.
        """
        virtual = self.resolved.job.rehearsal.devices == "virtual"
        assumed = virtual_calibration(self.resolved, micro) if virtual else LAB
        plan = self._plan(self.resolved, assumed)
        what = "links" if virtual else "links and the model's blocks"
        self.progress.say(f"measuring {what} on all ranks at once")
        profiles = self.session.run(
            "holmes.train.tasks:profile",
            {"assignment": self._assignment(self.resolved.job, plan, Path(), steps=0).to_json()},
            deadline_seconds=PROFILE_SECONDS,
            operation_seconds=PROFILE_SECONDS,
        )
        if not virtual:
            assumed = measured_calibration(
                self.resolved, plan.batch.micro, profiles, self.cores or 1.0, plan.tensor
            )
        rates = self.session.rates
        if rates is not None:  # unshaped links have no line rate to compare with
            timings = link_timings(profiles)
            assumed = with_measured_links(assumed, plan, self.session.topology, rates, timings)
        self.calibration = assumed
        return assumed

    def plan(self, resolved: ResolvedJob) -> Plan:
        """Plan a job of this site for the links and ranks as they are here."""
        concrete = runnable(resolved, on_gpu=False)
        micro = concrete.job.batch.micro or 1
        return self._plan(concrete, self.calibration or self.calibrate(micro))

    def _plan(self, concrete: ResolvedJob, calibration: Calibration) -> Plan:
        return make_plan(
            request_of(
                concrete,
                capabilities=CAPABILITIES,
                calibration=calibration,
                rates=self.session.rates,
            )
        )

    def _assignment(
        self, job: Job, plan: Plan, run: Path, *, steps: int, save: bool = True
    ) -> Assignment:
        return Assignment(
            job=job,
            plan=plan,
            run_folder=run,
            steps=steps,
            seats_are_devices=True,
            interface_override=self.session.interface_override,
            tokens=self.tokens,
            save=save,
            cores=self.cores,
        )

    def run(
        self,
        resolved: ResolvedJob,
        plan: Plan,
        run: Path,
        *,
        steps: int,
        save: bool = True,
        inject: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Train the plan; returns the rehearse object, which the run folder holds too.

        Args:
            inject: faults, as on the command line.

        Raises:
            HolmesError: what stopped the run, with the last committed checkpoint.
        """
        concrete = runnable(resolved, on_gpu=False)
        make_run_folder(run, keep=False)
        keep_plans(run, plan, plan)
        write_inputs(run, concrete, plan)
        append_trace(run / "predicted.jsonl", self.predict(plan))
        self.session.pool.move_logs(run / "logs")
        assignment = self._assignment(concrete.job, plan, run, steps=steps, save=save)
        predicted = plan.predicted.step_seconds * steps
        self.execute(
            replace(assignment, inject=tuple(inject)),
            run.name,
            deadline_seconds=START_ALLOWANCE_SECONDS + STEP_ALLOWANCE * predicted,
            spares=self._spares(concrete, plan),
        )
        summary = summarise(
            run, plan, devices=concrete.job.rehearsal.devices, links=self.session.links
        )
        write_json(run / "summary.json", summary)
        return summary

    def execute(
        self,
        assignment: Assignment,
        name: str,
        *,
        deadline_seconds: float,
        spares: Spares | None = None,
    ) -> list[dict[str, Any]]:
        """Run an assignment on all ranks, under watch; results by seat.

        A run whose ranks fail goes on from its last checkpoint. One that ends is diagnosed:
        ``diagnosis.json`` is in its folder, the verdict in the error.

        Args:
            deadline_seconds: bound on a run without failures. Infinite where no measured
                calibration stands behind the prediction: then only a silent rank ends it.
            spares: plans for when hosts are gone.
        """
        supervisor = Supervisor(self.session, self.progress, name, deadline_seconds, spares)
        return supervisor.run(assignment)

    def _spares(self, resolved: ResolvedJob, plan: Plan) -> Spares | None:
        """Plans for fewer hosts, where there are hosts that can go."""
        if self.calibration is None or not self.session.lab.shaped:
            return None
        return Spares(resolved, plan, self.calibration, self.session.rates)

    def predict(self, plan: Plan) -> tuple[Any, ...]:
        """The predicted spans of one step."""
        assert self.calibration is not None
        cost = CostModel(self.session.topology, plan.workload, self.calibration, self.session.rates)
        return simulate(plan, cost).spans


def rehearse(
    jobs: Sequence[ResolvedJob], progress: Progress, inject: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Rehearse one job, or one job under several placements, in one session.

    Args:
        jobs: the same job under different placements; run folders are
            ``<output>/<name>-<placement>`` when there are several.
        inject: faults that each of the runs suffers.

    Returns:
        Rehearse objects by placement.
    """
    folders = [_folder(resolved.job, several=len(jobs) > 1) for resolved in jobs]
    for resolved in jobs:  # refuses what cannot be planned before anything starts
        concrete = runnable(resolved, on_gpu=False)
        make_plan(request_of(concrete, capabilities=CAPABILITIES))
        virtual = concrete.job.rehearsal.devices == "virtual"
        steps = concrete.job.train.steps
        check_faults(inject, Topology(concrete.site), steps, virtual=virtual)
    results: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        for folder in folders:
            make_run_folder(folder, keep=True)  # what an earlier run left stays until this one runs
            stack.enter_context(held(folder))
        rehearsal = stack.enter_context(Rehearsal(jobs[0], folders[0] / "logs", progress))
        for resolved, folder in zip(jobs, folders, strict=True):
            plan = rehearsal.plan(resolved)
            progress.say(f"{folder.name}: {plan.explain[0] if plan.explain else 'planned'}")
            results[plan.placement_name] = rehearsal.run(
                resolved, plan, folder, steps=resolved.job.train.steps, inject=inject
            )
    return results


def token_files(job: Job, say: Say) -> TokenFiles:
    """Prepare the job's text once for all ranks.

    Raises:
        DataError, ConfigError: a text or model folder that no rank could begin with, before
            any is started.
    """
    config = describe(family_of(job.model)).config_from(job.model)
    folder_weights(job, config)
    files = prepare_data(job, say).files
    open_data(job, files, config)
    return files


def _cores(job: Job, ranks: int) -> float:
    """Share of a core that computes on the fastest device."""
    cores = job.rehearsal.cores
    return COMPUTE_SHARE * fair_cores(ranks) if cores == "auto" else float(cores)


def _folder(job: Job, *, several: bool) -> Path:
    name = f"{job.name}-{job.placement}" if several else job.name
    return run_path(job, name)
