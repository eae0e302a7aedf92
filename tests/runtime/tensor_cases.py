"""What tensor ranks run in tests."""

from __future__ import annotations

from functools import partial
from typing import Any

from holmes.launch.context import RankContext
from holmes.runtime import collectives
from holmes.runtime.communicator import Communicator
from tests.runtime.cases import build, join, replica_of, spec_of
from tests.runtime.reference import batch_of


def count_tensor_bytes(context: RankContext, spec: dict[str, Any]) -> dict[str, Any]:
    """Bytes that this rank hands to its tensor group's collectives in one step, by operation."""
    wanted = spec_of(spec)
    groups = join(context, wanted)
    engine = build(wanted, groups)
    replica = replica_of(wanted, context.rank)
    calls: dict[str, list[int]] = {}
    for op in ("all_gather", "reduce_scatter", "all_reduce"):
        setattr(collectives, op, partial(_counted, getattr(collectives, op), op, calls))
    engine.interpreter.step(0, lambda m: batch_of(wanted, 0, replica, m))
    engine.interpreter.close()
    groups.close()
    for op in calls:
        setattr(collectives, op, getattr(collectives, op).args[0])
    return {op: [len(sizes), sum(sizes)] for op, sizes in calls.items()}


def _counted(
    plain: Any, op: str, calls: dict[str, list[int]], comm: Communicator, *given: Any
) -> Any:
    if comm.name.startswith("tensor."):
        calls.setdefault(op, []).append(given[0].nbytes)
    return plain(comm, *given)
