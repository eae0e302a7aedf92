"""Process groups of a Plan: the only file that creates any.

Every group gets its own interface from the Plan. Ranks are logical ranks, so that
members are always in ascending order; placement lives in the rank map alone.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from holmes.errors import HolmesError, UnavailableError
from holmes.hardware.topology import Topology
from holmes.plan.plan import Group, Plan
from holmes.runtime import capabilities, collectives
from holmes.runtime.backends import (
    GLOO_NIC,
    NicOptions,
    leave_groups,
    nccl_options,
    register_gloo_nic,
)
from holmes.runtime.clock import aligned, measure_offset
from holmes.runtime.communicator import Backend, Communicator
from holmes.runtime.rendezvous import Rendezvous, meet, roll_call

LOOPBACK = "lo"
WATCHDOG_MARGIN_SECONDS = 30.0
"""NCCL's watchdog ends the process, so it waits this much longer than our own deadlines."""


@dataclass(frozen=True)
class GroupOptions:
    """How groups are opened.

    Attributes:
        timeout_seconds: the longest that one operation may take once training runs.
        start_seconds: the longest that opening and exercising one group may take.
        interface_override: one interface for all groups, where links are not shaped.
        device: where tensors live; NCCL needs the CUDA device of this rank.
    """

    backend: Backend = "gloo"
    timeout_seconds: float = 60.0
    start_seconds: float = 30.0
    interface_override: str | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class Groups:
    """The open communicators of one rank. ``clock`` reads the same on every rank.

    ``store`` is what they met over; None where a rank is alone. ``generation`` is the start of
    the run that these ranks belong to.
    """

    rank: int
    world_size: int
    device: torch.device
    communicators: Mapping[str, Communicator] = field(default_factory=dict)
    clock_offset: int = 0
    store: Store | None = None
    generation: int = 0

    def __getitem__(self, name: str) -> Communicator:
        return self.communicators[name]

    def clock(self) -> int:
        """Nanoseconds on a clock that all ranks share."""
        return aligned(self.clock_offset)()

    def own_store(self) -> Store | None:
        """Another connection to the store: a wait on it holds nobody else up."""
        return None if self.store is None else self.store.clone()  # type: ignore[attr-defined]

    def barrier(self) -> None:
        """Return when every rank has called it."""
        if self.world_size > 1:
            collectives.barrier(self["world"], self.device)

    def maximum(self, *values: float) -> tuple[float, ...]:
        """The largest of each value over all ranks."""
        reduced = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            collectives.all_reduce(self["world"], reduced, "max")
        return tuple(reduced.tolist())

    def close(self, *, failed: bool = False) -> None:
        """Destroy the groups, so that this process can open those of another plan.

        Args:
            failed: a rank went away; nothing that is under way is waited for.
        """
        if self.communicators:
            leave_groups(failed=failed)


def open_groups(
    plan: Plan, rank: int, rendezvous: Rendezvous, options: GroupOptions | None = None
) -> Groups:
    """Open and exercise every group of a plan; all ranks call it.

    Args:
        rank: the logical rank of this process.

    Raises:
        ConfigError: the plan needs what this runtime cannot do.
        UnavailableError: an interface is missing, a port is busy, a rank did not come,
            or a group does not pass traffic; names group, members and interface.
    """
    capabilities.check(plan)
    options = options or GroupOptions()
    if not plan.groups:
        generation = rendezvous.generation or 0
        return Groups(rank, plan.world_size, options.device, generation=generation)
    opener = _Opener(plan, rank, options)
    store, generation = meet(rendezvous, plan.world_size, options.start_seconds)
    boots = roll_call(store, rendezvous, rank, opener.nodes, opener.missing_interface())
    try:
        communicators = opener.open(store)
        same_kernel = len(set(boots)) == 1 and boots[0] != ""
        groups = Groups(rank, plan.world_size, options.device, communicators)
        offset = 0 if same_kernel else _clock_offset(groups, store)
        groups.barrier()
    except BaseException:
        if opener.began:
            with suppress(Exception):
                leave_groups(failed=True)
        raise
    return Groups(rank, plan.world_size, options.device, communicators, offset, store, generation)


