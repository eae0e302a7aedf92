"""Builds a :class:`~holmes.lab.wiring.Wiring` with rtnetlink, inside the switch process.

Nothing here may run in the namespace Holmes was started in: the caller has
moved into its own first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from holmes.lab import namespace
from holmes.lab.relay import Impairment, Passed, Relay
from holmes.lab.wiring import PREFIX_LENGTH, BuildError, Interface, Spread, Trunk, Wiring

MTU = 9000
"""Jumbo frames on every fabric: headers stay below 1 % of the bytes."""
SEGMENT_SECONDS = 0.00025
LARGEST_SEGMENT = 65_536
BURST_SECONDS = 0.00025
LEAST_BURST = 2 * MTU

FDB_OF_BRIDGE = 4  # NTF_MASTER: the entry belongs to the bridge, not to the port's driver
FDB_STATIC = 0x40  # NUD_NOARP
ROOT, CLASS = 0x1_0000, 0x1_0001


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Name the step in the error when the kernel refuses it."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        number = getattr(error, "code", None) or getattr(error, "errno", None) or 0
        raise BuildError(f"cannot {what}: {os.strerror(number)}") from error


def segment_bytes(gbit_s: float) -> int:
    """Largest packet handed to the shaper: a quarter millisecond of the rate.

    A shaper lets a whole packet go at once, so large ones blur short transfers
    on a slow link; small ones cost processor time on a fast link.
    """
    return int(min(LARGEST_SEGMENT, max(MTU, gbit_s * 1e9 / 8 * SEGMENT_SECONDS)))


def burst_bytes(gbit_s: float) -> int:
    """What an idle link may send at once: a quarter millisecond, at least two frames.

    Less than the shaper's wake-up delay on a busy machine loses rate; more
    lets short transfers beat the rate. Measured on two cores: 256 KiB take
    1.01 ms at 2 Gbit/s (1.05 by the rate) and 4.10 ms at 0.5 (4.19), long
    transfers reach 95 to 99 % of the rate, 90 % with both cores busy at
    2 Gbit/s. With a whole millisecond the 256 KiB took 0.45 to 0.65 ms.
    """
    return int(max(LEAST_BURST, gbit_s * 1e9 / 8 * BURST_SECONDS))


class Network:
    """The switch's side of the lab: bridges, cables and their shapers.

    ``holders`` are the process ids whose network namespaces are the hosts, in
    node order. ``shaped`` is False when the kernel has no htb; ``reason`` says so.
    """

    def __init__(self, wiring: Wiring, holders: Sequence[int]) -> None:
        self.wiring = wiring
        self.holders = holders
        self.reason = ""
        self._switch = IPRoute()
        self._index: dict[str, int] = {}
        self._relays: dict[str, Relay] = {}

    @property
    def shaped(self) -> bool:
        return not self.reason

    def build(self) -> None:
        """Make everything. Raises BuildError naming the first step that failed."""
        for name in self.wiring.bridges:
            with _step("make a bridge"):
                self._switch.link("add", ifname=name, kind="bridge", br_forward_delay=0)
                self._index[name] = self._find(self._switch, name)
                self._switch.link("set", index=self._index[name], mtu=MTU, state="up")
        for trunk in self.wiring.trunks:
            self._join(trunk)
        for host, interfaces in enumerate(self.wiring.hosts):
            self._connect(host, interfaces)
        for port in {port for port, _ in self.wiring.forwards}:
            self._forward(port, self._index[port])
        for spread in self.wiring.spreads:
            self._spread(spread)

    def set_nic_rate(self, host: int, interface: str, gbit_s: float) -> None:
        """Change the rate of a card, both directions."""
        cable = self._cable(host, interface)
        with self._inside(host) as ipr:
            _shape(ipr, self._find(ipr, interface), gbit_s, "change-class")
        _shape(self._switch, self._index[cable.port], gbit_s, "change-class")

    def set_link_rate(self, link: int, gbit_s: float) -> None:
        """Change the rate of a site link, both directions."""
        for trunk in self.wiring.trunks:
            if trunk.link == link:
                for port in trunk.ports:
                    _shape(self._switch, self._index[port], gbit_s, "change-class")

    def set_nic_state(self, host: int, interface: str, *, up: bool) -> None:
        """Plug or unplug the cable of a card: the host sees its carrier go."""
        port = self._cable(host, interface).port
        with _step(f"change the state of {port}"):
            self._switch.link("set", index=self._index[port], state="up" if up else "down")

    def impair_nic(self, host: int, interface: str, impairment: Impairment) -> Passed:
        """Lose or delay frames of a card, each way; what its relay has seen until now."""
        cable = self._cable(host, interface)
        return self._impair(cable.port, cable.bridge, impairment)

    def impair_link(self, link: int, impairment: Impairment) -> Passed:
        """The same on a site link."""
        trunk = next(one for one in self.wiring.trunks if one.link == link)
        return self._impair(trunk.ports[0], trunk.bridges[0], impairment)

    def _impair(self, port: str, bridge: str, impairment: Impairment) -> Passed:
        relay = self._relays.get(port)
        if relay is None:
            return self._splice(port, bridge, impairment) if impairment else Passed()
        if impairment:
            relay.impairment = impairment
            return relay.passed
        del self._relays[port]
        return self._unsplice(relay, port, bridge)

    def _splice(self, port: str, bridge: str, impairment: Impairment) -> Passed:
        """Put a relay between a port and its bridge: the port moves to a bridge of its own."""
        names = f"{port}.r0", f"{port}.r1"
        own = f"{port}.r"
        with _step("make the two ends of a relay"):
            relay = Relay(names, impairment)
        with _step("put a relay between a port and its bridge"):
            self._switch.link("add", ifname=own, kind="bridge", br_forward_delay=0)
            inner = self._find(self._switch, own)
            near, far = (self._find(self._switch, name) for name in names)
            for index in (near, far, inner):
                self._switch.link("set", index=index, mtu=MTU)
            self._attach(far, self._index[bridge])
            self._switch.link("set", index=far, state="up")
            relay.start()
            self._switch.link("set", index=inner, state="up")
            self._switch.link("set", index=near, master=inner, state="up")
            self._switch.link("set", index=self._index[port], master=inner)
            for index in (near, self._index[port]):
                self._switch.brport("set", index=index, learning=0, unicast_flood=1)
        self._forward(port, far)
        self._relays[port] = relay
        return relay.passed

    def _unsplice(self, relay: Relay, port: str, bridge: str) -> Passed:
        passed = relay.close()
        with _step("take a relay away"):
            self._attach(self._index[port], self._index[bridge])
            self._switch.link("del", index=self._find(self._switch, f"{port}.r"))
        self._forward(port, self._index[port])
        return passed

    def _forward(self, port: str, index: int) -> None:
        """Tell the bridge which cards it reaches through a port, or through what stands for it."""
        for mac in [mac for name, mac in self.wiring.forwards if name == port]:
            with _step("add a forwarding entry"):
                self._switch.fdb(
                    "add", ifindex=index, lladdr=mac, flags=FDB_OF_BRIDGE, state=FDB_STATIC
                )

    def _cable(self, host: int, interface: str) -> Interface:
        return next(one for one in self.wiring.hosts[host] if one.name == interface)

    def _join(self, trunk: Trunk) -> None:
        here, there = trunk.ports
        with _step("make a cable between two bridges"):
            self._switch.link("add", ifname=here, kind="veth", peer=there)
        for port, bridge in zip(trunk.ports, trunk.bridges, strict=True):
            self._index[port] = self._find(self._switch, port)
            self._plug(port, bridge, trunk.gbit_s)

    def _connect(self, host: int, interfaces: Sequence[Interface]) -> None:
        """Cable, address, neighbours and shaper of every card of one host."""
        with _namespace_of(self.holders[host]) as inside, self._inside(host) as ipr:
            with _step("bring up loopback"):
                ipr.link("set", index=1, state="up")
            for card in interfaces:
                with _step("make a cable to a host"):
                    peer = {"ifname": card.name, "net_ns_fd": inside, "address": card.mac}
                    self._switch.link("add", ifname=card.port, kind="veth", peer=peer)
                self._index[card.port] = self._find(self._switch, card.port)
                self._plug(card.port, card.bridge, card.gbit_s)
                self._configure(ipr, card)

    def _configure(self, ipr: IPRoute, card: Interface) -> None:
        with _step(f"configure {card.name}"):
            index = self._find(ipr, card.name)
            segment = segment_bytes(card.gbit_s)
            ipr.link("set", index=index, mtu=MTU, gso_max_size=segment, state="up")
            ipr.addr("add", index=index, address=card.address, prefixlen=PREFIX_LENGTH)
            for address, mac in card.neighbours:
                ipr.neigh("add", dst=address, lladdr=mac, ifindex=index, state="permanent")
        self._limit(ipr, index, card.gbit_s)

    def _spread(self, spread: Spread) -> None:
        """A second address of a host, and one route over all its cards to the peer's."""
        with self._inside(spread.host) as ipr, _step("make a route over several cards"):
            ipr.addr("add", index=1, address=spread.address, prefixlen=32)
            hops = [{"gateway": way, "oif": self._find(ipr, card)} for card, way in spread.via]
            ipr.route("add", dst=f"{spread.peer}/32", prefsrc=spread.address, multipath=hops)

    def _plug(self, port: str, bridge: str, gbit_s: float) -> None:
        """Attach a port to its bridge: no learning, no flooding, shaped towards the cable."""
        with _step("attach a port to a bridge"):
            self._attach(self._index[port], self._index[bridge])
            self._switch.link("set", index=self._index[port], state="up")
        self._limit(self._switch, self._index[port], gbit_s)

    def _attach(self, index: int, bridge: int) -> None:
        self._switch.link("set", index=index, mtu=MTU, master=bridge)
        self._switch.brport(
            "set", index=index, learning=0, unicast_flood=0, mcast_flood=0, bcast_flood=0
        )

    def _limit(self, ipr: IPRoute, index: int, gbit_s: float) -> None:
        """Add the shaper; a kernel without htb leaves the lab unshaped, with the reason."""
        if not self.shaped:
            return
        try:
            with _step("add an htb shaper"):
                ipr.tc("add", "htb", index, ROOT, default=CLASS & 0xFFFF)
            _shape(ipr, index, gbit_s, "add-class")
        except BuildError as error:
            self.reason = str(error)

    @contextmanager
    def _inside(self, host: int) -> Iterator[IPRoute]:
        """A netlink socket in a host's namespace; a socket stays where it was made."""
        with _step("enter a host"), _namespace_of(os.getpid()) as home:
            namespace.enter(f"/proc/{self.holders[host]}/ns/net", namespace.CLONE_NEWNET)
            try:
                ipr = IPRoute()
            finally:
                namespace.enter(f"/proc/self/fd/{home}", namespace.CLONE_NEWNET)
        try:
            yield ipr
        finally:
            ipr.close()

    @staticmethod
    def _find(ipr: IPRoute, name: str) -> int:
        found: Sequence[int] = ipr.link_lookup(ifname=name)
        return found[0]


@contextmanager
def _namespace_of(pid: int) -> Iterator[int]:
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _shape(ipr: IPRoute, index: int, gbit_s: float, command: str) -> None:
    rate = int(gbit_s * 1e9 / 8)
    burst = burst_bytes(gbit_s)
    shape: Mapping[str, Any] = {"rate": rate, "ceil": rate, "burst": burst, "cburst": burst}
    with _step("set the rate of a link"):
        ipr.tc(command, "htb", index, CLASS, parent=ROOT, quantum=LARGEST_SEGMENT, **shape)
