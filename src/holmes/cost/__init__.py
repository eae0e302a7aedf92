"""Seconds of compute and network, bytes of memory; see docs/architecture.md."""

from holmes.cost.calibration import DEFAULT, LAB, BlockTime, Calibration
from holmes.cost.memory import memory_bytes, stage_memory
from holmes.cost.model import CostModel
from holmes.cost.network import Flow, Network, Rates, Traffic

__all__ = [
    "DEFAULT",
    "LAB",
    "BlockTime",
    "Calibration",
    "CostModel",
    "Flow",
    "Network",
    "Rates",
    "Traffic",
    "memory_bytes",
    "stage_memory",
]