@dataclass(frozen=True)
class Network:
    """One network for a group of all ranks: NCCL's module, and gloo's interface on this node."""

    name: str
    net_name: str
    interface: str


def open_networks(
    store: Store, rank: int, size: int, networks: Sequence[Network], options: GroupOptions
) -> list[Communicator]:
    """A group of all ranks on each network, in this order and without any plan.

    For probing whether a process can hold groups on several networks at once.

    Raises:
        RuntimeError, ValueError: as torch does, when a group does not come up.
    """
    timeout = timedelta(seconds=options.start_seconds)
    register_gloo_nic()
    opened: list[Communicator] = []
    for network in networks:
        on_nccl = options.backend == "nccl"
        native = (
            nccl_options(network.net_name, timeout)
            if on_nccl
            else NicOptions(network.interface, timeout)
        )
        backend = "nccl" if on_nccl else GLOO_NIC
        if not opened:
            dist.init_process_group(
                backend,
                store=PrefixStore(network.name, store),
                rank=rank,
                world_size=size,
                timeout=timeout,
                pg_options=native,
            )
            group: Any = dist.group.WORLD
        else:
            group = dist.new_group(
                timeout=timeout,
                backend=backend,
                pg_options=native,
                device_id=options.device if on_nccl else None,
            )
        ranks = tuple(range(size))
        carrier = network.interface if not on_nccl else network.net_name
        opened.append(
            Communicator(network.name, ranks, rank, carrier, options.backend, timeout, group)
        )
    return opened


class _Opener:
    """Opens the groups of one rank, in plan order."""

    def __init__(self, plan: Plan, rank: int, options: GroupOptions) -> None:
        self.plan = plan
        self.rank = rank
        self.options = options
        self.start = timedelta(seconds=options.start_seconds)
        longest = max(options.start_seconds, options.timeout_seconds) + WATCHDOG_MARGIN_SECONDS
        nccl = options.backend == "nccl"
        self.native_timeout = timedelta(seconds=longest) if nccl else self.start
        devices = Topology(plan.site).devices
        self.began = False
        self.nodes = [devices[index].node.name for index in plan.rank_map]

    @property
    def node(self) -> str:
        return self.nodes[self.rank]

    def interface(self, group: Group) -> str:
        """The interface that carries a group on this node."""
        if self.options.interface_override is not None:
            return self.options.interface_override
        if group.transport.fabric is None:
            return LOOPBACK
        return group.interfaces[self.node][0]

    def missing_interface(self) -> str | None:
        """What to say when an interface of this rank's groups does not exist here, or None."""
        if self.options.backend == "nccl":
            return None
        present = {name for _, name in socket.if_nameindex()}
        for group in self.plan.groups:
            wanted = self.interface(group) if self.rank in group.ranks else None
            if wanted is not None and wanted not in present:
                return (
                    f"node {self.node} has no interface {wanted!r}, which group {group.name} "
                    f"needs; it has {', '.join(sorted(present))}"
                )
        return None

    def open(self, store: Store) -> dict[str, Communicator]:
        """Create and exercise all groups; returns those this rank is a member of."""
        if self.options.backend == "gloo":
            register_gloo_nic()
        mine: dict[str, Communicator] = {}
        world = self.plan.group_by_name.get("world")
        if world is None:
            raise HolmesError(f"plan {self.plan.name} has groups, but no world group")
        if dist.is_initialized():
            raise HolmesError(
                "this process already has process groups",
                where=f"rank {self.rank}",
                next_step="close the groups of the plan before",
            )
        self.began = True
        for group in (world, *(g for g in self.plan.groups if g.name != "world")):
            for name in _communicator_names(group):
                if list(group.ranks) != sorted(set(group.ranks)):
                    raise HolmesError(f"members of group {name} are not in rank order")
                with self._naming(group, name):
                    comm = self._create(group, name, store)
                    if comm is not None:
                        exercise(replace(comm, timeout=self.start), self.options.device)
                        mine[name] = comm
        return mine

    def _create(self, group: Group, name: str, store: Store) -> Communicator | None:
        """One communicator, or None where this rank is no member; all ranks call it.

        On NCCL the world is bound to no device: torch would then split the others off it
        instead of initialising each with its own options. Binding the others makes them
        connect at once and lets transfers use the group's own communicator.
        """
        member = self.rank in group.ranks
        backend = GLOO_NIC if self.options.backend == "gloo" else "nccl"
        native = self._native_options(group) if member else None
        if name == "world":
            dist.init_process_group(
                backend,
                store=PrefixStore("world", store),
                rank=self.rank,
                world_size=self.plan.world_size,
                timeout=self.native_timeout,
                pg_options=native,
            )
            process_group: Any = dist.group.WORLD
        else:
            process_group = dist.new_group(
                list(group.ranks),
                timeout=self.native_timeout,
                backend=backend,
                pg_options=native,
                device_id=self.options.device if backend == "nccl" else None,
            )
        if not member:
            return None
        return Communicator(
            name=name,
            ranks=group.ranks,
            index=group.ranks.index(self.rank),
            network=f"{group.transport.name} on {self.interface(group)}",
            backend=self.options.backend,
            timeout=timedelta(seconds=self.options.timeout_seconds),
            process_group=process_group,
        )

    def _native_options(self, group: Group) -> Any:
        if self.options.backend == "nccl":
            return nccl_options(group.transport.net_name, self.native_timeout)
        return NicOptions(self.interface(group), self.start)

    def _naming(self, group: Group, name: str) -> _Naming:
        members = ", ".join(f"{rank} on {self.nodes[rank]}" for rank in group.ranks)
        carried = self.interface(group) if self.rank in group.ranks else "another rank's interface"
        return _Naming(
            f"group {name} ({group.transport.name}, {carried}) cannot be used",
            f"rank {self.rank}; members: {members}",
        )


