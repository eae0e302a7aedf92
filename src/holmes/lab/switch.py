"""The switch process: owns the namespaces and bridges of one lab, takes orders on a pipe.

Started as ``python -m holmes.lab.switch``. One JSON object per line on standard
input, one answer per line on standard output: ``{"ok": ...}`` or ``{"refused":
reason}``. The first order is ``up``. It ends, and takes every namespace with
it, when its input closes or the process that started it is gone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holmes.lab import namespace
from holmes.lab.quota import sweep
from holmes.lab.relay import Impairment
from holmes.lab.wiring import BuildError

if TYPE_CHECKING:
    from holmes.lab.netlink import Network

LOOK_SECONDS = 0.2
SYSCTLS = {
    "net/ipv6/conf/all/disable_ipv6": "1",  # keeps router and duplicate probes off the counters
    "net/ipv6/conf/default/disable_ipv6": "1",
    "net/ipv4/fib_multipath_hash_policy": "1",  # a route over several cards looks at ports too
    "net/ipv4/tcp_slow_start_after_idle": "0",  # a link that idled between steps is still a link
}


class RefusedError(Exception):
    """This machine does not allow what the lab needs; the message says what."""


class Switch:
    """State of one switch process: holders in node order, and the network between them."""

    def __init__(self) -> None:
        self.parent = os.getppid()
        self.holders: list[int] = []
        self.network: Network | None = None
        self.groups: str | None = None
        self.ended = False

    def obey(self, order: Mapping[str, Any]) -> object:
        """Do one order and return what goes back under ``ok``.

        Raises:
            RefusedError: this machine does not allow it.
        """
        name = order["order"]
        if name == "up":
            return self._up(order)
        if name == "down":
            self.ended = True
            return True
        assert self.network is not None, "the first order is `up`"
        try:
            return self._change(self.network, order)
        except BuildError as error:
            raise RefusedError(str(error)) from error

    @staticmethod
    def _change(network: Network, order: Mapping[str, Any]) -> object:
        name = order["order"]
        if name in ("nic-impair", "link-impair"):
            shape = Impairment(order["loss"], order["delay"], order["jitter"])
            if name == "link-impair":
                return network.impair_link(order["link"], shape).to_dict()
            return network.impair_nic(order["host"], order["interface"], shape).to_dict()
        if name == "nic-rate":
            network.set_nic_rate(order["host"], order["interface"], order["gbit_s"])
        elif name == "link-rate":
            network.set_link_rate(order["link"], order["gbit_s"])
        elif name == "nic-state":
            network.set_nic_state(order["host"], order["interface"], up=order["up"])
        else:
            raise ValueError(f"unknown order {name!r}")
        return True

    def _up(self, order: Mapping[str, Any]) -> dict[str, object]:
        self.groups = order["groups"]
        try:
            if order["user"]:
                namespace.unshare_user()
            namespace.unshare(namespace.CLONE_NEWNET)
        except OSError as error:
            kind = "an unprivileged user namespace" if order["user"] else "network namespaces"
            raise RefusedError(f"{kind} cannot be made ({error.strerror or error})") from error
        _quieten()
        self.holders = [_hold() for _ in order["wiring"]["hosts"]]
        # pyroute2 is imported only now: the holders stay small and a refusal is fast.
        from holmes.lab.netlink import Network
        from holmes.lab.wiring import wiring_from

        self.network = Network(wiring_from(order["wiring"]), self.holders)
        try:
            self.network.build()
        except BuildError as error:
            raise RefusedError(str(error)) from error
        return {"holders": self.holders, "unshaped": self.network.reason}

    def close(self) -> None:
        """End the holders, so that the kernel takes the hosts down.

        The lab removes its control groups itself; after its sudden death this does.
        """
        for pid in self.holders:
            os.kill(pid, signal.SIGKILL)
        for pid in self.holders:
            os.waitpid(pid, 0)
        if self.groups is not None and not self.ended:
            sweep(Path(self.groups))


def _hold() -> int:
    """Fork a process that keeps a fresh network namespace alive; returns once it is there."""
    parent = os.getpid()
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            namespace.die_with_parent(parent)
            namespace.unshare(namespace.CLONE_NEWNET)
            _quieten()
            os.write(done, b"1")
            for descriptor in (0, 1, 2, ready, done):
                os.close(descriptor)
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(done)
    answer = os.read(ready, 1)
    os.close(ready)
    if not answer:
        os.waitpid(pid, 0)
        raise RefusedError("a network namespace for a host cannot be made")
    return pid


def _quieten() -> None:
    """Kernel settings of this namespace. Where /proc/sys is read-only the defaults do."""
    for name, value in SYSCTLS.items():
        try:
            Path("/proc/sys", name).write_text(value, encoding="ascii")
        except OSError:
            continue


def serve(switch: Switch) -> None:
    """Answer orders until the input closes or the parent is gone."""
    waiting = select.poll()
    waiting.register(0, select.POLLIN)
    received = b""
    while os.getppid() == switch.parent and not switch.ended:
        if not waiting.poll(LOOK_SECONDS * 1000):
            continue
        chunk = os.read(0, 1 << 20)
        if not chunk:
            return
        received += chunk
        while b"\n" in received:
            line, received = received.split(b"\n", 1)
            _answer(switch, json.loads(line))


def _answer(switch: Switch, order: Mapping[str, Any]) -> None:
    answer: dict[str, object]
    try:
        answer = {"ok": switch.obey(order)}
    except RefusedError as error:
        answer = {"refused": str(error)}
    except Exception as error:
        answer = {"failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Run as a child of the lab."""
    switch = Switch()
    try:
        serve(switch)
    finally:
        switch.close()
    os._exit(0)  # the lab waits, and nothing is left to put in order


if __name__ == "__main__":
    main()
