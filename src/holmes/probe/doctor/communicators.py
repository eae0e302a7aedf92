"""The two-communicator probe as a part of the doctor, on all machines of a launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from holmes.errors import UnavailableError
from holmes.hardware.site import Fabric
from holmes.launch.process import free_port
from holmes.probe.communicators import ELEMENTS, Task, judge, orders, start
from holmes.probe.doctor.finding import Finding, fail, skip
from holmes.probe.doctor.state import MachineState
from holmes.probe.reach import Exchange

RDMA = (Fabric.INFINIBAND, Fabric.ROCE)
MODULES = {"rdma": "IB", "socket": "Socket"}


def why_not(states: Sequence[MachineState]) -> str:
    """Why the probe cannot run on these machines; empty where it can."""
    if len(states) < 2:
        return "it takes two machines: start it with torchrun on both"
    for state in states:
        if state.devices == 0 or not state.versions.get("nccl"):
            return f"{state.name} has no CUDA device with NCCL"
        if not any(hca.active for hca in state.hcas):
            return f"{state.name} has no active RDMA adapter"
    return ""


def probe_communicators(
    exchange: Exchange,
    states: Sequence[MachineState],
    me: int | None,
    address: str,
    backend: Literal["gloo", "nccl"] = "nccl",
    elements: int = ELEMENTS,
) -> list[Finding]:
    """Both orders on all machines, one rank each; every rank calls it.

    Args:
        me: this machine's index where this rank is its first, else None.
        address: of the first rank's machine, on a network that reaches all.
        backend: gloo stands in for NCCL where there is no GPU: interfaces for modules.
    """
    reason = why_not(states) if backend == "nccl" else ""
    if reason:
        return [skip("communicators", f"not probed: {reason}")]
    findings: list[Finding] = []
    for number, networks in enumerate(orders(_networks(states, me))):
        if exchange.rank == 0:
            exchange.tell(f"communicators/{number}", free_port(address))
        port = exchange.wait(f"communicators/{number}")
        mine: list[Finding] = []
        if me is not None:
            task = Task(me, len(states), address, port, backend, networks, elements)
            mine = _one_order(task, _cards(states[me]))
        gathered = exchange.all_gather(f"order {number}", [each.to_dict() for each in mine])
        for found in gathered:
            findings += [Finding(**each) for each in found]
    return findings


def _one_order(task: Task, cards: Mapping[str, Sequence[str]]) -> list[Finding]:
    try:
        return judge(task, start(task), cards)
    except UnavailableError as error:
        advice = "see NCCL_DEBUG=INFO; plan with parallel.transport=common until it works"
        return [fail("communicators", error.what, advice)]


def _networks(states: Sequence[MachineState], me: int | None) -> tuple[tuple[str, str, str], ...]:
    cards = _cards(states[me or 0])
    return tuple((name, MODULES[name], cards[name][0]) for name in ("rdma", "socket"))


def _cards(state: MachineState) -> dict[str, list[str]]:
    """What carries each network here: interfaces, and for RDMA the adapters' own counters."""
    fast = [nic.interface for nic in state.nics if nic.kind in RDMA]
    slow = [nic.interface for nic in state.nics if nic.kind is Fabric.ETHERNET]
    adapters = [hca.name for hca in state.hcas if hca.active]
    return {"rdma": [*fast, *adapters] or ["none"], "socket": slow or ["none"]}
