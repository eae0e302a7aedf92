"""CostModel: one door to seconds of compute and of network for a site and a workload."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from holmes.cost.axes import Split, split_workload
from holmes.cost.calibration import BlockTime, Calibration
from holmes.cost.compute import block_modes, optimizer_seconds
from holmes.cost.context import context_cost, shared_calibration
from holmes.cost.execution import PLAIN, Execution, TensorLink
from holmes.cost.experts import exchange_seconds
from holmes.cost.network import GBIT, Network, Rates
from holmes.cost.software import StageExtras, stage_extras
from holmes.cost.split import weight_seconds
from holmes.hardware.catalogue import DeviceKind, resolve
from holmes.hardware.topology import DeviceSlot, Topology
from holmes.plan.layout import Recompute
from holmes.plan.plan import Plan, Stage
from holmes.schedule.generate import FORMS
from holmes.schedule.instruction import Instruction, Op
from holmes.workload.workload import Workload


@dataclass(frozen=True)
class CostModel:
    """Costs of one workload on one site under one calibration.

    ``rates`` replaces the site's NIC and link rates (see
    :data:`holmes.cost.network.Rates`), as a rehearsal does. ``execution`` is how the
    training software runs a block; its ``width`` comes from the workload.
    """

    topology: Topology
    workload: Workload
    calibration: Calibration
    rates: Rates | None = None
    execution: Execution = field(default=PLAIN, kw_only=True)

    @cached_property
    def _times(self) -> dict[tuple[object, ...], dict[Recompute, BlockTime]]:
        return {}

    @cached_property
    def _networks(self) -> dict[tuple[int, ...], Network]:
        return {}

    @cached_property
    def _kinds(self) -> dict[int, DeviceKind]:
        """Resolved device entries by node index."""
        return {}

    def device(self, slot: DeviceSlot) -> DeviceKind:
        """Figures of the device in a slot, the site's own entries applied."""
        if slot.node.index not in self._kinds:
            self._kinds[slot.node.index] = resolve(slot.node.device)
        return self._kinds[slot.node.index]

    def block_time(
        self,
        block_index: int,
        slot: DeviceSlot,
        micro: int,
        tp: int = 1,
        recompute: Recompute = "none",
        *,
        sequence_parallel: bool | None = None,
    ) -> BlockTime:
        """Seconds of one block for one micro-batch of ``micro`` samples on a device.

        Args:
            sequence_parallel: wins over the one of ``execution``.

        Raises:
            ConfigError: the catalogue lacks a figure that is needed.
        """
        block = self.workload.blocks[block_index]
        # Equal blocks share their inner program, and nodes of a group their devices.
        key = (
            block.kind,
            id(block.inner),
            id(slot.node.group),
            micro,
            tp,
            sequence_parallel,
        )
        found = self._times.get(key)
        if found is None:
            how = self._how(slot, tp, sequence_parallel)
            kind = self.device(slot)
            found = block_modes(block, kind, self.calibration, micro, tp, how)
            self._times[key] = found
        return found[recompute]

    def _how(self, slot: DeviceSlot, tp: int, sequence_parallel: bool | None) -> Execution:
        how = replace(self.execution, width=self.workload.compute_bytes)
        if sequence_parallel is not None:
            how = replace(how, sequence_parallel=sequence_parallel)
        if tp > slot.node.device.count:
            how = replace(how, tensor_link=self._between_nodes(slot))
        return how

    def _between_nodes(self, slot: DeviceSlot) -> TensorLink:
        """A tensor group that leaves its node: a ring over all fast cards of the node."""
        rates = {nic.kind: nic.total_gbit_s for nic in slot.node.group.nics}
        given = self.rates or {}
        rates |= {kind: given.get((slot.node.index, kind), rate) for kind, rate in rates.items()}
        kind = max(rates, key=lambda kind: rates[kind])
        link = self.calibration.link(kind.value)
        rate = link.bytes_per_second(rates[kind] * GBIT, slot.node.device.count)
        direct = self.calibration.collectives == "direct"
        return TensorLink(rate, link.latency_seconds, link.step_seconds, direct=direct)

    def blocks_time(
        self,
        blocks: tuple[int, int],
        slot: DeviceSlot,
        micro: int,
        tp: int = 1,
        recompute: Recompute = "none",
    ) -> BlockTime:
        """Seconds of a half-open range of blocks."""
        total = BlockTime(0.0, 0.0)
        for index in range(*blocks):
            total += self.block_time(index, slot, micro, tp, recompute)
        return total

    def weight_seconds(
        self, blocks: tuple[int, int], slot: DeviceSlot, micro: int, tp: int = 1
    ) -> float:
        """Seconds of the weights' gradients in the backward of a range of blocks."""
        return sum(
            weight_seconds(self.workload.blocks[i], self.block_time(i, slot, micro, tp))
            for i in range(*blocks)
        )

    def optimizer_seconds(self, elements: float, slot: DeviceSlot) -> float:
        """Seconds of a step over ``elements`` parameters on a device.

        The analytic form reads gradient, parameter and states, and writes all but
        the gradient.
        """
        w = self.workload
        moved = w.gradient_bytes + 2 * (w.parameter_bytes + w.optimizer_bytes)
        return optimizer_seconds(elements, moved, self.device(slot), self.calibration)

    def network(self, rank_map: tuple[int, ...]) -> Network:
        """The network as the logical ranks of a placement see it."""
        if rank_map not in self._networks:
            self._networks[rank_map] = Network(
                self.topology, rank_map, self.calibration, self.rates
            )
        return self._networks[rank_map]

    def stage_time(
        self,
        plan: Plan,
        stage: Stage,
        blocks: tuple[int, int],
        rank: int,
        *,
        listed: bool = False,
    ) -> BlockTime:
        """Seconds of some blocks of a stage for one micro-batch of a plan, on a rank of it,
        with what the software adds (see :mod:`holmes.cost.software`).

        Args:
            listed: exchanges of every micro-batch are instructions beside this one.
        """
        slot, micro = self.topology.devices[plan.rank_map[rank]], micro_of(plan, stage, rank)
        tp, shared, split = stage.layout.tp, self._shared(plan), self._split(plan)
        time = shared.blocks_time(blocks, slot, micro, tp, plan.recompute)
        for index in range(*blocks) if split.context > 1 else ():
            time += self._in_context(plan, stage, index, slot)
        for index in range(*blocks) if split.expert > 1 else ():
            time += self._among_experts(plan, stage, index)
        if FORMS[plan.schedule.name].splits_backward:
            time = time.in_parts()
        known = self._extras.get(stage.stage)
        if known is None or known[0] is not plan:
            extras = stage_extras(plan, self.network(plan.rank_map), stage)
            known = self._extras[stage.stage] = (plan, extras)
        return known[1].added(time, blocks, stage.blocks, listed=listed)

    def _split(self, plan: Plan) -> Split:
        """How a plan splits the workload of this model."""
        return Split(plan.context, expert=plan.expert)

    def _shared(self, plan: Plan) -> CostModel:
        """Prices of the workload as one of the plan's context and expert ranks computes it, with
        its tensor collectives in as many chunks as the plan says."""
        split, chunks = self._split(plan), plan.tensor_chunks
        if split == Split() and chunks == self.execution.chunks:
            return self
        if (split, chunks) not in self._by_split:
            self._by_split[split, chunks] = replace(
                self,
                workload=split_workload(self.workload, split),
                calibration=shared_calibration(self.calibration, split.context),
                execution=replace(self.execution, chunks=chunks),
            )
        return self._by_split[split, chunks]

    def _among_experts(self, plan: Plan, stage: Stage, index: int) -> BlockTime:
        """What a block's tokens take to their experts and back, in all groups of the stage at
        once."""
        network = self.network(plan.rank_map)
        mine = [g for g in plan.groups if g.axis == "expert" and g.ranks[0] in stage.ranks]

        def seconds(bytes_: float) -> float:
            each = [network.all_to_all(g.ranks, bytes_, g.transport.fabric) for g in mine]
            return network.together(each).seconds

        block, micro = self.workload.blocks[index], plan.batch.micro
        return BlockTime(*exchange_seconds(block, micro, plan.context, seconds, plan.recompute))

    def _in_context(self, plan: Plan, stage: Stage, index: int, slot: DeviceSlot) -> BlockTime:
        """What a block's rings or exchanges add, those of all groups of the stage at once."""
        micro, tp, shared = plan.batch.micro, stage.layout.tp, self._shared(plan)
        plain = shared.block_time(index, slot, micro, tp, "none")
        again = shared.block_time(index, slot, micro, tp, "selective")
        network = self.network(plan.rank_map)
        mine = [g for g in plan.groups if g.axis == "context" and g.ranks[0] in stage.ranks]

        def seconds(payload: float) -> float:
            each = [
                network.collective(Op.ALL_GATHER, group.ranks, payload, group.transport.fabric)
                for group in mine
            ]
            return network.together(each).seconds

        block, attention = self.workload.blocks[index], again.backward - plain.backward
        moved = context_cost(block, plan.context_algorithm, tp, plan.context)
        return moved.added(micro, seconds, attention, plan.recompute)

    @cached_property
    def _by_split(self) -> dict[tuple[Split, int], CostModel]:
        """By split and chunks of tensor collectives."""
        return {}

    @cached_property
    def _extras(self) -> dict[int, tuple[Plan, StageExtras]]:
        """By stage, of the plan that was asked for last."""
        return {}

    def compute_seconds(self, plan: Plan, rank: int, instruction: Instruction) -> float:
        """Seconds of a compute instruction of a plan on a logical rank."""
        slot = self.topology.devices[plan.rank_map[rank]]
        stage = plan.stages[instruction.stage]
        tp = stage.layout.tp
        if instruction.op is Op.STEP:
            return self.optimizer_seconds(owned_elements(plan, rank), slot)
        time = self.stage_time(plan, stage, instruction.blocks, rank, listed=True)
        if instruction.op is Op.FORWARD:
            return time.forward
        if instruction.op is Op.BACKWARD:
            return time.backward
        shared, micro = self._shared(plan), micro_of(plan, stage, rank)
        weight = shared.weight_seconds(instruction.blocks, slot, micro, tp)
        return weight if instruction.op is Op.WEIGHT_GRADIENT else time.backward - weight


def micro_of(plan: Plan, stage: Stage, rank: int) -> int:
    """Samples of a micro-batch that a logical rank of a stage computes."""
    return stage.samples[stage.data_index(rank)] if stage.samples else plan.batch.micro


def owned_elements(plan: Plan, rank: int) -> float:
    """Parameters that a rank's optimiser steps over, all its stages together."""
    total = 0.0
    for stage in plan.stages:
        if rank in stage.ranks:
            layout, whole = stage.layout, plan.sharding == "none"
            elements = sum(bucket.elements for bucket in stage.buckets) / layout.tp
            total += elements / (1 if whole else layout.shards(plan.sharding).states)
            if layout.ep > 1:
                held = sum(bucket.expert_elements for bucket in stage.buckets) / layout.tp
                total += held / (1 if whole else layout.of_experts.shards(plan.sharding).states)
    return total
