"""The cost model of one choice: base block times plus what its axes add per micro-batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from holmes.cost.axes import Split, split_workload
from holmes.cost.calibration import BlockTime
from holmes.cost.context import context_cost, shared_calibration
from holmes.cost.experts import exchange_seconds
from holmes.cost.model import CostModel
from holmes.cost.split import weight_seconds
from holmes.hardware.topology import DeviceSlot
from holmes.plan.layout import ContextAlgorithm, Recompute
from holmes.plan.plan import Plan, Stage
from holmes.planner.ground import Exchange, Ground
from holmes.planner.levels import Level
from holmes.workload.workload import Workload


@dataclass(frozen=True, kw_only=True)
class SplitCost(CostModel):
    """Costs of a workload as one context rank and one expert rank sees it.

    Attributes:
        context: the context degree; the workload is already divided by it, ``whole`` is not.
        algorithm: how attention runs over the context ranks.
        sequence: whether tensor ranks divide norms and activations too.
        rings, exchanges: per pipeline rank, its context ring and what its replicas gather and
            reduce for every micro-batch; empty where blocks do not pay for them.
        tokens: per pipeline rank, the all-to-all among its expert ranks; empty without.
        priced: the pipeline rank whose blocks are priced.
    """

    whole: Workload
    context: int = 1
    algorithm: ContextAlgorithm = "ring"
    sequence: bool = False
    rings: tuple[Exchange, ...] = ()
    exchanges: tuple[Level, ...] = ()
    tokens: tuple[Exchange, ...] = ()
    priced: int = 0

    def at(self, pipeline_rank: int) -> SplitCost:
        """The same for the blocks of another pipeline rank."""
        if pipeline_rank not in self._ranks:
            self._ranks[pipeline_rank] = replace(self, priced=pipeline_rank)
        return self._ranks[pipeline_rank]

    def stage_time(
        self,
        plan: Plan,
        stage: Stage,
        blocks: tuple[int, int],
        rank: int,
        *,
        listed: bool = False,
    ) -> BlockTime:
        """Seconds of some blocks of a stage, with the ring and the gathers of its ranks.

        Args:
            plan: one whose context ranks are replicas (:attr:`holmes.planner.draft.Draft.priced`):
                with a context axis of its own the blocks would be divided twice.
        """
        assert plan.context == 1
        pipeline_rank = stage.stage % plan.pp
        if pipeline_rank != self.priced:
            other = self.at(pipeline_rank)
            return other.stage_time(plan, stage, blocks, rank, listed=listed)
        return super().stage_time(plan, stage, blocks, rank, listed=listed)

    def _split(self, plan: Plan) -> Split:
        """Nothing: the workload is divided already."""
        return Split()

    @cached_property
    def _ranks(self) -> dict[int, SplitCost]:
        return {}

    @cached_property
    def _whole(self) -> dict[tuple[object, ...], BlockTime]:
        return {}

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
        """Seconds of one block for one micro-batch, its ring and its gathers included."""
        key = (block_index, id(slot.node.group), micro, tp, recompute)
        if key not in self._whole:
            self._whole[key] = self._added(block_index, slot, micro, tp, recompute)
        return self._whole[key]

    def weight_seconds(
        self, blocks: tuple[int, int], slot: DeviceSlot, micro: int, tp: int = 1
    ) -> float:
        """Seconds of the weights' gradients: no ring and no gather is for them."""
        return sum(
            weight_seconds(self.workload.blocks[i], self._plain(i, slot, micro, tp, "none"))
            for i in range(*blocks)
        )

    def _plain(
        self, index: int, slot: DeviceSlot, micro: int, tp: int, recompute: Recompute
    ) -> BlockTime:
        return super().block_time(
            index, slot, micro, tp, recompute, sequence_parallel=self.sequence
        )

    def _added(
        self, index: int, slot: DeviceSlot, micro: int, tp: int, recompute: Recompute
    ) -> BlockTime:
        time = self._plain(index, slot, micro, tp, recompute)
        forward, backward = time.forward, time.backward
        block = self.workload.blocks[index]
        ring_of = self.rings[self.priced] if self.rings else None
        if ring_of is not None and block.kind == "transformer":
            plain = self._plain(index, slot, micro, tp, "none")
            selective = self._plain(index, slot, micro, tp, "selective")
            ring = context_cost(self.whole.blocks[index], self.algorithm, tp, self.context)
            attention = selective.backward - plain.backward
            added = ring.added(micro, lambda n: ring_of.seconds(n, 1), attention, recompute)
            forward, backward = forward + added.forward, backward + added.backward
        if self.tokens:
            moved = exchange_seconds(
                self.whole.blocks[index],
                micro,
                self.context,
                lambda n: self.tokens[self.priced].seconds(n, 1),
                recompute,
            )
            forward, backward = forward + moved[0], backward + moved[1]
        if self.exchanges:
            level = self.exchanges[self.priced]
            experts = 0 if level.experts is None else block.expert_parameters
            least = level.floors(block.parameters - experts, self.workload, experts)
            forward, backward = max(forward, least[0]), max(backward, least[1])
        return replace(time, forward=forward, backward=backward)


def split_cost(
    ground: Ground,
    sequence: bool,
    algorithm: ContextAlgorithm = "ring",
    exchanges: tuple[Level, ...] = (),
) -> CostModel:
    """The cost model of a layout with this much split; the base one where nothing is."""
    base, context, expert = ground.cost, ground.layout.cp, ground.layout.ep
    rings = ground.rings if context > 1 else ()
    tokens = ground.tokens if expert > 1 else ()
    gathered = any(any(level.times) for level in exchanges)
    if not sequence and not rings and not gathered and not tokens:
        return base
    return SplitCost(
        topology=base.topology,
        workload=split_workload(base.workload, Split(context, sequence, expert)),
        calibration=shared_calibration(base.calibration, context),
        rates=base.rates,
        execution=base.execution,
        whole=base.workload,
        context=context,
        algorithm=algorithm,
        sequence=sequence,
        rings=rings,
        exchanges=exchanges if gathered else (),
        tokens=tokens,
    )
