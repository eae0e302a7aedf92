"""One plan whose stages have degrees of their own: devices, shares, cut, price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from holmes.cost.memory import memory_bytes
from holmes.cost.model import CostModel
from holmes.hardware.topology import DeviceSlot
from holmes.plan.boundary import split_samples
from holmes.plan.layout import Layout, Recompute, ScheduleName, Sharding
from holmes.plan.plan import Batch, Plan, ScheduleChoice, Stage
from holmes.planner.bare import Decided, bare_plan, stage_buckets
from holmes.planner.buckets import BUCKETS_PER_STAGE
from holmes.planner.draft import dealt
from holmes.planner.ground import device_bytes
from holmes.planner.partition import Borders, StageCosts, even, exact, proportional
from holmes.planner.placement import RankMap, cluster_of
from holmes.planner.request import PlanRequest
from holmes.planner.settings import Settings
from holmes.planner.transport import choose_transport
from holmes.planner.warmup import Extras
from holmes.schedule.instruction import Op

Mesh = tuple[int, int]
"""Tensor and data degree of one pipeline rank."""


@dataclass(frozen=True)
class MeshDraft:
    """Everything but the cut and the warm-up.

    Attributes:
        meshes: of each pipeline rank.
        samples: of a micro-batch on all replicas of a stage together.
    """

    request: PlanRequest
    settings: Settings
    cost: CostModel
    meshes: tuple[Mesh, ...]
    rank_map: RankMap
    samples: int
    schedule: ScheduleName
    virtual: int = 1
    recompute: Recompute = "none"

    def __str__(self) -> str:
        each = ", ".join(f"tp {tp} x dp {dp}" for tp, dp in self.meshes)
        return f"pp {len(self.meshes)} of {each}, {self.samples} samples at a time, {self.schedule}"

    @property
    def microbatches(self) -> int:
        return self.request.global_batch // self.samples

    @cached_property
    def ranks(self) -> tuple[tuple[int, ...], ...]:
        """Logical ranks of each pipeline rank."""
        found, first = [], 0
        for tp, dp in self.meshes:
            found.append(tuple(range(first, first + tp * dp)))
            first += tp * dp
        return tuple(found)

    def slots(self, stage: int) -> list[DeviceSlot]:
        """The devices of a pipeline rank."""
        devices = self.cost.topology.devices
        return [devices[self.rank_map[rank]] for rank in self.ranks[stage]]

    def plan(self, borders: Borders, extras: Extras) -> Plan:
        """The plan with this cut; no bytes, no digest, not priced."""
        same = len(set(self.meshes)) == 1
        layouts = [Layout(tp, len(self.meshes), dp) for tp, dp in self.meshes]
        most = max(dp for _, dp in self.meshes)
        decided = Decided(
            batch=Batch(self.request.global_batch, -(-self.samples // most)),
            layout=layouts[0] if same else None,
            sharding=self.sharding,
            recompute=self.recompute,
            rank_map=self.rank_map,
            stages=self._stages(borders, layouts),
            schedule=ScheduleChoice(
                self.schedule, self.microbatches, self.virtual, max(extras, default=0), "", extras
            ),
        )
        return bare_plan(decided, self.request, self.settings, self.cost.topology)

    @property
    def sharding(self) -> Sharding:
        """The first level that may be."""
        return self.settings.shardings[0]

    def _stages(self, borders: Borders, layouts: Sequence[Layout]) -> tuple[Stage, ...]:
        stages: list[Stage] = []
        pp = len(layouts)
        for index, blocks in enumerate(borders):
            rank = index % pp
            before = sum(len(stage.buckets) for stage in stages[rank::pp])
            stages.append(
                Stage(
                    index,
                    blocks,
                    layouts[rank],
                    self.ranks[rank],
                    cluster_of(self.slots(rank)),
                    stage_buckets(self.request, blocks, layouts[rank], self.sharding, before),
                    split_samples(self.samples, layouts[rank].dp),
                )
            )
        return tuple(stages)

    def fits(self, plan: Plan) -> bool:
        """Whether every rank fits its device."""
        devices = self.cost.topology.devices
        return all(
            bytes_ <= device_bytes(self.cost, devices[self.rank_map[rank]])
            for rank, bytes_ in memory_bytes(plan).items()
        )

    def borders(self) -> Borders:
        """The cut of the partition rule; memory is checked on the plan."""
        blocks, count = self.request.workload.blocks, len(self.meshes) * self.virtual
        if self.settings.partition == "even":
            return even(blocks, count)
        costs = self._costs
        if self.settings.partition == "exact":
            found = exact(costs)
            assert found is not None, "without bounds there is a cut"
            return dealt(found, self.virtual)
        whole = [costs.seconds(stage, 0, len(blocks)) for stage in range(costs.stages)]
        return proportional(blocks, [1.0 / max(one, 1e-9) for one in whole] * self.virtual)

    @cached_property
    def _costs(self) -> StageCosts:
        rows = [self._row(stage) for stage in range(len(self.meshes))]
        return StageCosts(
            forward=tuple(forward for forward, _ in rows),
            backward=tuple(backward for _, backward in rows),
            microbatches=self.microbatches,
            exposed=self._exposed,
            fits=lambda stage, start, stop: True,
        )

    def _row(self, stage: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Forward and backward of every block on the slowest device with the most samples."""
        tp, dp = self.meshes[stage]
        most = max(split_samples(self.samples, dp))
        kinds = {id(slot.node.group): slot for slot in self.slots(stage)}.values()
        each = [
            [self.cost.block_time(i, slot, most, tp, self.recompute) for slot in kinds]
            for i in range(len(self.request.workload.blocks))
        ]
        return (
            tuple(max(time.forward for time in times) for times in each),
            tuple(max(time.backward for time in times) for times in each),
        )

    def _exposed(self, stage: int, start: int, stop: int) -> float:
        """Seconds of a stage's gradient exchange that nothing hides, about."""
        tp, dp = self.meshes[stage]
        if dp == 1:
            return 0.0
        workload = self.request.workload
        elements = sum(block.parameters for block in workload.blocks[start:stop]) / tp
        nodes = tuple({s.node.index: s.node for s in self.slots(stage)}.values())
        fabric = choose_transport(nodes, self.cost.topology, self.settings.transport).fabric
        network = self.cost.network(self.rank_map)
        bytes_ = elements * (workload.gradient_bytes + workload.parameter_bytes)
        members = self.ranks[stage][::tp]
        seconds = network.collective(Op.REDUCE_SCATTER, members, bytes_, fabric).seconds
        buckets = min(BUCKETS_PER_STAGE, stop - start)
        if not self.settings.overlap:
            return seconds
        hidden = self._costs.seconds(stage, start, stop) * (buckets - 1) / buckets
        return max(seconds - hidden, seconds / buckets)
