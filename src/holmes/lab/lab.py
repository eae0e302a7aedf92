"""Lab and Host: bring the hosts of a site up on this machine, and down again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from holmes.errors import ConfigError, UnavailableError
from holmes.hardware.site import Fabric, Site
from holmes.hardware.topology import Node, Topology
from holmes.lab import namespace
from holmes.lab.client import RefusedError, SwitchClient
from holmes.lab.counters import InterfaceCounters, read_counters
from holmes.lab.quota import Quotas
from holmes.lab.rates import LEAST_GBIT_S, MOST_GBIT_S, Rates, rehearsal_rates
from holmes.lab.relay import Impairment, Passed
from holmes.lab.wiring import Wiring, wire

LOOPBACK = "127.0.0.1"


class Isolation(StrEnum):
    """How hosts are kept apart."""

    AUTO = "auto"
    """The first of the following that this machine allows."""
    ROOT = "root"
    """Network namespaces made directly."""
    USER = "user"
    """Network namespaces inside an unprivileged user namespace."""
    LOOPBACK = "loopback"
    """All hosts share this machine's loopback; nothing is shaped or counted."""


@dataclass(frozen=True)
class Host:
    """One emulated host.

    ``pid`` is the process that holds its namespaces; ``netns_path`` and
    ``userns_path`` are what a process enters to be on it (user first; None
    where there is nothing to enter). ``addresses`` and ``interfaces`` are by
    NIC kind; in a loopback lab they are 127.0.0.1 and ``lo``.
    """

    node: Node
    pid: int
    addresses: Mapping[Fabric, str]
    interfaces: Mapping[Fabric, str]
    netns_path: str | None
    userns_path: str | None


