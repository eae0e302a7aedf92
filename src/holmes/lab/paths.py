"""Two hosts with several paths between them, each shaped: what a fabric of many switches does.

Every path is a card at each host and a bridge between. Both hosts also have an
address on no card, and a multipath route to the other's: the kernel hashes
addresses and ports of a connection to a path, as switches (ECMP) and bonded
cards do. The kernels this runs on often have no bonding driver; to a sender a
bond that hashes ports looks the same, its ports are the paths.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from holmes.errors import ConfigError, HolmesError, UnavailableError
from holmes.hardware.site import Fabric
from holmes.lab import namespace
from holmes.lab.client import RefusedError, SwitchClient
from holmes.lab.counters import InterfaceCounters, read_counters
from holmes.lab.rates import LEAST_GBIT_S, MOST_GBIT_S
from holmes.lab.wiring import Interface, Spread, Wiring

SENDER, RECEIVER = 0, 1
MOST_PATHS = 16
ANSWER_SECONDS = 60.0


def address(host: int) -> str:
    """The address of a host that is reached over all paths."""
    return f"10.255.0.{host + 1}"


def interface(path: int) -> str:
    """The card of a path, at either host."""
    return f"path{path}"


def wire_paths(gbit_s: Sequence[float]) -> Wiring:
    """Two hosts and one path per rate (Gbit/s, each way).

    Raises:
        ConfigError: not 1 to :data:`MOST_PATHS` paths, or a rate that cannot be shaped.
    """
    if not 1 <= len(gbit_s) <= MOST_PATHS:
        raise ConfigError(
            f"a lab of {len(gbit_s)} paths cannot be made", why=f"1 to {MOST_PATHS} paths are"
        )
    for rate in gbit_s:
        _check_rate(rate)
    hosts = tuple(
        tuple(_card(host, path, rate) for path, rate in enumerate(gbit_s))
        for host in (SENDER, RECEIVER)
    )
    return Wiring(
        hosts=hosts,
        bridges=tuple(f"b{path}" for path in range(len(gbit_s))),
        trunks=(),
        forwards=tuple((card.port, card.mac) for cards in hosts for card in cards),
        spreads=tuple(
            Spread(
                host,
                address(host),
                address(1 - host),
                tuple((card.name, card.neighbours[0][0]) for card in hosts[host]),
            )
            for host in (SENDER, RECEIVER)
        ),
    )


def _card(host: int, path: int, gbit_s: float) -> Interface:
    def own(which: int) -> tuple[str, str]:
        return f"10.{path}.0.{which + 1}", f"02:48:4c:ff:{path:02x}:{which:02x}"

    return Interface(
        fabric=Fabric.ETHERNET,
        name=interface(path),
        address=own(host)[0],
        mac=own(host)[1],
        gbit_s=gbit_s,
        port=f"p{path}.{host}",
        bridge=f"b{path}",
        neighbours=(own(1 - host),),
    )


def _check_rate(gbit_s: float) -> None:
    if not LEAST_GBIT_S <= gbit_s <= MOST_GBIT_S:
        raise ConfigError(
            f"a rate of {gbit_s:g} Gbit/s cannot be shaped",
            why=f"rates lie between {LEAST_GBIT_S:g} and {MOST_GBIT_S:g} Gbit/s",
        )


class Program:
    """A function that runs on a host, in a forked child; ``result`` waits for what it returns."""

    def __init__(self, process: Any, answer: Connection) -> None:
        self._process = process
        self._answer = answer

    def result(self, seconds: float = ANSWER_SECONDS) -> Any:
        """What the function returned. The child is ended after ``seconds``.

        Raises:
            UnavailableError: it did not answer in time, or died.
            HolmesError: it raised this error, or one that is a bug.
        """
        try:
            if not self._answer.poll(seconds):
                raise UnavailableError(
                    "a program on a host of the lab did not answer", why=f"after {seconds:g} s"
                )
            good, value = self._answer.recv()
        except EOFError as error:
            raise UnavailableError("a program on a host of the lab died") from error
        finally:
            self.end()
        if not good:
            raise HolmesError("a program on a host of the lab failed", why=value)
        return value

    def end(self) -> None:
        """End it, whatever it does. May be called twice."""
        self._process.terminate()
        self._process.join()


class PathLab:
    """The two hosts. A context manager; leaving it ends its programs and takes all down."""

    def __init__(self, switch: SwitchClient, wiring: Wiring) -> None:
        self.paths = tuple(card.name for card in wiring.hosts[SENDER])
        self._switch = switch
        self._programs: list[Program] = []

    @classmethod
    def up(cls, gbit_s: Sequence[float]) -> PathLab:
        """Bring it up, as root or in a user namespace; half a second.

        Raises:
            ConfigError: as :func:`wire_paths`.
            UnavailableError: this machine allows no namespaces or shapes no links.
        """
        wiring = wire_paths(gbit_s)
        refusals = []
        for user in (False, True):
            try:
                switch = SwitchClient.start(wiring, user=user)
            except RefusedError as refusal:
                refusals.append(str(refusal))
                continue
            if not switch.unshaped:
                return cls(switch, wiring)
            refusals.append(switch.unshaped)
            switch.close()
        raise UnavailableError(
            "hosts with several paths cannot be brought up",
            why="; ".join(refusals),
            next_step="run as root or allow user namespaces; `holmes doctor` says what is missing",
        )

    def start(self, host: int, function: Callable[[], Any]) -> Program:
        """Run a function on a host; what it returns must be picklable."""
        here, there = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")
        parent = os.getpid()
        process = context.Process(target=self._on, args=(host, function, there, parent))
        process.start()
        there.close()
        program = Program(process, here)
        self._programs.append(program)
        return program

    def counters(self, host: int) -> Mapping[str, InterfaceCounters]:
        """Byte counters of the paths' cards at a host."""
        found = read_counters(Path(f"/proc/{self._switch.holders[host]}/net/dev"))
        return {name: found[name] for name in self.paths}

    def set_rate(self, path: int, gbit_s: float) -> None:
        """Reshape a path, both directions."""
        _check_rate(gbit_s)
        for host in (SENDER, RECEIVER):
            self._switch.order("nic-rate", host=host, interface=interface(path), gbit_s=gbit_s)

    def path_down(self, path: int) -> None:
        """Cut a path at the far end: the sender's card keeps its carrier, packets are lost."""
        self._plug(path, up=False)

    def path_up(self, path: int) -> None:
        """Join it again."""
        self._plug(path, up=True)

    def down(self) -> None:
        """End the programs and take everything down. May be called twice."""
        for program in self._programs:
            program.end()
        self._switch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def _plug(self, path: int, *, up: bool) -> None:
        self._switch.order("nic-state", host=RECEIVER, interface=interface(path), up=up)

    def _on(self, host: int, function: Callable[[], Any], answer: Connection, parent: int) -> None:
        """In the child: enter the host, run, answer."""
        try:
            namespace.die_with_parent(parent)
            holder = f"/proc/{self._switch.holders[host]}/ns"
            if self._switch.user:
                namespace.enter(f"{holder}/user", namespace.CLONE_NEWUSER)
            namespace.enter(f"{holder}/net", namespace.CLONE_NEWNET)
            answer.send((True, function()))
        except HolmesError as error:
            answer.send((False, error.text()))
        except Exception:
            answer.send((False, traceback.format_exc()))
