"""The catalogue: figures of devices and network cards, each with its source.

The figures live in ``data/*.yaml``. A figure nobody published is None, unless
planning cannot do without it: then it is an assumption with a stated reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from holmes.errors import ConfigError, suggestion
from holmes.hardware.names import kinds_called
from holmes.hardware.site import Device, Fabric
from holmes.hardware.yaml_reader import read_yaml

DATA = Path(__file__).parent / "data"
FIGURES = (
    "matmul_tflops",
    "matmul_fp8_tflops",
    "multiprocessors",
    "memory_gb",
    "memory_gbytes_s",
    "link_gbytes_s",
    "pcie_gbytes_s",
)
HALF_PRECISIONS = ("bf16", "fp16", "fp32")
GIVEN = ("peak_tflops", "matmul_tflops", "memory_gb", "memory_gbytes_s", "link_gbytes_s")
"""Figures that a site's device entry may give."""
NEEDED = {"peak_tflops", "memory_gb", "memory_gbytes_s", "link_gbytes_s"}
"""Figures without which nothing can be planned."""


@dataclass(frozen=True)
class DeviceKind:
    """What is known of one kind of accelerator.

    ``peak_tflops`` is the dense half-precision peak (bf16, else fp16, else
    fp32: see ``peak_precision``); ``matmul_tflops`` the best matmul measured at
    that precision; ``memory_gb`` 10^9 bytes; rates in GB/s, links per direction.
    ``multiprocessors`` share the tiles of a matrix product. ``in_switch_reduction``
    says that the switch between the devices of a full node adds what they send.
    ``sources`` says for each figure where it comes from.
    """

    name: str
    title: str
    peak_tflops: float | None = None
    peak_precision: str | None = None
    matmul_tflops: float | None = None
    matmul_fp8_tflops: float | None = None
    multiprocessors: float | None = None
    memory_gb: float | None = None
    memory_gbytes_s: float | None = None
    link_gbytes_s: float | None = None
    pcie_gbytes_s: float | None = None
    peaks: Mapping[str, float] = field(default_factory=dict)
    conditions: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    assumed: frozenset[str] = frozenset()
    in_switch_reduction: bool = False
    speed: float = 1.0
    """Relative speed of the site's entry; times divide by it."""


@dataclass(frozen=True)
class NicKind:
    """What planning assumes of a fabric when the site does not say.

    ``latency_us`` is one step of a collective; ``efficiency`` the fraction of
    the line rate that a large message reaches.
    """

    fabric: Fabric
    latency_us: float
    latency_source: str
    efficiency: float
    efficiency_source: str


@dataclass(frozen=True)
class NicVariant:
    """A card or standard rate as sold."""

    name: str
    title: str
    fabric: Fabric
    gbit_s: float
    switch_latency_us: float | None
    source: str
    how_obtained: str


@dataclass(frozen=True)
class Measurement:
    """One published measurement of a collective (GB/s of bus bandwidth) or a latency (us)."""

    what: str
    busbw_gbytes_s: float | None
    latency_us: float | None
    conditions: str
    source: str
    how_obtained: str


@lru_cache(maxsize=4)
def _table(name: str) -> dict[str, Any]:
    data = read_yaml(DATA / f"{name}.yaml").data
    assert isinstance(data, dict)
    return data


def device_kinds() -> tuple[str, ...]:
    """Names of all device kinds, in catalogue order."""
    return tuple(_table("devices"))


