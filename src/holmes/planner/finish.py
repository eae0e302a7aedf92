"""The winner made complete: digest, bytes, prediction and reasons."""

from __future__ import annotations

from dataclasses import replace

from holmes.cost.model import CostModel
from holmes.plan.explain import Notes, explain, seconds_text
from holmes.plan.plan import Plan, Predicted, Rejected, SearchSummary
from holmes.plan.program import program_of
from holmes.planner.draft import Draft
from holmes.planner.groups import bytes_by_nic, with_bytes
from holmes.planner.note import change_lines, time_lines
from holmes.planner.pricing import Pricing, instructions_of
from holmes.planner.traffic import with_closed_bytes


def finish(
    draft: Draft,
    pricing: Pricing,
    summary: SearchSummary,
    rejected: tuple[Rejected, ...],
    missing: tuple[str, ...],
) -> Plan:
    """The complete plan of a draft."""
    bare = draft.plan
    plan = replace(bare, search=summary, rejected=rejected)
    if listed(draft):
        program = program_of(bare, check=False)
        schedule = replace(bare.schedule, digest=program.digest)
        plan = replace(plan, groups=with_bytes(bare.groups, program, bare), schedule=schedule)
    else:
        plan = replace(plan, groups=with_closed_bytes(bare.groups, bare))
    plan = replace(plan, predicted=_predicted(plan, draft, pricing))
    headline, predicted, *rest = explain(plan, _notes(draft, missing))
    note = time_lines(draft, plan.predicted.step_seconds)
    changes = change_lines(draft, pricing) if draft.request.note else ()
    told = () if summary.gap <= 0 else (_gap_text(summary.gap),)
    return replace(plan, explain=(headline, predicted, *note, *changes, *told, *rest))


def _gap_text(gap: float) -> str:
    return (
        f"optimality gap {gap:.1%}: the search stopped here, and what it left unpriced may be up "
        "to that much faster"
    )


def listed(draft: Draft) -> bool:
    """Whether the instruction lists are written out, for their digest.

    Lists of thousands of devices take minutes and are not needed before a run.
    """
    return instructions_of(draft) <= draft.request.largest_lists


def _predicted(plan: Plan, draft: Draft, pricing: Pricing) -> Predicted:
    seconds = pricing.seconds(draft)
    ranks = [stage.ranks for stage in plan.stages[: plan.pp]]
    memory = {rank: bytes_ for stage, bytes_ in enumerate(draft.memory) for rank in ranks[stage]}
    return prediction(plan, pricing.cost, seconds, memory, _idle(draft, seconds))


def prediction(
    plan: Plan, cost: CostModel, seconds: float, memory: dict[int, int], idle: float
) -> Predicted:
    """What is said of a plan whose step takes ``seconds``.

    Args:
        memory: bytes by logical rank.
        idle: part of the step in which devices do not compute.
    """
    slots = cost.topology.devices
    low, high = cost.calibration.bounds(seconds, (cost.device(slot).name for slot in slots))
    samples = plan.batch.global_ / seconds
    return Predicted(
        step_seconds=seconds,
        low=low,
        high=high,
        tflops_per_device=plan.workload.flops_per_sample() * samples / plan.world_size / 1e12,
        samples_per_second=samples,
        memory_bytes=memory,
        bytes_per_step=bytes_by_nic(plan.groups, plan, cost.topology),
        bubble_fraction=idle,
        source=f"calibration {cost.calibration.name}",
    )


def _idle(draft: Draft, seconds: float) -> float:
    """The part of the step in which devices do not compute, the mean over pipeline ranks."""
    busy = sum(draft.stage_seconds) / draft.shape.layout.pp * draft.shape.microbatches
    return max(0.0, 1.0 - busy / seconds)


def _notes(draft: Draft, missing: tuple[str, ...]) -> Notes:
    estimates, stages = draft.estimates, draft.shape.layout.pp
    return Notes(
        stage_seconds=draft.stage_seconds,
        exposed_seconds=tuple(
            estimates.exposed(stage % stages, *blocks) for stage, blocks in enumerate(draft.borders)
        )
        if estimates.ground.replicas > 1
        else (),
        cut_seconds=estimates.cut_seconds,
        partition=_partition_reason(draft),
        warmup=_warmup_reason(draft),
        missing=missing,
    )


def _partition_reason(draft: Draft) -> str:
    if len(draft.borders) == 1:
        return "one stage holds the whole model"
    if draft.settings.partition == "even":
        return "equal counts of transformer blocks, whatever a stage's devices and network do"
    if draft.settings.partition == "proportional":
        return "transformer blocks in proportion to the speed of each stage, alpha 1.05"
    return (
        "the cut with the least sum of stage times, slowest stage and exposed gradient "
        "exchange, within memory"
    )


def _warmup_reason(draft: Draft) -> str:
    if draft.request.wishes.extra_warmup is not None:
        return "as given"
    slowest = max(draft.stage_seconds)
    cut = max(draft.estimates.cut_seconds, default=0.0)
    facts = (
        f"the slowest cut takes {seconds_text(cut)} one way, "
        f"the slowest stage {seconds_text(slowest)} a micro-batch"
    )
    if not any(draft.extras):
        return f"{facts}; more in flight would save less than 1 %"
    return f"{facts}; each extra forward in flight hides that much of the transfers"
