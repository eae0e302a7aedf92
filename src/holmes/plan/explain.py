"""The reasons of a plan as lines to read: `holmes plan --explain`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from holmes.hardware.topology import Topology
from holmes.plan.plan import Group, Plan, Stage
from holmes.plan.sharding import BITS, error_bound
from holmes.schedule.generate import WITH_WARMUP

MOST_GROUPS = 12
"""With more groups of one axis and transport than this, they are told as one line."""


@dataclass(frozen=True)
class Notes:
    """What the planner knew when it chose, and a plan alone does not say.

    Attributes:
        stage_seconds: forward and backward of one micro-batch, per stage.
        exposed_seconds: per-step gradient exchange that nothing hides, per stage.
        cut_seconds: one transfer of one micro-batch, per cut.
        partition: why these borders.
        warmup: why this warm-up.
        missing: what the runtime lacks for the unrestricted best.
    """

    stage_seconds: tuple[float, ...] = ()
    exposed_seconds: tuple[float, ...] = ()
    cut_seconds: tuple[float, ...] = ()
    partition: str = ""
    warmup: str = ""
    missing: tuple[str, ...] = ()


def explain(plan: Plan, notes: Notes) -> tuple[str, ...]:
    """Every decision of a plan, in the order in which a reader asks for it."""
    topology = Topology(plan.site)
    return (
        *_headline(plan),
        *_order(plan, topology),
        *_groups(plan),
        *_partition(plan, notes),
        *_schedule(plan, notes),
        *_memory(plan, topology),
        *_losers(plan),
        *(f"missing in the runtime for a faster plan: {line}" for line in notes.missing),
    )


def seconds_text(seconds: float) -> str:
    """Seconds with a unit that keeps three digits readable."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError


