"""Site, Cluster, NodeGroup, Device, Nic, Link: the values of a site file.

The classes are exactly the YAML format; :mod:`holmes.hardware.topology` gives
the flat view (nodes and devices in file order) that the planner works on.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from holmes.hardware.validation import NAME_PATTERN


def no_boolean(value: Any) -> Any:
    """Refuse ``true`` where a number is meant; Python would read it as 1."""
    if isinstance(value, bool):
        raise ValueError(f"it should be a number, not {str(value).lower()}")
    return value


Number = BeforeValidator(no_boolean)
Positive = Annotated[float, Number, Field(ge=1e-9, le=1e9, allow_inf_nan=False)]
Price = Annotated[float, Number, Field(ge=0, le=1e9, allow_inf_nan=False)]
Count = Annotated[int, Number, Field(gt=0, le=100_000)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=NAME_PATTERN)]


class Fabric(StrEnum):
    """What a network is."""

    INFINIBAND = "infiniband"
    ROCE = "roce"
    ETHERNET = "ethernet"


class Frozen(BaseModel):
    """Immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Nic(Frozen):
    """One kind of network card of a node; ``gbit_s`` is the line rate of one port."""

    kind: Fabric
    gbit_s: Positive
    count: Count = 1
    interfaces: tuple[Name, ...] = ()
    latency_us: Positive | None = None

    @property
    def total_gbit_s(self) -> float:
        """Line rate of all ports of this kind together, Gbit/s per direction."""
        return self.gbit_s * self.count


class Device(Frozen):
    """The accelerators of one node. Fields left out come from the catalogue kind."""

    kind: Name
    count: Count = 1
    peak_tflops: Positive | None = None
    matmul_tflops: Positive | None = None
    memory_gb: Positive | None = None
    memory_gbytes_s: Positive | None = None
    link_gbytes_s: Positive | None = None
    speed: Positive = 1.0
    """Relative speed; 0.5 means a device that takes twice the catalogue time."""


class NodeGroup(Frozen):
    """``count`` equal nodes.

    ``hosts`` are what the machines call themselves, in order; a launcher finds
    its node by them.
    """

    count: Count = 1
    device: Device
    nics: tuple[Nic, ...] = Field(min_length=1)
    memory_gb: Positive | None = None
    disks: tuple[dict[str, str | float], ...] = ()
    price_per_hour: Price | None = None
    hosts: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _one_host_per_node(self) -> NodeGroup:
        if self.hosts and len(self.hosts) != self.count:
            raise ValueError(f"{len(self.hosts)} hosts are named for {self.count} node(s)")
        return self

    @model_validator(mode="after")
    def _one_entry_per_fabric(self) -> NodeGroup:
        kinds = [nic.kind for nic in self.nics]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ValueError(f"two nics entries of kind {kind}; use one entry with `count`")
        return self


class Cluster(Frozen):
    """Nodes whose fast NICs reach each other: one fabric.

    ``nodes`` is a number (then ``device`` and ``nics`` stand beside it) or a
    list of groups, for mixed nodes on one fabric.
    """

    name: Name
    nodes: Count | Annotated[tuple[NodeGroup, ...], Field(min_length=1)]
    device: Device | None = None
    nics: tuple[Nic, ...] = ()
    memory_gb: Positive | None = None
    disks: tuple[dict[str, str | float], ...] = ()
    price_per_hour: Price | None = None

    @model_validator(mode="after")
    def _complete(self) -> Cluster:
        if isinstance(self.nodes, int):
            if self.device is None:
                raise ValueError("`device` is needed when `nodes` is a number")
            if not self.nics:
                raise ValueError("`nics` is needed when `nodes` is a number")
        elif self.device is not None or self.nics:
            raise ValueError("`device` and `nics` go inside each entry when `nodes` is a list")
        self.groups()
        return self

    def groups(self) -> tuple[NodeGroup, ...]:
        """The node groups of this cluster, also when written in the short form."""
        if not isinstance(self.nodes, int):
            return self.nodes
        assert self.device is not None
        return (
            NodeGroup(
                count=self.nodes,
                device=self.device,
                nics=self.nics,
                memory_gb=self.memory_gb,
                disks=self.disks,
                price_per_hour=self.price_per_hour,
            ),
        )


class Link(Frozen):
    """A connection between two clusters; ``gbit_s`` is aggregate per direction."""

    between: tuple[Name, Name]
    kind: Fabric
    gbit_s: Positive
    latency_us: Positive = 50.0


class Rehearsal(Frozen):
    """How fast the emulated links are: a common scale, or rates in Gbit/s.

    ``rates`` maps cluster name to NIC kind to Gbit/s for the whole entry (all
    ports of the kind). The pseudo cluster name ``links`` sets the links
    between clusters.
    """

    scale: Positive | None = None
    rates: dict[str, dict[Fabric, Positive]] = Field(default_factory=dict)


class Site(Frozen):
    """Everything one job may use."""

    name: Name
    clusters: tuple[Cluster, ...] = Field(min_length=1)
    links: tuple[Link, ...] = ()
    rehearsal: Rehearsal | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Site:
        names = [cluster.name for cluster in self.clusters]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two clusters are named {name!r}")
        for link in self.links:
            for end in link.between:
                if end not in names:
                    raise ValueError(f"a link names cluster {end!r}, which is not in this site")
            if link.between[0] == link.between[1]:
                raise ValueError(f"a link joins cluster {link.between[0]!r} to itself")
        if self.rehearsal:
            for name in self.rehearsal.rates:
                if name not in names and name != "links":
                    raise ValueError(f"rehearsal.rates names {name!r}, which is not a cluster")
        return self
