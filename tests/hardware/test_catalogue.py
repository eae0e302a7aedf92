"""The catalogue: every figure has a source, none is invented."""

from __future__ import annotations

import pytest

from holmes.errors import ConfigError
from holmes.hardware.catalogue import (
    DATA,
    FIGURES,
    device_kind,
    device_kinds,
    measurements,
    nic_kind,
    nic_variants,
    resolve,
)
from holmes.hardware.site import Device, Fabric
from holmes.hardware.yaml_reader import read_yaml

KEYS = {
    *FIGURES,
    "title",
    "peak_tflops",
    "conditions",
    "source",
    "how_obtained",
    "recalled",
    "assumed",
    "in_switch_reduction",
}


@pytest.mark.parametrize("name", device_kinds())
def test_each_figure_has_a_source(name: str) -> None:
    kind = device_kind(name)
    for figure in ("peak_tflops", *FIGURES):
        value = getattr(kind, figure)
        assert (value is None) == (figure not in kind.sources), figure
        assert value is None or value > 0
    assert kind.peak_precision in {"bf16", "fp16", "fp32"}
    assert kind.matmul_tflops is None or kind.matmul_tflops < kind.peak_tflops  # type: ignore[operator]


@pytest.mark.parametrize("name", device_kinds())
def test_planning_finds_what_it_needs(name: str) -> None:
    kind = device_kind(name)
    assert None not in (kind.peak_tflops, kind.memory_gb, kind.memory_gbytes_s, kind.link_gbytes_s)


def test_entries_have_no_misspelt_keys() -> None:
    for name, entry in read_yaml(DATA / "devices.yaml").data.items():
        assert set(entry) <= KEYS, name
        figures = {*entry.get("peak_tflops", {}), *FIGURES}
        assert set(entry.get("recalled", ())) <= figures, name
        for assumption in entry.get("assumed", {}).values():
            assert assumption["reason"]
        assert not set(entry.get("assumed", {})) & set(entry), name


def test_figures_of_a_well_known_card() -> None:
    kind = device_kind("a100-80g-sxm")
    assert (kind.peak_tflops, kind.matmul_tflops, kind.memory_gb) == (312, 271.2, 80)
    assert (kind.memory_gbytes_s, kind.link_gbytes_s) == (2039, 300)
    assert "llm-analysis" in kind.sources["memory_gb"]
    assert not kind.assumed


def test_assumptions_are_marked() -> None:
    kind = device_kind("h100-96g-hbm2e-500w")
    assert kind.assumed == {"peak_tflops"}
    assert kind.sources["peak_tflops"].startswith("assumed: the same die")
    assert kind.matmul_tflops is None
    assert "recalled" in kind.sources["link_gbytes_s"]


def test_a_card_without_a_direct_link_uses_pcie() -> None:
    kind = device_kind("l40s-48g")
    assert kind.link_gbytes_s == kind.pcie_gbytes_s
    assert kind.sources["link_gbytes_s"].startswith("no direct link: PCIe")


def test_the_site_entry_wins() -> None:
    kind = resolve(Device(kind="cpu-core", memory_gb=16, speed=0.5))
    assert (kind.memory_gb, kind.speed) == (16, 0.5)
    assert kind.sources["memory_gb"] == "site file"
    assert "memory_gb" not in kind.assumed
    assert kind.matmul_tflops == device_kind("cpu-core").matmul_tflops
    assert device_kind("cpu-core").memory_gb == 4


def test_unknown_kind_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(Device(kind="h100-80-sxm"))
    assert caught.value.next_step == "did you mean `h100-80g-sxm`?"
    assert caught.value.where == "device.kind"


@pytest.mark.parametrize(
    ("spelt", "kind"),
    [
        ("A100-SXM4-80GB", "a100-80g-sxm"),
        ("NVIDIA-H200", "h200-141g-sxm"),
        ("mi250x", "mi250x-gcd-64g"),
        ("v100-32gb", "v100-32g-sxm2"),
        ("h100-80g", "h100-80g-sxm"),
    ],
)
def test_other_spellings_mean_the_same_kind(spelt: str, kind: str) -> None:
    assert device_kind(spelt) is device_kind(kind)


def test_a_name_of_several_sizes_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        device_kind("v100")
    assert "v100-16g-sxm2, v100-32g-sxm2" in (caught.value.next_step or "")


def test_an_entry_with_all_figures_needs_no_kind_of_the_catalogue() -> None:
    own = {"peak_tflops": 400.0, "memory_gb": 64.0, "memory_gbytes_s": 1600.0}
    with pytest.raises(ConfigError):
        resolve(Device(kind="accelerator-9", **own))
    kind = resolve(Device(kind="accelerator-9", link_gbytes_s=100.0, **own))
    assert (kind.name, kind.peak_tflops, kind.link_gbytes_s) == ("accelerator-9", 400, 100)
    assert set(kind.sources.values()) == {"site file"}


def test_fabrics_and_measurements() -> None:
    for fabric in Fabric:
        kind = nic_kind(fabric)
        assert 0 < kind.efficiency < 1
        assert kind.latency_us > 0
        assert kind.latency_source
        assert kind.efficiency_source
    assert {variant.fabric for variant in nic_variants()} == set(Fabric)
    assert all(variant.source and variant.gbit_s > 0 for variant in nic_variants())
    found = measurements()
    assert all((m.busbw_gbytes_s is None) != (m.latency_us is None) for m in found)
    assert all(m.source and m.how_obtained for m in found)
