"""Verification: the parallel run of a job against the plain single-process run."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from holmes.events.metrics import read_metrics
from holmes.job.resolve import ResolvedJob
from holmes.plan.program import schedule_of
from holmes.train.assignment import Assignment
from holmes.train.planning import default_calibration, refuse_virtual
from holmes.train.rehearsal import Rehearsal
from holmes.train.show import Progress

REFERENCE_SECONDS = 1800.0


def verify(resolved: ResolvedJob, steps: int, progress: Progress) -> dict[str, Any]:
    """Train ``steps`` steps on all ranks and in one process; compare every parameter.

    Both run with one thread and add the gradients of micro-batches in the order of
    the plan's schedule.

    Returns:
        ``{max_relative_difference, bit_equal, parameters, zero_gradient_parameters,
        max_gradient_difference, losses, reference_losses, layout}``. Differences are of the
        largest value of a tensor; that of gradients is between their running means, since
        AdamW makes a whole step out of the rounding of a gradient near zero.

    Raises:
        ConfigError: virtual devices.
    """
    refuse_virtual(resolved)
    train = resolved.job.train.model_copy(update={"threads": 1})
    resolved = replace(resolved, job=resolved.job.model_copy(update={"train": train}))
    with tempfile.TemporaryDirectory(prefix="holmes-verify-") as folder:
        run = Path(folder)
        with Rehearsal(resolved, run / "logs", progress, rehearse=False) as rehearsal:
            rehearsal.calibration = default_calibration(resolved)
            plan = rehearsal.plan(resolved)
            assignment = Assignment(
                job=rehearsal.resolved.job,
                plan=plan,
                run_folder=run,
                steps=steps,
                seats_are_devices=True,
                interface_override=rehearsal.session.interface_override,
                tokens=rehearsal.tokens,
            )
            results = rehearsal.execute(assignment, "verify", deadline_seconds=math.inf)
            (compared,) = rehearsal.session.pool.run(
                "holmes.train.tasks:compare_with_reference",
                {
                    "assignment": assignment.to_json(),
                    "checkpoint": results[0]["checkpoint"],
                    "microbatch_order": list(schedule_of(plan).accumulation_order),
                },
                deadline_seconds=REFERENCE_SECONDS,
                ranks=1,
            )
        losses = [step.loss for step in read_metrics(run / "metrics.jsonl")]
    return {**compared, "losses": losses, "layout": plan.degrees, "steps": steps}
