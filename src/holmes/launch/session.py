"""Session: warm ranks on the hosts of one site, ready to run one plan after another.

The lab comes up while one process imports torch; then the ranks are forked onto their
hosts, once. Seat i is device i of the site. Calibration and every plan run in the
same processes, so comparing two plans costs two trainings and one start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from holmes.errors import ConfigError
from holmes.hardware.site import Fabric, Site
from holmes.hardware.topology import Topology
from holmes.lab.lab import Isolation, Lab
from holmes.launch.forker import Forker
from holmes.launch.pool import Pool
from holmes.launch.watch import Guard

OnProgress = Callable[[int, Mapping[str, Any]], None]
Links = Literal["shaped", "unshaped"]
SILENCE_FACTOR = 2.0
"""A rank may stay silent for twice the deadline of one operation before it counts as frozen."""


class Session:
    """Hosts and ranks of one site on this machine. A context manager.

    Args:
        site: one process is started per device of it.
        rehearse: bring up emulated hosts with shaped links; otherwise all ranks
            share this machine's loopback.
        log_dir: gets one log per rank.
        threads: compute threads of a rank.
    """

    def __init__(
        self,
        site: Site,
        *,
        rehearse: bool,
        log_dir: Path,
        threads: int = 1,
    ) -> None:
        self.topology = Topology(site)
        self._rehearse = rehearse
        self._log_dir = log_dir
        self._threads = threads
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            isolation = Isolation.AUTO if self._rehearse else Isolation.LOOPBACK
            forker = Forker(self._log_dir / "zygote.log")
            self._stack.callback(forker.close)
            forker.launch()
            self.lab = self._stack.enter_context(Lab.up(self.topology.site, isolation=isolation))
            self.pool = self._stack.enter_context(self._make_pool(forker))
            self._stack.callback(self.lab.part)  # hosts and ranks end side by side
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def links(self) -> Links:
        return "shaped" if self.lab.shaped else "unshaped"

    @property
    def links_reason(self) -> str:
        """Why links that were to be shaped are not; empty where they are, or were not to be."""
        return self.lab.reason if self._rehearse else ""

    @property
    def interface_override(self) -> str | None:
        """``lo`` where the hosts share loopback, so groups have no interfaces of their own."""
        return "lo" if self.lab.isolation is Isolation.LOOPBACK else None

    @property
    def rates(self) -> dict[Any, float] | None:
        """The shaped rates for the cost model; None where links are not shaped."""
        if not self.lab.shaped:
            return None
        return {**self.lab.rates.nics, **self.lab.rates.links}

    def run(
        self,
        call: str,
        args: Mapping[str, Any],
        *,
        deadline_seconds: float,
        operation_seconds: float,
        on_progress: OnProgress | None = None,
        guard: Guard | None = None,
        seats: Sequence[int] | None = None,
    ) -> list[dict[str, Any]]:
        """Run a task on all ranks, or those in some seats; results by seat.

        Errors are those of :meth:`Pool.run`.

        Args:
            deadline_seconds: bound on the whole task.
            operation_seconds: longest wait of one operation; a rank that reports
                nothing for longer than twice this is named as frozen.
        """
        return self.pool.run(
            call,
            args,
            deadline_seconds=deadline_seconds,
            silence_seconds=SILENCE_FACTOR * operation_seconds,
            on_progress=on_progress,
            guard=guard,
            ranks=seats,
        )

    def _make_pool(self, forker: Forker) -> Pool:
        enter: list[tuple[str, ...]] = []
        environment: list[dict[str, str]] = []
        addresses: list[str] = []
        for slot in self.topology.devices:
            host = self.lab.hosts[slot.node.index]
            paths = (host.userns_path, host.netns_path)
            enter.append(tuple(path for path in paths if path is not None))
            environment.append({"HOLMES_NODE": slot.node.name})
            addresses.append(_meeting_address(host.addresses))
        return Pool(
            len(self.topology.devices),
            enter=enter,
            environment=environment,
            addresses=addresses,
            log_dir=self._log_dir,
            threads=self._threads,
            forker=forker,
        )


def fair_cores(ranks: int) -> float:
    """Cores of one rank when all ranks of this machine compute at once, at most one."""
    return min(1.0, len(os.sched_getaffinity(0)) / ranks)


def _meeting_address(addresses: Mapping[Fabric, str]) -> str:
    """The address under which other hosts find this one's store: Ethernet where there is one."""
    if not addresses:
        raise ConfigError("a node has no NIC to meet the others on", where="clusters")
    return addresses.get(Fabric.ETHERNET) or next(iter(addresses.values()))
