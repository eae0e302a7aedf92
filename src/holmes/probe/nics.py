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
SIOCGIFADDR = 0x8915
IFF_UP = 1
SKIPPED = re.compile(r"^(lo|docker\d*|br-|veth|virbr|ifb\d+|dummy\d+|tunl\d+|sit\d+|ip6)")


def find_nics(root: Path = Path("/sys/class")) -> tuple[NicFacts, ...]:
    """Every interface that is up and may carry a job, in name order."""
    rdma = _rdma_ports(root / "infiniband")
    found: list[NicFacts] = []
    for entry in sorted((root / "net").glob("*")):
        name = entry.name
        if SKIPPED.match(name) or not _is_up(entry):
            continue
        address = _address(name)
        if name in rdma:
            kind, rate, evidence = rdma[name]
            found.append(NicFacts(name, kind, rate, address, evidence))
            continue
        kind, evidence = _kind_by_type_or_name(entry)
        found.append(NicFacts(name, kind, _ethernet_rate(entry), address, evidence))
    return tuple(found)


def _is_up(entry: Path) -> bool:
    flags = _read(entry / "flags")
    return flags is not None and bool(int(flags, 16) & IFF_UP)


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
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("256s", interface.encode()[:15])
        try:
            reply = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
        except OSError:
            return None
    return socket.inet_ntoa(reply[20:24])


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
