"""MachineState: what the doctor reads of one machine; JSON-able, since machines exchange it."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from holmes import __version__
from holmes.hardware.site import Fabric
from holmes.probe.facts import NicFacts
from holmes.probe.nics import find_nics

KEPT = re.compile(r"^(NCCL|GLOO|TORCH_NCCL|OMP|MASTER|HOLMES|CUDA_VISIBLE)")
SHM = Path("/dev/shm")  # noqa: S108 (its size is read, nothing is written there)
LIMITS = {
    "open files": resource.RLIMIT_NOFILE,
    "locked memory": resource.RLIMIT_MEMLOCK,
    "processes": resource.RLIMIT_NPROC,
}


@dataclass(frozen=True)
class Hca:
    """One port of an RDMA adapter, by its verbs name (``mlx5_0``)."""

    name: str
    link_layer: str
    active: bool


@dataclass(frozen=True)
class MachineState:
    """One machine as the doctor finds it.

    ``limits`` are soft limits, None for unlimited; ``mtus`` is by interface; ``environ`` holds
    only variables that communication libraries read. ``port_free`` is None where not asked.
    """

    name: str
    versions: dict[str, str | None]
    devices: int
    device_name: str
    cores: int
    nics: tuple[NicFacts, ...]
    mtus: dict[str, int]
    hcas: tuple[Hca, ...]
    limits: dict[str, int | None]
    shm_gb: float
    folder: str
    folder_writable: bool
    free_gb: float
    environ: dict[str, str]
    port: int
    port_free: bool | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MachineState:
        """The inverse of :meth:`to_json`."""
        nics = tuple(NicFacts(**{**nic, "kind": Fabric(nic["kind"])}) for nic in data["nics"])
        hcas = tuple(Hca(**each) for each in data["hcas"])
        return cls(**{**data, "nics": nics, "hcas": hcas})


def read_state(
    folder: Path,
    port: int,
    environ: Mapping[str, str] = os.environ,
    root: Path = Path("/sys/class"),
    *,
    ask_port: bool = True,
) -> MachineState:
    """Read this machine.

    Args:
        folder: where runs are to be written.
        port: of the rendezvous.
        ask_port: whether to try the port; a launcher holds it while its ranks run.
    """
    nics = find_nics(root)
    there = _existing(folder)
    devices, device_name = _devices()
    return MachineState(
        name=socket.gethostname().split(".")[0] or "node",
        versions=_versions(),
        devices=devices,
        device_name=device_name,
        cores=len(os.sched_getaffinity(0)),
        nics=nics,
        mtus={nic.interface: _number(root / "net" / nic.interface / "mtu") for nic in nics},
        hcas=_hcas(root / "infiniband"),
        limits={name: _limit(which) for name, which in LIMITS.items()},
        shm_gb=shutil.disk_usage(SHM).free / 1e9 if SHM.exists() else 0.0,
        folder=str(folder),
        folder_writable=os.access(there, os.W_OK),
        free_gb=shutil.disk_usage(there).free / 1e9,
        environ={key: value for key, value in sorted(environ.items()) if KEPT.match(key)},
        port=port,
        port_free=_free(port) if ask_port else None,
    )


def _versions() -> dict[str, str | None]:
    """Versions that must agree between machines; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "holmes": __version__}
    for package in ("torch", "safetensors"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    driver = Path("/proc/driver/nvidia/version")
    match = re.search(r"\b(\d+\.\d+(\.\d+)?)\b", driver.read_text()) if driver.exists() else None
    found["nvidia driver"] = match[1] if match else None
    found["nccl"] = _nccl() if found["torch"] else None
    return found


def _nccl() -> str | None:
    import torch

    if not torch.cuda.is_available():
        return None
    numbers: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return ".".join(map(str, numbers))


def _devices() -> tuple[int, str]:
    try:
        import torch
    except ImportError:
        return 0, "not looked at: torch is not installed"
    if torch.cuda.is_available():
        return torch.cuda.device_count(), torch.cuda.get_device_name(0)
    return 0, "no CUDA device; ranks would run on the CPU"


def _hcas(folder: Path) -> tuple[Hca, ...]:
    return tuple(
        Hca(device.name, _text(port / "link_layer"), "ACTIVE" in _text(port / "state"))
        for device in sorted(folder.glob("*"))
        for port in sorted((device / "ports").glob("*"))
    )


def _limit(which: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdigit() else 0
