"""The Plan and the values it is made of. A Plan says everything the runtime does."""

from holmes.plan.layout import Layout, Order, Overlap, PartitionRule, Sharding, TransportRule
from holmes.plan.plan import (
    Group,
    Plan,
    Predicted,
    Rejected,
    ScheduleChoice,
    SearchSummary,
    Stage,
    Transport,
)

__all__ = [
    "Group",
    "Layout",
    "Order",
    "Overlap",
    "PartitionRule",
    "Plan",
    "Predicted",
    "Rejected",
    "ScheduleChoice",
    "SearchSummary",
    "Sharding",
    "Stage",
    "Transport",
    "TransportRule",
]
