"""Which path a source port takes: tried, and read off the byte counters of the cards.

Nothing tells a program how the kernel (or a switch) hashes its connection, so
each port sends a fixed number of bytes alone and the card whose counter grew by
them is its path. Counters lag and other traffic moves them, so they are read
until they stand still, before and after; a port that leaves a doubt is left out.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

from holmes.lab.counters import read_counters
from holmes.runtime.paths.connection import DONE, Route, abort, content, open_flow, receive

PROBE_BYTES = 128 << 10
PROBE_SECONDS = 5.0
"""For the bytes of one port: enough at the slowest rate that is worth using."""
SETTLE_SECONDS = 0.004
STRAY_BYTES = 4 << 10
"""What a card may send between two readings (acknowledgements) and still stand still."""
SETTLE_PATIENCE = 2.0
PROBE_FLOWS = 1 << 63
"""Flows of this number and above are probes, each another one."""
FIRST_PORT = 20_000
MOST_TRIES = 32
"""Ports tried for each path. With two equal paths, 64 tries miss four on one path once in 1e14."""


def find_ports(
    route: Route,
    each: int,
    *,
    wanted: Collection[str] | None = None,
    candidates: Iterable[int] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Source ports by path, at least ``each`` of every wanted one (all) if they can be found.

    A path on which nothing gets through has none. Each port takes about 10 ms
    on an idle path, half a second on a dead one.
    """
    found: dict[str, list[int]] = {name: [] for name in route.interfaces}
    tries = MOST_TRIES * len(route.interfaces)
    for port in candidates or range(FIRST_PORT, FIRST_PORT + tries):
        if all(len(found[name]) >= each for name in wanted or route.interfaces):
            break
        path = path_of(route, port)
        if path is not None:
            found[path].append(port)
    return {name: tuple(ports) for name, ports in found.items()}


def path_of(route: Route, port: int) -> str | None:
    """The card that a connection from this port leaves by.

    None where the port is taken, nothing got through, or the counters leave a doubt.
    """
    before = settled(route)
    if before is None or not _send(route, port):
        return None
    after = settled(route)
    if after is None:
        return None
    grown = {name: after[name] - before[name] for name in route.interfaces}
    carried = [name for name, bytes_ in grown.items() if bytes_ >= PROBE_BYTES]
    return carried[0] if len(carried) == 1 else None


def settled(route: Route) -> Mapping[str, int] | None:
    """Bytes sent by card, once they stand still; None if they do not."""
    until = time.monotonic() + SETTLE_PATIENCE
    last = _sent(route)
    while time.monotonic() < until:
        time.sleep(SETTLE_SECONDS)
        now = _sent(route)
        if all(now[name] - last[name] <= STRAY_BYTES for name in route.interfaces):
            return now
        last = now
    return None


def _sent(route: Route) -> dict[str, int]:
    counters = read_counters()
    return {name: counters[name].tx_bytes for name in route.interfaces}


def _send(route: Route, port: int) -> bool:
    """Send the bytes of a probe; whether they arrived."""
    try:
        peer, _ = open_flow(route, port, PROBE_FLOWS | time.monotonic_ns(), PROBE_BYTES)
    except OSError:
        return False
    try:
        peer.settimeout(PROBE_SECONDS)
        peer.sendall(content(0, PROBE_BYTES))
        receive(peer, DONE.size)
    except OSError:
        return False
    finally:
        abort(peer)
    return True
