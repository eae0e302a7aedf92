"""Measured steps: barrier to barrier, the maximum over ranks, with the bytes of every NIC kind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from holmes.hardware.site import Fabric
from holmes.hardware.topology import DeviceSlot
from holmes.runtime import collectives
from holmes.runtime.groups import Groups
from holmes.runtime.monitor.counters import sent_by_fabric
from holmes.runtime.pipeline.interpreter import StepResult

FABRICS = tuple(Fabric)


@dataclass(frozen=True)
class MeasuredStep:
    """One step as all ranks together saw it; the same values on every rank.

    ``bytes_`` is sent per NIC kind, summed over nodes; empty where nothing counts it.
    ``stop``: a rank was asked to stop, so all of them do after this step.
    """

    result: StepResult
    seconds: float
    bytes_: dict[str, int]
    stop: bool = False


class Stopwatch:
    """Times steps and reads the byte counters around them.

    Where several ranks share a node, the one on its first device counts for all.

    Args:
        asked: whether this rank was asked to stop.
    """

    def __init__(self, groups: Groups, slot: DeviceSlot, asked: Callable[[], bool]) -> None:
        self._groups = groups
        self._slot = slot
        self._asked = asked

    def measure(self, step: Callable[[], StepResult]) -> MeasuredStep:
        """Run one step between two barriers."""
        self._groups.barrier()
        before = self._sent()
        start = time.perf_counter()
        result = step()
        self._groups.barrier()
        seconds = time.perf_counter() - start
        sent = self._sent() - before
        longest, stop = self._groups.maximum(seconds, float(self._asked()))
        if self._groups.world_size > 1:
            collectives.all_reduce(self._groups["world"], sent)
        by_kind = {
            fabric.value: int(count)
            for fabric, count in zip(FABRICS, sent.tolist(), strict=True)
            if count
        }
        return MeasuredStep(result, longest, by_kind, stop > 0)

    def _sent(self) -> torch.Tensor:
        sent = torch.zeros(len(FABRICS), dtype=torch.float64, device=self._groups.device)
        if self._slot.local_index == 0:
            for fabric, count in sent_by_fabric(self._slot.node).items():
                sent[FABRICS.index(fabric)] = count
        return sent