def bytes_text(bytes_: float) -> str:
    """Bytes in powers of 1000."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if bytes_ >= factor:
            return f"{bytes_ / factor:.3g} {unit}"
    return f"{bytes_:.0f} B"


CONTEXT = {
    "ring": "keys and values go round, softmax as they come (ring)",
    "rsa": "keys go round, then values, softmax over whole rows between (rsa)",
    "ulysses": "tokens are exchanged for heads and back (ulysses)",
}


def layout_text(plan: Plan) -> str:
    """`tp 1 x pp 2 x dp 2`; where stages differ, `pp 2 of tp 1 x dp 3, tp 2 x dp 1`."""
    layout = plan.layout
    if layout is None:
        each = (stage.layout for stage in plan.stages[: plan.pp])
        return f"pp {plan.pp} of " + ", ".join(f"tp {one.tp} x dp {one.dp}" for one in each)
    text = f"tp {layout.tp} x pp {layout.pp} x dp {layout.dp}"
    more = {"cp": layout.cp, "ep": layout.ep}
    return text + "".join(f" x {axis} {n}" for axis, n in more.items() if n > 1)


def shares_text(plan: Plan) -> str:
    """`2 samples x 3 replicas`, or the samples of each replica of each stage."""
    if plan.layout is not None:
        return f"{plan.batch.micro} samples x {plan.layout.dp} replicas"
    each = ("+".join(map(str, plan.samples(stage))) for stage in plan.stages[: plan.pp])
    return f"{plan.round_samples} samples, by stage " + " and ".join(each)


def _headline(plan: Plan) -> Iterable[str]:
    batch, predicted = plan.batch, plan.predicted
    yield (
        f"layout: {layout_text(plan)} on {plan.world_size} devices of site {plan.site.name}; "
        f"global batch {batch.global_} = {plan.schedule.microbatches} micro-batches x "
        + shares_text(plan)
    )
    yield (
        f"predicted: {seconds_text(predicted.step_seconds)} a step "
        f"({seconds_text(predicted.low)} to {seconds_text(predicted.high)}, {predicted.source}), "
        f"{predicted.samples_per_second:.3g} samples/s, "
        f"pipeline idle {predicted.bubble_fraction:.0%} of the time"
    )


def _order(plan: Plan, topology: Topology) -> Iterable[str]:
    ranks = ",".join(str(device) for device in plan.rank_map)
    if len(plan.rank_map) > 32:
        ranks = ",".join(str(device) for device in plan.rank_map[:16]) + ",..."
    yield f"rank order `{plan.order}`: logical rank i runs on device {ranks} (site order)"
    for label, places in _runs([_place(plan, stage, topology) for stage in plan.stages]):
        yield f"  {label} on cluster {places}"
    several = len(plan.site.clusters) > 1
    spread = [stage.stage for stage in plan.stages if "+" in stage.cluster]
    if spread and several:
        yield (
            f"  stages {_listed(spread)} span clusters, so their data groups use what "
            "both sides share"
        )
    if several and plan.order == "cluster" and plan.rank_map == tuple(range(plan.world_size)):
        yield (
            "  launch order equals cluster order here: transport, partition and overlap "
            "make the difference"
        )


def _place(plan: Plan, stage: Stage, topology: Topology) -> str:
    slots = [topology.devices[plan.rank_map[rank]] for rank in stage.ranks]
    nodes = list(dict.fromkeys(slot.node.name for slot in slots))
    shown = ", ".join(nodes) if len(nodes) <= 4 else f"{nodes[0]} to {nodes[-1]}"
    return f"{stage.cluster} ({shown})"


def _groups(plan: Plan) -> Iterable[str]:
    rule = {
        "per-group": "each group uses the fastest fabric that all its members share",
        "common": "one fabric for all groups, the one every node has",
    }[plan.transport]
    yield f"transport `{plan.transport}`: {rule}"
    alike: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in plan.groups:
        alike[group.axis, group.transport.name].append(group)
    for (axis, transport), groups in alike.items():
        if len(groups) > MOST_GROUPS:
            total = sum(group.bytes_per_step for group in groups)
            yield f"  {len(groups)} {axis} groups: {transport}, {bytes_text(total)} a step in all"
            continue
        for group in groups:
            names = sorted({name for names in group.interfaces.values() for name in names})
            via = f" via {', '.join(names)}" if names else ""
            yield (
                f"  {group.name} (ranks {_listed(group.ranks)}): {transport}{via}, "
                f"{bytes_text(group.bytes_per_step)} a step"
            )
    kinds = ", ".join(
        f"{bytes_text(count)} on {kind}" for kind, count in plan.predicted.bytes_per_step.items()
    )
    if kinds:
        yield f"  sent between nodes per step: {kinds}"


def _partition(plan: Plan, notes: Notes) -> Iterable[str]:
    yield f"partition `{plan.partition}`" + (f": {notes.partition}" if notes.partition else "")
    lines = [_held(plan, stage, notes) for stage in plan.stages]
    for label, line in _runs(lines):
        each = " each" if label.startswith("stages") else ""
        yield f"  {label}: {line}{each}"


def _held(plan: Plan, stage: Stage, notes: Notes) -> str:
    kinds = [block.kind for block in plan.workload.blocks[slice(*stage.blocks)]]
    layers = kinds.count("transformer")
    held = [f"{layers} transformer block{'s' if layers > 1 else ''}"] if layers else []
    held += [f"the {kind}" for kind in kinds if kind != "transformer"]
    line = " + ".join(held)
    if notes.stage_seconds:
        line += f", {seconds_text(notes.stage_seconds[stage.stage])} a micro-batch"
    if notes.exposed_seconds and notes.exposed_seconds[stage.stage] > 0:
        line += f", {seconds_text(notes.exposed_seconds[stage.stage])} of exchange exposed"
    return line


def _schedule(plan: Plan, notes: Notes) -> Iterable[str]:
    choice = plan.schedule
    yield f"schedule {choice.name}, {choice.microbatches} micro-batches, recompute {plan.recompute}"
    if choice.virtual_stages > 1:
        yield (
            f"  {choice.virtual_stages} stages per rank: rank 0 of the pipeline holds stages "
            f"{_listed(range(0, len(plan.stages), plan.pp))}"
        )
    if plan.pp > 1 and choice.name in WITH_WARMUP:
        extras = choice.extra_warmup_per_cut or (choice.extra_warmup,) * (plan.pp - 1)
        yield f"  extra warm-up {_listed(extras)}" + (f": {notes.warmup}" if notes.warmup else "")
    if plan.context > 1:
        yield (
            f"  attention over {plan.context} context ranks: {CONTEXT[plan.context_algorithm]}; "
            f"{plan.tokens_held} of {plan.workload.sequence} tokens each"
        )
    if plan.expert > 1:
        yield (
            f"  experts over {plan.expert} of {plan.stages[0].layout.replicas} replicas: "
            f"{plan.workload.experts // plan.expert} of {plan.workload.experts} each, tokens go to "
            "them and back (all-to-all), as many to every expert as to every other"
        )
    if plan.pp > 1 and any(stage.layout.tp > 1 for stage in plan.stages):
        passes = "its own tokens" if plan.scatter_gather else "all tokens, gathered in its node"
        yield f"  scatter/gather: each tensor rank passes {passes} on over its own card"
    if plan.tensor_chunks > 1:
        yield (
            f"  overlap: tensor collectives in {plan.tensor_chunks} chunks of tokens, each beside "
            "the product of another, the last sums beside the gradients of weights"
        )
    elif any(stage.layout.tp > 1 for stage in plan.stages):
        yield "  no overlap inside blocks: tensor collectives and products take turns"
    if any(group.axis == "data" for group in plan.groups):
        if plan.overlap:
            yield (
                "  overlap: gradient buckets are reduced while backward still runs, "
                "parameters gathered under the next forward"
            )
        else:
            yield "  no overlap: gradients are exchanged after the last backward"
        yield f"  sharding: {plan.sharding}"
        for what, bits in zip(("weights", "gradients"), BITS[plan.quantize], strict=True):
            if bits is not None:
                yield (
                    f"  {what} travel as INT{bits}: no element is off by more than "
                    f"{error_bound(bits):.2%} of the largest of its block"
                )


def _memory(plan: Plan, topology: Topology) -> Iterable[str]:
    memory = plan.predicted.memory_bytes
    if memory:
        rank = max(memory, key=lambda key: memory[key])
        node = topology.devices[plan.rank_map[rank]].node.name
        yield f"memory: at most {bytes_text(memory[rank])} (rank {rank} on {node})"


def _losers(plan: Plan) -> Iterable[str]:
    search = plan.search
    if search.enumerated > 1:
        yield (
            f"searched {search.enumerated} candidates: {search.pruned} ruled out early, "
            f"{search.feasible} fit, {search.evaluated} predictions, "
            f"{search.cpu_seconds:.2f} CPU-seconds"
        )
    for loser in plan.rejected:
        yield f"  rejected {loser.layout}: {loser.reason}"


def _runs(texts: Sequence[str]) -> Iterable[tuple[str, str]]:
    """(`stage 3` or `stages 3 to 5`, text) for each run of equal texts."""
    for text, run in groupby(enumerate(texts), key=lambda item: item[1]):
        indices = [index for index, _ in run]
        first, last = indices[0], indices[-1]
        yield (f"stage {first}" if first == last else f"stages {first} to {last}"), text


def _listed(values: Sequence[int]) -> str:
    if len(values) > 16:
        return ", ".join(str(value) for value in values[:8]) + f", ... ({len(values)})"
    return ", ".join(str(value) for value in values)
