"""This machine: identity, devices, memory, disk; measured where asked."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from holmes.hardware.catalogue import device_kinds
from holmes.probe import bench
from holmes.probe.facts import NodeFacts
from holmes.probe.nics import find_nics


def describe_machine(*, repeats: int) -> NodeFacts:
    """Read and measure the machine this runs on. ``repeats`` per measured figure."""
    import torch

    cuda = torch.cuda.is_available()
    torch.set_num_threads(1)
    device_name = torch.cuda.get_device_name(0) if cuda else _cpu_name()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return NodeFacts(
        name=socket.gethostname().split(".")[0] or "node",
        identity=_identity(),
        device_kind=_catalogue_kind(device_name, cuda),
        device_count=torch.cuda.device_count() if cuda else len(os.sched_getaffinity(0)),
        device_name=device_name,
        memory_gb=round(memory / 1e9, 1),
        disk_gb=round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        nics=find_nics(),
        matmul_tflops=bench.measure_matmul(cuda, repeats),
        copy_gbytes_s=bench.measure_copy(cuda, repeats),
        disk_write_gbytes_s=bench.measure_disk_write(Path.cwd(), max(2, repeats // 3)),
    )


def _identity() -> str:
    """Equal for two processes exactly when they share a machine and its network."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/net').readlink()}"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "CPU"


def _catalogue_kind(device_name: str, cuda: bool) -> str:
    """The catalogue kind whose words all occur in the device's name; cpu-core without CUDA."""
    if not cuda:
        return "cpu-core"
    words = device_name.lower().replace("-", " ").replace("gb", "g").split()
    best, score = "", 0
    for kind in device_kinds():
        parts = kind.split("-")
        hits = sum(part in words for part in parts)
        if parts[0] in words and hits > score:
            best, score = kind, hits
    return best or words[-1]
