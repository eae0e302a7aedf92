"""Measured figures of one machine: matrix product, memory copy, disk write."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from holmes.probe.facts import Measured

MATMUL_SIZE_CPU = 1024
MATMUL_SIZE_CUDA = 8192
COPY_BYTES_CPU = 128 << 20
COPY_BYTES_CUDA = 1 << 30
DISK_BYTES = 64 << 20


def measure_matmul(cuda: bool, repeats: int) -> Measured:
    """TFLOP/s of a square product: fp32 on one CPU core, bf16 on CUDA."""
    import torch

    size = MATMUL_SIZE_CUDA if cuda else MATMUL_SIZE_CPU
    kind = torch.bfloat16 if cuda else torch.float32
    a = torch.ones(size, size, dtype=kind, device="cuda" if cuda else "cpu")

    def once() -> float:
        start = time.perf_counter()
        torch.mm(a, a)
        if cuda:
            torch.cuda.synchronize()
        return 2 * size**3 / (time.perf_counter() - start) / 1e12

    return Measured.repeat(once, repeats)


def measure_copy(cuda: bool, repeats: int) -> Measured:
    """GB/s read plus written when device memory is copied to device memory."""
    import torch

    count = COPY_BYTES_CUDA if cuda else COPY_BYTES_CPU
    source = torch.ones(count, dtype=torch.uint8, device="cuda" if cuda else "cpu")
    target = torch.empty_like(source)

    def once() -> float:
        start = time.perf_counter()
        target.copy_(source)
        if cuda:
            torch.cuda.synchronize()
        return 2 * count / (time.perf_counter() - start) / 1e9

    return Measured.repeat(once, repeats)


def measure_disk_write(folder: Path, repeats: int) -> Measured | None:
    """GB/s of writing and syncing a file; None where the folder cannot be written."""
    block = os.urandom(1 << 20)

    def once() -> float:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            start = time.perf_counter()
            for _ in range(DISK_BYTES >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return DISK_BYTES / (time.perf_counter() - start) / 1e9

    try:
        return Measured.repeat(once, repeats)
    except OSError:
        return None
