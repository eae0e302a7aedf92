"""What is judged of one machine by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from holmes.hardware.site import Fabric
from holmes.hardware.topology import Node
from holmes.probe.doctor.finding import Finding, fail, ok, warn
from holmes.probe.doctor.state import MachineState
from holmes.probe.facts import NicFacts

ENOUGH_FILES = 4096
"""Sockets and files of a rank: two sockets a peer and group, and the loader's files."""
ENOUGH_SHM_GB = 1.0
LITTLE_DISK_GB = 10.0
SLOWER = 0.5
"""A card that reports less than this share of the site's rate is worth a word."""


def check_machine(state: MachineState, node: Node | None) -> Iterator[Finding]:
    """Versions, limits, disk, threads and port; with ``node`` also what the site says of it."""
    for check in (_torch, _limits, _shared_memory, _disk, _threads, _port):
        yield from check(state)
    yield from _adapters(state)
    if node is not None:
        yield from _devices(state, node)
        yield from _cards(state, node)


def _torch(state: MachineState) -> Iterator[Finding]:
    shown = ", ".join(f"{name} {value}" for name, value in state.versions.items() if value)
    if state.versions["torch"] is None:
        yield warn(
            "versions",
            f"{shown}; torch is not installed, so this machine can plan but not train",
            "pip install 'holmes[train]'",
        )
    else:
        yield ok("versions", shown)


def _limits(state: MachineState) -> Iterator[Finding]:
    files, locked = state.limits["open files"], state.limits["locked memory"]
    if files is not None and files < ENOUGH_FILES:
        yield warn(
            "limits",
            f"a process may open {files} files and sockets; large jobs need more",
            f"ulimit -n {ENOUGH_FILES} (or `nofile` in /etc/security/limits.conf)",
        )
    if state.hcas and locked is not None:
        yield fail(
            "limits",
            f"locked memory is limited to {locked / 2**20:.0f} MiB; RDMA registers more than that",
            "ulimit -l unlimited (or `memlock unlimited` in /etc/security/limits.conf)",
        )
    elif files is None or files >= ENOUGH_FILES:
        yield ok("limits", f"open files {files or 'unlimited'}, locked memory is no obstacle")


def _shared_memory(state: MachineState) -> Iterator[Finding]:
    said = f"{state.shm_gb:.1f} GB free in /dev/shm"
    if state.shm_gb < ENOUGH_SHM_GB and state.devices > 1:
        yield warn("shared memory", said, "start the container with a larger --shm-size")
    else:
        yield ok("shared memory", said)


def _disk(state: MachineState) -> Iterator[Finding]:
    said = f"{state.free_gb:.0f} GB free where {state.folder} is"
    if not state.folder_writable:
        yield fail("disk", f"{state.folder} cannot be written", "choose another `output` folder")
    elif state.free_gb < LITTLE_DISK_GB:
        yield warn("disk", said, "free some, or choose another `output` folder")
    else:
        yield ok("disk", said)


def _threads(state: MachineState) -> Iterator[Finding]:
    ranks = max(1, state.devices)
    given = state.environ.get("OMP_NUM_THREADS")
    if given is None:
        yield ok("threads", f"{state.cores} cores; OMP_NUM_THREADS is left to the start script")
    elif not given.isdigit() or int(given) < 1:
        yield fail("threads", f"OMP_NUM_THREADS is {given!r}, not a number from 1 up", "unset it")
    elif int(given) * ranks > state.cores:
        yield warn(
            "threads",
            f"OMP_NUM_THREADS={given} x {ranks} ranks is more than the {state.cores} cores",
            f"export OMP_NUM_THREADS={max(1, state.cores // ranks)}",
        )
    else:
        yield ok("threads", f"OMP_NUM_THREADS={given}, {state.cores} cores")


def _port(state: MachineState) -> Iterator[Finding]:
    if state.port_free is False:
        yield warn(
            "port",
            f"port {state.port} is taken on this machine",
            "end what holds it, or choose another: launch.port, or MASTER_PORT",
        )
    elif state.port_free:
        yield ok("port", f"port {state.port} is free for the rendezvous")


def _adapters(state: MachineState) -> Iterator[Finding]:
    for hca in state.hcas:
        if not hca.active:
            yield warn(
                "adapters",
                f"a port of {hca.name} ({hca.link_layer or 'unknown link layer'}) is not active",
                "check cable, switch port and (InfiniBand) the subnet manager: ibstat",
            )
    active = [hca.name for hca in state.hcas if hca.active]
    if active:
        yield ok("adapters", f"active RDMA adapters: {', '.join(dict.fromkeys(active))}")


def _devices(state: MachineState, node: Node) -> Iterator[Finding]:
    wanted = node.device.count
    if node.device.kind == "cpu-core":
        yield ok("devices", f"the site gives this node {wanted} CPU rank(s)")
    elif state.devices < wanted:
        yield fail(
            "devices",
            f"the site gives this node {wanted} x {node.device.kind}, the machine shows "
            f"{state.devices} ({state.device_name})",
            "check nvidia-smi and CUDA_VISIBLE_DEVICES, or mend the site file",
        )
    else:
        yield ok("devices", f"{state.devices} x {state.device_name}, the site wants {wanted}")


def _cards(state: MachineState, node: Node) -> Iterator[Finding]:
    """Each interface that the site names, on this machine."""
    here = {nic.interface: nic for nic in state.nics}
    for card in node.group.nics:
        for name in node.interfaces(card.kind):
            yield _card(here.get(name), name, card.kind, card.gbit_s, named=bool(card.interfaces))


def _card(
    found: NicFacts | None, name: str, kind: Fabric, gbit_s: float, *, named: bool
) -> Finding:
    say: Callable[[str, str, str], Finding] = fail if named else warn
    if found is None:
        how = "names" if named else "names no interfaces, so Holmes assumes"
        return say(
            "cards",
            f"the site {how} {kind.value} {name}, which is not up on this machine",
            "bring it up, or write its real name into `interfaces` (holmes probe finds it)",
        )
    if found.kind is not kind:
        return say(
            "cards",
            f"{name} is {found.kind.value} ({found.evidence}), the site says {kind.value}",
            "mend the site file; holmes probe writes one",
        )
    if found.address is None and kind is not Fabric.INFINIBAND:
        return fail("cards", f"{name} has no IPv4 address", "give it one")
    if found.gbit_s is not None and found.gbit_s < SLOWER * gbit_s:
        return warn(
            "cards",
            f"{name} reports {found.gbit_s:g} Gbit/s, the site says {gbit_s:g}",
            "check the cable and the port's speed, or mend the site file: plans rest on it",
        )
    return ok("cards", f"{name} is up: {kind.value}, {found.evidence}")
