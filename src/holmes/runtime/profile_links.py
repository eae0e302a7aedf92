"""Measure the groups of a plan: operations alone, and what they cost computation beside them."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor

from holmes.cost.links import LinkTiming
from holmes.plan.plan import Group, Plan
from holmes.runtime import collectives
from holmes.runtime.communicator import Communicator
from holmes.runtime.groups import Groups
from holmes.schedule.instruction import Op

LARGE_BYTES = 1024 * 1024
"""Many times what a shaper lets an idle link send at once."""
SMALL_BYTES = 4 * 1024
"""About a model's squared norms: latency and nothing else."""
WARM_UP = 2
REPEATS = 7
BESIDE_SECONDS = 1.0
"""About how long computation is watched with traffic beside it."""


def profile_links(groups: Groups, plan: Plan) -> list[LinkTiming]:
    """Time the operations of every group of the plan: of tensor ranks at once, else in turn.

    Every rank calls it; each returns the timings of the groups it is a member of.
    """
    found: list[LinkTiming] = []
    groups.barrier()
    for group in plan.groups:  # at once, as in a step: they share no link but the processors
        if group.axis == "tensor" and groups.rank in group.ranks:
            found += _time_tensor(groups, plan, group)
    for group in plan.groups:
        groups.barrier()
        if groups.rank in group.ranks and len(group.ranks) > 1 and group.axis != "tensor":
            found += _time_group(groups, group)
    groups.barrier()
    return found


def busy_per_byte(
    groups: Groups, plan: Plan, turn: Callable[[], object], alone_seconds: float
) -> float | None:
    """Busy seconds that computation loses per byte which this rank sends meanwhile.

    Args:
        turn: one turn of computation; may run any number of times.
        alone_seconds: processor seconds of a turn without traffic.

    Returns:
        None where this rank shares no data group, so nothing large runs beside it.
    """
    group = next((g for g in plan.groups if g.axis == "data" and groups.rank in g.ranks), None)
    if group is None or len(group.ranks) < 2:
        return None
    comm = groups[group.name]
    flat = _payload(LARGE_BYTES, comm.size, groups.device)
    once = torch.tensor([_seconds(lambda: collectives.all_gather(comm, flat))])
    collectives.all_reduce(comm, once, "max")
    count = max(3, math.ceil(BESIDE_SECONDS / once.item()))

    def traffic() -> None:
        for _ in range(count):
            collectives.all_gather(comm, flat)

    worker = threading.Thread(target=traffic, daemon=True)
    turns, busy = 0, time.thread_time()
    worker.start()
    while worker.is_alive():
        turn()
        turns += 1
    lost = time.thread_time() - busy - turns * alone_seconds
    sent = count * flat.nbytes * (comm.size - 1) / comm.size
    return max(0.0, lost / sent)


def _time_group(groups: Groups, group: Group) -> list[LinkTiming]:
    if group.axis == "pipeline":
        down, up = groups[f"{group.name}.down"], groups[f"{group.name}.up"]
        message = torch.zeros(LARGE_BYTES // 4, device=groups.device)
        seconds = _typical(lambda: _round_trip(down, up, message)) / 2
        return [LinkTiming(group.name, Op.SEND, LARGE_BYTES, seconds)]
    comm = groups[group.name]
    if group.axis != "data":
        flat = _payload(SMALL_BYTES, comm.size, groups.device)
        seconds = _typical(lambda: collectives.all_reduce(comm, flat))
        return [LinkTiming(group.name, Op.ALL_REDUCE, flat.nbytes, seconds)]
    return _exchanges(group, comm, _payload(LARGE_BYTES, comm.size, groups.device))


def _time_tensor(groups: Groups, plan: Plan, group: Group) -> list[LinkTiming]:
    """The exchanges of activations of one micro-batch, and of a quarter of them."""
    comm = groups[group.name]
    workload, width = plan.workload, 4
    whole = plan.batch.micro * workload.sequence * workload.hidden * width
    found = []
    for size in (whole, whole // 4):
        flat = _payload(size, comm.size, groups.device)
        found += _exchanges(group, comm, flat)
    few = _payload(SMALL_BYTES, comm.size, groups.device)
    seconds = _typical(lambda: collectives.all_reduce(comm, few))
    return [*found, LinkTiming(group.name, Op.ALL_REDUCE, few.nbytes, seconds)]


def _exchanges(group: Group, comm: Communicator, flat: Tensor) -> list[LinkTiming]:
    scratch = flat.new_empty(collectives.scratch_elements(flat.numel(), comm.size))
    return [
        LinkTiming(
            group.name,
            Op.REDUCE_SCATTER,
            flat.nbytes,
            _typical(lambda: collectives.reduce_scatter(comm, flat, scratch)),
        ),
        LinkTiming(
            group.name,
            Op.ALL_GATHER,
            flat.nbytes,
            _typical(lambda: collectives.all_gather(comm, flat)),
        ),
    ]


def _round_trip(down: Communicator, up: Communicator, message: Tensor) -> None:
    first, last = down.ranks[0], down.ranks[-1]
    if down.index == 0:
        collectives.send(down, message, last)
        collectives.receive(up, message, last)
    else:
        collectives.receive(down, message, first)
        collectives.send(up, message, first)


def _payload(size: int, members: int, device: torch.device) -> Tensor:
    return torch.zeros(size // 4 // members * members, device=device)


def _typical(operation: Callable[[], object]) -> float:
    for _ in range(WARM_UP):
        operation()
    return statistics.median(_seconds(operation) for _ in range(REPEATS))


def _seconds(operation: Callable[[], object]) -> float:
    start = time.perf_counter()
    operation()
    return time.perf_counter() - start
