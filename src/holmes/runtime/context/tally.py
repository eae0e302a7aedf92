"""What the Workload says that a rank sends over its context group."""

from __future__ import annotations

from collections import Counter, defaultdict

from holmes.plan.plan import Plan
from holmes.runtime.tensor.tally import Tally


def declared(plan: Plan, rank: int) -> Tally:
    """One micro-batch through the stages of a rank, forward and backward."""
    calls: Counter[str] = Counter()
    sent: dict[str, float] = defaultdict(float)
    for stage in plan.stages:
        if rank not in stage.ranks:
            continue
        for block in plan.workload.blocks[slice(*stage.blocks)]:
            for part in block.context_program(plan.context_algorithm, plan.tensor, plan.context):
                times = part.runs(plan.recompute)
                calls[part.op] += times
                size = part.sent_bytes(plan.context, cp=plan.context) * plan.batch.micro
                sent[part.op] += times * size * plan.padding
    return Tally(dict(calls), dict(sent))
