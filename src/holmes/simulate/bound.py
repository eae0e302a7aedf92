"""What no order of micro-batches can beat: a lower bound for the placement and cut of a plan."""

from __future__ import annotations

from holmes.cost.model import CostModel
from holmes.plan.plan import Plan
from holmes.plan.program import program_of
from holmes.schedule.generate import FORMS
from holmes.schedule.instruction import COMPUTE_OPS
from holmes.schedule.lower import Program
from holmes.simulate.closed_form import times_of
from holmes.simulate.meetings import meetings_of, program_ranks


def lower_bound_seconds(plan: Plan, cost: CostModel, program: Program | None = None) -> float:
    """Seconds that a step of this plan needs under any schedule of its stages.

    The larger of two bounds. A stage cannot start before one micro-batch has
    come down to it, then has all its own work to do, and after it one gradient
    has to go all the way up, be reduced and be stepped over. And no card or
    link moves its bytes faster than its capacity.
    """
    busy = max(resource_seconds(plan, cost, program).values(), default=0.0)
    return max(busy, _critical_stage(plan, cost))


def resource_seconds(
    plan: Plan, cost: CostModel, program: Program | None = None
) -> dict[str, float]:
    """Seconds that each device, card and link is busy in one step, by name.

    Devices appear as ``rank <n>``; cards and links as in
    :class:`holmes.cost.network.Network`. What an instruction list asks of a
    resource over what it can do: independent of any order.
    """
    program = program or program_of(plan)
    network = cost.network(plan.rank_map)
    busy: dict[str, float] = {}
    for meeting in meetings_of(plan, program, network):
        for flow in meeting.traffic.flows:
            for name in flow.resources:
                busy[name] = busy.get(name, 0.0) + flow.bytes / network.capacity[name]
    for rank, instructions in zip(program_ranks(plan), program.ranks, strict=True):
        seconds = {
            key: cost.compute_seconds(plan, rank, ins)
            for key, ins in {
                (ins.op, ins.blocks): ins for ins in instructions if ins.op in COMPUTE_OPS
            }.items()
        }
        busy[f"rank {rank}"] = sum(
            seconds[ins.op, ins.blocks] for ins in instructions if ins.op in COMPUTE_OPS
        )
    return busy


def _critical_stage(plan: Plan, cost: CostModel) -> float:
    """Fill, own work and drain of the pipeline rank where their sum is largest.

    A rank first runs its first stage, and its last input gradient is that stage's. The
    slowest replica counts, so with unequal replicas this holds for the closed form's
    reading of a stage (its slowest device).
    """
    times = times_of(plan, cost)
    m, p = plan.schedule.microbatches, plan.pp
    apart = FORMS[plan.schedule.name].splits_backward
    gathers = times.exchanges and plan.overlap
    worst = fill = drain = 0.0
    top = times.stages[0].parts[0]
    last_reduce = top.reduce if times.exchanges and not top.tied else 0.0
    for index, stage in enumerate(times.stages[:p]):
        mine = times.stages[index::p]
        own = m * sum(one.forward + one.backward for one in mine)
        weights = m * sum(part.weight for one in mine for part in one.parts) if apart else 0.0
        if gathers and index == 0:
            own += top.gather
        # Weight gradients can fill the drain, so they do not count before it.
        total = fill + max(own, own - weights + drain) + times.norms + stage.step
        if not apart:
            total += last_reduce
        if times.exchanges and not plan.overlap:
            total += sum(part.gather for one in mine for part in one.parts)
        worst = max(worst, total)
        if index < len(times.down):
            fill += stage.forward + times.down[index]
            drain += stage.backward + times.up[index]
            if apart:
                drain -= sum(part.weight for part in stage.parts)
            if gathers and index == 0:
                fill += top.gather
    return worst
