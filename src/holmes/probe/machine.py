"""This machine: identity, devices, memory, disk; measured where asked."""

from __future__ import annotations

import os
import re
import shutil
import socket
from itertools import pairwise
from pathlib import Path

from holmes.hardware.catalogue import device_kind, device_kinds
from holmes.probe import bench
from holmes.probe.facts import NodeFacts
from holmes.probe.nics import find_nics


def describe_machine(*, repeats: int) -> NodeFacts:
    """Read and measure the machine this runs on. ``repeats`` per measured figure."""
    import torch

    cuda = torch.cuda.is_available()
    torch.set_num_threads(1)
    device_name = torch.cuda.get_device_name(0) if cuda else _cpu_name()
    host = socket.gethostname()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return NodeFacts(
        name=host.split(".")[0] or "node",
        host=host,
        identity=identity(),
        device_kind=_catalogue_kind(device_name, cuda),
        device_count=torch.cuda.device_count() if cuda else len(os.sched_getaffinity(0)),
        device_name=device_name,
        memory_gb=round(memory / 1e9, 1),
        disk_gb=round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        nics=find_nics(),
        matmul_tflops=bench.measure_matmul(cuda, repeats),
        copy_gbytes_s=bench.measure_copy(cuda, repeats),
        disk_write_gbytes_s=bench.measure_disk_write(Path.cwd(), max(2, repeats // 3)),
        device_memory_gb=_device_memory_gb() if cuda else None,
    )


def identity() -> str:
    """Equal for two processes exactly when they share a machine and its network."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/net').readlink()}"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "CPU"


def _device_memory_gb() -> float:
    import torch

    return round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)


def _catalogue_kind(device_name: str, cuda: bool) -> str:
    """The catalogue kind that a device's name comes nearest to; cpu-core without CUDA.

    A device that the catalogue does not know takes the kind whose memory comes nearest;
    what is measured overrides that kind's figures.
    """
    if not cuda:
        return "cpu-core"
    return kind_of(device_name) or nearest_kind(_device_memory_gb())


def kind_of(device_name: str) -> str | None:
    """The kind most of whose words occur in the name, all of the model's own among them."""
    words = re.findall(r"[a-z]+\d*[a-z]*|\d+[a-z]*", device_name.lower())
    words = [f"{word[:-2]}g" if re.fullmatch(r"\d+gb", word) else word for word in words]
    known = {*words, *(a + b for a, b in pairwise(words))}
    known |= {word.rstrip("0123456789") for word in words if word.startswith("sxm")}
    best, score = None, 0
    for kind in device_kinds():
        parts = kind.split("-")
        model = [part for part in parts[:2] if not re.fullmatch(r"\d+g|sxm\d?|pcie", part)]
        hits = sum(part in known for part in parts)
        if known.issuperset(model) and hits > score:
            best, score = kind, hits
    return best


def nearest_kind(memory_gb: float) -> str:
    """The accelerator of the catalogue with the nearest memory."""
    kinds = [device_kind(name) for name in device_kinds() if name != "cpu-core"]
    known = [kind for kind in kinds if kind.memory_gb is not None]
    return min(known, key=lambda kind: abs((kind.memory_gb or 0.0) - memory_gb)).name