@lru_cache(maxsize=64)
def _kind(name: str) -> DeviceKind:
    entry = _table("devices")[name]
    peaks: dict[str, float] = {key: float(v) for key, v in entry.get("peak_tflops", {}).items()}
    recalled = set(entry.get("recalled", ()))
    source = f"{entry['source']} ({entry['how_obtained']})"
    vendor = "vendor datasheet, recalled"
    values: dict[str, float] = {key: float(entry[key]) for key in FIGURES if key in entry}
    sources = {key: vendor if key in recalled else source for key in values}
    precision = next((name for name in HALF_PRECISIONS if name in peaks), None)
    if precision is not None:
        values["peak_tflops"] = peaks[precision]
        sources["peak_tflops"] = vendor if precision in recalled else source
    if "link_gbytes_s" not in values and "pcie_gbytes_s" in values:
        values["link_gbytes_s"] = values["pcie_gbytes_s"]
        sources["link_gbytes_s"] = f"no direct link: PCIe. {sources['pcie_gbytes_s']}"
    for key, assumption in entry.get("assumed", {}).items():
        values[key] = float(assumption["value"])
        sources[key] = f"assumed: {assumption['reason']}"
        precision = assumption.get("precision", precision)
    return DeviceKind(
        name=name,
        title=entry["title"],
        peak_precision=precision,
        peaks=MappingProxyType(peaks),
        conditions=entry.get("conditions", ""),
        in_switch_reduction=bool(entry.get("in_switch_reduction", False)),
        sources=MappingProxyType(sources),
        assumed=frozenset(entry.get("assumed", {})),
        **values,
    )


def device_kind(name: str, *, where: str | None = None) -> DeviceKind:
    """The figures of one kind, also under another spelling of its name
    (see :mod:`holmes.hardware.names`).

    Raises:
        ConfigError: unknown kind, with the nearest known one, or a name of several.
    """
    if name in _table("devices"):
        return _kind(name)
    found = kinds_called(name, device_kinds())
    if found and len({_kind(one).memory_gb for one in found}) == 1:
        return _kind(found[0])
    near = None if found else suggestion(name, device_kinds())
    next_step = f"did you mean `{near}`?" if near else "use a kind of the catalogue"
    raise ConfigError(
        f"unknown device kind {name!r}",
        where=where or "device.kind",
        why="known kinds: " + ", ".join(device_kinds()),
        next_step="say which: " + ", ".join(found) if found else next_step,
    )


def resolve(device: Device, *, where: str | None = None) -> DeviceKind:
    """The kind of a site's device entry, with what the entry says winning. An entry that gives
    all that planning needs may name a kind of its own.

    Raises:
        ConfigError: unknown kind.
    """
    given = {name: getattr(device, name) for name in GIVEN if getattr(device, name) is not None}
    try:
        kind = device_kind(device.kind, where=where)
    except ConfigError:
        if not given.keys() >= NEEDED:
            raise
        kind = DeviceKind(device.kind, device.kind, peak_precision=HALF_PRECISIONS[0])
    return replace(
        kind,
        **given,
        speed=device.speed,
        sources=MappingProxyType({**kind.sources, **dict.fromkeys(given, "site file")}),
        assumed=kind.assumed - given.keys(),
    )


@lru_cache(maxsize=8)
def nic_kind(fabric: Fabric) -> NicKind:
    """Latency and efficiency that planning assumes of a fabric, with their sources."""
    entry = _table("nics")["fabrics"][fabric.value]
    return NicKind(
        fabric=fabric,
        latency_us=float(entry["latency_us"]),
        latency_source=entry["latency_source"],
        efficiency=float(entry["efficiency"]),
        efficiency_source=entry["efficiency_source"],
    )


def nic_variants() -> tuple[NicVariant, ...]:
    """Cards and standard rates of the catalogue."""
    return tuple(
        NicVariant(
            name=name,
            title=entry["title"],
            fabric=Fabric(entry["fabric"]),
            gbit_s=float(entry["gbit_s"]),
            switch_latency_us=entry.get("switch_latency_us"),
            source=entry["source"],
            how_obtained=entry["how_obtained"],
        )
        for name, entry in _table("nics")["variants"].items()
    )


def measurements() -> tuple[Measurement, ...]:
    """Published collectives and latencies, to judge a network model by."""
    table = _table("measured")
    return tuple(
        Measurement(
            what=entry["what"],
            busbw_gbytes_s=entry.get("busbw_gbytes_s"),
            latency_us=entry.get("latency_us"),
            conditions=entry.get("conditions", ""),
            source=entry["source"],
            how_obtained=entry["how_obtained"],
        )
        for entry in (*table["collectives"], *table["latencies"])
    )
