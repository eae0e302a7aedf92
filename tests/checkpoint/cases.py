"""What ranks run in the tests of whole layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from holmes.data.batches import BatchPlan
from holmes.data.tokens import Tokens
from holmes.launch.context import RankContext
from holmes.runtime.checkpoint.agreement import Members
from holmes.runtime.checkpoint.saver import Saver, SaverOptions
from holmes.train.saving import load, metadata, state_of
from tests.runtime.cases import build, join, replica_of, run_steps, spec_of
from tests.runtime.plans import plan_of


def batches_of(global_batch: int) -> BatchPlan:
    """Where the run is in a text of 200 windows."""
    ids = np.arange(200 * 8 + 1, dtype=np.uint16)
    return BatchPlan(Tokens(ids, ("a",), 65536, "d"), 8, global_batch)


def hop(
    context: RankContext, spec: dict[str, Any], source: str | None, target: str, steps: int
) -> dict[str, Any]:
    """Take the state of another layout if there is one, train, save as this layout."""
    wanted = spec_of(spec)
    plan = plan_of(wanted)
    groups = join(context, wanted)
    engine = build(wanted, groups)
    batches, first = batches_of(plan.batch.global_), 0
    if source is not None:
        first, batches = load(Path(source), engine.optimizer, batches, groups)
    samples = batches.samples_before(first)
    run_steps(engine, wanted, replica_of(wanted, context.rank), range(first, first + steps))
    members = Members(groups.rank, groups.world_size, groups.own_store(), 20.0)
    with Saver(Path(target), members, groups.maximum, SaverOptions()) as saver:
        engine.interpreter.gather_parameters()
        step = first + steps
        saver.begin(step, state_of(engine.optimizer, groups.rank), metadata(plan, batches, step))
    engine.interpreter.close()
    groups.close()
    assert saver.last is not None
    return {"folder": str(saver.last.folder), "first": first, "samples": samples}
