"""Differences between two steps in the plan's words: which block, which link, whom it waits on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from holmes.events.chain import CauseKind, Difference
from holmes.events.order import Order
from holmes.hardware.topology import Topology
from holmes.plan import Plan
from holmes.schedule.instruction import Instruction

ShownKind = CauseKind | Literal["others"]
"""``others`` stands for several small causes in a picture."""
ORDER: tuple[ShownKind, ...] = (
    "compute",
    "transfer",
    "waiting",
    "bubble",
    "outside",
    "others",
)


@dataclass(frozen=True)
class Cause:
    """All differences of one cause at one place; nanoseconds.

    ``count`` instructions (or gaps) of the chain are in it.
    """

    cause: ShownKind
    where: str
    count: int
    before: int
    after: int

    @property
    def nanoseconds(self) -> int:
        return self.after - self.before

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "cause": self.cause,
            "where": self.where,
            "count": self.count,
            "seconds": self.nanoseconds * 1e-9,
            "nanoseconds": self.nanoseconds,
            "before_nanoseconds": self.before,
            "after_nanoseconds": self.after,
        }


@dataclass(frozen=True)
class Comparison:
    """Two steps and the causes of their difference, which ``causes`` add up to exactly.

    Times are nanoseconds; ``first`` and ``second`` say what the steps are.
    """

    first: str
    second: str
    before: int
    after: int
    causes: tuple[Cause, ...]
    notes: tuple[str, ...] = ()

    @property
    def nanoseconds(self) -> int:
        return self.after - self.before

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; the nanoseconds of ``causes`` add up to ``nanoseconds``."""
        return {
            "first": self.first,
            "second": self.second,
            "first_seconds": self.before * 1e-9,
            "second_seconds": self.after * 1e-9,
            "difference_seconds": self.nanoseconds * 1e-9,
            "nanoseconds": self.nanoseconds,
            "causes": [cause.to_dict() for cause in self.causes],
            "notes": list(self.notes),
        }


def causes(plan: Plan, order: Order, found: Iterable[Difference]) -> tuple[Cause, ...]:
    """Group differences by cause and place, largest first within each cause."""
    topology = Topology(plan.site)
    groups: dict[tuple[CauseKind, str], list[Difference]] = {}
    for one in found:
        groups.setdefault((one.cause, _where(plan, topology, order, one)), []).append(one)
    made = [
        Cause(cause, where, len(parts), sum(p.before for p in parts), sum(p.after for p in parts))
        for (cause, where), parts in groups.items()
    ]
    return ordered(made)


def ordered(made: Sequence[Cause]) -> tuple[Cause, ...]:
    """By kind of cause, then largest first."""
    return tuple(sorted(made, key=lambda c: (ORDER.index(c.cause), -abs(c.nanoseconds), c.where)))


def _where(plan: Plan, topology: Topology, order: Order, one: Difference) -> str:
    if one.cause == "outside":
        return "barrier and bookkeeping around the instructions"
    if one.cause == "bubble":
        return "idle time of the first step that absorbed a part"
    if one.id is None or one.rank is None:
        return "the end of the step"
    node = topology.devices[plan.rank_map[one.rank]].node.name
    if one.cause == "waiting":
        return f"on rank {one.rank} ({node})"
    ins = order.instructions[one.id]
    if one.cause == "compute":
        return f"{ins.op} of {_blocks(plan, ins)}, stage {ins.stage}"
    return _link(plan, topology, ins)


def _blocks(plan: Plan, ins: Instruction) -> str:
    if ins.op == "step":
        return "the optimiser"
    start, stop = ins.blocks
    first, last = plan.workload.blocks[start].name, plan.workload.blocks[stop - 1].name
    return first if first == last else f"{first} to {last}"


def _link(plan: Plan, topology: Topology, ins: Instruction) -> str:
    group = plan.group_by_name.get(ins.group or "")
    if group is None:
        return str(ins.group)
    nodes = list(dict.fromkeys(topology.devices[plan.rank_map[r]].node.name for r in group.ranks))
    among = f"{', '.join(nodes[:4])}{' …' if len(nodes) > 4 else ''}"
    what = {"data": str(ins.op).replace("_", "-"), "world": "norms", "tied": "tied weights"}
    down = "activations" if ins.lane.endswith(".down") else "gradients"
    return f"{group.transport.name}, {what.get(group.axis, down)}, {among}"
