"""The network cards of this machine, from sysfs: kind, rate, address.

A port under ``/sys/class/infiniband`` tells by its link layer whether it speaks
InfiniBand or RoCE. Other interfaces are Ethernet, unless they carry the name of
a fast fabric (``ib0``, ``roce0``), as emulated hosts and many sites name them.
"""

from __future__ import annotations

import fcntl
import re
import socket
import struct
from pathlib import Path

from holmes.hardware.site import Fabric
from holmes.probe.facts import NicFacts

ARPHRD_INFINIBAND = 32
SIOCGIFFLAGS = 0x8913
SIOCGIFADDR = 0x8915
IFF_UP = 1
SKIPPED = re.compile(r"^(lo|docker\d*|br-|veth|virbr|ifb\d+|dummy\d+|tunl\d+|sit\d+|ip6)")


def find_nics(root: Path = Path("/sys/class")) -> tuple[NicFacts, ...]:
    """Every interface that is up and may carry a job, in name order."""
    present = interfaces()
    described = _describes(root / "net", present)
    rdma = _rdma_ports(root / "infiniband") if described else {}
    found: list[NicFacts] = []
    for name in sorted(present):
        if SKIPPED.match(name) or not _is_up(name):
            continue
        address, entry = _address(name), root / "net" / name
        if name in rdma:
            kind, rate, evidence = rdma[name]
            found.append(NicFacts(name, kind, rate, address, evidence))
            continue
        kind, evidence = _kind_by_type_or_name(entry if described else Path(name))
        speed = _ethernet_rate(entry) if described else None
        found.append(NicFacts(name, kind, speed, address, evidence))
    return tuple(found)


def interfaces() -> dict[str, int]:
    """Index of each interface of this process's network namespace, by name."""
    return {name: index for index, name in socket.if_nameindex()}


def _describes(folder: Path, present: dict[str, int]) -> bool:
    """Whether sysfs shows the cards that are here: it shows the namespace it was mounted in."""
    shown = {entry.name: _read(entry / "ifindex") for entry in folder.glob("*")}
    return shown == {name: str(index) for name, index in present.items()}


def _is_up(interface: str) -> bool:
    reply = _ask(SIOCGIFFLAGS, interface)
    return reply is not None and bool(struct.unpack("H", reply[16:18])[0] & IFF_UP)


def _rdma_ports(folder: Path) -> dict[str, tuple[Fabric, float | None, str]]:
    """Interface name -> (kind, Gbit/s, evidence) for RDMA-capable ports."""
    ports: dict[str, tuple[Fabric, float | None, str]] = {}
    for device in sorted(folder.glob("*")):
        for port in sorted((device / "ports").glob("*")):
            layer = (_read(port / "link_layer") or "").lower()
            kind = Fabric.INFINIBAND if layer == "infiniband" else Fabric.ROCE
            match = re.match(r"([\d.]+)\s*Gb/sec", _read(port / "rate") or "")
            rate = float(match.group(1)) if match else None
            for net in sorted((device / "device" / "net").glob("*")):
                ports[net.name] = (
                    kind,
                    rate,
                    f"{device.name} port {port.name}, link layer {layer}",
                )
    return ports


def _kind_by_type_or_name(entry: Path) -> tuple[Fabric, str]:
    if _read(entry / "type") == str(ARPHRD_INFINIBAND):
        return Fabric.INFINIBAND, "interface type is InfiniBand"
    if re.match(r"^(ib|ibs|ibp)\d", entry.name):
        return Fabric.INFINIBAND, "by its name; no RDMA device behind it"
    if re.match(r"^(roce|rdma)\d", entry.name):
        return Fabric.ROCE, "by its name; no RDMA device behind it"
    return Fabric.ETHERNET, "Ethernet interface"


def _ethernet_rate(entry: Path) -> float | None:
    """Gbit/s as the driver reports it; virtual cards report nonsense, so None for them."""
    speed = _read(entry / "speed")
    virtual = "/virtual/" in str(entry.resolve())
    if virtual or speed is None or not speed.isdigit() or int(speed) == 0:
        return None
    return int(speed) / 1000


def _address(interface: str) -> str | None:
    reply = _ask(SIOCGIFADDR, interface)
    return None if reply is None else socket.inet_ntoa(reply[20:24])


def _ask(what: int, interface: str) -> bytes | None:
    """The kernel's answer about an interface of this namespace, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return fcntl.ioctl(probe.fileno(), what, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