class Lab:
    """The hosts of one site. A context manager; leaving it takes everything down.

    Attributes:
        hosts: in site order, ``hosts[i]`` is node ``i``.
        rates: what the links are shaped to.
        isolation: how the hosts are kept apart.
        shaped: whether links run at ``rates``; if not, ``reason`` says why.
    """

    def __init__(
        self,
        topology: Topology,
        rates: Rates,
        *,
        switch: SwitchClient | None,
        wiring: Wiring,
        quotas: Quotas,
        reason: str,
    ) -> None:
        self.rates = rates
        self.reason = reason
        self.shaped = not reason
        self._switch = switch
        self._owner = os.getpid()
        self._quotas = quotas
        self._limits: Mapping[int, float] = {}
        if switch is None:
            self.isolation = Isolation.LOOPBACK
            self.hosts = tuple(_loopback_host(node) for node in topology.nodes)
        else:
            self.isolation = Isolation.USER if switch.user else Isolation.ROOT
            self.hosts = tuple(
                _host(node, wiring, switch.holders[node.index], user=switch.user)
                for node in topology.nodes
            )

    @classmethod
    def up(
        cls,
        site: Site,
        *,
        quotas: Mapping[int, float] | None = None,
        isolation: Isolation = Isolation.AUTO,
    ) -> Lab:
        """Bring up the hosts of a site; about a second for four of them.

        ``quotas`` is processor cores per node index, shared by all processes
        that :meth:`enter` that host. With ``Isolation.AUTO`` a machine that
        allows no namespaces gives a loopback lab, whose ``reason`` says why.

        Raises:
            ConfigError: rates, interface names or the number of nodes do not fit.
            UnavailableError: the isolation asked for is not allowed here.
        """
        topology = Topology(site)
        rates = rehearsal_rates(site)
        wiring = wire(topology, rates)
        groups = Quotas()
        refusals: list[str] = []
        switch = None
        for user in _attempts(isolation):
            try:
                switch = SwitchClient.start(wiring, user=user, groups=groups.parent)
                break
            except RefusedError as refusal:
                refusals.append(str(refusal))
        if switch is None and isolation in {Isolation.ROOT, Isolation.USER}:
            raise UnavailableError(
                "the hosts of the rehearsal cannot be brought up",
                where=f"isolation: {isolation}",
                why="; ".join(refusals),
                next_step="run as root or allow user namespaces, or let Holmes fall back to "
                "loopback (isolation auto)",
            )
        if switch is None:
            why = "; ".join(refusals) or "loopback was asked for"
            reason = f"links are not shaped because all hosts share loopback: {why}"
        else:
            reason = f"links are not shaped because {switch.unshaped}" if switch.unshaped else ""
        lab = cls(topology, rates, switch=switch, wiring=wiring, quotas=groups, reason=reason)
        try:
            lab._limit_hosts(quotas or {})
        except BaseException:
            lab.down()
            raise
        return lab

    def enter(self, node_index: int) -> None:
        """Move the calling process onto a host, for a freshly forked child of one thread.

        Joins the host's CPU quota first. In a loopback lab only that happens.

        Raises:
            UnavailableError: the host is gone.
        """
        host = self.hosts[node_index]
        if node_index in self._limits:
            self._quotas.join(f"node-{node_index}", os.getpid())
        try:
            if host.userns_path is not None:
                namespace.enter(host.userns_path, namespace.CLONE_NEWUSER)
            if host.netns_path is not None:
                namespace.enter(host.netns_path, namespace.CLONE_NEWNET)
        except OSError as error:
            raise UnavailableError(
                f"cannot enter host {host.node.name}", where=error.filename, why=error.strerror
            ) from error

    def counters(self, node_index: int) -> dict[str, InterfaceCounters]:
        """Byte counters per interface of a host; empty in a loopback lab."""
        if self._switch is None:
            return {}
        found = read_counters(Path(f"/proc/{self.hosts[node_index].pid}/net/dev"))
        found.pop("lo", None)
        return found

    def quota(self, pid: int, cores: float) -> bool:
        """Limit a process to ``cores`` processors; False (see :attr:`quota_reason`) if it can't."""
        return self._quotas.limit(str(pid), cores) and self._quotas.join(str(pid), pid)

    def unquota(self, pid: int) -> None:
        """Take the limit off again."""
        self._quotas.release(str(pid))

    @property
    def quota_reason(self) -> str:
        """Why the last quota did not take effect; empty when it did."""
        return self._quotas.reason

    def set_rate(self, node_index: int, fabric: Fabric, gbit_s: float) -> None:
        """Reshape a card of a host, both directions.

        Raises:
            ConfigError: no such card, or a rate this machine cannot shape.
            UnavailableError: the links of this lab are not shaped.
        """
        card = self._card(node_index, fabric)
        self._shape("nic-rate", gbit_s, host=node_index, interface=card)

    def set_link_rate(self, link: int, gbit_s: float) -> None:
        """Reshape a link between clusters (its index in ``site.links``).

        Raises:
            ConfigError: no such link, or a rate this machine cannot shape.
            UnavailableError: the links of this lab are not shaped.
        """
        if link not in self.rates.links:
            raise ConfigError(f"the site has no link {link}", where="links")
        self._shape("link-rate", gbit_s, link=link)

    def impair(self, node_index: int, fabric: Fabric, impairment: Impairment) -> Passed:
        """Lose or delay frames of a card, each way; an empty impairment puts it right again.

        Returns:
            What happened to its frames since it was first impaired.

        Raises:
            ConfigError: no such card.
            UnavailableError: this machine has no TAP devices, or the lab no cards.
        """
        card = self._card(node_index, fabric)
        shape = asdict(impairment)
        return Passed(**self._order("nic-impair", host=node_index, interface=card, **shape))

    def impair_link(self, link: int, impairment: Impairment) -> Passed:
        """The same of a link between clusters (its index in ``site.links``).

        Raises:
            ConfigError: no such link.
            UnavailableError: this machine has no TAP devices, or the lab no cards.
        """
        if link not in self.rates.links:
            raise ConfigError(f"the site has no link {link}", where="links")
        return Passed(**self._order("link-impair", link=link, **asdict(impairment)))

    def link_down(self, node_index: int, fabric: Fabric) -> None:
        """Unplug a card of a host: its carrier goes, packets are lost."""
        self._plug(node_index, fabric, up=False)

    def link_up(self, node_index: int, fabric: Fabric) -> None:
        """Plug it in again."""
        self._plug(node_index, fabric, up=True)

    def part(self) -> None:
        """Begin to take the hosts down, while the caller ends what runs on them."""
        if os.getpid() == self._owner and self._switch is not None:
            self._switch.part()

    def down(self) -> None:
        """Take everything down. May be called twice; does nothing in a forked child."""
        if os.getpid() != self._owner:
            return
        if self._switch is not None:
            self._switch.close()
        self._quotas.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def _limit_hosts(self, quotas: Mapping[int, float]) -> None:
        self._limits = {
            node: cores
            for node, cores in quotas.items()
            if self._quotas.limit(f"node-{node}", cores)
        }

    def _card(self, node_index: int, fabric: Fabric) -> str:
        host = self.hosts[node_index]
        if fabric not in host.interfaces:
            raise ConfigError(
                f"host {host.node.name} has no {fabric} card", where=f"node {node_index}"
            )
        return host.interfaces[fabric]

    def _plug(self, node_index: int, fabric: Fabric, *, up: bool) -> None:
        card = self._card(node_index, fabric)
        self._order("nic-state", host=node_index, interface=card, up=up)

    def _shape(self, order: str, gbit_s: float, **details: object) -> None:
        if not LEAST_GBIT_S <= gbit_s <= MOST_GBIT_S:
            raise ConfigError(
                f"a rate of {gbit_s:g} Gbit/s cannot be shaped",
                why=f"rates lie between {LEAST_GBIT_S:g} and {MOST_GBIT_S:g} Gbit/s",
            )
        if not self.shaped:
            raise UnavailableError("the rates of this lab cannot be changed", why=self.reason)
        self._order(order, gbit_s=gbit_s, **details)

    def _order(self, order: str, **details: object) -> Any:
        if self._switch is None:
            raise UnavailableError("this lab has no links to change", why=self.reason)
        try:
            return self._switch.order(order, **details)
        except RefusedError as error:
            raise UnavailableError(
                "the lab cannot change a link", where=order, why=str(error)
            ) from error


def _attempts(isolation: Isolation) -> tuple[bool, ...]:
    """Which kinds of namespaces to try, in order: True is inside a user namespace."""
    return {
        Isolation.AUTO: (False, True),
        Isolation.ROOT: (False,),
        Isolation.USER: (True,),
        Isolation.LOOPBACK: (),
    }[isolation]


def _host(node: Node, wiring: Wiring, holder: int, *, user: bool) -> Host:
    cards = wiring.hosts[node.index]
    return Host(
        node=node,
        pid=holder,
        addresses={card.fabric: card.address for card in cards},
        interfaces={card.fabric: card.name for card in cards},
        netns_path=f"/proc/{holder}/ns/net",
        userns_path=f"/proc/{holder}/ns/user" if user else None,
    )


def _loopback_host(node: Node) -> Host:
    kinds = [nic.kind for nic in node.group.nics]
    return Host(
        node=node,
        pid=os.getpid(),
        addresses=dict.fromkeys(kinds, LOOPBACK),
        interfaces=dict.fromkeys(kinds, "lo"),
        netns_path=None,
        userns_path=None,
    )
