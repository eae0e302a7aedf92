"""All process groups of a plan: members, transport, interfaces, bytes per step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from holmes.hardware.topology import Node, Topology
from holmes.plan.boundary import parts_between, passed_bytes
from holmes.plan.layout import TransportRule
from holmes.plan.plan import Axis, Group, Plan, Transport
from holmes.plan.program import TIED_GROUP
from holmes.plan.sharding import expert_base, shard_groups
from holmes.planner.transport import choose_transport, distinct, interfaces
from holmes.schedule.instruction import COLLECTIVE_OPS, Op
from holmes.schedule.lower import WORLD_GROUP, Program
from holmes.workload.workload import Collective


@dataclass(frozen=True)
class Membership:
    """A group before its transport is chosen."""

    name: str
    axis: Axis
    ranks: tuple[int, ...]


def memberships(plan: Plan) -> tuple[Membership, ...]:
    """Every group of a plan, in the order in which all ranks open them."""
    return (*_inside_stages(plan), *_across_cuts(plan))


def _inside_stages(plan: Plan) -> Iterable[Membership]:
    """World, tensor, context, expert and data groups. The virtual stages of a device share them."""
    yield Membership(WORLD_GROUP, "world", tuple(range(plan.world_size)))
    held = [(stage, stage.layout) for stage in plan.stages[: plan.pp]]
    for stage, layout in held:
        for ranks in _runs(stage.ranks, layout.tp):
            if layout.tp > 1:
                yield Membership(f"tensor.{ranks[0]}", "tensor", ranks)
    for stage, layout in held:
        if layout.cp == 1:
            continue
        for block in _runs(stage.ranks, layout.tp * layout.cp):
            for tensor in range(layout.tp):
                ranks = block[tensor :: layout.tp]
                yield Membership(f"context.{ranks[0]}", "context", ranks)
    for stage, layout in held:
        if layout.ep == 1:
            continue
        for block in _runs(stage.ranks, layout.tp * layout.ep):
            for tensor in range(layout.tp):
                ranks = block[tensor :: layout.tp]
                yield Membership(f"expert.{ranks[0]}", "expert", ranks)
    for stage, layout in held:
        for tensor in range(layout.tp):
            ranks = stage.ranks[tensor :: layout.tp]
            name = f"data.s{stage.stage}" + (f".t{tensor}" if layout.tp > 1 else "")
            for inside, places in shard_groups(layout, plan.sharding, name).items():
                yield Membership(inside, "data", tuple(ranks[i] for i in places))
            for which in range(layout.ep) if layout.ep > 1 else ():
                alike, base = ranks[which :: layout.ep], expert_base(name, which)
                shared = shard_groups(layout.of_experts, plan.sharding, base)
                for inside, places in shared.items():
                    yield Membership(inside, "data", tuple(alike[i] for i in places))


def _across_cuts(plan: Plan) -> Iterable[Membership]:
    """Pairs of ranks at cuts, and groups of a weight that two stages share."""
    # One more than the ranks: with several stages a rank, the last feeds the first again.
    for above in range(min(plan.pp, len(plan.stages) - 1)):
        outputs, _ = parts_between(plan, above)
        for rank, parts in zip(plan.stages[above].ranks, outputs, strict=True):
            for part in parts:
                other = part.slices[0].rank
                yield Membership(part.group, "pipeline", (min(rank, other), max(rank, other)))
    ties = [stage for stage in plan.stages if any(bucket.tied for bucket in stage.buckets)]
    if not ties:
        return
    if plan.layout is None:
        yield Membership(
            TIED_GROUP, "tied", tuple(sorted(r for stage in ties for r in stage.ranks))
        )
        return
    for position, ends in enumerate(zip(*(stage.ranks for stage in ties), strict=True)):
        if len(ends) > 1:
            yield Membership(f"{TIED_GROUP}.{position}", "tied", ends)


def _runs(ranks: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(ranks[first : first + size]) for first in range(0, len(ranks), size)]


def open_groups(
    found: Iterable[Membership],
    rank_map: Sequence[int],
    topology: Topology,
    rule: TransportRule,
) -> tuple[Group, ...]:
    """The groups with their transport; bytes are filled in by :func:`with_bytes`.

    Raises:
        ConfigError: when no network joins the members of a group.
    """
    chosen: dict[tuple[int, ...], tuple[Transport, dict[str, tuple[str, ...]]]] = {}
    groups: list[Group] = []
    for member in found:
        nodes = distinct(nodes_of(member.ranks, rank_map, topology))
        key = tuple(node.index for node in nodes)
        if key not in chosen:
            transport = choose_transport(nodes, topology, rule)
            chosen[key] = (transport, interfaces(nodes, transport))
        transport, names = chosen[key]
        groups.append(Group(member.name, member.axis, member.ranks, transport, names, 0))
    return tuple(groups)


def with_bytes(groups: Sequence[Group], program: Program, plan: Plan) -> tuple[Group, ...]:
    """The groups with the payload that all their members send per step, read off
    the instruction lists; groups whose work is inside the blocks, from the workload.

    A reduce-scatter or all-gather of S bytes over n members sends (n-1) S in all,
    an all-reduce 2 (n-1) S, a transfer its bytes.
    """
    sent: Counter[str] = Counter()
    size = {group.name: len(group.ranks) for group in groups}
    first = {group.name: group.ranks[0] for group in groups}
    for rank, instructions in enumerate(program.ranks):
        for ins in instructions:
            if ins.group is None or ins.group not in size:
                continue
            if ins.op is Op.SEND:
                sent[ins.group] += ins.bytes
            elif ins.op in COLLECTIVE_OPS and first[ins.group] == rank:
                rounds = 2 if ins.op is Op.ALL_REDUCE else 1
                sent[ins.group] += rounds * (size[ins.group] - 1) * ins.bytes
    for group in groups:
        if group.axis in INSIDE_BLOCKS:
            sent[group.name] = INSIDE_BLOCKS[group.axis](group, plan)
    return tuple(replace(group, bytes_per_step=sent[group.name]) for group in groups)


def bytes_by_nic(groups: Sequence[Group], plan: Plan, topology: Topology) -> dict[str, int]:
    """Payload per step and NIC kind, summed over the nodes: what the counters should read.

    Members of a group that share a node exchange their part without a NIC. In
    direct exchanges every pair of members carries the same; in a ring every hop does.
    """
    total: Counter[str] = Counter()
    for group in groups:
        if group.transport.fabric is None:
            continue
        places = [node.index for node in nodes_of(group.ranks, plan.rank_map, topology)]
        members = len(places)
        exchanged = group.axis == "context" and plan.context_algorithm == "ulysses"
        if group.axis in ("data", "expert") or exchanged:
            pairs = members**2 - sum(count**2 for count in Counter(places).values())
            share = pairs / (members * (members - 1))
        else:
            share = sum(places[i - 1] != places[i] for i in range(members)) / members
        total[group.transport.name] += round(group.bytes_per_step * share)
    return dict(sorted(total.items()))


def nodes_of(ranks: Sequence[int], rank_map: Sequence[int], topology: Topology) -> list[Node]:
    """The node of each member, in rank order."""
    return [topology.devices[rank_map[rank]].node for rank in ranks]


def tensor_bytes(group: Group, plan: Plan) -> int:
    """Collectives inside the blocks of one tensor group over a step, and the sum of the
    gradients of what several of its ranks hold.

    With its tokens split, an all-reduce is a reduce-scatter one way and an all-gather the
    other; a recomputed block runs its forward ones twice.
    """
    stages = [stage for stage in plan.stages if group.ranks[0] in stage.ranks]
    layout = stages[0].layout
    blocks = [b for stage in stages for b in plan.workload.blocks[slice(*stage.blocks)]]
    forwards = 2 if plan.recompute == "full" else 1
    sent = 0.0
    for part in (part for block in blocks for part in block.inner):
        if isinstance(part, Collective) and part.axis == "tensor":
            rounds = forwards + 1 if part.tokens else 2 * forwards
            sent += rounds * (len(group.ranks) - 1) * part.bytes_
    first, last = plan.samples_of(group.ranks[0])
    if not plan.scatter_gather:
        sent += (len(group.ranks) - 1) * sum(passed_bytes(plan, stage) for stage in stages)
    sent *= plan.tokens_held / plan.workload.sequence
    sent *= (last - first) * plan.schedule.microbatches
    shared = sum(plan.workload.shared_parameters(block, len(group.ranks)) for block in blocks)
    gradients = shared * plan.workload.gradient_bytes / layout.replicas
    return round(sent + 2 * (len(group.ranks) - 1) * gradients)


def context_bytes(group: Group, plan: Plan) -> int:
    """Rings or exchanges inside the attention of one context group over a step: what rank r
    sends of a tensor of S/N tokens goes over N - 1 hops, padding included."""
    sent = 0.0
    for stage in plan.stages:
        if group.ranks[0] not in stage.ranks:
            continue
        for block in plan.workload.blocks[slice(*stage.blocks)]:
            for part in block.context_program(plan.context_algorithm, plan.tensor, plan.context):
                sent += part.runs(plan.recompute) * part.sent_bytes(plan.context, cp=plan.context)
    return round(sent * plan.padding * plan.context * plan.batch.micro * plan.schedule.microbatches)


def expert_bytes(group: Group, plan: Plan) -> int:
    """Tokens of one expert group over a step: to their experts and back, forward and
    backward, of which (n-1)/n leave each of the n ranks where all experts take as many.

    Per layer and micro-batch a rank sends 4 x top_k x tokens x hidden x width x (n-1)/n, of its
    context rank's share of a sample; what pads this goes to no expert.
    """
    sent = 0.0
    for stage in plan.stages:
        if group.ranks[0] not in stage.ranks:
            continue
        for block in plan.workload.blocks[slice(*stage.blocks)]:
            for part, times in block.expert_program(plan.recompute):
                sent += times * part.sent_bytes(plan.expert, plan.tensor, plan.context)
    return round(sent * len(group.ranks) * plan.batch.micro * plan.schedule.microbatches)


INSIDE_BLOCKS = {"tensor": tensor_bytes, "context": context_bytes, "expert": expert_bytes}
"""Payload of the groups that work inside blocks."""