@dataclass(frozen=True)
class _Naming:
    """Turns what torch raises inside into an error that names the group and its members."""

    what: str
    where: str

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError | ValueError | TimeoutError):
            raise UnavailableError(
                self.what,
                where=self.where,
                why=str(error).strip().splitlines()[0] if str(error).strip() else repr(error),
                next_step="check that the interface reaches the other members, or plan with "
                "`parallel.transport=common`",
            ) from error


def exercise(comm: Communicator, device: torch.device) -> None:
    """Pass a little traffic through a group, the way it will be used.

    Raises:
        RuntimeError: as torch does, or when the sum that comes back is wrong.
    """
    value = torch.full((1,), float(comm.index + 1), device=device)
    if comm.name.endswith((".down", ".up")) and comm.size > 1:
        down = comm.name.endswith(".down")
        source, target = (comm.ranks[0], comm.ranks[-1])[:: 1 if down else -1]
        if comm.ranks[comm.index] == source:
            collectives.send(comm, value, target)
            return
        collectives.receive(comm, value, source)
        expected = float(comm.index_of(source) + 1)
    else:
        collectives.all_reduce(comm, value)
        expected = comm.size * (comm.size + 1) / 2
    if value.item() != expected:
        raise RuntimeError(f"the exercise returned {value.item()}, expected {expected}")


def _communicator_names(group: Group) -> Iterator[str]:
    """A pipeline pair gets a communicator for each direction: one lane never waits for itself."""
    if group.axis == "pipeline":
        yield f"{group.name}.down"
        yield f"{group.name}.up"
    else:
        yield group.name


def _clock_offset(groups: Groups, store: Store) -> int:
    def first_rank_times(mine: list[int]) -> list[int]:
        if groups.rank == 0:
            store.set("clock", json.dumps(mine))
        return [int(t) for t in json.loads(store.get("clock"))]

    return measure_offset(groups.barrier, first_rank_times)
