"""What a probe knows of one node; JSON-able, since nodes exchange it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from holmes.hardware.site import Fabric


@dataclass(frozen=True)
class Measured:
    """A figure with its spread: median and quartiles of ``repeats`` measurements."""

    median: float
    q1: float
    q3: float
    repeats: int

    @classmethod
    def of(cls, values: list[float]) -> Measured:
        """Summarise at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        q1, _, q3 = quantiles(values, n=4, method="inclusive")
        return cls(median(values), q1, q3, len(values))

    @classmethod
    def repeat(cls, body: Callable[[], float], repeats: int) -> Measured:
        """Measure ``repeats`` times after one run that warms up."""
        body()
        return cls.of([body() for _ in range(repeats)])

    def text(self, unit: str) -> str:
        """For a comment: median, quartiles and count."""
        return (
            f"{self.median:.4g} {unit} (quartiles {self.q1:.4g} to {self.q3:.4g}, n={self.repeats})"
        )


@dataclass(frozen=True)
class NicFacts:
    """One usable interface. ``evidence`` says how its kind and rate are known."""

    interface: str
    kind: Fabric
    gbit_s: float | None
    address: str | None
    evidence: str


@dataclass(frozen=True)
class NodeFacts:
    """One machine, as it describes and measures itself.

    ``host`` is its host name where that tells it from the other nodes, else empty.
    """

    name: str
    identity: str
    device_kind: str
    device_count: int
    device_name: str
    memory_gb: float
    disk_gb: float
    nics: tuple[NicFacts, ...]
    matmul_tflops: Measured | None = None
    copy_gbytes_s: Measured | None = None
    disk_write_gbytes_s: Measured | None = None
    device_memory_gb: float | None = None
    host: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NodeFacts:
        """The inverse of :meth:`to_json`."""
        nics = tuple(NicFacts(**{**nic, "kind": Fabric(nic["kind"])}) for nic in data["nics"])
        measured = {
            key: Measured(**data[key]) if data[key] else None
            for key in ("matmul_tflops", "copy_gbytes_s", "disk_write_gbytes_s")
        }
        return cls(**{**data, "nics": nics, **measured})
